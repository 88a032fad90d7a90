//! Runs tasks on friends' computers: a client hands them out, workers run them, a host says who belongs.
//!
//! A *cluster* has a name, `OWNER/NAME`, and is made of processes in three roles:
//! - its **host** ([`Host`]) is run by its owner and signs the machines of those whom she listed. No task and no data pass through her.
//! - a **worker** ([`Worker`]) offers slots and runs tasks in them, with an [`Executor`](executor::Executor): here [`Functions`], closures that a
//!   program registers by name; commands are another crate's business.
//! - a **client** ([`Client`]) submits each [`Task`] and gets its one [`Outcome`], whichever worker ran it, and however often one was
//!   lost before.
//!
//! They find each other on a [`Board`](p2p_proto::board::Board), a lossy channel of short lines that nobody trusts; tasks and data go straight from client
//! to worker over encrypted links, made by a [`LinkTransport`](p2p_proto::link::LinkTransport). This crate knows neither SSH nor sockets: boards
//! and transports are handed in, and [`memory`] has both for programs that stay inside one process.
//!
//! ```
//! use p2p_scheduler::{Functions, Task, memory::Cluster};
//!
//! # async_std::task::block_on(async {
//! let cluster = Cluster::open("alice/friends", &["bob", "carol"])?;
//! let functions = Functions::new().register_typed("square", |x: u64| x * x);
//! let _worker = cluster.worker("bob", 2, functions)?;
//! let client = cluster.client("carol")?;
//! let tasks = (0..10_u64).map(|x| Task::call("square", &x)).collect::<Result<Vec<_>, _>>()?;
//! for (x, task) in client.submit_all(tasks).await.into_iter().enumerate() {
//!     assert_eq!(task.outcome().await.value::<usize>()?, x * x);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! The same over a board of SSH and links of TCP is in `examples/embed.rs`.
//!
//! # What holds
//! - Each task has exactly one outcome. A task whose worker was lost runs again elsewhere, until it was lost
//!   [`LOSSES`](p2p_proto::limits::LOSSES) times; one that was marked with [`Task::once`] never starts twice.
//! - Nothing waits for ever without a reason in words: [`Client::waiting`] has it.
//! - A worker never runs more than its slots, nor for anybody whom the host has not signed or its owner did not allow.
//! - Everything is bounded. Output is acknowledged when it is read from its [`TaskHandle`], so a slow reader slows its task down: read
//!   handles at the same time where tasks return more than [`CHANNEL_WINDOW_BYTES`](p2p_proto::limits::CHANNEL_WINDOW_BYTES) each,
//!   for one that is not read keeps its slot.
//!
//! # How it is made
//! | module | holds |
//! |---|---|
//! | [`machine`] | the three roles as pure state machines: everything is decided there |
//! | [`driver`] | what gives them time, boards, links and executors; the types of this page |
//! | [`executor`] | what runs attempts: the trait, and what it is given |
//! | [`blobs`] | how an attempt gets the blobs that its task names |
//! | [`functions`] | the executor for closures |
//! | [`memory`] | a board and links inside one process, with faults on request |
//! | [`conformance`] | what any board and any link must do, as suites to run them through |
//!
//! Drivers run on async-std's executor. Rules cited as `S-04` are in `docs/protocol.md`.
#![forbid(unsafe_code)]

pub mod blobs;
pub mod conformance;
pub mod driver;
pub mod executor;
mod flow;
pub mod functions;
pub mod machine;
pub mod memory;

pub use driver::client::Client;
pub use driver::host::Host;
pub use driver::task::{Task, TaskEvent, TaskHandle};
pub use driver::worker::Worker;
pub use driver::{Forgetful, Member, TrustStore};
pub use functions::Functions;
pub use machine::admission::{HostTrust, MemberKept, Outside};
pub use machine::client::{ClientReport, Outcome, Status, TaskState, Waiting, WorkerStatus};
pub use machine::host::{AdmitBy, HostConfig, HostKept, HostReport, Removal};
pub use machine::worker::{WorkerOffer, WorkerReport};

/// One link of a process, whatever connections carry it one after the other; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// One connection of a link, from the beginning of its set-up to its end; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The README's program is tried with the examples of this documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
