//! Counts what a cache was good for, and what is coming in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use p2p_proto::link::item::CacheUse;

/// Of one shelf.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    hits: u64,
    saved: u64,
    fetched: u64,
    coming: HashMap<PathBuf, Coming>,
}

/// A blob that comes in.
#[derive(Debug)]
struct Coming {
    size: u64,
    /// Bytes that were here before.
    had: u64,
    /// Bytes that came since.
    came: u64,
    since: Instant,
}

impl Tally {
    /// A blob was here when it was needed.
    pub(crate) fn hit(&self, size: u64) {
        let mut state = self.lock();
        state.hits += 1;
        state.saved += size;
    }

    /// A blob of `size` bytes comes in at this path, until what comes back is dropped.
    pub(crate) fn begin(self: &Arc<Self>, path: &Path, size: u64) -> Entry {
        let coming = Coming { size, had: 0, came: 0, since: Instant::now() };
        self.lock().coming.insert(path.to_owned(), coming);
        Entry { tally: Arc::clone(self), path: path.to_owned() }
    }

    /// All of it.
    pub(crate) fn read(&self) -> CacheUse {
        let state = self.lock();
        let mut all = CacheUse {
            hits: state.hits,
            saved_bytes: state.saved,
            fetched_bytes: state.fetched,
            coming: u32::try_from(state.coming.len()).unwrap_or(u32::MAX),
            ..CacheUse::default()
        };
        for coming in state.coming.values() {
            all.coming_bytes += coming.size;
            all.coming_done_bytes += coming.had + coming.came;
            all.rate_bytes += (coming.came as f64 / coming.since.elapsed().as_secs_f64().max(1e-3)) as u64;
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob that comes in.
#[derive(Debug)]
pub(crate) struct Entry {
    tally: Arc<Tally>,
    path: PathBuf,
}

impl Entry {
    /// So many bytes of it are here: they came before, or other blobs have them.
    pub(crate) fn had(&self, bytes: u64) {
        let mut state = self.tally.lock();
        state.saved += bytes;
        if let Some(coming) = state.coming.get_mut(&self.path) {
            coming.had += bytes;
        }
    }

    /// So many bytes of it came.
    pub(crate) fn came(&self, bytes: u64) {
        let mut state = self.tally.lock();
        state.fetched += bytes;
        if let Some(coming) = state.coming.get_mut(&self.path) {
            coming.came += bytes;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.tally.lock().coming.remove(&self.path);
    }
}
