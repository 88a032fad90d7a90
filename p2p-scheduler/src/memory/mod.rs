//! A board and links inside one process: for programs that keep everything at home, for tests, and for whoever writes a transport
//! and wants to see what one must do.
//!
//! They are whole implementations of [`Board`](p2p_proto::board::Board) and [`LinkTransport`](p2p_proto::link::LinkTransport) and pass
//! the suites of [`crate::conformance`]. What goes wrong outside can be made to go wrong here: a [`MemoryHub`] loses, repeats and
//! reorders lines by a seed and can be taken down; a [`MemoryNet`] cuts links and refuses new ones. Without being told to they do none of that.
//! Nothing here depends on a clock or on randomness, but for one bound: a set-up whose other side never comes ends after
//! [`SETUP_TIMEOUT`](p2p_proto::limits::SETUP_TIMEOUT).
//!
//! | type | is |
//! |---|---|
//! | [`MemoryHub`], [`MemoryBoard`] | the place where everybody meets, and one process's place on it |
//! | [`MemoryNet`], [`MemoryTransport`] | all links, and one process's way to make them |
//! | [`Faults`] | what a hub does to lines |
//! | [`Cluster`] | a whole cluster in a few lines: its host, and workers and clients as they are asked for |

mod board;
mod cluster;
mod faults;
mod link;
mod witness;

pub use board::{MemoryBoard, MemoryHub};
pub use cluster::Cluster;
pub use faults::{Faults, Mangler};
pub use link::{MemoryNet, MemoryTransport};
