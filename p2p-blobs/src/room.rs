//! Keeps the cache below its capacity, and the disk from filling up.

use std::collections::HashMap;
use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;

use crate::cache::{Cache, CacheError};

/// What other programs keep of the disk, bytes.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;
/// The folder is looked through again once this part of the capacity was added: others may add to it too.
const LOOK_AGAIN: u64 = 16;
/// What files take on disk is counted in such blocks, bytes.
const BLOCK_BYTES: u64 = 512;

/// What the cache takes, and may take.
#[derive(Debug)]
pub(crate) struct Room {
    folder: PathBuf,
    capacity: u64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What was found when the folder was looked through, and what was finished since, bytes.
    found: u64,
    /// Added since, bytes; all there is before the first look.
    added: Option<u64>,
    /// What is on its way in, by its path.
    coming: HashMap<PathBuf, u64>,
}

/// Room for a blob that comes in, until it is dropped: then the blob itself counts.
#[derive(Debug)]
pub(crate) struct Reservation {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        // If it did not come whole that is too much, until the next look.
        if let Some(size) = state.coming.remove(&self.path) {
            state.found += size;
        }
    }
}

impl Room {
    pub(crate) fn new(folder: PathBuf, capacity: u64) -> Self {
        Self { folder, capacity, state: Arc::default() }
    }

    /// Makes room for a blob of `size` bytes that will come in at `part`: the least recently used go first, never one in use.
    pub(crate) fn reserve(&self, cache: &Cache, part: &Path, size: u64) -> Result<Reservation, CacheError> {
        if size > self.capacity {
            return Err(CacheError::TooLarge { size, capacity: self.capacity });
        }
        let mut state = lock(&self.state);
        let used = state.found + state.coming.values().sum::<u64>() + size;
        let added = state.added.map(|added| added + size);
        let look = used > self.capacity || added.is_none_or(|added| added > self.capacity / LOOK_AGAIN);
        let already = allocated(part);
        if look || self.free()? < size.saturating_sub(already) + SPARE_BYTES {
            self.make(cache, &mut state, part, size)?;
            state.added = Some(0);
        } else {
            state.added = added;
        }
        state.coming.insert(part.to_owned(), size);
        Ok(Reservation { state: Arc::clone(&self.state), path: part.to_owned() })
    }

    fn make(&self, cache: &Cache, state: &mut State, part: &Path, size: u64) -> Result<(), CacheError> {
        let mut files = self.look(part, state).map_err(|fault| CacheError::io(&self.folder, fault))?;
        files.sort_by_key(|file| file.used);
        let coming: u64 = state.coming.values().sum();
        let mut used = files.iter().map(|file| file.bytes).sum::<u64>() + coming + size;
        let more = size.saturating_sub(allocated(part)) + SPARE_BYTES;
        // Not again for each of the next few.
        let target = (self.capacity - self.capacity / LOOK_AGAIN).max(size);
        let above = used > self.capacity;
        for file in &files {
            let enough = if above { used <= target } else { true };
            if enough && self.free()? >= more {
                break;
            }
            if file.remove(cache) {
                log::debug!("{} made room", file.path.display());
                used -= file.bytes;
            }
        }
        state.found = used - coming - size;
        if used > self.capacity {
            log::info!("the cache takes {used} bytes while so much of it is in use; it may take {}", self.capacity);
        }
        if self.free()? < more {
            return Err(CacheError::DiskFull { folder: self.folder.clone(), size });
        }
        Ok(())
    }

    /// Everything in the cache but what is on its way in and lists of chunks, which go with their blobs.
    fn look(&self, part: &Path, state: &State) -> io::Result<Vec<Cached>> {
        let mut files = Vec::new();
        for shelf in folders(&self.folder)?.iter().map(|realm| folders(realm)) {
            for shelf in shelf? {
                for entry in fs::read_dir(shelf)? {
                    let entry = entry?;
                    let path = entry.path();
                    let is_list = path.extension().is_some_and(|ext| ext == "recipe");
                    if !is_list && path != part && !state.coming.contains_key(&path) {
                        files.extend(Cached::of(&entry));
                    }
                }
            }
        }
        Ok(files)
    }

    /// What the disk has, bytes.
    fn free(&self) -> Result<u64, CacheError> {
        let about = rustix::fs::statvfs(&self.folder).map_err(|fault| CacheError::io(&self.folder, fault.into()))?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }
}

/// A file of the cache.
#[derive(Debug)]
struct Cached {
    path: PathBuf,
    bytes: u64,
    used: (i64, i64),
    /// A task's folder has it too, so that its removal would free nothing.
    linked: bool,
}

impl Cached {
    /// `None` for one that is gone by now.
    fn of(entry: &DirEntry) -> Option<Self> {
        let about = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        let used = (about.atime(), about.atime_nsec());
        Some(Self { path: entry.path(), bytes: about.blocks() * BLOCK_BYTES, used, linked: about.nlink() > 1 })
    }

    /// Removes it with its list of chunks, unless somebody uses it.
    fn remove(&self, cache: &Cache) -> bool {
        if self.linked || cache.is_pinned(&self.path) {
            return false;
        }
        let Ok(file) = File::open(&self.path) else { return false };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return false;
        }
        let removed = fs::remove_file(&self.path).is_ok();
        if removed {
            // Blobs of one chunk have none.
            let _ = fs::remove_file(self.path.with_extension("recipe"));
        }
        removed
    }
}

fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.iter().map(DirEntry::path).filter(|path| path.is_dir() && !path.is_symlink()).collect())
}

/// What a file takes on disk, bytes.
fn allocated(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |about| about.blocks() * BLOCK_BYTES)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
