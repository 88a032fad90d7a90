//! Links that connect as Magic Wormhole's transit does: direct TCP first, then a relay (L-02). And its file transfer, by codes.
//!
//! A set-up goes through three steps. [`WormholeTransport`] listens and says how it may be reached ([`hints`]); both sides
//! dial each other and the relays that they have in common, and agree on one connection by Transit's [`procedure`];
//! that connection then carries Noise records (`link`), and counts only once the peer's first record has decrypted.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | relays, what may be dialled, and how long things take |
//! | [`hints`] | which addresses to offer, and which to dial (L-07); pure |
//! | [`procedure`] | Transit's lines, as machines without I/O; pure |
//! | `transport` | the set-up's driver: listeners, dials, the race |
//! | `link` | records over the chosen connection: keepalive, silence, orderly end |
//! | [`code`] | files, folders and texts under a code, for people and every other client of Magic Wormhole |
//!
//! Rules cited as `L-02` are in `docs/protocol.md`.
#![forbid(unsafe_code)]

pub mod code;
pub mod config;
pub mod hints;
mod link;
pub mod procedure;
mod transport;

pub use config::{RelayAddress, RelayAddressError, Timing, WormholeConfig};
pub use transport::WormholeTransport;
