//! The drivers: they own tasks, timers, links and clocks, feed the machines, and do what those ask for. They decide nothing.
//!
//! One lock per process guards its machine and what belongs to it. Whoever has an input takes the lock, calls `handle`, and does the
//! outputs before he lets go: all of them are quick and never wait, so the order of outputs is the order of effects, and no thread has to
//! wake another one only to pass a message on. What waits (sockets, files, programs) runs in tasks of its own, outside the lock.

mod clock;
mod connections;
mod link;
mod timer;

pub mod client;
pub mod host;
pub mod task;
pub mod worker;

pub(crate) use clock::Clock;
pub(crate) use link::LinkQueue;
pub(crate) use timer::Timer;

use std::sync::{Mutex, MutexGuard};

use p2p_proto::ids::{ClusterName, MachineKey, PeerName, Role, UserName};
use p2p_proto::trust::{Identity, Membership, ProcessSecret};

use crate::machine::Me;

/// Reports that wait for somebody to read them; more are dropped, being for people.
pub(crate) const REPORTS: usize = 1024;

/// Who takes part: made once per process.
#[derive(Clone, Debug)]
pub struct Member {
    /// The cluster.
    pub cluster: ClusterName,
    /// The user's name on the board.
    pub user: UserName,
    /// The machine's identity.
    pub identity: Identity,
    /// The machine's name, for people.
    pub hostname: String,
}

impl Member {
    pub(crate) fn me(&self, role: Role) -> Result<Me, getrandom::Error> {
        Ok(Me {
            cluster: self.cluster.clone(),
            user: self.user.clone(),
            name: PeerName::new(&self.user, &self.hostname, std::process::id()),
            role,
            identity: self.identity.clone(),
            secret: ProcessSecret::from_entropy(entropy()?),
        })
    }
}

/// What is kept from one start to the next: pinned host keys, memberships, and a host's bindings.
///
/// Methods are called under the driver's lock: they must be quick. What cannot be kept is reported by the implementation; the peer
/// goes on without.
pub trait TrustStore: Send + Sync {
    /// The pinned host key of a cluster, and this machine's membership in it.
    fn load(&self, cluster: &ClusterName) -> (Option<MachineKey>, Option<Membership>);
    /// Keeps both.
    fn save(&self, cluster: &ClusterName, host: MachineKey, membership: &Membership);
    /// A host's bindings of users to machines, and her serial.
    fn load_bindings(&self, cluster: &ClusterName) -> (Vec<(UserName, MachineKey)>, u64);
    /// Keeps one more binding.
    fn bind(&self, cluster: &ClusterName, user: &UserName, machine: MachineKey, serial: u64);
}

/// A store that forgets everything at the end of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetful;

impl TrustStore for Forgetful {
    fn load(&self, _: &ClusterName) -> (Option<MachineKey>, Option<Membership>) {
        (None, None)
    }
    fn save(&self, _: &ClusterName, _: MachineKey, _: &Membership) {}
    fn load_bindings(&self, _: &ClusterName) -> (Vec<(UserName, MachineKey)>, u64) {
        (Vec::new(), 0)
    }
    fn bind(&self, _: &ClusterName, _: &UserName, _: MachineKey, _: u64) {}
}

pub(crate) fn entropy() -> Result<[u8; 32], getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A panic elsewhere must not take this lock's data from everybody: it is consistent after each `handle`.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
