//! Who asks for a blob, and how much is fetched for attempts that do not run yet.
//!
//! A blob is asked for once, however many attempts wait for it: the others wait for their turn, and then have it. What is fetched ahead
//! must not drive out what was fetched ahead before: attempts that wait for a slot share a part of the cache.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use event_listener::Event;
use futures::lock::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The turn to ask for a blob, until it is dropped.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "it is held, not read")] OwnedMutexGuard<()>);

#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<PathBuf, Weak<AsyncMutex<()>>>>);

impl Turns {
    /// Waits for the turn at the blob of this path. Cancel-safe.
    pub(crate) async fn wait(&self, path: PathBuf) -> Turn {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(&path).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::default();
                    turns.insert(path, Arc::downgrade(&turn));
                    turn
                }
            }
        };
        Turn(turn.lock_owned().await)
    }
}

/// What attempts that wait for a slot may keep in the cache.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// For all together, bytes.
    limit: u64,
    state: Mutex<Reserved>,
    freed: Event,
}

#[derive(Debug, Default)]
struct Reserved {
    /// Each blob once: how many attempts wait with it, and its size.
    blobs: HashMap<PathBuf, (usize, u64)>,
    bytes: u64,
}

impl Reserve {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::default(), freed: Event::new() }
    }

    /// Waits until these blobs, by their paths and sizes, fit in beside those of the others. Cancel-safe.
    pub(crate) async fn wait(self: &Arc<Self>, blobs: Vec<(PathBuf, u64)>) -> Ahead {
        loop {
            let freed = self.freed.listen();
            if self.take(&blobs) {
                return Ahead { reserve: Arc::clone(self), blobs: blobs.into_iter().map(|(path, _)| path).collect() };
            }
            freed.await;
        }
    }

    fn take(&self, blobs: &[(PathBuf, u64)]) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let more: u64 = blobs.iter().filter(|(path, _)| !state.blobs.contains_key(path)).map(|(_, size)| size).sum();
        // One that is larger than all there is goes alone.
        if state.bytes + more > self.limit && state.bytes > 0 {
            return false;
        }
        for (path, size) in blobs {
            let entry = state.blobs.entry(path.clone()).or_insert((0, *size));
            entry.0 += 1;
            if entry.0 == 1 {
                state.bytes += size;
            }
        }
        true
    }
}

/// Room for the blobs of an attempt that waits for its slot, until it is dropped.
#[derive(Debug)]
pub struct Ahead {
    reserve: Arc<Reserve>,
    blobs: Vec<PathBuf>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut state = self.reserve.state.lock().unwrap_or_else(PoisonError::into_inner);
        for path in &self.blobs {
            let Some((count, size)) = state.blobs.get_mut(path) else { continue };
            *count -= 1;
            if *count == 0 {
                let size = *size;
                state.bytes -= size;
                state.blobs.remove(path);
            }
        }
        drop(state);
        self.reserve.freed.notify(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::executor::block_on;

    use super::*;

    fn blob(name: &str, size: u64) -> (PathBuf, u64) {
        (PathBuf::from(name), size)
    }

    #[test]
    fn one_at_a_time_has_the_turn_at_a_blob() {
        let turns = Turns::default();
        let first = block_on(turns.wait("a".into()));
        let mut second = Box::pin(turns.wait("a".into()));
        assert!((&mut second).now_or_never().is_none());
        assert!(turns.wait("b".into()).now_or_never().is_some(), "another blob has a turn of its own");
        drop(first);
        assert!(second.now_or_never().is_some());
        assert!(turns.wait("c".into()).now_or_never().is_some());
        assert_eq!(turns.0.lock().unwrap().len(), 1, "turns that nobody has are forgotten");
    }

    #[test]
    fn what_waits_for_a_slot_shares_its_room_and_counts_each_blob_once() {
        let reserve = Arc::new(Reserve::new(10));
        let first = reserve.wait(vec![blob("a", 6)]).now_or_never().unwrap();
        let again = reserve.wait(vec![blob("a", 6), blob("b", 4)]).now_or_never().unwrap();
        let mut waits = Box::pin(reserve.wait(vec![blob("c", 1)]));
        assert!((&mut waits).now_or_never().is_none());
        drop(first);
        assert!((&mut waits).now_or_never().is_none(), "the other one still has it");
        drop(again);
        let third = waits.now_or_never().unwrap();
        assert!(reserve.wait(vec![blob("huge", 11)]).now_or_never().is_none());
        drop(third);
        assert!(reserve.wait(vec![blob("huge", 11)]).now_or_never().is_some(), "one that never fits goes alone");
    }
}
