//! The link: one encrypted, ordered, reliable stream of records between one client and one worker.
//!
//! [`LinkTransport`] is what an implementation provides: it gathers hints, and makes a connected pair of halves out of
//! both sides' hints, a transit key and the Noise session. [`handshake`] makes that session; [`item`] is what travels
//! in records; [`record`] packs items into records; [`outgoing`] puts control ahead of bulk (L-04); [`stream`] lets a link go on
//! over a new connection (L-05).

pub mod handshake;
pub mod hints;
pub mod item;
pub mod outgoing;
pub mod record;
pub mod setup;
pub mod stream;

use std::fmt;

use async_trait::async_trait;

pub use handshake::Session;
pub use hints::{Hint, Hints};
pub use item::{ToClient, ToWorker};
pub use outgoing::Outgoing;
pub use stream::Stream;

use crate::ids::Role;

/// Makes links. One value serves all set-ups of a process.
#[async_trait]
pub trait LinkTransport: Send + Sync {
    /// Starts one set-up: opens what the other side may dial, and finds out under which addresses.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`] when this machine can neither listen nor use a relay.
    async fn prepare(&self) -> Result<Box<dyn PendingLink>, LinkError>;
}

/// One set-up under way: hints are known, the other side's answer is awaited.
///
/// Dropping it closes whatever it opened.
#[async_trait]
pub trait PendingLink: Send {
    /// How the other side may reach this one: what travels in the set-up messages.
    fn hints(&self) -> Hints;

    /// Connects by `plan`, and proves the other side: it returns only after a first record of the peer has decrypted
    /// under the session of `plan` (L-02).
    ///
    /// Bounded by [`crate::limits::SETUP_TIMEOUT`]. Dropping the future abandons the set-up.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`] when neither a direct connection nor a relay came about, [`LinkError::Broken`] when
    /// what answered was not the peer.
    async fn connect(self: Box<Self>, plan: ConnectPlan) -> Result<Connected, LinkError>;
}

/// Everything that [`PendingLink::connect`] needs from the set-up messages.
#[derive(Debug)]
pub struct ConnectPlan {
    /// This side's role: the client leads (it chooses among several connections), the worker follows.
    pub role: Role,
    /// The fresh key that the worker chose; Transit's own handshake lines and relay token derive from it.
    pub transit_key: TransitKey,
    /// The other side's hints.
    pub theirs: Hints,
    /// The Noise session of the handshake; serves exactly this one connection.
    pub session: Session,
    /// The way to the other side may be down for now: what cannot be reached is tried again until the time is over.
    pub patient: bool,
}

/// A connected link, in two halves that may live in different tasks.
pub struct Connected {
    /// Sends records.
    pub sender: Box<dyn LinkSender>,
    /// Receives records.
    pub receiver: Box<dyn LinkReceiver>,
    /// Which way the bytes go.
    pub path: LinkPath,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The sending half of a link.
#[async_trait]
pub trait LinkSender: Send {
    /// Takes one record of 1 to [`crate::limits::RECORD_BYTES`] bytes into the write buffer, encrypted; nothing is
    /// written yet, so that many records can share one write.
    ///
    /// # Errors
    /// [`LinkError::Misuse`] for a record out of bounds.
    fn feed(&mut self, record: &[u8]) -> Result<(), LinkError>;

    /// Encrypted bytes that wait for [`LinkSender::flush`]. A caller flushes at some 256 KiB at the latest.
    fn buffered(&self) -> usize;

    /// Writes everything that was fed; waits while the other side does not read.
    ///
    /// Not cancel-safe: after a dropped flush only dropping the link is safe.
    ///
    /// # Errors
    /// [`LinkError::Lost`] when the connection broke.
    async fn flush(&mut self) -> Result<(), LinkError>;

    /// Waits until what is fed next would soon be on its way, instead of behind much that was flushed before: who chooses what to feed
    /// only then sends what became urgent meanwhile first. Cancel-safe. An implementation without a queue below it need not wait.
    ///
    /// # Errors
    /// [`LinkError::Lost`] when the connection broke.
    async fn ready(&mut self) -> Result<(), LinkError> {
        Ok(())
    }

    /// Ends the stream in order: the peer's receiver then reports [`LinkError::Closed`], not a loss.
    async fn close(&mut self);
}

/// The receiving half of a link.
#[async_trait]
pub trait LinkReceiver: Send {
    /// Waits for the next record. Cancel-safe. Empty keepalive records are not returned.
    ///
    /// # Errors
    /// [`LinkError::Closed`] after an orderly end, [`LinkError::Silent`] when nothing, not even a keepalive, came for
    /// [`crate::limits::LINK_SILENCE`], [`LinkError::Lost`] and [`LinkError::Broken`] as they say.
    async fn receive(&mut self) -> Result<&[u8], LinkError>;
}

/// Which way a link's bytes go.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkPath {
    /// Straight to the peer's address.
    Direct(String),
    /// Through the relay of this address.
    Relayed(String),
    /// Inside this process.
    Memory,
}

impl fmt::Display for LinkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(address) => write!(f, "direct ({address})"),
            Self::Relayed(relay) => write!(f, "relayed ({relay})"),
            Self::Memory => write!(f, "in memory"),
        }
    }
}

/// The key of one connection by Transit's procedure. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct TransitKey(pub [u8; 32]);

impl fmt::Debug for TransitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransitKey(..)")
    }
}

/// Why a link could not be made, or ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The other side ended the link in order.
    #[error("the other side closed the link")]
    Closed,
    /// The connection broke.
    #[error("the connection to the other side broke: {0}")]
    Lost(String),
    /// Nothing was heard for too long.
    #[error("nothing was heard from the other side for {} s", crate::limits::LINK_SILENCE.as_secs())]
    Silent,
    /// No connection came about.
    #[error("{0}")]
    Unreachable(String),
    /// The other side broke the protocol.
    #[error("the other side broke the protocol: {0}")]
    Broken(String),
    /// The other side does not belong here any more: removed by the host, its signature ended, or its user not allowed (T-03). Its process
    /// may well live on.
    #[error("{0}")]
    Untrusted(String),
    /// This side was used wrongly.
    #[error("misuse of the link: {0}")]
    Misuse(String),
}

impl LinkError {
    /// Whether a link whose connection ended like this may go on over a new one (L-05): not after an orderly end, nor with a peer, or a
    /// program of ours, that breaks the protocol.
    pub fn may_resume(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Silent | Self::Unreachable(_))
    }
}
