//! A blob in use, and how it gets into a task's folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::SystemTime;

use p2p_proto::blob::BlobRef;
use rustix::fs::FlockOperation;

use crate::cache::{Pin, Stamp};
use crate::fill::AGE;

/// Smaller ones are copied, bytes: that is quick, and the task may write to its copy. They do not keep a descriptor either, of which a task
/// with many inputs would need many.
const LARGE_BYTES: u64 = 16 * 1024 * 1024;

/// A blob that is here, and stays while this value lives.
#[derive(Debug)]
pub struct Held {
    pin: Pin,
    blob: BlobRef,
    /// Open and locked against other workers' need for room, where the blob is large.
    file: Option<File>,
}

impl Held {
    pub(crate) fn new(pin: Pin, blob: BlobRef, file: File) -> Self {
        let file = (blob.size > LARGE_BYTES).then_some(file);
        if let Some(file) = &file
            && let Err(fault) = rustix::fs::flock(file, FlockOperation::NonBlockingLockShared)
        {
            log::debug!("{} cannot be locked: {fault}", pin.path().display());
        }
        Self { pin, blob, file }
    }

    /// Its name.
    pub fn blob(&self) -> &BlobRef {
        &self.blob
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.pin.path()
    }

    /// All its bytes; blocks.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where another worker needed the room: it must be asked for again. Else what the system says.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes)?;
        if bytes.len() as u64 == self.blob.size { Ok(bytes) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Puts it at `path`, looking a little old, where nothing may be yet; blocks. A large one that is no program becomes a read-only link where the file system
    /// cannot clone files and nobody else's tasks use it; else it is a file of its own.
    ///
    /// # Errors
    /// As [`Held::read`].
    pub fn place(&self, path: &Path, executable: bool) -> io::Result<()> {
        let mut from = self.open()?;
        let mode = if executable { 0o755 } else { 0o644 };
        let to = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        if clone(&to, &from) {
            return to.set_modified(SystemTime::now() - AGE);
        }
        if self.file.is_some() && !executable && !self.pin.cache().is_shared() {
            fs::remove_file(path)?;
            if fs::hard_link(self.pin.path(), path).is_ok() && self.is_unchanged(path) {
                return Ok(());
            }
            // Another disk, or it had to make room: its content is still open here.
            let _ = fs::remove_file(path);
            return copy(&mut from, &OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?);
        }
        copy(&mut from, &to)
    }

    /// Whether a link leads to the file that was checked.
    fn is_unchanged(&self, link: &Path) -> bool {
        let look = |about: io::Result<fs::Metadata>| about.map(|about| Stamp::from(&about)).ok();
        let held = self.file.as_ref().and_then(|file| look(file.metadata()));
        held.is_some() && look(fs::symlink_metadata(link)) == held
    }

    /// Its bytes, from their beginning; blocks.
    ///
    /// # Errors
    /// As [`Held::read`].
    pub fn open(&self) -> io::Result<File> {
        match &self.file {
            Some(file) => {
                let mut file = file.try_clone()?;
                file.rewind()?;
                Ok(file)
            }
            None => File::open(self.pin.path()),
        }
    }
}

#[cfg(target_os = "linux")]
fn clone(to: &File, from: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn clone(_to: &File, _from: &File) -> bool {
    false
}

fn copy(from: &mut File, mut to: &File) -> io::Result<()> {
    io::copy(from, &mut to)?;
    to.set_modified(SystemTime::now() - AGE)?;
    // A blob is read-only; the task's copy is the task's.
    let mode = to.metadata()?.permissions().mode();
    to.set_permissions(fs::Permissions::from_mode(mode | 0o600))
}
