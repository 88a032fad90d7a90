//! The `ssh` program in place of libssh2: everything that people have in their configuration just works.
//!
//! One `ssh` connects, logs in, and goes to the background with a control socket in a private folder; each command is another `ssh`
//! that uses that connection (`ControlMaster`). The first one ends by itself when nobody has used it for a while, should this program
//! have no time to end it. Whether the connection lives is `ssh`'s own business (`ServerAliveInterval`).

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use std::{fs, process};

use async_io::Async;
use async_process::{Child, Command};
use async_std::future::timeout;
use async_std::task;
use event_listener::Event;
use futures::channel::oneshot;
use futures::future::{self, BoxFuture, Either};
use p2p_proto::board::BoardError;
use tempfile::TempDir;

use crate::config::{Agent, PicoConfig};

/// How long people may take to answer what `ssh` asks them.
const ASKED_TIMEOUT: Duration = Duration::from_secs(300);
/// The connection ends when no command has used it for this long.
const PERSIST: &str = "ControlPersist=20";
/// As libssh2's connection: a dead server is noticed within half a minute.
const ALIVE: [&str; 2] = ["ServerAliveInterval=10", "ServerAliveCountMax=3"];
/// What of its complaints is shown, bytes.
const SAID_BYTES: usize = 2048;
/// What `ssh` exits with when the connection broke, or when the server closed a channel without saying why.
const BROKEN: i32 = 255;

/// A connection that is logged in. Dropping it ends it.
pub(crate) struct System {
    folder: TempDir,
    host: String,
    channels: Mutex<Vec<Weak<Inner>>>,
    ended: Arc<Ended>,
}

/// One command. Clones are the same one; it is killed with the last of them.
#[derive(Clone)]
pub(crate) struct ChildChannel {
    control: PathBuf,
    host: String,
    ended: Arc<Ended>,
    inner: Arc<Inner>,
}

/// What a command reads and writes, and how it ended.
#[derive(Default)]
struct Inner {
    state: Mutex<State>,
}

type Stream = Arc<Async<UnixStream>>;

#[derive(Default)]
struct State {
    /// What it prints and takes, and what it complains.
    streams: Option<(Stream, Stream)>,
    /// The last read found nothing, of what it prints and of what it complains.
    waits: (bool, bool),
    /// The last write found no room.
    full: bool,
    over: bool,
    exit: Option<i32>,
    /// The command lives as long as this.
    _alive: Option<oneshot::Sender<()>>,
}

/// Tells whoever waits that a command has ended.
#[derive(Default)]
struct Ended {
    flag: AtomicBool,
    event: Event,
}

impl Ended {
    fn tell(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.event.notify(usize::MAX);
    }

    async fn wait(&self) {
        loop {
            let told = self.event.listen();
            if self.flag.swap(false, Ordering::SeqCst) {
                return;
            }
            told.await;
        }
    }
}

/// Connects and logs in by the `ssh` program. `why` says which option asked for it, if nobody did.
///
/// # Errors
/// As [`crate::door::enter`].
pub(crate) async fn enter(config: &PicoConfig, why: Option<&str>) -> Result<System, BoardError> {
    if let Some(why) = why {
        config.say_once(&format!("the ssh program speaks with the board, because this one cannot do: {why}"));
    }
    let folder = tempfile::Builder::new().prefix("p2p-ssh-").tempdir().map_err(|fault| broken(config, &fault))?;
    let said = folder.path().join("said");
    let mut command = connecting(config, folder.path()).map_err(|fault| broken(config, &fault))?;
    let complaints = fs::File::create(&said).map_err(|fault| broken(config, &fault))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints).kill_on_drop(true);
    let mut child = command.spawn().map_err(|fault| match fault.kind() {
        io::ErrorKind::NotFound => {
            let why = why.map_or_else(|| "--ssh system".to_owned(), str::to_owned);
            BoardError::Auth(format!("there is no ssh program here, which is needed for {why}; install openssh-client"))
        }
        _ => broken(config, &fault),
    })?;
    let limit = if config.prompt.is_some() { ASKED_TIMEOUT } else { config.connect_timeout };
    let status = timeout(limit, child.status()).await;
    let words = complaint(&said);
    match status {
        Ok(Ok(status)) if status.success() => {
            let host = config.address.host().to_owned();
            Ok(System { folder, host, channels: Mutex::default(), ended: Arc::default() })
        }
        Ok(Ok(_)) => match judge(config, &words) {
            BoardError::Unreachable(_) => Err(look_closer(config, folder.path(), &words).await),
            fault => Err(fault),
        },
        Ok(Err(fault)) => Err(broken(config, &fault)),
        Err(_) => Err(broken(config, &format!("ssh did not get there within {} s; {words}", limit.as_secs_f32()))),
    }
}

