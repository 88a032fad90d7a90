//! A program in place of a connection: `ProxyCommand`. What it reads and writes is what would travel.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use async_process::{Child, Command};
use rustix::process::{Pid, Signal, kill_process_group};

/// The program, with whatever it has started. It ends with this value.
pub(crate) struct Carrier(Child);

impl Drop for Carrier {
    fn drop(&mut self) {
        // With what it has in the background, which would keep the connection open. Once it has ended its number may be another's.
        let runs = matches!(self.0.try_status(), Ok(None));
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group.filter(|_| runs) {
            let _ = kill_process_group(group, Signal::TERM);
        }
    }
}

/// Starts it by the shell, as `ssh` does.
///
/// # Errors
/// The system's.
pub(super) fn start(command: &str) -> io::Result<(UnixStream, Carrier)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut shell = std::process::Command::new("/bin/sh");
    // An interrupt at the terminal is for this program alone, which may want to say goodbye.
    shell.arg("-c").arg(format!("exec {command}")).process_group(0);
    let mut shell = Command::from(shell);
    shell.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?))).stdout(Stdio::from(OwnedFd::from(theirs)));
    Ok((ours, Carrier(shell.spawn()?)))
}
