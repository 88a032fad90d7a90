//! Puts a folder that came as one run of bytes onto disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use p2p_proto::task::{Failure, FailureKind};
use p2p_proto::tree::{Entry, EntryKind, LENGTH_BYTES, Tree};

/// Files up to this size are written at once, bytes.
const SMALL_BYTES: u64 = 256 * 1024;

/// Why a folder cannot be put onto disk.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not what a folder may be.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The system refused something.
    #[error("{name}: {fault}")]
    Io {
        /// Below the folder.
        name: String,
        /// What it said.
        fault: io::Error,
    },
}

/// Makes the folder `to`, which must not be there yet, and puts into it what is in `from`, which has `size` bytes; blocks. Nothing is written before all
/// names are checked, and nothing but below `to`. Files look `age` old. `seen` is told of each file and link.
///
/// # Errors
/// What is wrong with the folder, or what the system refused; then a part of it may be there.
pub fn unpack_folder(
    from: impl Read,
    size: u64,
    to: &Path,
    age: Duration,
    mut seen: impl FnMut(&str, &fs::Metadata),
) -> Result<(), UnpackError> {
    let mut from = BufReader::with_capacity(SMALL_BYTES as usize, from);
    let at = |name: &str| {
        let name = name.to_owned();
        move |fault| UnpackError::Io { name, fault }
    };
    let tree = read_list(&mut from, size)?;
    DirBuilder::new().mode(0o777).create(to).map_err(at("the folder"))?;
    let time = SystemTime::now() - age;
    for Entry { name, kind } in tree.entries() {
        let path = to.join(name);
        match kind {
            // Its owner can remove what is in it.
            EntryKind::Folder(mode) => DirBuilder::new().mode(mode | 0o700).create(&path).map_err(at(name))?,
            EntryKind::Link(target) => {
                std::os::unix::fs::symlink(target, &path).map_err(at(name))?;
                seen(name, &fs::symlink_metadata(&path).map_err(at(name))?);
            }
            EntryKind::File(size, mode) => {
                let mut write = || {
                    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode | 0o400).open(&path)?;
                    copy(&mut from, *size, &mut file)?;
                    file.set_modified(time)?;
                    file.metadata()
                };
                seen(name, &write().map_err(at(name))?);
            }
        }
    }
    Ok(())
}

fn read_list(from: &mut impl Read, size: u64) -> Result<Tree, UnpackError> {
    let read = |from: &mut dyn Read, bytes: &mut [u8]| {
        from.read_exact(bytes).map_err(|fault| match fault.kind() {
            io::ErrorKind::UnexpectedEof => {
                UnpackError::Refused(Failure::new(FailureKind::Malformed, "the folder that came is cut short"))
            }
            _ => UnpackError::Io { name: "its list".to_owned(), fault },
        })
    };
    let mut length = [0; LENGTH_BYTES];
    read(from, &mut length)?;
    let mut list = vec![0; Tree::list_bytes(length).map_err(UnpackError::Refused)?];
    read(from, &mut list)?;
    Tree::read(&list, size).map_err(UnpackError::Refused)
}

fn copy(from: &mut impl Read, size: u64, to: &mut File) -> io::Result<()> {
    if size <= SMALL_BYTES {
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        from.read_exact(&mut bytes)?;
        return to.write_all(&bytes);
    }
    match io::copy(&mut from.take(size), to)? {
        copied if copied == size => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