/// `ssh` keeps silent about what went wrong on the way as long as its connection is to be kept for others: so it is asked again, for
/// one harmless command.
async fn look_closer(config: &PicoConfig, folder: &Path, words: &str) -> BoardError {
    let again = async {
        let mut ssh = Command::new("ssh");
        given(&mut ssh, config, folder)?;
        let said = folder.join("said-again");
        ssh.args(["-o", "ControlMaster=no", "-T", "-S", "none"]);
        aim(&mut ssh, config);
        ssh.arg("help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&said)?).kill_on_drop(true);
        let _ = timeout(config.connect_timeout, ssh.spawn()?.status()).await;
        Ok::<_, io::Error>(complaint(&said))
    };
    let more = again.await.unwrap_or_default();
    judge(config, if more.is_empty() { words } else { &more })
}

/// The `ssh` that connects. What was given comes first, untouched: the first value of an option is the one that counts.
fn connecting(config: &PicoConfig, folder: &Path) -> io::Result<Command> {
    let mut ssh = Command::new("ssh");
    given(&mut ssh, config, folder)?;
    ssh.args(["-o", PERSIST, "-o", "ControlMaster=yes", "-f", "-N", "-T", "-S"]).arg(control(folder));
    aim(&mut ssh, config);
    Ok(ssh)
}

fn aim(ssh: &mut Command, config: &PicoConfig) {
    if config.address.has_port() {
        ssh.arg("-p").arg(config.address.port().to_string());
    }
    ssh.arg("-l").arg(config.address.login()).arg("--").arg(config.address.host());
}

fn given(ssh: &mut Command, config: &PicoConfig, folder: &Path) -> io::Result<()> {
    ssh.args(config.ssh_args.words());
    for file in &config.identities {
        ssh.arg("-i").arg(file);
    }
    let mut options: Vec<String> = ALIVE.map(str::to_owned).into();
    options.push(format!("ConnectTimeout={}", config.connect_timeout.as_secs().max(1)));
    if !config.identities.is_empty() || config.identities_only {
        options.push("IdentitiesOnly=yes".to_owned());
    }
    if let Agent::Socket(socket) = &config.agent {
        options.push(format!("IdentityAgent=\"{}\"", socket.display()));
    }
    if config.prompt.is_none() {
        options.push("BatchMode=yes".to_owned());
    }
    if let Some(wanted) = &config.accept_host_key {
        let script = folder.join("known");
        fs::write(&script, format!("[ \"$1\" = '{}' ] && echo \"$2 $3 $4\"\nexit 0\n", fingerprint_only(wanted)))?;
        options.push(format!("KnownHostsCommand=/bin/sh {} %f %H %t %K", script.display()));
        options.extend(
            ["UserKnownHostsFile=none", "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes"].map(str::to_owned),
        );
    } else if config.known_hosts != PicoConfig::usual_known_hosts() {
        options.push(format!("UserKnownHostsFile=\"{}\"", config.known_hosts.display()));
    }
    for option in &options {
        ssh.arg("-o").arg(option);
    }
    Ok(())
}

/// A fingerprint goes into a script: nothing but its letters.
fn fingerprint_only(text: &str) -> String {
    text.trim_end_matches('=').chars().filter(|c| c.is_ascii_alphanumeric() || ":+/".contains(*c)).collect()
}

fn control(folder: &Path) -> PathBuf {
    folder.join("c")
}

fn complaint(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(SAID_BYTES)..]).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

