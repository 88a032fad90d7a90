//! Client, worker and host: pure state machines, thin drivers, and the API to embed them.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod driver;
pub mod executor;
mod flow;
pub mod functions;
pub mod machine;
pub mod memory;

pub use driver::client::Client;
pub use driver::host::Host;
pub use driver::task::{Source, Task, TaskEvent, TaskHandle};
pub use driver::worker::Worker;
pub use driver::{Forgetful, Member, TrustStore};
pub use functions::Functions;
pub use machine::client::{ClientReport, Outcome, Status, Waiting, WorkerStatus};
pub use machine::host::HostReport;
pub use machine::worker::{WorkerOffer, WorkerReport};

/// One link of a process, from the beginning of its set-up to its end; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// The README's program is tried with the examples of this documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
