//! The Transit relay of Debian's package magic-wormhole-transit-relay. The benchmarks use this file too.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// It must listen by then, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A relay, while this value lives.
pub struct Relay {
    child: Child,
    address: SocketAddr,
}

impl Relay {
    /// Returns once it listens.
    ///
    /// # Errors
    /// When the program is missing or does not come up.
    pub fn try_start() -> io::Result<Self> {
        Self::try_start_at(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
    }

    /// The same at this address of this machine.
    ///
    /// # Errors
    /// As [`Self::try_start`].
    pub fn try_start_at(address: SocketAddr) -> io::Result<Self> {
        let missing = "no relay: install the package magic-wormhole-transit-relay";
        let child = Command::new("twist3")
            .args(["transitrelay", &format!("--port=tcp:{}:interface={}", address.port(), address.ip())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|fault| io::Error::new(fault.kind(), format!("{missing} ({fault})")))?;
        let mut relay = Self { child, address };
        let since = Instant::now();
        while TcpStream::connect(address).is_err() {
            if relay.child.try_wait()?.is_some() || since.elapsed() > PATIENCE {
                return Err(io::Error::other(missing));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(relay)
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
