//! Who plays in the vectors: alice hosts, bob's machine works, carol's calls. Every secret is one byte, 32 times.

use p2p_proto::ids::{ClusterName, PeerKeys, PeerName, Role, UserName};
use p2p_proto::trust::{
    Credentials, Identity, Membership, MembershipClaims, ProcessCertificate, ProcessSecret, UnixTime,
};

use crate::book::{Fields, hex};

/// The clock of everybody.
pub(crate) const NOW: UnixTime = 1_800_000_000;
/// When everything signed ends.
pub(crate) const UNTIL: UnixTime = NOW + 86_400;

pub(crate) struct Actor {
    pub(crate) user: UserName,
    pub(crate) host: &'static str,
    pub(crate) pid: u32,
    pub(crate) role: Role,
    machine_secret: [u8; 32],
    process_secret: [u8; 32],
    serial: u64,
}

pub(crate) fn cluster() -> ClusterName {
    "alice/friends".parse().unwrap()
}

pub(crate) fn alice() -> Actor {
    actor("alice", "desk", 101, Role::Host, 0x11, 0x41, 1)
}

pub(crate) fn bob() -> Actor {
    actor("bob", "attic", 202, Role::Worker, 0x22, 0x42, 2)
}

pub(crate) fn carol() -> Actor {
    actor("carol", "lap.top", 303, Role::Client, 0x33, 0x43, 3)
}

fn actor(user: &str, host: &'static str, pid: u32, role: Role, machine: u8, process: u8, serial: u64) -> Actor {
    let user = user.parse().unwrap();
    Actor { user, host, pid, role, machine_secret: [machine; 32], process_secret: [process; 32], serial }
}

impl Actor {
    pub(crate) fn name(&self) -> PeerName {
        PeerName::new(&self.user, self.host, self.pid)
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::from_secret(&self.machine_secret)
    }

    pub(crate) fn process(&self) -> ProcessSecret {
        ProcessSecret::from_entropy(self.process_secret)
    }

    pub(crate) fn keys(&self) -> PeerKeys {
        PeerKeys { machine: self.identity().machine_key(), process: self.process().process_key() }
    }

    pub(crate) fn claims(&self) -> MembershipClaims {
        MembershipClaims {
            host: alice().identity().machine_key(),
            user: self.user.clone(),
            machine: self.identity().machine_key(),
            serial: self.serial,
            from: NOW,
            until: UNTIL,
        }
    }

    pub(crate) fn membership(&self) -> Membership {
        Membership::sign(&alice().identity(), &cluster(), &self.claims())
    }

    pub(crate) fn certificate(&self) -> ProcessCertificate {
        ProcessCertificate::sign(&self.identity(), &cluster(), self.role, self.keys().process, NOW, UNTIL)
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials { membership: self.membership(), certificate: self.certificate() }
    }

    /// The actor as an input of a book.
    fn describe(&self) -> String {
        format!(
            "{}, {}, machine secret {}, machine key {}, process secret {}, process key {}, serial {}",
            self.name(),
            self.role,
            hex(&self.machine_secret),
            hex(&self.keys().machine.0),
            hex(&self.process_secret),
            hex(&self.keys().process.0),
            self.serial,
        )
    }
}

/// What all books share.
pub(crate) fn inputs() -> Fields {
    Fields::default()
        .with("cluster", cluster().to_string())
        .with("now", NOW)
        .with("until", UNTIL)
        .with("alice", alice().describe())
        .with("bob", bob().describe())
        .with("carol", carol().describe())
}
