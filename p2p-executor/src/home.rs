//! The worker's own folder: `BASE/p2p-USER-XXXXXX`, mode 0700, locked while the worker lives.
//!
//! A worker that was killed outright leaves its folder, and perhaps commands that still run. The next worker of the same user knows
//! by the missing lock that nobody owns them any more, kills the commands and removes the folder. The lock is a `flock` of the folder
//! itself, which `systemd-tmpfiles` respects too: a long-lived worker's folder does not age away under it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::leftovers;
use crate::scratch::{self, Scratch};

/// How often a fresh folder is tried anew because a starting neighbour took it for a dead one.
const CREATE_TRIES: usize = 16;

/// A worker's folder; removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    name: String,
    /// Held while this lives; `None` where the file system has no locks, and then nobody cleans up after a dead worker.
    _lock: Option<File>,
    attempts: AtomicU64,
}

impl Home {
    /// Makes the folder of this process in `base`, and removes those of dead ones.
    pub(crate) fn create(base: &Path, user: &str) -> io::Result<Self> {
        let base = fs::canonicalize(base)?;
        let prefix = format!("p2p-{}-", file_safe(user));
        remove_dead(&base, &prefix);
        for _ in 0..CREATE_TRIES {
            let mode = Permissions::from_mode(0o700);
            let folder = tempfile::Builder::new().prefix(&prefix).permissions(mode).tempdir_in(&base)?;
            let lock = match lock(folder.path()) {
                Lock::Ours(lock) => Some(lock),
                Lock::Unsupported => None,
                // A neighbour that cleans up was faster.
                Lock::Taken => continue,
            };
            let path = folder.keep();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Self { path, name, _lock: lock, attempts: AtomicU64::new(0) });
        }
        Err(io::Error::other("other workers that start at this moment are in the way; try again"))
    }

    /// A fresh folder for one attempt.
    pub(crate) fn scratch(&self) -> io::Result<Scratch> {
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        Scratch::create(self.path.join(number.to_string()), format!("{}/{number}", self.name))
    }

    /// Removes it with everything in it.
    pub(crate) fn remove(&self) {
        scratch::remove_tree(&self.path);
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes the folders of dead workers, and kills what they left running.
fn remove_dead(base: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(base) else { return };
    let user = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else { continue };
        if !entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == user) {
            continue;
        }
        let path = entry.path();
        // The lock is kept meanwhile, so that two workers do not clean up the same folder.
        if let Lock::Ours(_lock) = lock(&path) {
            log::info!("removing {}, which a worker that is gone left behind", path.display());
            leftovers::kill_of_worker(name);
            scratch::remove_tree(&path);
        }
    }
}

enum Lock {
    Ours(File),
    /// Another process has it, or removed the folder meanwhile.
    Taken,
    Unsupported,
}

fn lock(folder: &Path) -> Lock {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY).open(folder);
    let Ok(file) = opened else { return Lock::Taken };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Lock::Taken,
        Err(_) => return Lock::Unsupported,
    }
    let same = |there: fs::Metadata| Ok(there.ino() == file.metadata()?.ino());
    match fs::symlink_metadata(folder).and_then(same) {
        Ok(true) => Lock::Ours(file),
        _ => Lock::Taken,
    }
}

/// A user's name as part of a file name.
fn file_safe(user: &str) -> String {
    let safe = user.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' });
    safe.take(32).collect()
}
