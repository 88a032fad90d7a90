//! What two peers must agree on: names, messages, codecs, the link handshake, limits, errors, and the
//! async traits that a board and a link implement.
//!
//! No I/O, no clock and no global randomness happen here: bytes, times and entropy come in as arguments.
//! Everything that a peer can send is parsed in this crate, so this is the crate that is fuzzed. The rules
//! that the code cites (`B-01`, `L-03`, ...) are in `docs/protocol.md`.
//!
//! | module | holds |
//! |---|---|
//! | [`ids`] | names of users, clusters and peers; ids of tasks, attempts and set-ups |
//! | [`trust`] | identity keys, memberships and process certificates (T-01) |
//! | [`board`] | the [`board::Board`] trait, its messages and their line codec (B-01 to B-07) |
//! | [`link`] | the link traits, its items and records, set-up and Noise handshake (L-01 to L-04) |
//! | [`blob`] | bytes that are named by what is in them (D-01) |
//! | [`task`] | what a task is made of and how an attempt ends |
//! | [`limits`] | every bound, named, in one place |
//! | [`error`] | errors by blame and by whether a retry can help |
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

pub mod blob;
pub mod board;
mod codec;
pub mod error;
pub mod ids;
pub mod limits;
pub mod link;
pub mod task;
pub mod tree;
pub mod trust;

/// The protocol version that this crate speaks, on the board and on links.
///
/// One release apart is close enough, beyond that a peer refuses and says who must upgrade (L-03): see [`common_version`].
pub const VERSION: u16 = 1;

/// The version that this program and one of version `theirs` speak with each other: the lower one of both.
///
/// # Errors
/// [`error::ProtoError::Version`], saying who must upgrade, when they are more than one release apart (L-03).
pub fn common_version(theirs: u16) -> Result<u16, error::ProtoError> {
    if theirs == 0 || theirs.abs_diff(VERSION) > 1 {
        return Err(error::ProtoError::Version { theirs });
    }
    Ok(theirs.min(VERSION))
}
