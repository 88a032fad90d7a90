//! One attempt's folder, and the removal of folders whatever is in them.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use async_std::task;
use rustix::io::Errno;

/// How often the removal of a folder is tried: a process that was just killed may still put a last file there.
const REMOVE_TRIES: usize = 20;
/// How long it waits in between.
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// A fresh folder, mode 0700; removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    token: String,
    removed: AtomicBool,
}

impl Scratch {
    /// Makes the folder. `token` is what no other attempt on this machine has.
    pub(crate) fn create(path: PathBuf, token: String) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, token, removed: AtomicBool::new(false) })
    }

    /// Where it is; absolute and without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What no other attempt on this machine has; its processes carry it in their environment.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Removes it now, without holding up the caller's thread where there is much to remove. The last owner only can.
    pub(crate) async fn remove(self: Arc<Self>) {
        // The usual case of a task without files: one system call.
        if rustix::fs::rmdir(&self.path).is_ok() {
            self.removed.store(true, Ordering::Relaxed);
            return;
        }
        task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !*self.removed.get_mut() {
            remove_tree(&self.path);
        }
    }
}

/// Removes a folder and everything in it, also what was made read-only; what cannot be removed is logged.
pub(crate) fn remove_tree(path: &Path) {
    for _ in 0..REMOVE_TRIES {
        let error = match fs::remove_dir_all(path) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => return,
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::ACCESS | Errno::PERM) => open_up(path),
            Some(Errno::NOTEMPTY | Errno::NOENT) => thread::sleep(REMOVE_PAUSE),
            _ => {
                log::warn!("cannot remove {}: {error}", path.display());
                return;
            }
        }
    }
    if fs::symlink_metadata(path).is_ok() {
        log::warn!("cannot remove all of {}; remove it by hand", path.display());
    }
}

/// Gives the owner all rights to a folder and those in it.
fn open_up(folder: &Path) {
    // What fails here fails again, and is reported, at the removal.
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
