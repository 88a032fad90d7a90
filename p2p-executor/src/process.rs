//! A command that runs: its exit, its signals, and its end whatever happens.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use async_io::Async;
use async_std::task;
use p2p_proto::task::Ended;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::leftovers;

/// How long a drop waits for a killed process to be gone: one that hangs in the kernel must not hang the worker too.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// The pause between two looks meanwhile.
const KILL_PAUSE: Duration = Duration::from_micros(500);

/// The first process of a command, leader of its group. Dropped before its end was seen, it and all that it started are killed.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// Readable once the process has ended; `None` where the system has no such descriptors.
    exit: Option<Async<OwnedFd>>,
    token: String,
    reaped: bool,
}

impl Process {
    /// Takes charge of a child of this process that was just started and leads its own group.
    pub(crate) fn new(pid: Pid, token: String) -> Self {
        Self { pid, exit: exit_descriptor(pid), token, reaped: false }
    }

    /// Waits for the exit, without taking note of it: the process number stays taken. Cancel-safe.
    pub(crate) async fn exited(&self) -> io::Result<()> {
        if let Some(exit) = &self.exit {
            return exit.readable().await;
        }
        let pid = self.pid;
        task::spawn_blocking(move || wait(pid, WaitIdOptions::NOWAIT)).await?;
        Ok(())
    }

    /// Sends a signal to the whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        // An error says that all of it has ended.
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }

    /// After [`Self::exited`]: how it ended, without giving its number back.
    pub(crate) fn status(&self) -> io::Result<Ended> {
        let ended = wait(self.pid, WaitIdOptions::NOWAIT)?;
        ended.ok_or_else(|| io::Error::other("the exit status cannot be read"))
    }

    /// Kills what it started and what still runs, but not itself. `since` is a process number from before that, if it is known.
    pub(crate) async fn kill_others(&self, since: Option<i32>) {
        leftovers::kill_beside(&self.token, self.pid, since).await;
    }

    /// After [`Self::exited`]: kills what is left of the command, and says how it ended.
    pub(crate) async fn finish(mut self) -> io::Result<Ended> {
        // Before the number is given back: it could be another group's a moment later.
        self.signal(Signal::KILL);
        let ended = wait(self.pid, WaitIdOptions::empty())?;
        self.reaped = true;
        leftovers::kill_of_attempt(&self.token, self.pid).await;
        ended.ok_or_else(|| io::Error::other("the command's exit status cannot be read"))
    }

    /// Ends it at once.
    fn kill(&mut self) {
        let until = Instant::now() + KILL_WAIT;
        self.signal(Signal::KILL);
        // It may have moved itself to another group.
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        while matches!(wait(self.pid, WaitIdOptions::NOHANG), Ok(None)) {
            if Instant::now() > until {
                log::warn!("the killed process {} does not end", self.pid.as_raw_nonzero());
                break;
            }
            thread::sleep(KILL_PAUSE);
        }
        leftovers::kill_of_attempt_blocking(&self.token, self.pid);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
        }
    }
}

#[cfg(target_os = "linux")]
fn exit_descriptor(pid: Pid) -> Option<Async<OwnedFd>> {
    let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
    Async::new_nonblocking(fd).ok()
}

#[cfg(not(target_os = "linux"))]
fn exit_descriptor(_: Pid) -> Option<Async<OwnedFd>> {
    None
}

/// Waits for the end of a child, in the calling thread; `None` if it has not ended, where the options allow that.
fn wait(pid: Pid, options: WaitIdOptions) -> io::Result<Option<Ended>> {
    let status = loop {
        match rustix::process::waitid(WaitId::Pid(pid), options | WaitIdOptions::EXITED) {
            // A signal to this process.
            Err(Errno::INTR) => {}
            status => break status?,
        }
    };
    Ok(status.and_then(|status| {
        let code = status.exit_status().map(Ended::Exit);
        code.or_else(|| status.terminating_signal().map(Ended::Signal))
    }))
}
