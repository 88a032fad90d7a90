//! A blob on its way in, which goes on where it was left.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use p2p_proto::blob::{BlobId, BlobRef, Chunk, Recipe, Run};
use rustix::fs::{FlockOperation, OFlags};

use crate::cache::{CacheError, Pin, Shelf, Stamp};
use crate::held::Held;
use crate::naming::{name, read_chunk};
use crate::room::Reservation;
use crate::tally::Entry;

/// Files look this much older than they are, so that a change within the clock's tick shows.
pub(crate) const AGE: Duration = Duration::from_secs(2);
/// Chunks of other blobs that are looked up for a new one, at most.
const KNOWN_CHUNKS: usize = 1 << 20;

/// What asking for a blob begins with.
#[derive(Debug)]
pub enum Begun {
    /// Another worker of this machine was faster: here it is.
    Held(Held),
    /// It is to be filled.
    Fill(Fill),
}

/// A blob that comes in, chunk by chunk, in any order. Dropped before its end it leaves what has come, to go on from there.
///
/// All of it blocks.
#[derive(Debug)]
pub struct Fill {
    shelf: Shelf,
    blob: BlobRef,
    recipe: Option<Recipe>,
    part: File,
    /// For each chunk, whether it is in the part.
    have: Mutex<Vec<bool>>,
    /// No other worker's need for room takes the part.
    _pin: Pin,
    _reservation: Reservation,
    /// Counts what comes from a client.
    entry: Option<Entry>,
}

impl Shelf {
    /// Begins to fill a blob that is not here, or goes on where that was left; blocks, also while another worker of this machine fills it.
    ///
    /// # Errors
    /// When there is no room, or the system refuses something.
    pub fn fill(&self, blob: &BlobRef) -> Result<Begun, CacheError> {
        let begun = self.begin(blob, || Some(self.tally.begin(&self.part_path(blob), blob.size)))?;
        if let Begun::Fill(mut fill) = begun {
            if let Some(recipe) = self.recipe(blob) {
                fill.go_on_with(recipe)?;
            }
            return Ok(Begun::Fill(fill));
        }
        Ok(begun)
    }

    /// Keeps a file that a task has made, should it be the input of another one; blocks. A link to it is enough where nobody else's tasks use it; else it is
    /// copied. The file is read-only then.
    ///
    /// # Errors
    /// As [`Shelf::fill`], and when the file cannot be read or changes meanwhile.
    pub fn keep(&self, from: &Path) -> Result<(), CacheError> {
        let recipe = name(from).map_err(|fault| CacheError::io(from, fault))?;
        match self.begin(&recipe.name(), || None)? {
            Begun::Held(_) => Ok(()),
            Begun::Fill(fill) => fill.keep(from, recipe),
        }
    }

    fn begin(&self, blob: &BlobRef, entry: impl FnOnce() -> Option<Entry>) -> Result<Begun, CacheError> {
        let path = self.part_path(blob);
        let pin = self.cache.pin(&path);
        let part = lock_part(&path).map_err(|fault| CacheError::io(&path, fault))?;
        if let Some(held) = self.hold(blob)? {
            // It is locked, and so nobody's but ours.
            let _ = fs::remove_file(&path);
            return Ok(Begun::Held(held));
        }
        let reservation = match self.cache.room.reserve(&self.cache, &path, blob.size) {
            Ok(reservation) => reservation,
            Err(fault) => {
                let _ = fs::remove_file(&path);
                return Err(fault);
            }
        };
        Ok(Begun::Fill(Fill {
            shelf: self.clone(),
            blob: *blob,
            recipe: None,
            part,
            have: Mutex::default(),
            _pin: pin,
            _reservation: reservation,
            entry: entry(),
        }))
    }
}

impl Fill {
    /// Whether the list of its chunks must be asked for first.
    pub fn wants_recipe(&self) -> bool {
        self.recipe.is_none()
    }

    /// The list of its chunks came.
    ///
    /// # Errors
    /// When it is another blob's, or cannot be kept.
    pub fn set_recipe(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        let recipe = Recipe::read(&self.blob, bytes).map_err(|fault| CacheError::Wrong(fault.to_string()))?;
        let path = self.shelf.recipe_path(&self.blob);
        // A list that is cut short by a crash is recognised by its name's hash, like any other that is wrong.
        fs::write(&path, bytes).map_err(|fault| self.fault(&path, fault))?;
        self.go_on_with(recipe)
    }

