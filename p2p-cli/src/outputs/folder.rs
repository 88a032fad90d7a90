//! Puts a folder that came back into place: beside it first, whole or not at all; then over what is there.

use std::fs::{self, DirEntry, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use p2p_blobs::{UnpackError, unpack_folder};

use super::{cannot_write, not_written};
use crate::trouble::{Code, Trouble};

/// Puts the folder that `packed` has, of `size` bytes, to `path`. Files that are there already are replaced, others stay; a file is not put in
/// place of a folder, nor a folder in place of a file or link.
pub(super) fn place(packed: File, size: u64, path: &Path) -> Result<(), Trouble> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let beside = tempfile::Builder::new().prefix(".p2p-").suffix(".part").tempdir_in(parent);
    let beside = beside.map_err(|fault| cannot_write(parent, &fault))?;
    let fresh = beside.path().join("folder");
    unpack_folder(packed, size, &fresh, Duration::ZERO, |_, _| {}).map_err(|fault| match fault {
        UnpackError::Refused(failure) => {
            Trouble::new(Code::Failed, format!("the folder that the worker sent is refused: {}", failure.message))
        }
        UnpackError::Io { name, fault } => {
            not_written(&format!("{} cannot be written", path.join(name).display()), &fault)
        }
    })?;
    put(&fresh, path).map_err(|(at, fault)| cannot_write(&at, &fault))
}

/// What could not be put where.
type Unplaced = (std::path::PathBuf, io::Error);

fn put(from: &Path, to: &Path) -> Result<(), Unplaced> {
    let told = |fault| (to.to_owned(), fault);
    let (is_folder, there) = (kind(from).map_err(told)?, fs::symlink_metadata(to));
    match there {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => fs::rename(from, to).map_err(told),
        Err(fault) => Err(told(fault)),
        Ok(about) if about.is_dir() && is_folder => {
            let entries = fs::read_dir(from).and_then(Iterator::collect::<io::Result<Vec<DirEntry>>>).map_err(told)?;
            entries.iter().try_for_each(|entry| put(&entry.path(), &to.join(entry.file_name())))
        }
        Ok(about) if about.is_dir() => Err(told(io::Error::other("a folder is there already"))),
        Ok(_) if is_folder => Err(told(io::Error::other("a file is there already"))),
        Ok(_) => fs::rename(from, to).map_err(told),
    }
}

fn kind(path: &Path) -> io::Result<bool> {
    fs::symlink_metadata(path).map(|about| about.is_dir())
}
