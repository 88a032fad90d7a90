//! Who is present in the cluster: peers whose hello verified, until it runs out.

use std::collections::HashMap;
use std::time::Duration;

use p2p_proto::board::message::{Hello, Offer};
use p2p_proto::error::ProtoError;
use p2p_proto::ids::{PeerName, ProcessKey, UserName};
use p2p_proto::limits;
use p2p_proto::trust::{Credentials, Verified};

use super::{Now, Table};

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
///
/// A member can sign as many processes as he likes: when it is full, whoever has the most there makes room.
#[derive(Debug, Default)]
pub struct Directory {
    peers: HashMap<ProcessKey, Present>,
    /// How many of them each user has.
    of_user: HashMap<UserName, usize>,
}

impl Directory {
    /// Takes a hello in, if `verify` believes its credentials. Returns whether the peer is new.
    ///
    /// # Errors
    /// [`ProtoError::Untrusted`] when its credentials do not verify or its name claims another user.
    pub fn on_hello(
        &mut self,
        now: Now,
        name: PeerName,
        hello: Hello,
        verify: impl FnOnce(&Hello) -> Result<Verified, ProtoError>,
    ) -> Result<bool, ProtoError> {
        let ttl = Duration::from_secs(hello.ttl_s.into()).min(limits::HELLO_TTL_MAX);
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
        let verified = verify(&hello)?;
        if name.user() != verified.user.as_str() {
            return Err(ProtoError::Untrusted(format!("{name} is signed as {}", verified.user)));
        }
        let known = self.remove(hello.process).is_some();
        self.make_room(now);
        *self.of_user.entry(verified.user.clone()).or_default() += 1;
        let present = Present { name, verified, offer: hello.offer, credentials: hello.credentials, until };
        self.peers.insert(hello.process, present);
        Ok(!known)
    }

    /// Forgets a peer.
    pub fn remove(&mut self, process: ProcessKey) -> Option<Present> {
        let peer = self.peers.remove(&process)?;
        if let Some(count) = self.of_user.get_mut(&peer.verified.user) {
            *count -= 1;
            if *count == 0 {
                self.of_user.remove(&peer.verified.user);
            }
        }
        Some(peer)
    }

    /// Forgets all but these.
    pub fn retain(&mut self, keep: impl Fn(&Present) -> bool) {
        let gone = self.peers.iter().filter(|(_, peer)| !keep(peer)).map(|(process, _)| *process);
        for process in gone.collect::<Vec<_>>() {
            self.remove(process);
        }
    }

    /// A peer that is present.
    pub fn get(&self, process: ProcessKey) -> Option<&Present> {
        self.peers.get(&process)
    }

    /// How many are remembered.
    pub fn table(&self) -> Table {
        Table { what: "peers that are remembered", holds: self.peers.len(), most: limits::DIRECTORY_PEERS }
    }

    /// All that are present now.
    pub fn present(&self, now: Now) -> impl Iterator<Item = (&ProcessKey, &Present)> {
        self.peers.iter().filter(move |(_, peer)| peer.until > now.at)
    }

    /// When full, drops one: who has not been heard for its time, else, of a user who has the most there, whoever runs out first.
    fn make_room(&mut self, now: Now) {
        if self.peers.len() < limits::DIRECTORY_PEERS {
            return;
        }
        let most = self.of_user.values().max().copied();
        let rank = |peer: &Present| {
            let crowds = self.of_user.get(&peer.verified.user).copied() == most;
            (peer.until > now.at, !crowds, peer.until)
        };
        let first = self.peers.iter().min_by_key(|(_, peer)| rank(peer)).map(|(process, _)| *process);
        if let Some(first) = first {
            self.remove(first);
        }
    }
}