/// By its own words, which have been the same for decades.
fn judge(config: &PicoConfig, words: &str) -> BoardError {
    let board = &config.address;
    let has = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    if has(&["HOST IDENTIFICATION HAS CHANGED", "Host key verification failed", "host key is known for"]) {
        return BoardError::HostKey(format!(
            "ssh does not trust the host key of {board}: {words}. If its operator confirms the new fingerprint, forget the old one with \
             ssh-keygen -R, or connect once with ssh and accept it"
        ));
    }
    if has(&["Permission denied", "Too many authentication failures"]) {
        return BoardError::Auth(format!(
            "{board} did not take any key that ssh has offered: {words}. Make the key known to the server (on pico.sh: run `ssh pico.sh` \
             once); a key with a passphrase is unlocked with ssh-add"
        ));
    }
    if has(&[
        "configuration option",
        "usage: ssh",
        "Can't open user config",
        "Bad owner",
        "Invalid",
        "invalid",
        "nsupported",
    ]) {
        return BoardError::Auth(format!(
            "ssh does not take its options: {words}. Check --ssh-args and the configuration of ssh"
        ));
    }
    broken(config, &words)
}

fn broken(config: &PicoConfig, fault: &dyn std::fmt::Display) -> BoardError {
    crate::door::unreachable(config, fault)
}

impl System {
    /// A channel for one command.
    pub(crate) fn open(&self) -> io::Result<ChildChannel> {
        let control = control(self.folder.path());
        // Without the one that is connected, the next one would only say that it broke off.
        if !is_connected(&control) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection of ssh is gone"));
        }
        let inner = Arc::new(Inner::default());
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|channel| channel.strong_count() > 0);
        channels.push(Arc::downgrade(&inner));
        Ok(ChildChannel { control, host: self.host.clone(), ended: Arc::clone(&self.ended), inner })
    }

    /// Waits until a read may find something, a write room, or until a command ends.
    pub(crate) async fn ready(&self) {
        self.wait(true, true).await;
    }

    pub(crate) async fn readable(&self) {
        self.wait(true, false).await;
    }

    pub(crate) async fn writable(&self) {
        self.wait(false, true).await;
    }

    pub(crate) fn wants_to_send(&self) -> bool {
        self.inners().iter().any(|inner| inner.lock().full)
    }

    async fn wait(&self, reading: bool, writing: bool) {
        let mut events: Vec<BoxFuture<'_, ()>> = Vec::new();
        if reading {
            events.push(Box::pin(self.ended.wait()));
        }
        for inner in self.inners() {
            let state = inner.lock();
            let Some((stream, complaints)) = &state.streams else { continue };
            // A fault also ends the wait: the next call reports it.
            let readable = |stream: &Stream| -> BoxFuture<'_, ()> {
                let stream = Arc::clone(stream);
                Box::pin(async move { drop(stream.readable().await) })
            };
            if reading && state.waits.0 {
                events.push(readable(stream));
            }
            if reading && state.waits.1 {
                events.push(readable(complaints));
            }
            if writing && state.full {
                let stream = Arc::clone(stream);
                events.push(Box::pin(async move { drop(stream.writable().await) }));
            }
        }
        if events.is_empty() {
            return future::pending().await;
        }
        future::select_all(events).await;
    }

    fn inners(&self) -> Vec<Arc<Inner>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let mut ssh = process::Command::new("ssh");
        ssh.args(["-F", "none", "-O", "exit", "-S"]).arg(control(self.folder.path())).arg("--").arg(&self.host);
        // It takes milliseconds, and the folder goes afterwards; without it the connection ends a little later by itself.
        let _ = ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn is_connected(control: &Path) -> bool {
    UnixStream::connect(control).is_ok()
}

