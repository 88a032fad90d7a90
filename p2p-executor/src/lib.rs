//! Runs attempts on this machine: commands in scratch folders and sessions of their own, and futures of R in sessions that are kept warm (`r`).
//!
//! [`CommandExecutor`] is what a worker is given. One attempt goes through these steps, each in a module of its own:
//!
//! 1. `stage` writes small input files into a fresh folder (`scratch`), and `inputs` fetches large ones into the cache, while the attempt
//!    waits for its slot; then they are put into the folder too.
//! 2. `program` finds the program; `spawn` starts it, with a clean environment and nothing open but 0, 1 and 2.
//! 3. `pipes` carries stdin, stdout and stderr as they come, while `run` waits for the exit, a stop or the time limit.
//! 4. `process` and `leftovers` kill what the command left running; `outputs` brings its files back; the folder goes.
//!
//! # What is left behind
//! Whatever ends an attempt, also the drop of its future, ends its processes and removes its folder: first the process group, then
//! every process that carries the attempt's token, `P2P_ATTEMPT`, in its environment, daemons included. Not found are processes that left
//! the session *and* were given another environment (`env -i setsid ...`), and those that became another user. After a worker that was
//! killed outright, the next worker of the same user does the same (`home`).
//!
//! # What a command sees
//! An empty folder but for its input files, which is its working directory, `HOME` and `TMPDIR`; the worker's `PATH` and `USER`; a UTF-8
//! locale; `P2P_CPUS`, the slots that it has; and the variables of its task, which win. Nothing here keeps a command from reading
//! what the worker's user can read.

mod attempt;
mod config;
mod failure;
mod home;
mod inputs;
mod leftovers;
mod outputs;
mod pipes;
mod process;
mod program;
mod r;
mod run;
mod scratch;
#[cfg_attr(not(target_os = "linux"), path = "spawn_std.rs")]
mod spawn;
mod stage;

pub use attempt::CommandExecutor;
pub use config::{CommandConfig, INTERRUPT_GRACE, StartError};
pub use r::{NoR, R, RConfig, find as find_r};
