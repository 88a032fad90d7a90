//! The host's word that a machine belongs to a user of her cluster.

use serde::{Deserialize, Serialize};

use super::{Identity, Signed, UnixTime, check_life};
use crate::error::ProtoError;
use crate::ids::{ClusterName, MachineKey, UserName};

const TAG: &str = "membership";

/// A signed [`MembershipClaims`]; travels with its owner (T-03).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Membership(Signed);

/// What a membership says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipClaims {
    /// The host who signs.
    #[serde(rename = "h")]
    pub host: MachineKey,
    /// The user.
    #[serde(rename = "u")]
    pub user: UserName,
    /// The machine that is his.
    #[serde(rename = "m")]
    pub machine: MachineKey,
    /// The host's counter of signatures and removals; never goes backwards.
    #[serde(rename = "n")]
    pub serial: u64,
    /// From when it holds.
    #[serde(rename = "f")]
    pub from: UnixTime,
    /// Until when it holds.
    #[serde(rename = "t")]
    pub until: UnixTime,
}

impl Membership {
    /// Signs `claims`; `host` must be the identity that they name.
    pub fn sign(host: &Identity, cluster: &ClusterName, claims: &MembershipClaims) -> Self {
        Self(Signed::sign(host, TAG, cluster, claims))
    }

    /// What it says, if `host` signed it for `cluster` and it holds now.
    ///
    /// # Errors
    /// [`ProtoError::Untrusted`] with what does not hold.
    pub fn verify(
        &self,
        cluster: &ClusterName,
        host: MachineKey,
        now: UnixTime,
    ) -> Result<MembershipClaims, ProtoError> {
        let claims: MembershipClaims = self.0.verify(host, TAG, cluster)?;
        if claims.host != host {
            return Err(ProtoError::Untrusted("a membership names another host than the one who signed it".into()));
        }
        check_life("a membership", claims.from, claims.until, now)?;
        Ok(claims)
    }

    /// What it says, and that whoever it names as host did sign it: for one who does not know the host's key yet.
    ///
    /// # Errors
    /// As [`Membership::verify`].
    pub fn verify_first_sight(&self, cluster: &ClusterName, now: UnixTime) -> Result<MembershipClaims, ProtoError> {
        let claims: MembershipClaims = self.0.unverified(TAG)?;
        self.verify(cluster, claims.host, now)
    }
}
