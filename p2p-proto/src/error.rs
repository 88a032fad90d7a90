//! Errors of the protocol, sorted by who is at fault and by whether a retry can help.

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The peer sent what the protocol does not allow.
    Peer,
    /// The peer speaks a version that this one does not.
    Version,
    /// The peer is not who it would have to be, or has no right to this.
    Trust,
    /// This side used the crate wrongly.
    Caller,
}

/// A message that cannot be used; the text says what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// Bytes that are not what they should be.
    #[error("{0} cannot be read: it is malformed")]
    Malformed(String),
    /// Something is larger than its limit.
    #[error("{what}: {found} is over the limit of {limit}")]
    Bounds {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A message of a kind that this version does not know. It is skipped.
    #[error("a message of a kind that this version does not know")]
    UnknownKind,
    /// The peer's protocol version is out of range.
    #[error("the other side speaks protocol version {theirs}, this one speaks {}: {}", crate::VERSION, upgrade(*theirs))]
    Version {
        /// What the peer speaks.
        theirs: u16,
    },
    /// A handshake that does not fit its keys: garbage, a replay under other names, or a stranger.
    #[error("the link handshake does not verify")]
    Handshake,
    /// A certificate that does not prove what it should; the text says why.
    #[error("{0}")]
    Untrusted(String),
    /// The crate was used wrongly.
    #[error("misuse: {0}")]
    Misuse(&'static str),
}

impl ProtoError {
    /// Who is at fault.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Malformed(_) | Self::Bounds { .. } | Self::UnknownKind | Self::Handshake => Blame::Peer,
            Self::Version { .. } => Blame::Version,
            Self::Untrusted(_) => Blame::Trust,
            Self::Misuse(_) => Blame::Caller,
        }
    }

    /// Whether the same thing, tried again later with the same peer, may succeed.
    ///
    /// A certificate may be renewed; everything else needs another message, program or peer.
    pub fn retry_helps(&self) -> bool {
        matches!(self, Self::Untrusted(_))
    }

    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }

    pub(crate) fn bounds(what: &'static str, found: usize, limit: usize) -> Self {
        Self::Bounds { what, found: found as u64, limit: limit as u64 }
    }
}

fn upgrade(theirs: u16) -> &'static str {
    if theirs > crate::VERSION { "upgrade this program" } else { "the other side must upgrade its program" }
}
