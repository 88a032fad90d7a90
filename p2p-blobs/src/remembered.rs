//! Names of files that were read before, kept on disk: a program that is started again for the same large file need not read it again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p2p_proto::blob::{BlobId, Recipe};
use p2p_proto::limits::BLOB_CHUNKS;

/// Smaller files are named in less time than it takes to look.
const LEAST_BYTES: u64 = 8 * 1024 * 1024;
/// Files whose names are kept; then those go that were not asked for longest.
const FILES: usize = 256;
/// A file that was changed less long ago may be changed once more within the same tick of its file system's clock, which is 10 ms at most.
const AT_REST: Duration = Duration::from_secs(2);
/// No list of chunks is longer: each chunk has 36 bytes there.
const RECIPE_BYTES: u64 = BLOB_CHUNKS as u64 * 36;

/// What shows whether a file has been changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Changes when the file is written to, even by who sets the time of modification back.
    changed: (i64, i64),
}

impl Look {
    /// How the file at `path` looks now; blocks.
    ///
    /// # Errors
    /// When it is not there.
    pub fn at(path: &Path) -> io::Result<Self> {
        let about = fs::metadata(path)?;
        Ok(Self {
            device: about.dev(),
            inode: about.ino(),
            size: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        })
    }

    /// The file's size, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a later change would be seen for certain.
    fn is_at_rest(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = |(seconds, _): (i64, i64)| u64::try_from(seconds).ok().and_then(|at| now.as_secs().checked_sub(at));
        // Whole seconds: one more, so that it is at least as long.
        [self.modified, self.changed].into_iter().all(|at| since(at).is_some_and(|s| s > AT_REST.as_secs()))
    }

    fn key(&self) -> BlobId {
        let Self { device, inode, size, modified, changed } = *self;
        BlobId::of(format!("{device} {inode} {size} {modified:?} {changed:?}").as_bytes())
    }
}

/// A folder of names: what each file looked like, and of which chunks it is. Whatever is in it may be removed at any time.
#[derive(Clone, Debug)]
pub struct Remembered {
    folder: PathBuf,
}

impl Remembered {
    /// In this folder, which is made when there is something to keep. It has to be its user's alone: what it says is believed.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The name of a file that looks like this, if it was kept; blocks.
    pub fn find(&self, look: &Look) -> Option<Recipe> {
        if look.size < LEAST_BYTES || !look.is_at_rest(SystemTime::now()) {
            return None;
        }
        let file = File::open(self.path(look)).ok()?;
        let mut bytes = Vec::new();
        (&file).take(RECIPE_BYTES + 1).read_to_end(&mut bytes).ok()?;
        // Cut short, or of another size: it is made anew.
        let recipe = Recipe::read_unnamed(&bytes).ok().filter(|recipe| recipe.name().size == look.size)?;
        // It counts as used; where that cannot be said, it goes sooner.
        let _ = file.set_modified(SystemTime::now());
        Some(recipe)
    }

    /// Keeps the name of a file that looks like this, if it is worth it and safe; blocks.
    ///
    /// # Errors
    /// The system's: then it is not kept.
    pub fn keep(&self, look: &Look, recipe: &Recipe) -> io::Result<()> {
        if look.size < LEAST_BYTES || !look.is_at_rest(SystemTime::now()) {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        self.make_room()?;
        let path = self.path(look);
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .and_then(|mut file| file.write_all(&recipe.to_bytes()))
            .and_then(|()| fs::rename(&beside, &path));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written
    }

    /// Removes those that were not asked for longest, until there is room for one more.
    fn make_room(&self) -> io::Result<()> {
        let kept = fs::read_dir(&self.folder)?.flatten();
        let mut kept: Vec<(SystemTime, PathBuf)> =
            kept.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
        let surplus = (kept.len() + 1).saturating_sub(FILES);
        kept.sort();
        for (_, path) in &kept[..surplus.min(kept.len())] {
            match fs::remove_file(path) {
                Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, look: &Look) -> PathBuf {
        self.folder.join(look.key().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naming::{name_bytes, tests::noise};

    const SIZE: usize = 9_000_000;

    fn look(size: u64, seconds_ago: u64, inode: u64) -> Look {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let at = (i64::try_from(now - seconds_ago).unwrap(), 5);
        Look { device: 1, inode, size, modified: at, changed: at }
    }

    #[test]
    fn a_name_is_found_again_for_a_file_that_looks_the_same_only() {
        let dir = tempfile::tempdir().unwrap();
        let names = Remembered::in_folder(dir.path().join("names"));
        let recipe = name_bytes(&noise(1, SIZE)).unwrap();
        let old = look(SIZE as u64, 60, 1);
        assert_eq!(names.find(&old), None);
        names.keep(&old, &recipe).unwrap();
        assert_eq!(names.find(&old), Some(recipe));
        let changed = Look { changed: (old.changed.0, 6), ..old };
        assert_eq!(names.find(&changed), None);
        fs::write(names.path(&old), b"cut").unwrap();
        assert_eq!(names.find(&old), None);
    }

    #[test]
    fn what_is_small_or_was_changed_just_now_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let names = Remembered::in_folder(dir.path().join("names"));
        let recipe = name_bytes(&noise(1, SIZE)).unwrap();
        for unsafe_ in [look(SIZE as u64, 1, 1), look(1000, 60, 1)] {
            names.keep(&unsafe_, &recipe).unwrap();
            assert_eq!(names.find(&unsafe_), None);
        }
    }

    #[test]
    fn as_many_are_kept_as_there_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let names = Remembered::in_folder(dir.path().to_owned());
        let recipe = name_bytes(&noise(1, SIZE)).unwrap();
        let last = look(SIZE as u64, 60, FILES as u64 + 9);
        for inode in 0..=last.inode {
            names.keep(&Look { inode, ..last }, &recipe).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), FILES);
        assert!(names.find(&last).is_some());
    }
}
