//! The board over SSH: pico.sh's pipe, or anything that behaves like it.
//!
//! [`PicoBoard`] is a place on one topic and reconnects by itself; [`Session`] asks a server one question and goes. One task
//! owns each SSH session with all its channels: libssh2 hands the bytes of every channel to whichever call reads next, so
//! two tasks on one session would wait for bytes that the other one holds.
//!
//! | module | holds |
//! |---|---|
//! | `address`, `config` | where to go, with which keys, and whom to ask |
//! | `known_hosts`, `key_file`, `listing`, `probe`, `own_lines`, `backoff`, `crowd` | decisions, pure |
//! | `wire`, `native`, `call`, `door` | one SSH connection: its channels, libssh2's, one command, logging in |
//! | `session` | commands for people: `user`, `ls` |
//! | `board`, `keeper`, `opening`, `visit`, `list_watch` | the board: its handle, its owning task, opening the topic, one stay on it |
#![forbid(unsafe_code)]

mod address;
mod backoff;
mod board;
mod call;
mod config;
mod crowd;
mod door;
mod keeper;
mod key_file;
mod known_hosts;
mod list_watch;
mod listing;
mod native;
mod opening;
mod own_lines;
mod probe;
mod session;
mod visit;
mod wire;

pub use address::{AddressError, BoardAddress};
pub use board::{PicoBoard, Topic};
pub use config::{Agent, PicoConfig, Prompt};
pub use listing::{ListedClient, ListedTopic, Listing, ListingError};
pub use session::{CommandOutput, Session};
