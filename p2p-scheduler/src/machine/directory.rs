//! Who is present in the cluster: peers whose hello verified, until it runs out.

use std::collections::HashMap;
use std::time::Duration;

use p2p_proto::board::message::{Hello, Offer};
use p2p_proto::error::ProtoError;
use p2p_proto::ids::{ClusterName, MachineKey, PeerName, ProcessKey};
use p2p_proto::limits;
use p2p_proto::trust::{Credentials, Verified};

use super::Now;

/// A peer that proved itself by its hello. That it is still there is a hint (B-02).
#[derive(Clone, Debug)]
pub struct Present {
    /// Its display name, as it claims; the user in it is the proven one.
    pub name: PeerName,
    /// Who it is.
    pub verified: Verified,
    /// What a worker offers.
    pub offer: Option<Offer>,
    credentials: Credentials,
    until: Duration,
}

/// All of them, at most [`limits::DIRECTORY_PEERS`].
#[derive(Debug, Default)]
pub struct Directory {
    peers: HashMap<ProcessKey, Present>,
}

impl Directory {
    /// Takes a hello in. Returns whether the peer is new.
    ///
    /// # Errors
    /// [`ProtoError::Untrusted`] when its credentials do not verify or its name claims another user.
    pub fn on_hello(
        &mut self,
        now: Now,
        cluster: &ClusterName,
        host: MachineKey,
        name: PeerName,
        hello: Hello,
    ) -> Result<bool, ProtoError> {
        let ttl = Duration::from_secs(hello.ttl_s.into()).min(limits::HELLO_TTL * 2);
        let until = now.at + ttl;
        if let Some(known) = self.peers.get_mut(&hello.process)
            && known.credentials == hello.credentials
            && known.verified.role == hello.role
            && known.verified.until >= now.unix
        {
            // The same signatures verified before: a flood of repeats costs no curve arithmetic.
            known.until = until;
            known.offer = hello.offer;
            return Ok(false);
        }
        let verified = hello.credentials.verify(cluster, host, hello.role, hello.process, now.unix)?;
        if name.user() != verified.user.as_str() {
            return Err(ProtoError::Untrusted(format!("{name} is signed as {}", verified.user)));
        }
        self.make_room(now);
        let present = Present { name, verified, offer: hello.offer, credentials: hello.credentials, until };
        Ok(self.peers.insert(hello.process, present).is_none())
    }

    /// Forgets a peer.
    pub fn remove(&mut self, process: ProcessKey) -> Option<Present> {
        self.peers.remove(&process)
    }

    /// A peer that is present.
    pub fn get(&self, process: ProcessKey) -> Option<&Present> {
        self.peers.get(&process)
    }

    /// All that are present now.
    pub fn present(&self, now: Now) -> impl Iterator<Item = (&ProcessKey, &Present)> {
        self.peers.iter().filter(move |(_, peer)| peer.until > now.at)
    }

    /// Drops who has not been heard for its time; when still full, whoever runs out first.
    fn make_room(&mut self, now: Now) {
        if self.peers.len() < limits::DIRECTORY_PEERS {
            return;
        }
        self.peers.retain(|_, peer| peer.until > now.at);
        if self.peers.len() >= limits::DIRECTORY_PEERS
            && let Some(first) = self.peers.iter().min_by_key(|(_, peer)| peer.until).map(|(key, _)| *key)
        {
            self.peers.remove(&first);
        }
    }
}
