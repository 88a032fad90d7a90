//! A program in place of a connection: `ProxyCommand`. What it reads and writes is what would travel.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use async_process::{Child, Command};

/// Starts it by the shell, as `ssh` does. It ends with the value that stands for it.
///
/// # Errors
/// The system's.
pub(super) fn start(command: &str) -> io::Result<(UnixStream, Child)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut shell = std::process::Command::new("/bin/sh");
    // An interrupt at the terminal is for this program alone, which may want to say goodbye.
    shell.arg("-c").arg(format!("exec {command}")).process_group(0);
    let mut shell = Command::from(shell);
    shell.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?))).stdout(Stdio::from(OwnedFd::from(theirs)));
    Ok((ours, shell.kill_on_drop(true).spawn()?))
}
