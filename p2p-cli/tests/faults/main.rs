//! What happens when networks and machines fail: real processes, a real relay, and a proxy in front of it that cuts, refuses, falls silent,
//! delays and loses. Nothing may hang, nothing may be lost without a word, nothing may be run or counted twice.
//!
//! | module | tries |
//! |---|---|
//! | [`links`] | links that break while tasks run, or get no new connection for a while |
//! | [`workers`] | workers that die, stop, come back or are told to leave |
//! | [`clients`] | clients that die or are interrupted while the connection is away |
//! | [`meeting`] | a host or a hub that dies while tasks run |
//! | [`poison`] | tasks that bring their workers down, and friends who close their lids |
//! | [`wan`] | a long and lossy way |
//!
//! [`stage`] has the processes, [`proxy`] the network.

#[path = "../cluster/mod.rs"]
mod cluster;

mod blobs;
mod clients;
mod links;
mod meeting;
mod poison;
mod proxy;
mod stage;
mod wan;
mod workers;
