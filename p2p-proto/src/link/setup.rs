//! What travels inside the two handshake messages of a link set-up (L-01).

use serde::{Deserialize, Serialize};

use super::TransitKey;
use super::hints::Hints;
use crate::codec;
use crate::error::ProtoError;
use crate::ids::SetupId;
use crate::trust::Credentials;

/// Inside message 1, for the callee's eyes only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Who calls, proven.
    #[serde(rename = "c")]
    pub credentials: Credentials,
    /// Which connection of these two processes this will be; the higher one wins (L-05).
    #[serde(rename = "e")]
    pub epoch: u32,
    /// Which link this connection is for: the counter of its first one (L-05).
    #[serde(rename = "s")]
    pub link: SetupId,
    /// The caller's counter, as it stands outside on the `connect`, where anybody could change it.
    #[serde(rename = "i")]
    pub setup: SetupId,
    /// How to reach the caller.
    #[serde(rename = "h")]
    pub hints: Hints,
}

/// Inside message 2, for the caller's eyes only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How to reach the callee.
    pub hints: Hints,
    /// Fresh for this set-up.
    pub transit_key: TransitKey,
}

#[derive(Serialize, Deserialize)]
struct AnswerWire {
    #[serde(rename = "h")]
    hints: Hints,
    #[serde(rename = "k", with = "serde_bytes")]
    transit_key: [u8; 32],
}

impl Call {
    /// The payload of message 1.
    pub fn to_cbor(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads the payload of message 1.
    ///
    /// # Errors
    /// [`ProtoError::Malformed`] or [`ProtoError::Bounds`].
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, ProtoError> {
        let mut call: Self = codec::decode("a call", bytes)?;
        call.hints = call.hints.checked()?;
        Ok(call)
    }
}

impl Answer {
    /// The payload of message 2.
    pub fn to_cbor(&self) -> Vec<u8> {
        codec::encode(&AnswerWire { hints: self.hints.clone(), transit_key: self.transit_key.0 })
    }

    /// Reads the payload of message 2.
    ///
    /// # Errors
    /// [`ProtoError::Malformed`] or [`ProtoError::Bounds`].
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, ProtoError> {
        let wire: AnswerWire = codec::decode("an answer to a call", bytes)?;
        Ok(Self { hints: wire.hints.checked()?, transit_key: TransitKey(wire.transit_key) })
    }
}
