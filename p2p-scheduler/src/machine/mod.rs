//! The state machines of the three roles: pure, deterministic, and the only place where anything is decided.
//!
//! Each is called as `handle(now, input, &mut outbox)`: it takes one input, changes its state, and appends what is to be done to the outbox.
//! It never blocks, never reads a clock, and takes its randomness from the seed that it was made with. Time may stand still between
//! two calls but never goes back. [`Now`] carries both clocks: the monotonic one for timers, the calendar for certificates.
//! After each call the driver asks `wake_at()` and calls `handle` with the `Tick` input then.
//!
//! | module | holds |
//! |---|---|
//! | [`client`] | tasks, links to workers, who gets which task |
//! | [`worker`] | slots, credits, attempts, links to clients |
//! | [`host`] | who belongs to the cluster |
//! | [`admission`] | how a worker or client gets and keeps its membership |
//! | [`side`] | what is done beside the cluster's topic, to see by whose login somebody is there |
//! | [`directory`] | who is present, verified |
//! | [`speaker`] | what a peer may say on the board, and how fast |
#![deny(clippy::disallowed_methods)]

pub mod admission;
mod bucket;
pub mod client;
pub mod directory;
pub mod host;
mod rival;
pub mod side;
pub mod speaker;
pub mod worker;

use std::time::Duration;

use p2p_proto::ids::{ClusterName, PeerKeys, PeerName, Role, UserName};
use p2p_proto::limits;
use p2p_proto::trust::{Credentials, Identity, Membership, ProcessCertificate, ProcessSecret, UnixTime};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// A secret for a handshake. The generator goes on from a new seed: who reads a process's memory later finds nothing there of which its earlier secrets,
/// and with them what was recorded of its links, could be made again.
fn secret_of(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let (mut secret, mut next) = ([0; 32], [0; 32]);
    rng.fill_bytes(&mut secret);
    rng.fill_bytes(&mut next);
    *rng = ChaCha20Rng::from_seed(next);
    secret
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, since any fixed moment: timers go by it.
    pub at: Duration,
    /// Calendar seconds: certificates and lines go by it.
    pub unix: UnixTime,
}

/// Who this process is: what every machine is made with.
#[derive(Clone, Debug)]
pub struct Me {
    /// The cluster it takes part in.
    pub cluster: ClusterName,
    /// Its user's name on the board.
    pub user: UserName,
    /// Its display name.
    pub name: PeerName,
    /// Its role.
    pub role: Role,
    /// The machine's identity.
    pub identity: Identity,
    /// This process's Noise key.
    pub secret: ProcessSecret,
}

impl Me {
    /// Both public keys.
    pub fn keys(&self) -> PeerKeys {
        PeerKeys { machine: self.identity.machine_key(), process: self.secret.process_key() }
    }

    /// A fresh certificate of the process key.
    pub fn certificate(&self, now: Now) -> ProcessCertificate {
        let until = now.unix + limits::PROCESS_TTL.as_secs();
        ProcessCertificate::sign(&self.identity, &self.cluster, self.role, self.secret.process_key(), now.unix, until)
    }

    /// What proves this process to other members.
    pub fn credentials(&self, membership: &Membership, now: Now) -> Credentials {
        Credentials { membership: membership.clone(), certificate: self.certificate(now) }
    }
}

/// Whether this version can talk to a peer of version `theirs` (L-03).
pub(crate) fn speaks(theirs: u16) -> bool {
    p2p_proto::common_version(theirs).is_ok()
}

/// Something that a machine keeps of others, and its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Of what.
    pub what: &'static str,
    /// How many it holds.
    pub holds: usize,
    /// How many it may hold.
    pub most: usize,
}

/// The earliest of some moments.
pub(crate) fn earliest<const N: usize>(moments: [Option<Duration>; N]) -> Option<Duration> {
    moments.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_does_not_remember_its_secrets() {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let secrets: Vec<[u8; 32]> = (0..3).map(|_| secret_of(&mut rng)).collect();
        assert!(secrets[0] != secrets[1] && secrets[1] != secrets[2]);
        // What is there afterwards is a generator at its beginning: going back from there is not possible.
        assert_eq!(rng.get_word_pos(), 0);
        let mut again = ChaCha20Rng::from_seed(rng.get_seed());
        assert!(!secrets.contains(&secret_of(&mut again)));
    }
}
