//! A hub, or pico's pipe, with a few users, and their places on it.

use std::cell::Cell;
use std::io::Write as _;
use std::ops::AsyncFnMut;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use p2p_hub::make_user_key;
use p2p_proto::board::Board;
use p2p_proto::ids::ClusterName;
use p2p_transport_pico::{Agent, Listing, PicoBoard, PicoConfig, Session, Topic};
use tempfile::TempDir;

use crate::server::{Kind, Server};

pub(crate) struct Site {
    server: Server,
    folder: TempDir,
    topics: Cell<u32>,
}

impl Site {
    /// The first of the three users owns all topics.
    pub(crate) fn start(kind: Kind, users: &[&str; 3]) -> Self {
        let folder = TempDir::new().unwrap();
        let users = users.map(|name| format!("{name} {}\n", make_user_key(&folder.path().join(name)).unwrap()));
        std::fs::write(folder.path().join("users"), users.concat()).unwrap();
        let server = Server::start(kind, folder.path(), ([127, 0, 0, 1], 0).into());
        Self { server, folder, topics: Cell::new(0) }
    }

    /// A place for each user on a topic where nobody was before.
    pub(crate) async fn places(&self) -> [Box<dyn Board>; 3] {
        self.topics.set(self.topics.get() + 1);
        let cluster = self.cluster();
        ["alice", "bob", "carol"].map(|user| {
            let user = user.parse().unwrap();
            let owner = *cluster.owner() == user;
            let topic = Topic {
                name: cluster.topic(),
                access: owner.then(|| ["bob", "carol"].map(|user| user.parse().unwrap()).into()),
                twin: (!owner).then(|| cluster.twin_topic(&user)),
                after_host: false,
            };
            Box::new(PicoBoard::join(self.config(user.as_str()), topic)) as Box<dyn Board>
        })
    }

    /// The system's `ssh` on the latest topic: what writes there like anybody.
    pub(crate) async fn raw(&self) -> impl AsyncFnMut(&[u8]) {
        let topic = self.cluster().topic();
        // Before the owner is there, others come to a topic of their own; when they leave it, the last one there is thrown out.
        self.wait_for(3, &topic).await;
        let (known_hosts, port) = (self.folder.path().join("known"), self.server.address.port());
        std::fs::write(&known_hosts, self.server.known_hosts_line()).unwrap();
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "/dev/null", "-T", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
        ssh.arg("-i").arg(self.folder.path().join("bob")).args(["-p", &port.to_string(), "127.0.0.1", "pipe", &topic]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut ssh = Running(ssh.spawn().expect("cannot run ssh; install the package openssh-client"));
        self.wait_for(4, &topic).await;
        async move |bytes: &[u8]| {
            let stdin = ssh.0.stdin.as_mut().unwrap();
            stdin.write_all(bytes).unwrap();
            stdin.flush().unwrap();
        }
    }

    /// Waits until so many are on the topic.
    async fn wait_for(&self, members: usize, topic: &str) {
        let mut session = Session::connect(&self.config("alice")).await.unwrap();
        loop {
            let listing = Listing::parse(&session.ls().await.unwrap()).unwrap();
            if listing.topic(topic).is_some_and(|topic| topic.pipes.len() >= members) {
                return;
            }
            async_std::task::sleep(Duration::from_millis(20)).await;
        }
    }

    fn cluster(&self) -> ClusterName {
        format!("alice/c{}", self.topics.get()).parse().unwrap()
    }

    fn config(&self, user: &str) -> PicoConfig {
        let mut config = PicoConfig::new(format!("ssh://{}", self.server.address).parse().unwrap());
        config.identities = vec![self.folder.path().join(user)];
        config.default_identities = Vec::new();
        config.agent = Agent::Off;
        config.known_hosts = self.folder.path().join("known_hosts");
        config.accept_host_key = Some(self.server.fingerprint.clone());
        config
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
