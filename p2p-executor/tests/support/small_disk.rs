//! A disk that is soon full.

#![allow(unreachable_pub, reason = "included by tests of two crates")]

use std::path::Path;
use std::process::{Command, Stdio};

/// A small disk; unmounted when dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// Set for the copy of a test that runs in a mount namespace of its own.
const IN_NAMESPACE: &str = "P2P_TEST_IN_NAMESPACE";

/// A disk of so many MiB for the test that asks; `None` when the test was run elsewhere, or cannot be run here.
pub fn small_disk(mib: u32) -> Option<SmallDisk> {
    let folder = tempfile::tempdir().unwrap();
    let options = format!("size={mib}m,mode=700");
    let mount = ["-t", "tmpfs", "-o", &options, "p2p-test"];
    let mounted = Command::new("mount").args(mount).arg(folder.path()).stderr(Stdio::null()).status();
    if mounted.is_ok_and(|status| status.success()) {
        return Some(SmallDisk(folder));
    }
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    if std::env::var_os(IN_NAMESPACE).is_none() {
        let own = std::env::current_exe().unwrap();
        let possible = Command::new("unshare").args(["-rm", "true"]).stderr(Stdio::null()).status();
        if possible.is_ok_and(|status| status.success()) {
            let again =
                Command::new("unshare").arg("-rm").arg(own).args(["--exact", test]).env(IN_NAMESPACE, "1").status();
            assert!(again.unwrap().success(), "{test} failed in a namespace of its own");
            return None;
        }
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "no small disk can be mounted here, but CI must not skip {test}"
    );
    println!("SKIPPED: {test}: no small disk can be mounted here, neither as this user nor in a namespace");
    None
}
