//! Measures what was promised: links, functions, commands, and what an idle peer costs.
//!
//! Every figure stands beside its baseline, measured in the same run and in turn with it (A B A B), because two runs on a shared machine
//! cannot be compared. Medians are shown; a ratio is the median of the ratios of the pairs. Nothing here is a test: a bound that is
//! missed is told, not failed.
//!
//! | module | measures |
//! |---|---|
//! | [`links`] | records over a real link, beside raw TCP |
//! | [`functions`] | functions as tasks between two processes, beside raw TCP and Python's process pool |
//! | [`commands`] | `p2p map` and `p2p run`, beside xargs, GNU parallel and ssh |
//! | [`blobs`] | large inputs of tasks, beside link, disk, rsync, `tar \| tar` and wormhole-william |
//! | [`idle`] | what a worker and a host cost that have nothing to do |
//! | [`wan`] | `p2p map` over a long and lossy way, beside what its tasks alone would take |
//! | [`machines`] | the state machines alone, for the micro benchmarks |
//!
//! [`peers`] runs other programs; [`child`] starts this program again as the other side; [`cluster`] starts real `p2p` processes; [`table`] and [`stats`] show the result.
#![forbid(unsafe_code)]

pub mod blobs;
pub mod child;
pub mod cluster;
pub mod commands;
pub mod functions;
pub mod idle;
pub mod links;
pub mod machines;
pub mod meeting;
pub mod peers;
pub mod raw;
pub mod stats;
pub mod table;
pub mod wan;

/// Whatever goes wrong ends the measurement, in words.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
