//! Turns what the system reports into failures that say what happened, why, and what to do.

use std::io;
use std::path::Path;

use p2p_proto::task::{Failure, FailureKind};
use rustix::io::Errno;

/// What to say when `doing` (such as "writing data.csv") in `folder` failed.
pub(crate) fn file_failure(doing: &str, folder: &Path, error: &io::Error) -> Failure {
    let folder = folder.display();
    match errno(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Failure::new(
            FailureKind::DiskFull,
            format!(
                "{doing} failed: the disk of this worker that holds {folder} is full ({error}); free space there, or \
                 start the worker with TMPDIR on a larger disk"
            ),
        ),
        Some(Errno::EXIST | Errno::NOTDIR | Errno::ISDIR) => Failure::new(
            FailureKind::BadName,
            format!("{doing} failed: the name is that of another file or folder of the task; rename one of them"),
        ),
        Some(Errno::NAMETOOLONG) => Failure::new(
            FailureKind::BadName,
            format!("{doing} failed: this worker's file system does not allow names that long; use a shorter one"),
        ),
        _ => Failure::new(FailureKind::Worker, format!("{doing} in {folder} failed on this worker: {error}")),
    }
}

/// A failure of the worker's machine that is nobody's fault: trying again elsewhere may help.
pub(crate) fn worker_failure(doing: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Worker, format!("{doing} failed on this worker: {error}; another worker may do better"))
}

/// The system's own number of an error.
pub(crate) fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// A file or program name as people can read it, whatever is in it.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}
