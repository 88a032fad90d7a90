//! Transit's connection procedure, as machines without I/O, clock or randomness (L-02).
//!
//! ```text
//!        leader (the client)                         follower (the worker)
//!        please relay TOKEN for side SIDE \n    ->    the relay only; it answers "ok\n" once both are there
//!        transit sender HEX ready \n\n          ->
//!                                               <-    transit receiver HEX ready \n\n
//!        go \n                                  ->    on the one connection that the leader chose
//!        nevermind \n                           ->    on the others
//! ```
//!
//! The lines prove that both sides hold the same [`TransitKey`](p2p_proto::link::TransitKey); [`Lines`] derives them.
//! [`Connection`] walks one connection through them, byte by byte: whatever differs from the expected line ends that
//! connection at once, so nothing needs to be stored. [`Choice`] holds all connections of one set-up and agrees with the other side on one of them.
//!
//! In one point this is stricter than Transit asks: on a connection that came in, nothing is said before the other side
//! has said its line. A stranger who dials learns nothing; a Transit peer that dials speaks first anyway. Not so in transfers under a code
//! ([`Lines::outspoken`]): clients are about that wait to be spoken to.
#![deny(clippy::disallowed_methods)]

mod choice;
mod connection;
mod exercise;
mod lines;

pub use choice::{CONNECTIONS, Choice, Closed, ConnectionId, INCOMING, Input, Outbox, Output};
pub use connection::{Connection, Step, Way};
pub use exercise::exercise;
pub use lines::{Lines, Side};
