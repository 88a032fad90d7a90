//! The Transit relay of Debian's package magic-wormhole-transit-relay.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::{PATIENCE, within};

/// A relay, while this value lives.
pub struct Relay {
    child: Child,
    address: SocketAddr,
}

impl Relay {
    /// Returns once it listens.
    pub fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr()).expect("a port");
        let child = Command::new("twist3")
            .args(["transitrelay", &format!("--port=tcp:{}:interface=127.0.0.1", free.port())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program twist3 is missing: install the package magic-wormhole-transit-relay");
        let mut relay = Self { child, address: free };
        let listens = within(PATIENCE, || {
            let ended = relay.child.try_wait().expect("a process can be waited for");
            assert!(ended.is_none(), "twist3 transitrelay ended: install the package magic-wormhole-transit-relay");
            TcpStream::connect(free).ok()
        });
        listens.expect("the relay listens");
        relay
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
