//! The board: broadcast of short lines among the members of a cluster.
//!
//! It is lossy, unordered across writers, and unauthenticated; what it says is a hint until a signature or a link
//! confirms it (B-02). [`Board`] is what an implementation provides; [`message`] is what travels; [`mod@line`] is how.

pub mod inbox;
pub mod line;
pub mod message;
pub mod witness;

use std::time::Duration;

use async_trait::async_trait;

pub use inbox::Inbox;
pub use line::Line;
pub use message::{Envelope, Message};
pub use witness::{Sighting, Watch, Witness};

/// One process's place on a board: it publishes lines, and hears those of everybody else on the same topic.
///
/// Implementations reconnect by themselves (B-05), never echo one's own lines, and never block the channel on a slow
/// reader (B-07): they keep at most [`crate::limits::BOARD_INBOX`] events and drop presence lines first.
#[async_trait]
pub trait Board: Send + Sync {
    /// Queues one line for sending; it is written in one piece once the board is up.
    ///
    /// Returns at once. There is no delivery receipt: whoever needs an answer repeats the line.
    ///
    /// # Errors
    /// [`BoardError::Full`] when [`crate::limits::BOARD_OUTBOX`] lines wait already, [`BoardError::Closed`] after
    /// [`Board::close`] or a final [`BoardEvent::Failed`].
    fn publish(&self, line: Line) -> Result<(), BoardError>;

    /// Waits for the next event. One reader at a time.
    ///
    /// Cancel-safe: an event that was not returned stays queued. After [`BoardEvent::Failed`] it never returns again.
    async fn next(&self) -> BoardEvent;

    /// Who can say by whose login somebody is on a topic, where the board's server can (T-02).
    fn witness(&self) -> Option<std::sync::Arc<dyn Witness>> {
        None
    }

    /// Leaves the board and waits until queued lines have been written, for at most a second.
    async fn close(&self);
}

/// What happens on a board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoardEvent {
    /// The topic is open: lines published from now on are heard by whoever is there. Comes again after each reconnect.
    Up,
    /// A line of somebody else, parsed no further than its bounds. Foreign lines are not reported at all.
    Line(Line),
    /// This many lines were dropped because nobody read them in time (B-07).
    Lagged(u64),
    /// The connection is gone and will be tried again after `retry_in`.
    Down {
        /// What happened, for a person.
        reason: String,
        /// How long until the next try.
        retry_in: Duration,
    },
    /// The board let this user in, but into a private topic of his own: he is not on the list, the host is away, or the
    /// cluster's name is wrong (B-04). It will be tried again after `retry_in`.
    Misrouted {
        /// How long until the next try.
        retry_in: Duration,
    },
    /// Something that a person should know; the board goes on.
    Warning(String),
    /// It cannot work without a person's help: a wrong key, a changed host key, an unknown account. Final.
    Failed(BoardError),
}

/// Why a board cannot be used. Each text says what happened, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// Too many lines wait to be sent.
    #[error("the board does not take lines as fast as they come; try again in a moment")]
    Full,
    /// The board was left.
    #[error("the board was closed")]
    Closed,
    /// The server does not know this key, or refused every one that was offered.
    #[error("{0}")]
    Auth(String),
    /// The server's own key is unknown and nobody could be asked, or it has changed.
    #[error("{0}")]
    HostKey(String),
    /// The network or the server failed.
    #[error("{0}")]
    Unreachable(String),
    /// The server refused the topic.
    #[error("{0}")]
    Refused(String),
}
