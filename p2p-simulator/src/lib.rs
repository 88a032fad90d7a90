//! A whole cluster in virtual time: the real machines of all roles, real handshakes and records, a board and links that fail as a seed says,
//! and the rules of `docs/protocol.md` checked after every step.
//!
//! One seed decides everything: the same seed is the same run, to the byte. `docs/simulation.md` says how to use it.
#![forbid(unsafe_code)]

pub mod dice;
mod fair;
pub mod ledger;
pub mod plan;
pub mod run;
pub mod scale;
pub mod shrink;
pub mod trace;
pub mod world;

pub use ledger::Violation;
pub use world::World;
