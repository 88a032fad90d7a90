//! Runs attempts on this machine: commands in scratch folders and process groups of their own.
//!
//! One attempt goes through these steps, each in a module of its own:
//!
//! 1. [`stage`] writes the input files into a fresh folder ([`scratch`]), while the attempt waits for its slot.
//! 2. [`program`] finds the program; [`spawn`] starts it in a session of its own, with a clean environment.
//! 3. [`pipes`] carries stdin, stdout and stderr as they come, while [`process`] waits for the exit.
//! 4. [`leftovers`] kills what the command left running; [`outputs`] brings its files back; the folder goes.
//!
//! Whatever ends an attempt, also the drop of its future, ends its processes and removes its folder. What is caught and what
//! is not says [`leftovers`]' own text; a worker that was killed outright is cleaned up after by the next one ([`home`]).
#![deny(unsafe_code)]

mod attempt;
mod config;
mod failure;
mod home;
mod leftovers;
mod outputs;
mod pipes;
mod process;
mod program;
mod run;
mod scratch;
#[cfg_attr(not(target_os = "linux"), path = "spawn_std.rs")]
mod spawn;
mod stage;

pub use attempt::CommandExecutor;
pub use config::{CommandConfig, INTERRUPT_GRACE, StartError};
