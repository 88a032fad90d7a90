//! Who somebody is, and who says so (T-01).
//!
//! A machine has one Ed25519 [`Identity`]. Each process makes a fresh X25519 [`ProcessSecret`] and has the identity sign
//! it: a [`ProcessCertificate`]. A [`Membership`] is the host's signature over a user's machine key. [`Credentials`] are both
//! together: what a peer shows, in a hello and in a link set-up. No key is ever converted into another kind.

mod certificate;
mod identity;
mod membership;

pub use certificate::ProcessCertificate;
pub use identity::{Identity, ProcessSecret, Signed};
pub use membership::{Membership, MembershipClaims};

use serde::{Deserialize, Serialize};

use crate::error::ProtoError;
use crate::ids::{ClusterName, MachineKey, PeerKeys, ProcessKey, Role, UserName};

/// Seconds since 1970 UTC.
pub type UnixTime = u64;

/// What a peer shows to be believed: the host's word for its machine, and its machine's word for its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The host's signature over the machine.
    #[serde(rename = "m")]
    pub membership: Membership,
    /// The machine's signature over the process.
    #[serde(rename = "c")]
    pub certificate: ProcessCertificate,
}

/// Somebody whose credentials verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// By which user the host knows the machine.
    pub user: UserName,
    /// The machine and process keys.
    pub keys: PeerKeys,
    /// The role that the process was certified for.
    pub role: Role,
    /// The host's counter when she signed: a removal of the machine with a higher one ends it (T-03).
    pub serial: u64,
    /// When the first of the two certificates ends.
    pub until: UnixTime,
}

impl Credentials {
    /// Checks both signatures, lives and roles, against the `host` key that this process believes in.
    ///
    /// # Errors
    /// [`ProtoError::Untrusted`] with what does not hold.
    pub fn verify(
        &self,
        cluster: &ClusterName,
        host: MachineKey,
        role: Role,
        process: ProcessKey,
        now: UnixTime,
    ) -> Result<Verified, ProtoError> {
        let claims = self.membership.verify(cluster, host, now)?;
        let until = self.certificate.verify(cluster, claims.machine, role, process, now)?;
        Ok(Verified {
            user: claims.user,
            keys: PeerKeys { machine: claims.machine, process },
            role,
            serial: claims.serial,
            until: until.min(claims.until),
        })
    }
}

/// Whether `now` is inside the life `from..until`, clocks tolerated as T-03 has it.
fn check_life(what: &str, from: UnixTime, until: UnixTime, now: UnixTime) -> Result<(), ProtoError> {
    let skew = crate::limits::CLOCK_SKEW.as_secs();
    if now.saturating_add(skew) < from {
        let early = from - now;
        return Err(ProtoError::Untrusted(format!(
            "{what} begins {early} s from now: one of the two clocks is wrong; set them right and try again"
        )));
    }
    if now > until.saturating_add(skew) {
        let late = now - until;
        return Err(ProtoError::Untrusted(format!(
            "{what} ended {late} s ago: it is renewed when the host is there, or one of the two clocks is wrong"
        )));
    }
    Ok(())
}