impl ChildChannel {
    /// Starts the command.
    pub(crate) fn exec(&mut self, command: &str) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        let (complaints, their_complaints) = UnixStream::pair()?;
        let mut ssh = process::Command::new("ssh");
        // It must never connect by itself, with other options than those that were given.
        ssh.args([
            "-F",
            "none",
            "-T",
            "-e",
            "none",
            "-o",
            "ControlMaster=no",
            "-o",
            "ProxyCommand=false",
            "-o",
            "BatchMode=yes",
        ]);
        ssh.args(["-o", "LogLevel=ERROR", "-S"]).arg(&self.control).arg("--").arg(&self.host).arg(command);
        // An interrupt at the terminal is for this program alone, which may want to say goodbye.
        ssh.process_group(0);
        let mut ssh = Command::from(ssh);
        ssh.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?))).stdout(Stdio::from(OwnedFd::from(theirs)));
        ssh.stderr(Stdio::from(OwnedFd::from(their_complaints)));
        let child = ssh.kill_on_drop(true).spawn()?;
        let (alive, gone) = oneshot::channel();
        let mut state = self.inner.lock();
        state.streams = Some((Arc::new(Async::new(ours)?), Arc::new(Async::new(complaints)?)));
        state._alive = Some(alive);
        task::spawn(watch(child, gone, Arc::downgrade(&self.inner), Arc::clone(&self.ended)));
        Ok(())
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let mut state = self.inner.lock();
        let Some((stream, _)) = &state.streams else { return Err(io::ErrorKind::NotConnected.into()) };
        let written = unblocked(stream.get_ref().write(bytes))?;
        state.full = written.is_none();
        Ok(written)
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut state = self.inner.lock();
        let Some((stream, _)) = &state.streams else { return Ok(None) };
        let count = ended_is_none(unblocked(stream.get_ref().read(buffer)))?;
        state.waits.0 = count.is_none();
        state.over |= count == Some(0);
        Ok(count)
    }

    pub(crate) fn read_stderr(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut state = self.inner.lock();
        let Some((_, complaints)) = &state.streams else { return Ok(None) };
        let count = ended_is_none(unblocked(complaints.get_ref().read(buffer)))?;
        state.waits.1 = count.is_none();
        Ok(count)
    }

    pub(crate) fn has_unread(&self) -> bool {
        let state = self.inner.lock();
        state.streams.is_some() && !state.waits.0
    }

    pub(crate) fn eof(&self) -> bool {
        self.inner.lock().over
    }

    /// Whether it has ended; it is told that nothing more comes.
    pub(crate) fn close(&mut self) -> bool {
        let state = self.inner.lock();
        if let Some((stream, _)) = &state.streams {
            // It may have gone already.
            let _ = stream.get_ref().shutdown(Shutdown::Write);
        }
        state.exit.is_some() || state.streams.is_none()
    }

    pub(crate) fn exit_status(&self) -> io::Result<i32> {
        match self.inner.lock().exit {
            Some(BROKEN) if is_connected(&self.control) => Ok(0),
            Some(BROKEN) | None => Err(io::Error::new(io::ErrorKind::NotConnected, "the connection of ssh broke")),
            Some(status) => Ok(status),
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes how a command ended; kills it when nobody wants it any more.
async fn watch(mut child: Child, gone: oneshot::Receiver<()>, inner: Weak<Inner>, ended: Arc<Ended>) {
    let status = match future::select(Box::pin(child.status()), gone).await {
        Either::Left((status, _)) => status,
        Either::Right(_) => return,
    };
    let code = status.ok().and_then(|status| status.code()).unwrap_or(BROKEN);
    if let Some(inner) = inner.upgrade() {
        inner.lock().exit = Some(code);
    }
    ended.tell();
}

fn unblocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// A command that was killed leaves a reset behind in place of an end.
fn ended_is_none(result: io::Result<Option<usize>>) -> io::Result<Option<usize>> {
    match result {
        Err(fault) if fault.kind() == io::ErrorKind::ConnectionReset => Ok(Some(0)),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_brings_nothing_else_into_the_script() {
        assert_eq!(fingerprint_only("SHA256:a+b/c="), "SHA256:a+b/c");
        assert_eq!(fingerprint_only("x'; rm -rf $HOME #"), "xrmrfHOME");
    }

    #[test]
    fn the_words_of_ssh_say_who_can_help() {
        let config = PicoConfig::new("ssh://h".parse().unwrap());
        let judged = |words: &str| judge(&config, words);
        assert!(matches!(judged("x; WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!; y"), BoardError::HostKey(_)));
        assert!(matches!(
            judged("No ED25519 host key is known for h; Host key verification failed."),
            BoardError::HostKey(_)
        ));
        assert!(matches!(judged("p2p@h: Permission denied (publickey)."), BoardError::Auth(_)));
        assert!(matches!(judged("command-line: line 0: Bad configuration option: x"), BoardError::Auth(_)));
        assert!(matches!(judged("ssh: connect to host h port 22: Connection refused"), BoardError::Unreachable(_)));
    }
}
