//! The programs with which people move files, each on the same files and over loopback: `tar | tar`, rsync, wormhole-william.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

/// One transfer must be over by then.
const TRANSFER_TIME: Duration = Duration::from_secs(60);
/// Where wormhole-william's relay listens: its port is compiled in, so the address is one that nobody else uses.
const RELAY: &str = "127.0.77.1";
/// A server must listen by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// Packs the folder `from` and unpacks it in `to` by one TCP connection. Returns the seconds until all is there.
///
/// # Errors
/// When `tar` fails.
pub fn tar(from: &Path, to: &Path) -> Result<f64> {
    std::fs::create_dir(to)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let since = Instant::now();
    let sending = TcpStream::connect(listener.local_addr()?)?;
    let (receiving, _) = listener.accept()?;
    let mut unpacks = Command::new("tar").arg("-xf").arg("-").arg("-C").arg(to).stdin(file(receiving)).spawn()?;
    let mut packs =
        Command::new("tar").arg("-cf").arg("-").arg("-C").arg(from).arg(".").stdout(file(sending)).spawn()?;
    ended("tar", &mut packs)?;
    ended("tar", &mut unpacks)?;
    Ok(since.elapsed().as_secs_f64())
}

fn file(stream: TcpStream) -> Stdio {
    Stdio::from(OwnedFd::from(stream))
}

/// Waits for the end of a program that does its work well and in time.
fn ended(name: &str, child: &mut Child) -> Result<()> {
    let since = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if since.elapsed() > TRANSFER_TIME => {
                end(child);
                return Err(format!("{name} takes longer than {} s", TRANSFER_TIME.as_secs()).into());
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    if status.success() { Ok(()) } else { Err(format!("{name} ended with {status}").into()) }
}

/// An rsync daemon with one empty folder to write to.
#[derive(Debug)]
pub struct Rsync {
    daemon: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Rsync {
    /// Starts it; its files are in `folder`, which it makes.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start(folder: &Path) -> Result<Self> {
        let to = folder.join("to");
        std::fs::create_dir_all(&to)?;
        let address = free_port()?;
        let configuration = folder.join("rsyncd.conf");
        let owner = if rustix::process::geteuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
        let text = format!("use chroot = no\n{owner}[to]\npath = {}\nread only = no\n", to.display());
        std::fs::write(&configuration, text)?;
        let daemon = Command::new("rsync")
            .args(["--daemon", "--no-detach", "--address=127.0.0.1", &format!("--port={}", address.port()), "--config"])
            .arg(&configuration)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|fault| format!("rsync does not start: {fault} (Debian: apt install rsync)"))?;
        let rsync = Self { daemon, address, folder: to };
        listens(address)?;
        Ok(rsync)
    }

    /// Sends a file or folder. Returns the seconds it took and the bytes that it says were sent.
    ///
    /// # Errors
    /// When rsync fails.
    pub fn send(&self, what: &Path) -> Result<(f64, f64)> {
        let since = Instant::now();
        // By default it sends whole files only where both sides are on one machine, which it cannot know of a daemon's.
        let output = Command::new("rsync")
            .args(["-a", "--no-whole-file", "--stats"])
            .arg(what)
            .arg(format!("rsync://{}/to/", self.address))
            .output()?;
        let took = since.elapsed().as_secs_f64();
        if !output.status.success() {
            return Err(format!("rsync failed: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let sent = said.lines().find_map(|line| line.strip_prefix("Total bytes sent: "));
        Ok((took, sent.ok_or("rsync says nothing of bytes")?.replace(',', "").parse()?))
    }

    /// Where things arrive.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Rsync {
    fn drop(&mut self) {
        end(&mut self.daemon);
    }
}

/// Wormhole-william, with a mailbox server and a relay for it.
#[derive(Debug)]
pub struct William {
    mailbox: Child,
    relay: Child,
    url: String,
    folder: PathBuf,
    codes: u32,
}

impl William {
    /// Starts both servers; their files are in `folder`, which it makes.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let address = free_port()?;
        // The name of its relay is compiled in. It gives up where nobody answers to it, and uses it only where no direct way is found.
        std::fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{RELAY} transit.magic-wormhole.io\n"))?;
        let twist = |words: &[String]| {
            let mut command = Command::new("twist3");
            command.args(words).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().map_err(|fault| format!("twist3 does not start: {fault}"))
        };
        let mailbox = twist(&[
            "wormhole-mailbox".to_owned(),
            format!("--port=tcp:{}:interface=127.0.0.1", address.port()),
            format!("--channel-db={}", folder.join("mailbox.sqlite").display()),
        ])?;
        let relay = twist(&["transitrelay".to_owned(), format!("--port=tcp:4001:interface={RELAY}")])?;
        let william = Self { mailbox, relay, url: format!("ws://{address}/v1"), folder: folder.to_owned(), codes: 0 };
        listens((RELAY.parse::<std::net::IpAddr>()?, 4001).into())?;
        listens(address)?;
        Ok(william)
    }

    /// Sends a file. Returns the seconds from the start of both sides to the end of both.
    ///
    /// # Errors
    /// When either side fails.
    pub fn send(&mut self, what: &Path) -> Result<f64> {
        self.codes += 1;
        let code = format!("{}-crossover-clockwork", self.codes);
        let to = self.folder.join(format!("to-{}", self.codes));
        std::fs::create_dir(&to)?;
        let since = Instant::now();
        let mut sends = self.command("send").args(["--hide-progress", "--code", &code]).arg(what).spawn()?;
        let mut receives =
            self.command("receive").args(["--hide-progress", &code]).current_dir(&to).stdin(Stdio::piped()).spawn()?;
        // It asks whether to take what is offered.
        receives.stdin.take().ok_or("a receiver without stdin")?.write_all(b"y\n")?;
        let received = ended("wormhole-william", &mut receives);
        if received.is_err() {
            end(&mut sends);
        }
        received.and_then(|()| ended("wormhole-william", &mut sends))?;
        let took = since.elapsed().as_secs_f64();
        std::fs::remove_dir_all(&to)?;
        Ok(took)
    }

    fn command(&self, word: &str) -> Command {
        let own = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
        let script = "mount --bind \"$1\" /etc/hosts && shift && exec wormhole-william \"$@\"";
        let mut command = Command::new("unshare");
        command.args([own, "sh", "-c", script, "sh"]).arg(self.folder.join("hosts"));
        command.args([word, "--relay-url", &self.url]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for William {
    fn drop(&mut self) {
        end(&mut self.mailbox);
        end(&mut self.relay);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn listens(address: SocketAddr) -> Result<()> {
    let since = Instant::now();
    while TcpStream::connect(address).is_err() {
        if since.elapsed() > PATIENCE {
            return Err(format!("nothing listens at {address}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
