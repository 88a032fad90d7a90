//! `p2p map`, from inputs to a summary:
//!
//! 1. [`sources`] reads values as they come, and combines those of several sources into rows.
//! 2. [`plan`] makes a task of each row, with [`template`] and [`shell`], in a thread of its own that never runs far ahead ([`feed`]).
//! 3. [`follow`] waits for one task, and keeps what it prints in a [`spool`].
//! 4. [`mod@print`] prints whole tasks, one after the other; [`summary`] counts them and lists what failed; [`progress`] draws the bar.

pub mod feed;
pub mod follow;
pub mod plan;
pub mod print;
pub mod progress;
pub mod shell;
pub mod sources;
pub mod spool;
pub mod summary;
pub mod template;