    /// The chunks that are still to come.
    pub fn missing(&self) -> Vec<Run> {
        let have = self.have.lock().unwrap_or_else(PoisonError::into_inner);
        Run::gather((0..).zip(have.iter()).filter(|(_, have)| !**have).map(|(index, _)| index))
    }

    /// The size of a chunk, bytes; `None` where there is none of this index.
    pub fn chunk_bytes(&self, index: u32) -> Option<usize> {
        self.chunk(index).map(|chunk| chunk.size as usize)
    }

    /// A chunk came.
    ///
    /// # Errors
    /// When it is not what the list says, or cannot be written.
    pub fn put(&self, index: u32, bytes: &[u8]) -> Result<(), CacheError> {
        let chunk = self.chunk(index).filter(|chunk| chunk.size as usize == bytes.len());
        let chunk = chunk.filter(|chunk| chunk.id == BlobId::of(bytes)).ok_or_else(|| {
            CacheError::Wrong("a part of an input is not what its name says: it changed while it was sent".to_owned())
        })?;
        self.write(index, chunk, bytes)?;
        if let Some(entry) = &self.entry {
            entry.came(bytes.len() as u64);
        }
        Ok(())
    }

    /// All is here.
    ///
    /// # Errors
    /// When something is missing, or the system refuses.
    pub fn finish(self) -> Result<Held, CacheError> {
        let missing = self.missing();
        if self.recipe.is_none() || !missing.is_empty() {
            return Err(CacheError::Wrong("a part of an input did not come".to_owned()));
        }
        let (part, path) = (self.shelf.part_path(&self.blob), self.shelf.path(&self.blob));
        let finish = || {
            // A part of an earlier try may be longer.
            self.part.set_len(self.blob.size)?;
            self.part.set_permissions(Permissions::from_mode(0o444))?;
            self.part.set_modified(SystemTime::now() - AGE)?;
            fs::rename(&part, &path)?;
            self.part.metadata()
        };
        let about = finish().map_err(|fault| self.fault(&path, fault))?;
        self.shelf.cache.checked(&path, Stamp::from(&about));
        if let Some(recipe) = self.recipe.as_ref().filter(|recipe| recipe.chunks().len() > 1) {
            self.shelf.cache.chunks(&self.shelf.folder).learn(&path, recipe);
        }
        let Self { shelf, blob, part, .. } = self;
        // With it goes the lock, which would be in the way.
        drop(part);
        let held = shelf.hold(&blob)?;
        held.ok_or_else(|| CacheError::Wrong("an input was removed from the cache while it was written".to_owned()))
    }

    fn chunk(&self, index: u32) -> Option<&Chunk> {
        self.recipe.as_ref()?.chunks().get(index as usize)
    }

