//! A machine's word that a process, in one role in one cluster, is its own.

use serde::{Deserialize, Serialize};

use super::{Identity, Signed, UnixTime, check_life};
use crate::error::ProtoError;
use crate::ids::{ClusterName, MachineKey, ProcessKey, Role};

const TAG: &str = "process";

/// A machine's signature over a process key, its role and its life (T-01).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessCertificate(Signed);

#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(rename = "p")]
    process: ProcessKey,
    #[serde(rename = "r")]
    role: Role,
    #[serde(rename = "f")]
    from: UnixTime,
    #[serde(rename = "t")]
    until: UnixTime,
}

impl ProcessCertificate {
    /// Signs `process` in `role` for `cluster`, from `from` until `until`.
    pub fn sign(
        identity: &Identity,
        cluster: &ClusterName,
        role: Role,
        process: ProcessKey,
        from: UnixTime,
        until: UnixTime,
    ) -> Self {
        Self(Signed::sign(identity, TAG, cluster, &Claims { process, role, from, until }))
    }

    /// Until when it holds, if `machine` signed exactly this process and role for `cluster`.
    ///
    /// # Errors
    /// [`ProtoError::Untrusted`] with what does not hold.
    pub fn verify(
        &self,
        cluster: &ClusterName,
        machine: MachineKey,
        role: Role,
        process: ProcessKey,
        now: UnixTime,
    ) -> Result<UnixTime, ProtoError> {
        let claims: Claims = self.0.verify(machine, TAG, cluster)?;
        if claims.process != process {
            return Err(ProtoError::Untrusted("a process certificate is for another process".into()));
        }
        if claims.role != role {
            return Err(ProtoError::Untrusted(format!(
                "a process certificate is for a {}, not for a {role}",
                claims.role
            )));
        }
        check_life("a process certificate", claims.from, claims.until, now)?;
        Ok(claims.until)
    }
}
