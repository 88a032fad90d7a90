//! The board's own word on who is where (T-02): the one thing about a board that is believed, and only where nothing better is known.
//!
//! Its server knows by which login each session of a topic came, and tells the topic's owner. So whoever wants to know whose a key is opens a
//! *side topic* named for that key, for one user; only who has the key goes there; and the server says by whose login that was.

use async_trait::async_trait;

use crate::ids::UserName;

/// A board that can say who is on a topic of one's own; an optional capability of a [`super::Board`].
#[async_trait]
pub trait Witness: Send + Sync {
    /// Opens `topic`, one of this user's own, for `guest` alone, and returns once it is open. Dropping what is returned closes it.
    ///
    /// Cancel-safe: dropping the future closes what was opened so far.
    ///
    /// # Errors
    /// [`Sighting::Unavailable`] or [`Sighting::Odd`] instead of an open topic.
    async fn open(&self, topic: &str, guest: &UserName) -> Result<Box<dyn Watch>, Sighting>;

    /// Enters `topic`, which is another user's, and stays until it is closed for this side or the future is dropped.
    async fn attend(&self, topic: &str);
}

/// A side topic that is open.
#[async_trait]
pub trait Watch: Send {
    /// Waits until somebody is there. Cancel-safe.
    async fn sighting(&mut self) -> Sighting;
}

/// What was seen on a side topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// Besides its owner exactly one session, by the login of the guest.
    Guest,
    /// Somebody else, with or without the guest; these names the server showed.
    Others(Vec<String>),
    /// The server's answer cannot be trusted or was not what it should be; says why.
    Odd(String),
    /// This board cannot tell, or not now; says why.
    Unavailable(String),
}
