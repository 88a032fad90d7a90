//! `p2p map`, from inputs to a summary:
//!
//! 1. [`sources`] reads values as they come, and combines those of several sources into rows.
//! 2. [`plan`] makes a task of each row, with [`template`] and [`shell`], in a thread of its own that never runs far ahead ([`feed`]). What
//!    the log of an earlier run has is left out ([`logged`]).
//! 3. [`mapping`] submits them, at the [`pace`] that is wanted; [`follow`] waits for one, and keeps what it prints in a [`spool`].
//! 4. [`outlet`] has whole tasks printed by [`mod@print`], one after the other, and then written down by [`joblog`].
//! 5. [`summary`] counts them and lists what failed; [`progress`] draws the bar; [`halt`] may end it before all is done, and [`advice`]
//!    says how to go on.

pub mod advice;
pub mod duration;
pub mod feed;
pub mod follow;
pub mod halt;
pub mod joblog;
pub mod logged;
pub mod mapping;
pub mod outlet;
pub mod pace;
pub mod plan;
pub mod print;
pub mod progress;
pub mod shell;
pub mod sources;
pub mod spool;
pub mod summary;
pub mod template;
