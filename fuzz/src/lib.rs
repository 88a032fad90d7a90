//! One function per fuzz target: it takes any bytes, reads them as a peer's, and panics when a promise breaks.
//!
//! | target | bytes are |
//! |---|---|
//! | [`board_line`] | a board's stream, as a reader gets it in pieces |
//! | [`link_record`] | a record, in either direction |
//! | [`handshake`] | edits to the two handshake messages of a set-up, or what travels inside them |
//! | [`blob`] | the list of a blob's chunks, or a folder |
//! | [`transit`] | a script of connections that open, say something and end |
//!
//! `run.sh` runs each under libFuzzer; an ordinary `cargo test` replays the kept corpus without it.
#![forbid(unsafe_code)]

mod blob;
mod board_line;
mod handshake;
mod link_record;

pub use blob::blob;
pub use board_line::board_line;
pub use handshake::handshake;
pub use link_record::link_record;
pub use p2p_transport_wormhole::procedure::exercise as transit;
