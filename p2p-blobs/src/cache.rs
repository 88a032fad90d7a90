//! What is here, for whom, and whether it is still what its name says.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2p_proto::blob::{BlobId, BlobRef, Recipe};
use p2p_proto::ids::UserName;
use p2p_proto::link::item::CacheUse;
use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::fill::Chunks;
use crate::held::Held;
use crate::naming::read_chunk;
use crate::room::Room;
use crate::tally::Tally;
use crate::turns::{Ahead, Reserve, Turn, Turns};

/// What a cache holds unless it is told otherwise, bytes.
pub const DEFAULT_CAPACITY_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Blobs whose content this process has checked and need not check again, at most.
const STAMPS: usize = 65_536;
/// The shelf of all users together; no user's name begins so.
const SHARED: &str = "+shared";

/// Where a cache is, and how large it may grow.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Its folder; caches of several workers may share one, and its capacity with it.
    pub folder: PathBuf,
    /// Whose friends these are: users of the same name in another realm, such as another board, are others.
    pub realm: String,
    /// Bytes that it takes on disk, at most; what is in use may be more.
    pub capacity: u64,
    /// Whether all users of the realm share what they have sent. Who asks for a blob then learns by the time it takes whether others have it.
    pub shared: bool,
}

/// Why a blob cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It would never fit.
    #[error(
        "an input of {size} bytes is larger than this worker's whole cache, {capacity} bytes: its owner can start it with a larger \
         --cache-size"
    )]
    TooLarge {
        /// Of the blob, bytes.
        size: u64,
        /// Of the cache, bytes.
        capacity: u64,
    },
    /// The disk has no room for it.
    #[error("the disk of this worker that holds {} has no room for {size} bytes; free space there, or use another --cache-dir", folder.display())]
    DiskFull {
        /// Of the cache.
        folder: PathBuf,
        /// What was to be written, bytes.
        size: u64,
    },
    /// The system refused something.
    #[error("the cache in {}: {fault}", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What it said.
        fault: io::Error,
    },
    /// What came is not what its name says.
    #[error("{0}")]
    Wrong(String),
}

impl CacheError {
    /// What the system said about a file; a full disk is told apart.
    pub(crate) fn io(path: &Path, fault: io::Error) -> Self {
        match Errno::from_io_error(&fault) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                Self::DiskFull { folder: path.parent().unwrap_or(path).to_owned(), size: 0 }
            }
            _ => Self::Io { path: path.to_owned(), fault },
        }
    }
}

/// A cache of blobs on disk.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    realm: PathBuf,
    shared: bool,
    pub(crate) turns: Turns,
    pub(crate) reserve: Arc<Reserve>,
    pub(crate) room: Room,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Files as they were when their content was checked.
    stamps: HashMap<PathBuf, Stamp>,
    /// What is in use in this process, and how often.
    pins: HashMap<PathBuf, usize>,
    /// What each shelf was good for.
    tallies: HashMap<PathBuf, Arc<Tally>>,
    /// The chunks of each shelf's blobs, once they were asked for.
    chunks: HashMap<PathBuf, Arc<Chunks>>,
}

/// What shows whether a file has been changed since it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl From<&fs::Metadata> for Stamp {
    fn from(about: &fs::Metadata) -> Self {
        Self { inode: about.ino(), size: about.size(), modified: (about.mtime(), about.mtime_nsec()) }
    }
}

impl Cache {
    /// Opens a cache, or makes one; blocks.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn open(config: CacheConfig) -> io::Result<Arc<Self>> {
        let CacheConfig { folder, realm, capacity, shared } = config;
        let name: String = BlobId::of(realm.as_bytes()).to_string().chars().take(16).collect();
        let realm = folder.join(name);
        private_folder(&realm)?;
        Ok(Arc::new(Self {
            room: Room::new(folder.clone(), capacity),
            folder,
            realm,
            shared,
            turns: Turns::default(),
            // The other half is for what runs.
            reserve: Arc::new(Reserve::new(capacity / 2)),
            state: Mutex::default(),
        }))
    }

    /// The part of the cache that is this user's; blocks.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn shelf(self: &Arc<Self>, user: &UserName) -> Result<Shelf, CacheError> {
        let folder = self.folder_of(user);
        private_folder(&folder).map_err(|fault| CacheError::io(&folder, fault))?;
        Ok(Shelf { cache: Arc::clone(self), tally: self.tally(&folder), folder })
    }

    /// What it was good for so far, for this user.
    pub fn usage(&self, user: &UserName) -> CacheUse {
        self.tally(&self.folder_of(user)).read()
    }

    fn folder_of(&self, user: &UserName) -> PathBuf {
        self.realm.join(if self.shared { SHARED } else { user.as_str() })
    }

    fn tally(&self, shelf: &Path) -> Arc<Tally> {
        Arc::clone(self.state().tallies.entry(shelf.to_owned()).or_default())
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Keeps what is at this path from making room for others, until the pin is dropped.
    pub(crate) fn pin(self: &Arc<Self>, path: &Path) -> Pin {
        *self.state().pins.entry(path.to_owned()).or_insert(0) += 1;
        Pin { cache: Arc::clone(self), path: path.to_owned() }
    }

    pub(crate) fn is_pinned(&self, path: &Path) -> bool {
        self.state().pins.contains_key(path)
    }

    /// The file of this path was checked, and looks like this.
    pub(crate) fn checked(&self, path: &Path, stamp: Stamp) {
        let mut state = self.state();
        if state.stamps.len() >= STAMPS {
            // They are only checked once more.
            state.stamps.clear();
        }
        state.stamps.insert(path.to_owned(), stamp);
    }

    /// Where the chunks of this shelf's blobs are.
    pub(crate) fn chunks(&self, shelf: &Path) -> Arc<Chunks> {
        if let Some(known) = self.state().chunks.get(shelf) {
            return Arc::clone(known);
        }
        let read = Arc::new(Chunks::read(shelf));
        Arc::clone(self.state().chunks.entry(shelf.to_owned()).or_insert(read))
    }

    fn is_checked(&self, path: &Path, stamp: Stamp) -> bool {
        self.state().stamps.get(path) == Some(&stamp)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that is in use.
#[derive(Debug)]
pub(crate) struct Pin {
    cache: Arc<Cache>,
    path: PathBuf,
}

impl Pin {
    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        if let Some(count) = state.pins.get_mut(&self.path) {
            *count -= 1;
            if *count == 0 {
                state.pins.remove(&self.path);
            }
        }
    }
}

/// The blobs of one user, or of all where they share them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shelf {
    pub(crate) cache: Arc<Cache>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) folder: PathBuf,
}

