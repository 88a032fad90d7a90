//! Real proxies: Debian's `microsocks` and `tinyproxy`. Tests of the program use this file too.

// Each test takes what it needs of this.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// It must listen by then, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy, while this value lives.
pub struct Server {
    child: Child,
    address: SocketAddr,
    scheme: &'static str,
    _folder: TempDir,
}

impl Server {
    /// A SOCKS5 proxy, for this user alone if there is one.
    pub fn socks5(user: Option<(&str, &str)>) -> Self {
        Self::start("microsocks", "socks5", |address, _| {
            let mut command = Command::new("microsocks");
            command.args(["-i", "127.0.0.1", "-p", &address.port().to_string()]);
            if let Some((user, password)) = user {
                command.args(["-u", user, "-P", password]);
            }
            command
        })
    }

    /// An HTTP proxy, for this user alone if there is one, that refuses this port.
    pub fn http(user: Option<(&str, &str)>, allowed: Option<u16>) -> Self {
        Self::start("tinyproxy-bin", "http", |address, folder| {
            let user = user.map(|(user, password)| format!("BasicAuth {user} {password}\n")).unwrap_or_default();
            let allowed = allowed.map(|port| format!("ConnectPort {port}\n")).unwrap_or_default();
            let settings = format!(
                "Listen 127.0.0.1\nPort {}\nTimeout 600\nMaxClients 50\nLogFile \"{}\"\n{user}{allowed}",
                address.port(),
                folder.path().join("log").display()
            );
            let file = folder.path().join("tinyproxy.conf");
            fs::write(&file, settings).expect("a configuration");
            let mut command = Command::new("tinyproxy");
            command.arg("-d").arg("-c").arg(file);
            command
        })
    }

    fn start(package: &str, scheme: &'static str, command: impl Fn(SocketAddr, &TempDir) -> Command) -> Self {
        let folder = TempDir::new().expect("a folder");
        let taken = TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr());
        let address = taken.expect("a free port");
        let mut command = command(address, &folder);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|fault| panic!("no proxy ({fault}): install the package {package}"));
        let mut server = Self { child, address, scheme, _folder: folder };
        let since = Instant::now();
        while TcpStream::connect(address).is_err() {
            let over = server.child.try_wait().expect("a process can be waited for");
            assert!(over.is_none() && since.elapsed() < PATIENCE, "{package} does not listen: {over:?}");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Where it listens, as `ALL_PROXY` takes it.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The same, for this user.
    pub fn url_for(&self, user: &str, password: &str) -> String {
        format!("{}://{user}:{password}@{}", self.scheme, self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
