//! What tasks print is kept until their turn comes: in memory while there is little of it, beyond that in one file without a name.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

/// What all tasks together keep in memory, bytes.
const MEMORY_BYTES: usize = 32 * 1024 * 1024;
/// What one stream of one task keeps in memory, bytes.
const STREAM_BYTES: usize = 1024 * 1024;
/// What is read from the file at a time, bytes.
pub const PORTION_BYTES: usize = 256 * 1024;

/// The memory and the file of all streams.
#[derive(Debug, Default)]
pub struct Store {
    memory: Cell<usize>,
    /// Pieces in the file that somebody still needs; at none the file is emptied.
    pieces: Cell<usize>,
    end: Cell<u64>,
    file: RefCell<Option<File>>,
}

/// One stream of one task.
#[derive(Debug)]
pub struct Spool {
    store: Rc<Store>,
    /// What came first: place and length in the file.
    written: Vec<(u64, usize)>,
    memory: Vec<u8>,
}

impl Spool {
    /// Nothing yet.
    pub fn new(store: &Rc<Store>) -> Self {
        Self { store: Rc::clone(store), written: Vec::new(), memory: Vec::new() }
    }

    /// Whether nothing came.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.memory.is_empty()
    }

    /// Takes a piece.
    ///
    /// # Errors
    /// When there is no room for a temporary file.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.extend_from_slice(bytes);
        let memory = self.store.memory.get() + bytes.len();
        self.store.memory.set(memory);
        if self.memory.len() > STREAM_BYTES || memory > MEMORY_BYTES { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let store = &self.store;
        let mut file = store.file.borrow_mut();
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        for piece in self.memory.chunks(PORTION_BYTES) {
            file.write_all_at(piece, store.end.get())?;
            self.written.push((store.end.get(), piece.len()));
            store.end.set(store.end.get() + piece.len() as u64);
            store.pieces.set(store.pieces.get() + 1);
        }
        store.memory.set(store.memory.get() - self.memory.len());
        self.memory = Vec::new();
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let store = &self.store;
        store.memory.set(store.memory.get() - self.memory.len());
        self.memory = Vec::new();
        store.pieces.set(store.pieces.get() - self.written.len());
        self.written.clear();
        if store.pieces.get() == 0 && store.end.get() > 0 {
            store.end.set(0);
            if let Some(file) = &*store.file.borrow() {
                // A file that stays long is only a waste of room.
                let _ = file.set_len(0);
            }
        }
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> usize {
        self.written.len() + usize::from(!self.memory.is_empty())
    }

    /// A piece, from 0.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    pub fn piece(&self, index: usize) -> io::Result<Vec<u8>> {
        match self.written.get(index) {
            Some(&(at, length)) => {
                let mut bytes = vec![0; length];
                match &*self.store.file.borrow() {
                    Some(file) => file.read_exact_at(&mut bytes, at).map(|()| bytes),
                    None => Err(io::Error::other("the temporary file is gone")),
                }
            }
            None => Ok(self.memory.clone()),
        }
    }

    /// The last bytes, at most so many.
    pub fn tail(&self, limit: usize) -> Vec<u8> {
        let mut tail = Vec::new();
        for index in (0..self.pieces()).rev() {
            // It is for people: less is better than nothing.
            let mut piece = self.piece(index).unwrap_or_default();
            piece.extend_from_slice(&tail);
            tail = piece;
            if tail.len() >= limit {
                return tail.split_off(tail.len() - limit);
            }
        }
        tail
    }

    /// The first bytes, at most so many, and whether there are more.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    pub fn head(&self, limit: usize) -> io::Result<(Vec<u8>, bool)> {
        let mut head = Vec::new();
        for index in 0..self.pieces() {
            if head.len() > limit {
                break;
            }
            head.extend_from_slice(&self.piece(index)?);
        }
        let more = head.len() > limit;
        head.truncate(limit);
        Ok((head, more))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(spool: &Spool) -> Vec<u8> {
        (0..spool.pieces()).flat_map(|index| spool.piece(index).unwrap()).collect()
    }

    #[test]
    fn much_goes_to_the_file_and_comes_back_in_order() {
        let store = Rc::new(Store::default());
        let (mut one, mut other) = (Spool::new(&store), Spool::new(&store));
        let mut expected = [Vec::new(), Vec::new()];
        for round in 0..60_u8 {
            let bytes = vec![round; 50_000];
            one.push(&bytes).unwrap();
            other.push(&bytes[..10]).unwrap();
            expected[0].extend_from_slice(&bytes);
            expected[1].extend_from_slice(&bytes[..10]);
        }
        assert!(store.pieces.get() > 0 && store.memory.get() < 2 * STREAM_BYTES);
        assert!(all(&one) == expected[0] && all(&other) == expected[1]);
        assert!(one.tail(70_000) == expected[0][expected[0].len() - 70_000..]);
        assert!(one.head(3).unwrap() == (vec![0; 3], true));
        drop(one);
        other.clear();
        assert_eq!((store.memory.get(), store.pieces.get(), store.end.get()), (0, 0, 0));
        assert!(other.is_empty());
    }

    #[test]
    fn many_small_streams_share_the_bound() {
        let store = Rc::new(Store::default());
        let mut spools: Vec<Spool> = (0..100).map(|_| Spool::new(&store)).collect();
        for spool in &mut spools {
            spool.push(&vec![1; 900_000]).unwrap();
            assert!(store.memory.get() <= MEMORY_BYTES);
        }
        assert!(spools.iter().all(|spool| all(spool).len() == 900_000));
    }
}
