//! The board over SSH: pico.sh's pipe, or anything that behaves like it.
//!
//! [`PicoBoard`] is a place on one topic and reconnects by itself; [`Session`] asks a server one question and goes. One task
//! owns each SSH session with all its channels: libssh2 hands the bytes of every channel to whichever call reads next, so
//! two tasks on one session would wait for bytes that the other one holds.
//!
//! | module | holds |
//! |---|---|
//! | `address`, `config` | where to go, with which keys, and whom to ask |
//! | `ssh_args`, `ssh_config`, `route` | the way there, as OpenSSH's own configuration has it |
//! | `known_hosts`, `key_file`, `listing`, `probe`, `own_lines`, `backoff`, `crowd` | decisions, pure |
//! | `wire`, `native`, `system`, `call` | one SSH connection: its channels, libssh2's or the `ssh` program's; one command |
//! | `door` | logging in, over other machines where need be |
//! | `session` | commands for people: `user`, `ls` |
//! | `side` | side topics: by whose login somebody is there |
//! | `owner` | the owner's board, whose list may change |
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
mod owner;
mod probe;
mod route;
mod session;
mod side;
mod ssh_args;
mod ssh_config;
mod system;
mod visit;
mod wire;

pub use address::{AddressError, BoardAddress};
pub use board::{PicoBoard, Topic};
pub use config::{Agent, PicoConfig, Progress, Prompt, SshProgram, Step};
pub use listing::{ListedClient, ListedTopic, Listing, ListingError};
pub use owner::OwnerBoard;
pub use session::{CommandOutput, Session};
pub use ssh_args::{SshArgs, SshArgsError};
