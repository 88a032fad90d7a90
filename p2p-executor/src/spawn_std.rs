//! Starts a program where `posix_spawn` cannot make a session: in a process group of its own, by the standard library.
//!
//! A command here shares the worker's terminal, if it has one. Descriptors that do not close on exec are inherited.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::Pid;

/// What to start.
pub(crate) struct Launch<'a> {
    /// The program file; relative to `folder` unless absolute.
    pub(crate) program: &'a CStr,
    /// Program name and arguments.
    pub(crate) argv: &'a [CString],
    /// The whole environment, `NAME=value`.
    pub(crate) env: &'a [CString],
    /// Where it runs.
    pub(crate) folder: &'a CStr,
    /// Its stdin, stdout and stderr.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
}

/// Starts it; returns when the program itself runs, or could not be executed. The caller must wait for it.
///
/// # Errors
/// What `chdir`, `execve` or `fork` reports.
pub(crate) fn spawn(launch: &Launch<'_>) -> io::Result<Pid> {
    let mut command = Command::new(os(launch.program));
    if let [name, arguments @ ..] = launch.argv {
        command.arg0(os(name)).args(arguments.iter().map(|argument| os(argument)));
    }
    let variables = launch.env.iter().filter_map(|entry| {
        let entry = entry.as_bytes();
        let at = entry.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(entry.get(..at)?), OsStr::from_bytes(entry.get(at + 1..)?)))
    });
    let [stdin, stdout, stderr] = launch.stdio;
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(|fd: OwnedFd| Stdio::from(fd));
    command.env_clear().envs(variables).current_dir(os(launch.folder)).process_group(0);
    let child = command.stdin(copy(stdin)?).stdout(copy(stdout)?).stderr(copy(stderr)?).spawn()?;
    // Dropping the child neither ends it nor waits for it.
    Ok(Pid::from_child(&child))
}

/// Nothing to do: what this process inherited is inherited further.
pub(crate) fn close_on_exec_from_here() {}

fn os(string: &CStr) -> &OsStr {
    OsStr::from_bytes(string.to_bytes())
}
