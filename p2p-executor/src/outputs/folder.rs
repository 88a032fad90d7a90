//! Opens files inside a scratch folder, and nothing outside of it, whatever links a command left there.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use p2p_proto::task::{Failure, FailureKind};
#[cfg(target_os = "linux")]
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::failure::{shown, worker_failure};

/// How often an open that raced with a rename is repeated.
#[cfg(target_os = "linux")]
const OPEN_TRIES: usize = 8;

/// The scratch folder, as the root of every name.
pub(super) struct Folder<'a> {
    path: &'a Path,
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux opens relative to it"))]
    root: fs::File,
}

impl<'a> Folder<'a> {
    /// `path` is absolute and without symbolic links.
    pub(super) fn open(path: &'a Path) -> Result<Self, Failure> {
        let root = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path);
        let root = root.map_err(|error| worker_failure("opening the task's folder", &error))?;
        Ok(Self { path, root })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Opens a regular file without ever leaving the folder.
    pub(super) fn file(&self, name: &str) -> Result<(fs::File, fs::Metadata), Refusal> {
        let file = self.open_inside(name)?;
        let about = file.metadata().map_err(Refusal::Other)?;
        if about.is_dir() {
            return Err(Refusal::Folder);
        }
        if !about.is_file() {
            return Err(Refusal::NoFile);
        }
        Ok((file, about))
    }

    /// Where something inside it is, all links followed: safe as long as nothing of the command is left that swaps folders for links.
    pub(super) fn path_of(&self, name: &str) -> Result<PathBuf, Refusal> {
        let path = fs::canonicalize(self.path.join(name)).map_err(Refusal::from)?;
        if path.starts_with(self.path) { Ok(path) } else { Err(Refusal::LeadsOut) }
    }

    /// Where a folder inside it is.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, Refusal> {
        let path = self.path_of(name)?;
        if path.is_dir() { Ok(path) } else { Err(Refusal::NoFolder) }
    }

    #[cfg(target_os = "linux")]
    fn open_inside(&self, name: &str) -> Result<fs::File, Refusal> {
        // A pipe must not hold us up: it is refused once it is open.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..OPEN_TRIES {
            return match rustix::fs::openat2(&self.root, name, flags, Mode::empty(), resolve) {
                Ok(file) => Ok(file.into()),
                Err(Errno::AGAIN | Errno::INTR) => continue,
                // Linux before 5.6, or a container that forbids new calls.
                Err(Errno::NOSYS | Errno::PERM) => self.open_checked(name),
                Err(error) => Err(error.into()),
            };
        }
        Err(Errno::AGAIN.into())
    }

    #[cfg(not(target_os = "linux"))]
    fn open_inside(&self, name: &str) -> Result<fs::File, Refusal> {
        self.open_checked(name)
    }

    /// As `open_inside` where the system does not check.
    fn open_checked(&self, name: &str) -> Result<fs::File, Refusal> {
        let path = self.path_of(name)?;
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(Refusal::from)
    }
}

/// Why a name brings nothing back.
#[derive(Debug)]
pub(super) enum Refusal {
    Missing,
    LeadsOut,
    Folder,
    NoFolder,
    NoFile,
    Other(io::Error),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::Missing,
            Errno::XDEV | Errno::LOOP => Self::LeadsOut,
            Errno::NXIO => Self::NoFile,
            error => Self::Other(error.into()),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or_else(|| Self::Other(error), Self::from)
    }
}

impl Refusal {
    /// The same of a folder in words.
    pub(super) fn folder_failure(self, name: &str) -> Failure {
        match self {
            Self::Missing => Failure::new(
                FailureKind::MissingOutput,
                format!("the command succeeded, but left no folder {}/; check the name", shown(name.as_bytes())),
            ),
            other => other.failure(name),
        }
    }

    /// The same in words.
    pub(super) fn failure(self, name: &str) -> Failure {
        let name = shown(name.as_bytes());
        match self {
            Self::Missing => Failure::new(
                FailureKind::MissingOutput,
                format!(
                    "the command succeeded, but left no file {name}; check the name, and that it is written below the folder in which the command starts"
                ),
            ),
            Self::LeadsOut => Failure::new(
                FailureKind::BadName,
                format!(
                    "the output {name} is refused: a symbolic link leads out of the task's folder; copy the file into it"
                ),
            ),
            Self::Folder => Failure::new(
                FailureKind::BadName,
                format!(
                    "the output {name} is a folder; ask for it as {name}/, or for its files, for example as {name}/**"
                ),
            ),
            Self::NoFolder => Failure::new(
                FailureKind::BadName,
                format!("the output {name} is a file; ask for it without the / at its end"),
            ),
            Self::NoFile => Failure::new(
                FailureKind::BadName,
                format!(
                    "the output {name} is not a regular file but a pipe, socket or device; copy its content into a file"
                ),
            ),
            Self::Other(error) => worker_failure(&format!("opening the output file {name}"), &error),
        }
    }
}
