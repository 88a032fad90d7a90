//! A whole cluster inside one process.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use p2p_proto::board::message::Offer;
use p2p_proto::ids::{ClusterName, UserName};
use p2p_proto::trust::Identity;

use super::{MemoryHub, MemoryNet, MemoryTransport};
use crate::driver::{entropy, lock};
use crate::executor::Executor;
use crate::{Client, Forgetful, Host, HostConfig, HostTrust, Member, Worker, WorkerOffer};

/// A cluster on a board and links in memory: its host runs, workers and clients join as they are asked for.
///
/// ```
/// use p2p_scheduler::{Functions, Task, memory::Cluster};
///
/// # async_std::task::block_on(async {
/// let cluster = Cluster::open("alice/friends", &["bob", "carol"])?;
/// let functions = Functions::new().register_typed("square", |x: u64| x * x);
/// let _worker = cluster.worker("bob", 2, functions)?;
/// let client = cluster.client("carol")?;
/// let task = client.submit(Task::call("square", &12_u64)?).await;
/// assert_eq!(task.outcome().await.value::<u64>()?, 144);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Cluster {
    name: ClusterName,
    hub: MemoryHub,
    net: MemoryNet,
    host: Mutex<Option<Host>>,
    /// One machine per user.
    machines: Mutex<BTreeMap<UserName, Identity>>,
}

impl Cluster {
    /// Opens the cluster `name`, written `OWNER/NAME`, for its owner and `users`.
    ///
    /// # Errors
    /// For a name that is not valid, and when the system has no randomness.
    pub fn open(name: &str, users: &[&str]) -> io::Result<Self> {
        let name: ClusterName = name.parse().map_err(io::Error::other)?;
        let users: Vec<UserName> =
            users.iter().map(|user| user.parse()).collect::<Result<_, _>>().map_err(io::Error::other)?;
        let hub = MemoryHub::new();
        let owner = name.owner().clone();
        let identity = Identity::from_secret(&entropy().map_err(io::Error::other)?);
        let member = Member {
            cluster: name.clone(),
            user: owner.clone(),
            identity: identity.clone(),
            hostname: "memory".to_owned(),
            trust: HostTrust::Login,
        };
        let board = Arc::new(hub.board_of(&name.topic(), &owner));
        let host = Host::open(&member, HostConfig::of(users), board, Arc::new(Forgetful))?;
        let machines = Mutex::new(BTreeMap::from([(owner, identity)]));
        Ok(Self { name, hub, net: MemoryNet::new(), host: Mutex::new(Some(host)), machines })
    }

    /// A worker of `user` with so many slots.
    ///
    /// # Errors
    /// As [`Worker::join`].
    pub fn worker(&self, user: &str, slots: u32, executor: impl Executor + 'static) -> io::Result<Worker> {
        self.worker_by(user, slots, executor, &self.net.transport())
    }

    /// A worker whose links go through `transport`, to be cut there.
    ///
    /// # Errors
    /// As [`Worker::join`].
    pub fn worker_by(
        &self,
        user: &str,
        slots: u32,
        executor: impl Executor + 'static,
        transport: &MemoryTransport,
    ) -> io::Result<Worker> {
        let offer =
            WorkerOffer { offer: Offer { slots, ..Offer::default() }, allow: None, weights: Default::default() };
        let member = self.member(user)?;
        let board = Arc::new(self.hub.board_of(&self.name.topic(), &member.user));
        let transport = Arc::new(transport.clone());
        Worker::join(&member, offer, Arc::new(executor), board, transport, Arc::new(Forgetful))
    }

    /// A client of `user`.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub fn client(&self, user: &str) -> io::Result<Client> {
        let member = self.member(user)?;
        let board = Arc::new(self.hub.board_of(&self.name.topic(), &member.user));
        Client::join(&member, board, Arc::new(self.net.transport()), Arc::new(Forgetful))
    }

    /// A client of `user` that waits so long for a link without a connection.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub fn client_with_grace(&self, user: &str, grace: std::time::Duration) -> io::Result<Client> {
        let member = self.member(user)?;
        let board = Arc::new(self.hub.board_of(&self.name.topic(), &member.user));
        let transport = Arc::new(self.net.transport());
        Client::join_with_grace(&member, board, transport, Arc::new(Forgetful), grace)
    }

    /// What a process of `user` joins with; each user has one machine.
    ///
    /// # Errors
    /// For a name that is not valid, and when the system has no randomness.
    pub fn member(&self, user: &str) -> io::Result<Member> {
        let user: UserName = user.parse().map_err(io::Error::other)?;
        let mut machines = lock(&self.machines);
        let identity = match machines.get(&user) {
            Some(identity) => identity.clone(),
            None => {
                let identity = Identity::from_secret(&entropy().map_err(io::Error::other)?);
                machines.insert(user.clone(), identity.clone());
                identity
            }
        };
        let (cluster, hostname) = (self.name.clone(), "memory".to_owned());
        Ok(Member { cluster, user, identity, hostname, trust: HostTrust::Login })
    }

    /// The board that all of them are on.
    pub fn hub(&self) -> &MemoryHub {
        &self.hub
    }

    /// The net that their links go through.
    pub fn net(&self) -> &MemoryNet {
        &self.net
    }

    /// Takes the host out: [`Host::leave`] or dropping it sends her away, and who was admitted works on.
    pub fn take_host(&self) -> Option<Host> {
        lock(&self.host).take()
    }
}
