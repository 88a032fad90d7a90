//! Finds and kills what a command left running.
//!
//! Three nets, in this order. The process group of the command is killed when its first process has ended, before its number can be used
//! by anyone else ([`crate::process`]). What left the group (`setsid`, daemons) still carries the attempt's token in its environment,
//! where `/proc` shows it. A look through all of `/proc` costs milliseconds, which a short command does not take; but whatever the
//! command started has a higher process number than itself, and the highest number in use is cheap to read: so after a short
//! command a handful of numbers is looked at, mostly none.
//!
//! Not caught: a process that both left the group and has another environment (`env -i setsid ...`), one that became another user,
//! and, where there is no `/proc`, all that left the group. Catching those needs a namespace around the command.

use std::fs::{self, File};
use std::io::Read;
use std::process;
use std::thread;
use std::time::Duration;

use async_std::task;
use rustix::process::{Pid, Signal};

/// The variable that carries an attempt's token.
pub(crate) const TOKEN_VARIABLE: &str = "P2P_ATTEMPT";

/// So many process numbers are looked at one by one; beyond that `/proc` is listed.
const FEW_NUMBERS: i32 = 64;
/// How often the search is repeated until it finds nothing: what is being killed may just have started another process.
const ROUNDS: usize = 100;
/// The pause between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(2);
/// Larger environments are not read to their end, bytes; the kernel's own limit for arguments and environment is of this size.
const ENVIRONMENT_BYTES: u64 = 6 * 1024 * 1024;

/// Kills what still carries the token of an attempt whose first process was `first` and has ended.
pub(crate) async fn kill_of_attempt(token: &str, first: Pid) {
    let entry = entry(token);
    if few_after(first).is_some_and(|few| !few.into_iter().any(|pid| carries(pid, &entry, false))) {
        return;
    }
    task::spawn_blocking(move || kill_all(&entry, false, Some(first), None)).await;
}

/// Kills what carries the token of a process that goes on, `keep`, and was started after `since` was the last number.
pub(crate) async fn kill_beside(token: &str, keep: Pid, since: Option<i32>) {
    let since = since.and_then(Pid::from_raw);
    if since.and_then(few_after).is_some_and(|few| few.is_empty()) {
        return;
    }
    let entry = entry(token);
    task::spawn_blocking(move || kill_all(&entry, false, since, Some(keep))).await;
}

/// As [`kill_of_attempt`], for where nothing can be awaited.
pub(crate) fn kill_of_attempt_blocking(token: &str, first: Pid) {
    kill_all(&entry(token), false, Some(first), None);
}

/// Kills what attempts of the worker with this folder left running; that worker is gone.
pub(crate) fn kill_of_worker(name: &str) {
    kill_all(&entry(&format!("{name}/")), true, None, None);
}

fn entry(token: &str) -> Vec<u8> {
    format!("{TOKEN_VARIABLE}={token}").into_bytes()
}

fn kill_all(entry: &[u8], prefix: bool, first: Option<Pid>, keep: Option<Pid>) {
    let keep = keep.map(|pid| pid.as_raw_nonzero().get());
    for _ in 0..ROUNDS {
        let candidates = first.and_then(few_after).unwrap_or_else(all);
        let found: Vec<i32> =
            candidates.into_iter().filter(|pid| Some(*pid) != keep && carries(*pid, entry, prefix)).collect();
        if found.is_empty() {
            return;
        }
        for pid in found {
            kill(pid, entry, prefix);
        }
        thread::sleep(ROUND_PAUSE);
    }
    log::warn!("processes of {} do not die", String::from_utf8_lossy(entry));
}

/// Kills a process if it still is the one that carries `entry`: by a descriptor, as the number may pass to another one at any time.
#[cfg(target_os = "linux")]
fn kill(pid: i32, entry: &[u8], prefix: bool) {
    let Some(known) = Pid::from_raw(pid) else { return };
    match rustix::process::pidfd_open(known, rustix::process::PidfdFlags::empty()) {
        Ok(process) if carries(pid, entry, prefix) => {
            // An error says that it is gone, or not ours to kill.
            let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
        }
        Ok(_) => {}
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            let _ = rustix::process::kill_process(known, Signal::KILL);
        }
        Err(_) => {}
    }
}

#[cfg(not(target_os = "linux"))]
fn kill(pid: i32, _: &[u8], _: bool) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// The numbers of processes that may have been started after `first`, when they are few.
fn few_after(first: Pid) -> Option<Vec<i32>> {
    let first = first.as_raw_nonzero().get();
    let last = last_number()?;
    // Less than `first`: the numbers have wrapped around.
    (first <= last && last - first <= FEW_NUMBERS).then(|| (first + 1..=last).collect())
}

/// The number that was given out last; the fifth word of `/proc/loadavg`.
pub(crate) fn last_number() -> Option<i32> {
    let mut text = [0; 128];
    let length = File::open("/proc/loadavg").ok()?.read(&mut text).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// Every process that there is, but for this one.
fn all() -> Vec<i32> {
    let own = process::id().cast_signed();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| *pid != own).collect()
}

/// Whether the environment of a process has this entry, or one that begins with it.
fn carries(pid: i32, entry: &[u8], prefix: bool) -> bool {
    // Other users' processes cannot be read, and ended ones read as empty.
    let Ok(file) = File::open(format!("/proc/{pid}/environ")) else { return false };
    let mut environment = Vec::with_capacity(4096);
    if file.take(ENVIRONMENT_BYTES).read_to_end(&mut environment).is_err() {
        return false;
    }
    environment.split(|byte| *byte == 0).any(|found| found == entry || prefix && found.starts_with(entry))
}
