//! How a peer may be reached, as it says itself.
//!
//! Hints are an attack tool (L-07): who dials them filters them first, with [`Hints::checked`] for their bounds, and by the
//! transport's own rules for addresses.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::error::ProtoError;
use crate::limits;

/// One way to reach a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hint {
    /// It listens there for direct TCP connections.
    #[serde(rename = "d")]
    Direct(SocketAddr),
    /// It waits at this Transit relay.
    #[serde(rename = "r")]
    Relay {
        /// Name or address of the relay, at most [`limits::RELAY_HOST_BYTES`].
        #[serde(rename = "h")]
        host: String,
        /// Its TCP port.
        #[serde(rename = "p")]
        port: u16,
    },
}

/// All hints of one side, at most [`limits::HINTS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hints(pub Vec<Hint>);

impl Hints {
    /// The same hints, if they keep their bounds.
    ///
    /// # Errors
    /// More than [`limits::HINTS`], or a relay's host name that is empty, too long, or not of letters, digits, `.`, `-` and `:`.
    pub fn checked(self) -> Result<Self, ProtoError> {
        if self.0.len() > limits::HINTS {
            return Err(ProtoError::bounds("address hints", self.0.len(), limits::HINTS));
        }
        for hint in &self.0 {
            if let Hint::Relay { host, .. } = hint {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
                if host.is_empty() || host.len() > limits::RELAY_HOST_BYTES || !host.chars().all(plain) {
                    return Err(ProtoError::malformed("a relay's host name"));
                }
            }
        }
        Ok(self)
    }

    /// The addresses to dial directly.
    pub fn direct(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.0.iter().filter_map(|hint| match hint {
            Hint::Direct(address) => Some(*address),
            Hint::Relay { .. } => None,
        })
    }

    /// The relays where the peer waits.
    pub fn relays(&self) -> impl Iterator<Item = (&str, u16)> + '_ {
        self.0.iter().filter_map(|hint| match hint {
            Hint::Direct(_) => None,
            Hint::Relay { host, port } => Some((host.as_str(), *port)),
        })
    }
}
