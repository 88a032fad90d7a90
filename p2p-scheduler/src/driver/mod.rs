//! The drivers: they own tasks, timers, links and clocks, feed the machines, and do what those ask for. They decide nothing.
//!
//! One lock per process guards its machine and what belongs to it. Whoever has an input takes the lock, calls `handle`, and does the
//! outputs before he lets go: all of them are quick and never wait, so the order of outputs is the order of effects, and no thread has to
//! wake another one only to pass a message on. What waits (sockets, files, programs) runs in tasks of its own, outside the lock.

mod clock;
mod connections;
mod link;
mod sides;
mod timer;

pub mod client;
pub mod host;
pub mod task;
pub mod worker;

pub(crate) use clock::Clock;
pub(crate) use link::LinkQueue;
pub(crate) use sides::Sides;
pub(crate) use timer::Timer;

use std::sync::{Mutex, MutexGuard};

use p2p_proto::ids::{ClusterName, MachineKey, PeerName, Role, UserName};
use p2p_proto::trust::{Identity, ProcessSecret, UnixTime};

use crate::machine::Me;
use crate::machine::admission::{HostTrust, MemberKept};
use crate::machine::host::{HostKept, Removal};

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
    /// Whose word about the host's key it believes, as long as it knows none.
    pub trust: HostTrust,
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

/// What is kept from one start to the next: the host's key, a membership and removals, and a host's roster.
///
/// Methods are called under the driver's lock: they must be quick. What cannot be kept is reported by the implementation; the peer
/// goes on without.
pub trait TrustStore: Send + Sync {
    /// What a member has kept of a cluster.
    fn load(&self, cluster: &ClusterName) -> MemberKept;
    /// Keeps it.
    fn save(&self, cluster: &ClusterName, kept: &MemberKept);
    /// What a host has kept of her cluster.
    fn load_roster(&self, cluster: &ClusterName) -> HostKept;
    /// Keeps that a machine is the user's, the host's counter, and until when her signature is good.
    fn bind(&self, cluster: &ClusterName, user: &UserName, machine: MachineKey, serial: u64, until: UnixTime);
    /// Keeps that it is not any more, and the removal, whose serial is the counter.
    fn unbind(&self, cluster: &ClusterName, user: &UserName, removal: Removal);
    /// Keeps that a machine waits for the host's approval.
    fn pend(&self, cluster: &ClusterName, user: &UserName, machine: MachineKey);
}

/// A store that forgets everything at the end of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetful;

impl TrustStore for Forgetful {
    fn load(&self, _: &ClusterName) -> MemberKept {
        MemberKept::default()
    }
    fn save(&self, _: &ClusterName, _: &MemberKept) {}
    fn load_roster(&self, _: &ClusterName) -> HostKept {
        HostKept::default()
    }
    fn bind(&self, _: &ClusterName, _: &UserName, _: MachineKey, _: u64, _: u64) {}
    fn unbind(&self, _: &ClusterName, _: &UserName, _: Removal) {}
    fn pend(&self, _: &ClusterName, _: &UserName, _: MachineKey) {}
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
