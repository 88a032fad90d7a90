//! Memory of a whole process: each test that measures it runs once more, alone in a process of its own.

use std::process::Command;

/// Set for the copy of a test that has a process of its own.
const ALONE: &str = "P2P_TEST_ALONE";

/// Runs the calling test in a process of its own: `true` there, `false` in the one that has seen it pass.
#[track_caller]
pub(crate) fn alone() -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        // More threads than these, and the allocator's arenas for each are what is measured.
        .env("ASYNC_STD_THREAD_COUNT", "4")
        .output()
        .unwrap();
    let said = [again.stdout, again.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(again.status.success(), "{test} failed in a process of its own:\n{said}");
    assert!(said.contains("1 passed"), "{test} did not run in a process of its own:\n{said}");
    println!("{said}");
    false
}

/// What this process takes now, bytes.
pub(crate) fn now() -> usize {
    field("VmRSS:")
}

/// The most that it ever took, bytes.
pub(crate) fn peak() -> usize {
    field("VmHWM:")
}

fn field(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
