//! The servers that everything is tried against: our hub, and a real pico pipe where there is one.
//!
//! `P2P_PICO_SERVER` names a program that serves pico.sh's pipe as `p2p hub` serves a hub: it takes `--listen`, `--users`, `--host-key`
//! and `--json`, and prints the same first line. docs/pico.md says more.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use p2p_hub::{HostKeySource, Hub, HubConfig, UsersSource};

/// Which server a test wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hub,
    Pico,
}

/// A server that runs; it ends when this is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Of its host key, as OpenSSH shows it.
    pub(crate) fingerprint: String,
    /// Its public key, as OpenSSH writes it.
    host_key: String,
    _running: Running,
}

enum Running {
    Hub { _hub: Hub },
    Program(Child),
}

impl Server {
    /// Serves at `address` the users of the file `users` in `folder`, each time with the same key.
    pub(crate) fn start(kind: Kind, folder: &Path, address: SocketAddr) -> Self {
        let (users, key) = (folder.join("users"), folder.join("host_key"));
        match kind {
            Kind::Hub => {
                let (users, host_key) = (UsersSource::File(users), HostKeySource::File(key));
                let hub = Hub::start(HubConfig { listen: address, users, host_key }).unwrap();
                Self {
                    address: hub.local_addr(),
                    fingerprint: hub.host_key_fingerprint().to_owned(),
                    host_key: hub.host_public_key().to_owned(),
                    _running: Running::Hub { _hub: hub },
                }
            }
            Kind::Pico => {
                let program = std::env::var_os("P2P_PICO_SERVER");
                let program =
                    program.expect("P2P_PICO_SERVER must name a program that serves pico's pipe: see docs/pico.md");
                let mut command = Command::new(program);
                command
                    .args(["--json", "--listen", &address.to_string(), "--users"])
                    .arg(users)
                    .arg("--host-key")
                    .arg(key);
                let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the server starts");
                let mut line = String::new();
                BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).expect("the server's first line");
                let running = Running::Program(child);
                let word = |name: &str| {
                    let rest = line.split_once(&format!("\"{name}\":\"")).map(|(_, rest)| rest);
                    rest.and_then(|rest| rest.split('"').next())
                        .unwrap_or_else(|| panic!("no {name} in {line:?}"))
                        .to_owned()
                };
                Self {
                    address: word("address").parse().unwrap(),
                    fingerprint: word("fingerprint"),
                    host_key: word("host_key"),
                    _running: running,
                }
            }
        }
    }

    /// The line for `known_hosts`.
    pub(crate) fn known_hosts_line(&self) -> String {
        format!("[{}]:{} {}\n", self.address.ip(), self.address.port(), self.host_key)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Program(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Each of these functions is a test on the hub, and one on pico's pipe.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_hub {
            $(#[test]
            fn $name() {
                super::$name($crate::site::Site::start($crate::server::Kind::Hub));
            })*
        }
        mod on_pico {
            $(#[test]
            #[ignore = "needs P2P_PICO_SERVER: docs/pico.md"]
            fn $name() {
                super::$name($crate::site::Site::start($crate::server::Kind::Pico));
            })*
        }
    };
}
