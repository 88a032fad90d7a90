//! A folder as one run of bytes ([`p2p_proto::tree`]), which are read from its files when they are wanted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use p2p_proto::blob::Recipe;
use p2p_proto::limits::TREE_ENTRIES;
use p2p_proto::task::{Failure, FailureKind};
use p2p_proto::tree::{Entry, EntryKind, Tree};
use rustix::fs::OFlags;
use walkdir::{DirEntry, WalkDir};

use crate::naming::{changed, name_reader};

/// A folder on disk, as it was when it was looked through: its names and sizes are fixed, the content of its files is read later.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    head: Vec<u8>,
    tree: Tree,
    /// Where the content of each file that has some begins, and which entry it is.
    files: Vec<(u64, usize)>,
    size: u64,
    recipe: OnceLock<Arc<Recipe>>,
}

impl Folder {
    /// Looks through the folder at `path`; blocks. Symbolic links in it are taken as links.
    ///
    /// # Errors
    /// A [`Failure`] that names what cannot travel: what cannot be read, names that are refused, links that lead out of the folder, devices, pipes
    /// and sockets; more entries or bytes than a tree may have.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let mut entries = Vec::new();
        for found in WalkDir::new(path).follow_links(false).min_depth(1).sort_by_file_name() {
            let found = found.map_err(|fault| {
                let at = fault.path().unwrap_or(path).to_owned();
                unreadable(&at, &fault.into_io_error().unwrap_or_else(|| io::Error::other("links lead in a circle")))
            })?;
            if entries.len() > TREE_ENTRIES {
                break;
            }
            entries.push(entry(path, &found)?);
        }
        let tree = Tree::new(entries)?;
        let head = tree.head()?;
        let mut size = head.len() as u64;
        let mut files = Vec::new();
        for (index, entry) in tree.entries().iter().enumerate() {
            if let EntryKind::File(bytes, _) = entry.kind
                && bytes > 0
            {
                files.push((size, index));
                size += bytes;
            }
        }
        p2p_proto::task::check_file_size(&path.display().to_string(), size)?;
        Ok(Self { path: path.to_owned(), head, tree, files, size, recipe: OnceLock::new() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that it has on the way.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that it takes in memory, about.
    pub fn memory_bytes(&self) -> u64 {
        2 * self.head.len() as u64
    }

    /// Its files, folders and links.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Its recipe; the first call reads all of it and blocks. Returns also how many bytes were read for that.
    ///
    /// # Errors
    /// When a file cannot be read, or became shorter.
    pub fn recipe(self: &Arc<Self>) -> io::Result<(Arc<Recipe>, u64)> {
        if let Some(known) = self.recipe.get() {
            return Ok((Arc::clone(known), 0));
        }
        let made = Arc::new(name_reader(self.reader())?);
        Ok((Arc::clone(self.recipe.get_or_init(|| made)), self.size))
    }

    /// All of it, from its beginning. Each read blocks.
    pub fn reader(self: &Arc<Self>) -> FolderReader {
        FolderReader { folder: Arc::clone(self), at: 0, open: None }
    }

    /// The bytes from `at` on; blocks.
    ///
    /// # Errors
    /// When a file cannot be read, or became shorter.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.fill(buffer, at, &mut None)
    }

    fn fill(&self, mut buffer: &mut [u8], mut at: u64, open: &mut Option<(usize, File)>) -> io::Result<()> {
        while !buffer.is_empty() {
            let count = match self.head.get(usize::try_from(at).unwrap_or(usize::MAX)..).filter(|rest| !rest.is_empty())
            {
                Some(rest) => {
                    let count = rest.len().min(buffer.len());
                    buffer[..count].copy_from_slice(&rest[..count]);
                    count
                }
                None => self.fill_from_file(buffer, at, open)?,
            };
            buffer = &mut buffer[count..];
            at += count as u64;
        }
        Ok(())
    }

    fn fill_from_file(&self, buffer: &mut [u8], at: u64, open: &mut Option<(usize, File)>) -> io::Result<usize> {
        let next = self.files.partition_point(|(begin, _)| *begin <= at);
        let (begin, index) = *next.checked_sub(1).and_then(|last| self.files.get(last)).ok_or_else(beyond)?;
        let Entry { name, kind: EntryKind::File(size, _) } = &self.tree.entries()[index] else { return Err(beyond()) };
        let inside = at - begin;
        let count = usize::try_from(size.saturating_sub(inside)).unwrap_or(usize::MAX).min(buffer.len());
        if count == 0 {
            return Err(beyond());
        }
        let told = |fault: io::Error| io::Error::new(fault.kind(), format!("{name}: {fault}"));
        let file = match open {
            Some((of, file)) if *of == index => file,
            _ => {
                let flags = OFlags::NOFOLLOW.bits().cast_signed();
                let opened = OpenOptions::new().read(true).custom_flags(flags).open(self.path.join(name));
                &open.insert((index, opened.map_err(told)?)).1
            }
        };
        file.read_exact_at(&mut buffer[..count], inside).map_err(|fault| match fault.kind() {
            io::ErrorKind::UnexpectedEof => told(changed()),
            _ => told(fault),
        })?;
        Ok(count)
    }
}

/// Reads a folder from its beginning to its end.
#[derive(Debug)]
pub struct FolderReader {
    folder: Arc<Folder>,
    at: u64,
    open: Option<(usize, File)>,
}

impl Read for FolderReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.folder.size - self.at).unwrap_or(usize::MAX);
        let count = rest.min(buffer.len());
        self.folder.fill(&mut buffer[..count], self.at, &mut self.open)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn entry(root: &Path, found: &DirEntry) -> Result<Entry, Failure> {
    let path = found.path();
    let inside = path.strip_prefix(root).unwrap_or(path);
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            let message = format!("the name {} is not UTF-8: rename it", path.display());
            Failure::new(FailureKind::BadName, message)
        })
    };
    let kind = found.file_type();
    let about = || std::fs::symlink_metadata(path).map_err(|fault| unreadable(path, &fault));
    let kind = if kind.is_dir() {
        EntryKind::Folder(about()?.mode())
    } else if kind.is_symlink() {
        EntryKind::Link(text(&std::fs::read_link(path).map_err(|fault| unreadable(path, &fault))?)?)
    } else if kind.is_file() {
        let about = about()?;
        EntryKind::File(about.size(), about.mode())
    } else {
        let message = format!("{} is a pipe, socket or device, which cannot travel: leave it out", path.display());
        return Err(Failure::new(FailureKind::BadName, message));
    };
    Ok(Entry { name: text(inside)?, kind })
}

fn unreadable(path: &Path, fault: &io::Error) -> Failure {
    let message = format!("{} cannot be read: {fault}; check its name and rights", path.display());
    Failure::new(FailureKind::Other, message)
}

fn beyond() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the folder")
}
