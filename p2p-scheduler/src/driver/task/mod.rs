//! A task as the embedding program sees it: what to run, and a handle to what becomes of it.
//!
//! A task may have several live attempts at the same time: one whose link is broken while it was started elsewhere (L-06), or one that
//! runs far beyond its siblings (S-05). The reader of a [`TaskHandle`] sees one of them, the *shown* one; what the others send waits, each
//! within its own windows. Another attempt is shown when the shown one is withdrawn, or when another one wins.
//!
//! | file | holds |
//! |---|---|
//! | `builder` | [`Task`]: what to run |
//! | `handle` | [`TaskHandle`] and the [`TaskEvent`]s that it hands out |
//! | `shared` | what the handle, the client's driver and the pumps share: which attempts live, and which one is shown |
//! | `attempt` | one of them: what it said that nobody has read, and its windows |
//! | `names` | names large content, so that a worker that has it need not be sent it |
//! | `pump` | sends input to an attempt, each attempt by a pump of its own |
//! | `answers` | sends an attempt what it asks for of the task's blobs |

mod answers;
mod attempt;
mod builder;
mod handle;
mod names;
mod pump;
#[cfg(test)]
mod recorder;
mod shared;

pub use builder::Task;
pub use handle::{TaskEvent, TaskHandle};
pub(crate) use names::{Names, has_large};
pub(crate) use shared::TaskShared;