impl Shelf {
    /// The blob, if it is here and is what its name says; one that is not is removed. Blocks: a blob that this process has not seen yet is
    /// read and hashed.
    ///
    /// # Errors
    /// When the system refuses to open it.
    pub fn hold(&self, blob: &BlobRef) -> Result<Option<Held>, CacheError> {
        let path = self.path(blob);
        let pin = self.cache.pin(&path);
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(fault) => return Err(CacheError::io(&path, fault)),
        };
        let about = file.metadata().map_err(|fault| CacheError::io(&path, fault))?;
        let stamp = Stamp::from(&about);
        if !self.cache.is_checked(&path, stamp) {
            if !about.is_file() || stamp.size != blob.size || !self.is_right(blob, &file) {
                log::warn!("{} is not what its name says; it is removed, and asked for again", path.display());
                self.remove(blob).map_err(|fault| CacheError::io(&path, fault))?;
                return Ok(None);
            }
            self.cache.checked(&path, stamp);
        }
        used_now(&file);
        Ok(Some(Held::new(pin, *blob, file)))
    }

    /// Counts a blob that was here when it was needed.
    pub fn count_hit(&self, blob: &BlobRef) {
        self.tally.hit(blob.size);
    }

    /// Waits until nobody else of this process asks for this blob. Cancel-safe.
    pub async fn turn(&self, blob: &BlobRef) -> Turn {
        self.cache.turns.wait(self.path(blob)).await
    }

    /// Waits until these blobs of an attempt that waits for its slot have room beside those of others that do. Cancel-safe.
    pub async fn ahead(&self, blobs: &[BlobRef]) -> Ahead {
        self.cache.reserve.wait(blobs.iter().map(|blob| (self.path(blob), blob.size)).collect()).await
    }

    pub(crate) fn path(&self, blob: &BlobRef) -> PathBuf {
        self.folder.join(blob.id.to_string())
    }

    pub(crate) fn recipe_path(&self, blob: &BlobRef) -> PathBuf {
        self.folder.join(format!("{}.recipe", blob.id))
    }

    pub(crate) fn part_path(&self, blob: &BlobRef) -> PathBuf {
        self.folder.join(format!("{}.part", blob.id))
    }

    /// The list of the blob's chunks, as far as it is here.
    pub(crate) fn recipe(&self, blob: &BlobRef) -> Option<Recipe> {
        Recipe::of_one(blob).or_else(|| Recipe::read(blob, &fs::read(self.recipe_path(blob)).ok()?).ok())
    }

    fn is_right(&self, blob: &BlobRef, file: &File) -> bool {
        let recipe = self.recipe(blob);
        recipe.is_some_and(|recipe| recipe.chunks().iter().all(|chunk| read_chunk(file, chunk).is_ok()))
    }

    fn remove(&self, blob: &BlobRef) -> io::Result<()> {
        for path in [self.path(blob), self.recipe_path(blob)] {
            match fs::remove_file(path) {
                Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Most systems do not write down every access, so this is done by hand.
fn used_now(file: &File) {
    let time = |nanos| Timespec { tv_sec: 0, tv_nsec: nanos };
    let times = Timestamps { last_access: time(UTIME_NOW as _), last_modification: time(UTIME_OMIT as _) };
    if let Err(fault) = rustix::fs::futimens(file, &times) {
        log::debug!("a blob's last use cannot be written down: {fault}");
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