    fn write(&self, index: u32, chunk: &Chunk, bytes: &[u8]) -> Result<(), CacheError> {
        let path = self.shelf.part_path(&self.blob);
        self.part.write_all_at(bytes, chunk.at).map_err(|fault| self.fault(&path, fault))?;
        if let Some(have) = self.have.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index as usize) {
            *have = true;
        }
        Ok(())
    }

    /// Takes what the part has already, and what other blobs have.
    fn go_on_with(&mut self, recipe: Recipe) -> Result<(), CacheError> {
        let path = self.shelf.part_path(&self.blob);
        let length = self.part.metadata().map_err(|fault| CacheError::io(&path, fault))?.len();
        let is_here =
            |chunk: &Chunk| chunk.at + u64::from(chunk.size) <= length && read_chunk(&self.part, chunk).is_ok();
        let have: Vec<bool> = recipe.chunks().iter().map(is_here).collect();
        let chunks = recipe.chunks().iter().zip(&have).filter(|(_, have)| **have);
        self.had(chunks.map(|(chunk, _)| u64::from(chunk.size)).sum());
        self.have = Mutex::new(have.clone());
        let several = recipe.chunks().len() > 1;
        self.recipe = Some(recipe);
        if several {
            self.copy_known(&have)?;
        }
        Ok(())
    }

    fn had(&self, bytes: u64) {
        if let Some(entry) = &self.entry {
            entry.had(bytes);
        }
    }

    /// Takes all of it from a file.
    fn keep(mut self, from: &Path, recipe: Recipe) -> Result<(), CacheError> {
        let (part, path) = (self.shelf.part_path(&self.blob), self.shelf.path(&self.blob));
        let several = recipe.chunks().len() > 1;
        if several {
            let list = self.shelf.recipe_path(&self.blob);
            fs::write(&list, recipe.to_bytes()).map_err(|fault| self.fault(&list, fault))?;
        }
        let link = || {
            fs::set_permissions(from, Permissions::from_mode(0o444))?;
            fs::hard_link(from, &path)
        };
        if !self.shelf.cache.is_shared() && link().is_ok() {
            // It is locked, and so nobody's but ours. What the link leads to is checked when it is used.
            let _ = fs::remove_file(&part);
            if several {
                self.shelf.cache.chunks(&self.shelf.folder).learn(&path, &recipe);
            }
            return Ok(());
        }
        let file = File::open(from).map_err(|fault| CacheError::io(from, fault))?;
        self.go_on_with(recipe)?;
        for index in self.missing().into_iter().flat_map(|run| run.0..run.0.saturating_add(run.1)) {
            let Some(chunk) = self.chunk(index).copied() else { continue };
            let bytes = read_chunk(&file, &chunk).map_err(|fault| CacheError::io(from, fault))?;
            self.write(index, &chunk, &bytes)?;
        }
        self.finish().map(drop)
    }

    fn copy_known(&self, have: &[bool]) -> Result<(), CacheError> {
        let known = self.shelf.cache.chunks(&self.shelf.folder);
        let chunks = self.recipe.iter().flat_map(|recipe| recipe.chunks());
        let mut open: Option<(PathBuf, File)> = None;
        for ((index, chunk), _) in (0..).zip(chunks).zip(have).filter(|(_, have)| !**have) {
            let Some((path, at)) = known.find(chunk) else { continue };
            if open.as_ref().is_none_or(|(of, _)| *of != path) {
                // What had to make room meanwhile is asked for.
                open = File::open(&path).ok().map(|file| (path, file));
            }
            let bytes = open.as_ref().and_then(|(_, file)| read_chunk(file, &Chunk { at, ..*chunk }).ok());
            if let Some(bytes) = bytes {
                self.write(index, chunk, &bytes)?;
                self.had(bytes.len() as u64);
            }
        }
        Ok(())
    }

    /// What the system said. Where the disk is full, what has come makes room: nothing is left behind.
    fn fault(&self, path: &Path, fault: io::Error) -> CacheError {
        let fault = CacheError::io(path, fault);
        if let CacheError::DiskFull { folder, .. } = fault {
            for path in [self.shelf.part_path(&self.blob), self.shelf.recipe_path(&self.blob)] {
                // It may not be there at all.
                let _ = fs::remove_file(path);
            }
            return CacheError::DiskFull { folder, size: self.blob.size };
        }
        fault
    }
}

/// Opens a part and locks it; waits while another one has it.
fn lock_part(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let file = options.open(path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        // Who had it may have finished or removed it meanwhile.
        match fs::symlink_metadata(path) {
            Ok(there) if there.ino() == file.metadata()?.ino() => return Ok(file),
            Err(fault) if fault.kind() != ErrorKind::NotFound => return Err(fault),
            _ => {}
        }
    }
}

/// Where chunks are that a new blob may have too.
#[derive(Debug, Default)]
pub(crate) struct Chunks(Mutex<HashMap<BlobId, (Arc<PathBuf>, u64)>>);

impl Chunks {
    /// Those of all blobs in a folder.
    pub(crate) fn read(folder: &Path) -> Self {
        let chunks = Self::default();
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ext| ext == "recipe"))
        {
            // The name need not be checked: what is copied is.
            if let Some(recipe) = fs::read(&path).ok().and_then(|bytes| Recipe::read_unnamed(&bytes).ok()) {
                chunks.learn(&path.with_extension(""), &recipe);
            }
        }
        chunks
    }

    fn learn(&self, path: &Path, recipe: &Recipe) {
        let path = Arc::new(path.to_owned());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in recipe.chunks() {
            if known.len() < KNOWN_CHUNKS {
                known.insert(chunk.id, (Arc::clone(&path), chunk.at));
            }
        }
    }

    fn find(&self, chunk: &Chunk) -> Option<(PathBuf, u64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&chunk.id).map(|(path, at)| (path.as_path().to_owned(), *at))
    }
}
