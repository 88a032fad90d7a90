//! A server with alice, bob, carol and mallory, and their ways onto alice's topic.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use p2p_proto::ids::ClusterName;
use p2p_transport_pico::{Listing, PicoBoard, PicoConfig, Session, Topic};
use tempfile::TempDir;

use crate::kit::{config, make_key, public_half, tool, wait_until};
use crate::server::{Kind, Server};

pub(crate) const TOPIC: &str = "alice/friends/future.p2p";
/// Mallory is on no list; his key has a name, which pico shows.
const USERS: [&str; 4] = ["alice", "bob", "carol", "mallory"];

pub(crate) struct Site {
    pub(crate) kind: Kind,
    pub(crate) server: Option<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) dir: TempDir,
}

impl Site {
    pub(crate) fn start(kind: Kind) -> Self {
        let dir = TempDir::new().unwrap();
        let lines = USERS.map(|user| {
            let key = public_half(&make_key(dir.path(), user, "ed25519", ""));
            let comment = if user == "mallory" { " name=laptop" } else { "" };
            format!("{user} {key}{comment}\n")
        });
        // Without an account.
        make_key(dir.path(), "stranger", "ed25519", "");
        std::fs::write(dir.path().join("users"), lines.concat()).unwrap();
        let mut site = Self { kind, server: None, address: (Ipv4Addr::LOCALHOST, 0).into(), dir };
        site.open();
        site
    }

    /// Starts the server, the second time on the same port with the same key.
    pub(crate) fn open(&mut self) {
        let server = Server::start(self.kind, self.dir.path(), self.address);
        self.address = server.address;
        std::fs::write(self.dir.path().join("known_hosts"), server.known_hosts_line()).unwrap();
        self.server = Some(server);
    }

    pub(crate) fn close(&mut self) {
        self.server = None;
    }

    pub(crate) fn key(&self, user: &str) -> PathBuf {
        self.dir.path().join(user)
    }

    /// Makes a certificate with this key id, by which `whom` logs in on the account of `signer`.
    pub(crate) fn sign(&self, signer: &str, whom: &str, id: &str) {
        let (signer, file) = (self.key(signer), self.key(whom).with_extension("pub"));
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        tool("openssh-client", "ssh-keygen", &["-q", "-s", &path(&signer), "-I", id, "-n", "pipe", &path(&file)]);
    }

    pub(crate) fn config(&self, user: &str) -> PicoConfig {
        config(&format!("ssh://{}", self.address), self.dir.path(), &[&self.key(user)])
    }

    fn config_with(&self, user: &str, silence: Duration) -> PicoConfig {
        let mut config = self.config(user);
        config.silence = silence;
        config
    }

    /// Alice on her own topic, with this list.
    pub(crate) fn host(&self, users: &[&str]) -> PicoBoard {
        self.host_with(users, self.config("alice").silence)
    }

    pub(crate) fn host_with(&self, users: &[&str], silence: Duration) -> PicoBoard {
        let access = Some(users.iter().map(|user| user.parse().unwrap()).collect());
        let topic = Topic { name: TOPIC.to_owned(), access, twin: None, after_host: false };
        PicoBoard::join(self.config_with("alice", silence), topic)
    }

    pub(crate) fn guest(&self, user: &str) -> PicoBoard {
        self.guest_with(user, self.config(user).silence)
    }

    pub(crate) fn guest_with(&self, user: &str, silence: Duration) -> PicoBoard {
        let cluster: ClusterName = "alice/friends".parse().unwrap();
        let twin = Some(cluster.twin_topic(&user.parse().unwrap()));
        let topic = Topic { name: cluster.topic(), access: None, twin, after_host: false };
        PicoBoard::join(self.config_with(user, silence), topic)
    }

    /// What `ls` shows to this user.
    pub(crate) async fn listing(&self, user: &str) -> Listing {
        let mut session = Session::connect(&self.config(user)).await.unwrap();
        Listing::parse(&session.ls().await.unwrap()).unwrap()
    }

    /// Waits until the topic has so many members and this list.
    pub(crate) async fn settled(&self, members: usize, list: &[&str]) {
        wait_until(&format!("{members} members and the list {list:?}"), || async {
            let listing = self.listing("alice").await;
            let topic = listing.topic(TOPIC);
            topic.is_some_and(|topic| {
                topic.pipes.len() == members && topic.access.as_deref().unwrap_or_default() == list
            })
        })
        .await;
    }

    /// The system's `ssh`, with this as its input.
    pub(crate) fn ssh(&self, user: &str, command: &str, input: Stdio) -> Child {
        let (known_hosts, port) = (self.dir.path().join("known_hosts"), self.address.port().to_string());
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "/dev/null", "-T", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
        if self.dir.path().join(format!("{user}-cert.pub")).exists() {
            // Pico takes the first key that it is offered, and the bare one would be that.
            ssh.args(["-o", "PubkeyAcceptedAlgorithms=ssh-ed25519-cert-v01@openssh.com"]);
        }
        ssh.arg("-i").arg(self.key(user)).args(["-p", &port, "127.0.0.1", command]);
        ssh.stdin(input).stdout(Stdio::null()).spawn().expect("cannot run ssh; install the package openssh-client")
    }

    /// A person or an older program on a topic: no proof of where he is, no watching, no coming back.
    pub(crate) fn plain(&self, user: &str, arguments: &str) -> Plain {
        let mut child = self.ssh(user, &format!("pipe {arguments}"), Stdio::piped());
        let input = child.stdin.take();
        Plain { child, input }
    }
}

/// A plain `ssh ... pipe`. It ends when this is dropped.
pub(crate) struct Plain {
    pub(crate) child: Child,
    pub(crate) input: Option<ChildStdin>,
}

impl Plain {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().unwrap();
        std::io::Write::write_all(input, bytes).unwrap();
        std::io::Write::flush(input).unwrap();
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
