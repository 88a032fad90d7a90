//! Blobs: immutable bytes, named by what is in them, so that a worker that has one is not sent it again (D-01).
//!
//! A blob is a list of chunks. One of a single chunk is named by the BLAKE3 hash of its bytes; one of several by the hash of its
//! [`Recipe`], the list of their hashes and sizes: whoever has the name can check the list, and whoever has the list can check each
//! chunk, in any order, by one pass over its bytes. Where to cut is the sender's choice; who cuts by content sends of a changed file only
//! what changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::ProtoError;
use crate::limits::{BLOB_CHUNK_BYTES, BLOB_CHUNKS, FILE_BYTES};

/// Bytes of one chunk in the encoding of a [`Recipe`]: its size, little-endian, and its hash.
const ENTRY_BYTES: usize = 4 + HASH_BYTES;
const HASH_BYTES: usize = 32;
/// Keeps the names of recipes apart from those of bytes (BLAKE3's key derivation mode, as its specification recommends for that).
const RECIPE_CONTEXT: &str = "future.p2p 2026-11-27 the list of a blob's chunks";

/// The name of a blob or of a chunk: a BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobId(#[serde(with = "serde_bytes")] pub [u8; HASH_BYTES]);

impl BlobId {
    /// The name of a blob of one chunk, and of a chunk.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

/// Names a blob, and says what to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobRef {
    /// Of its bytes where it has one chunk, else of its recipe.
    #[serde(rename = "h")]
    pub id: BlobId,
    /// Bytes, at most [`FILE_BYTES`].
    #[serde(rename = "n")]
    pub size: u64,
    /// How many chunks it has, at least one and at most [`BLOB_CHUNKS`].
    #[serde(rename = "k")]
    pub chunks: u32,
}

impl BlobRef {
    /// Whether a blob can be so: a name that came from a peer is checked before anything is done about it.
    ///
    /// # Errors
    /// [`ProtoError::Bounds`] for a size or a number of chunks beyond its limit, [`ProtoError::Malformed`] where they do not fit together.
    pub fn check(&self) -> Result<(), ProtoError> {
        let chunks = u64::from(self.chunks);
        for (what, found, limit) in
            [("the bytes of a blob", self.size, FILE_BYTES), ("the chunks of a blob", chunks, BLOB_CHUNKS as u64)]
        {
            if found > limit {
                return Err(ProtoError::Bounds { what, found, limit });
            }
        }
        if chunks == 0 || self.size < chunks || self.size > chunks * BLOB_CHUNK_BYTES as u64 {
            return Err(ProtoError::malformed("a blob whose size and number of chunks do not fit together"));
        }
        Ok(())
    }

    /// Bytes of its recipe's encoding; none where there is one chunk, which needs no list.
    pub fn recipe_bytes(&self) -> usize {
        if self.chunks > 1 { self.chunks as usize * ENTRY_BYTES } else { 0 }
    }
}

/// A part of a blob that is stored, sent and checked as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The hash of its bytes.
    pub id: BlobId,
    /// Where it begins in the blob.
    pub at: u64,
    /// At least 1 and at most [`BLOB_CHUNK_BYTES`].
    pub size: u32,
}

/// The chunks of a blob, in order and without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    chunks: Vec<Chunk>,
    size: u64,
}

impl Recipe {
    /// A blob of these chunks: their hashes and sizes.
    ///
    /// # Errors
    /// Where there is none, there are more than [`BLOB_CHUNKS`], or one is empty or over [`BLOB_CHUNK_BYTES`].
    pub fn new(parts: impl IntoIterator<Item = (BlobId, u32)>) -> Result<Self, ProtoError> {
        let mut recipe = Self { chunks: Vec::new(), size: 0 };
        for (id, size) in parts {
            if size == 0 || size as usize > BLOB_CHUNK_BYTES {
                return Err(ProtoError::bounds("the bytes of a chunk", size as usize, BLOB_CHUNK_BYTES));
            }
            if recipe.chunks.len() >= BLOB_CHUNKS {
                return Err(ProtoError::bounds("the chunks of a blob", recipe.chunks.len() + 1, BLOB_CHUNKS));
            }
            recipe.chunks.push(Chunk { id, at: recipe.size, size });
            recipe.size += u64::from(size);
        }
        if recipe.chunks.is_empty() {
            return Err(ProtoError::malformed("a blob without chunks"));
        }
        Ok(recipe)
    }

    /// The recipe of a blob of one chunk, which its name says already; `None` for others.
    pub fn of_one(blob: &BlobRef) -> Option<Self> {
        let size = u32::try_from(blob.size).ok().filter(|_| blob.chunks == 1)?;
        Self::new([(blob.id, size)]).ok()
    }

    /// Reads the recipe of `blob`, as [`Recipe::to_bytes`] wrote it.
    ///
    /// # Errors
    /// Where it is not the one that the blob's name stands for.
    pub fn read(blob: &BlobRef, bytes: &[u8]) -> Result<Self, ProtoError> {
        blob.check()?;
        if bytes.len() != blob.recipe_bytes() {
            return Err(ProtoError::malformed("a list of chunks of another length than the blob's"));
        }
        let recipe = Self::read_unnamed(bytes)?;
        if recipe.name() != *blob {
            return Err(ProtoError::malformed("a list of chunks of another blob"));
        }
        Ok(recipe)
    }

    /// The same where it does not matter of which blob.
    ///
    /// # Errors
    /// Where it is no recipe.
    pub fn read_unnamed(bytes: &[u8]) -> Result<Self, ProtoError> {
        let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(ProtoError::malformed("a list of chunks that is cut short"));
        }
        Self::new(entries.iter().map(|entry| {
            let (mut size, mut id) = ([0; 4], [0; HASH_BYTES]);
            size.copy_from_slice(&entry[..4]);
            id.copy_from_slice(&entry[4..]);
            (BlobId(id), u32::from_le_bytes(size))
        }))
    }

    /// What the name of a blob of several chunks is made of: of each chunk its size, four bytes little-endian, and its hash.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.chunks.len() * ENTRY_BYTES);
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.size.to_le_bytes());
            bytes.extend_from_slice(&chunk.id.0);
        }
        bytes
    }

    /// The blob's name.
    pub fn name(&self) -> BlobRef {
        let id = match &self.chunks[..] {
            [one] => one.id,
            _ => {
                let mut hasher = blake3::Hasher::new_derive_key(RECIPE_CONTEXT);
                hasher.update(&self.to_bytes());
                BlobId(*hasher.finalize().as_bytes())
            }
        };
        BlobRef { id, size: self.size, chunks: u32::try_from(self.chunks.len()).unwrap_or(u32::MAX) }
    }

    /// Its chunks, in order.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

/// What a worker asks for of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The list of its chunks.
    #[serde(rename = "r")]
    Recipe,
    /// These of its chunks, at most [`crate::limits::FETCH_RUNS`] runs of them.
    #[serde(rename = "c")]
    Chunks(Vec<Run>),
}

/// Neighbouring chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run(
    /// The index of the first one.
    pub u32,
    /// How many.
    pub u32,
);

impl Run {
    /// Puts neighbours among ascending indices together.
    pub fn gather(indices: impl IntoIterator<Item = u32>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for index in indices {
            match runs.last_mut() {
                Some(last) if last.0 + last.1 == index => last.1 += 1,
                _ => runs.push(Self(index, 1)),
            }
        }
        runs
    }

    /// Its indices, none at or beyond `end`.
    pub fn indices(self, end: usize) -> std::ops::Range<usize> {
        let from = (self.0 as usize).min(end);
        from..from.saturating_add(self.1 as usize).min(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(byte: u8, size: u32) -> (BlobId, u32) {
        (BlobId::of(&vec![byte; size as usize]), size)
    }

    #[test]
    fn a_recipe_is_read_only_under_its_name() {
        let recipe = Recipe::new([chunk(1, 5), chunk(2, 7)]).unwrap();
        let (blob, bytes) = (recipe.name(), recipe.to_bytes());
        assert_eq!((blob.size, blob.chunks, bytes.len()), (12, 2, blob.recipe_bytes()));
        assert_eq!(Recipe::read(&blob, &bytes), Ok(recipe.clone()));
        assert_eq!(recipe.chunks()[1].at, 5);
        let mut other = bytes.clone();
        other[10] ^= 1;
        for (blob, bytes) in [
            (blob, &other[..]),
            (blob, &bytes[1..]),
            (blob, &bytes[..ENTRY_BYTES]),
            (BlobRef { size: 11, ..blob }, &bytes),
            (BlobRef { chunks: 1, ..blob }, &bytes),
            (BlobRef { id: BlobId::of(&bytes), ..blob }, &bytes),
        ] {
            assert!(Recipe::read(&blob, bytes).is_err(), "{blob:?} took {} bytes", bytes.len());
        }
    }

    #[test]
    fn one_chunk_is_named_by_its_bytes_and_needs_no_list() {
        let recipe = Recipe::new([chunk(3, 100)]).unwrap();
        let blob = recipe.name();
        assert_eq!((blob.id, blob.recipe_bytes()), (BlobId::of(&[3; 100]), 0));
        assert_eq!(Recipe::of_one(&blob), Some(recipe));
        assert_eq!(Recipe::of_one(&BlobRef { chunks: 2, ..blob }), None);
    }

    #[test]
    fn blobs_keep_their_bounds() {
        let id = BlobId::of(b"");
        let most = BLOB_CHUNK_BYTES as u64;
        let chunks = u32::try_from(BLOB_CHUNKS).unwrap();
        for (size, chunks, good) in [
            (1, 1, true),
            (most, 1, true),
            (FILE_BYTES, chunks, true),
            (0, 1, false),
            (most + 1, 1, false),
            (1, 2, false),
            (1, 0, false),
            (FILE_BYTES + 1, chunks, false),
            (FILE_BYTES, chunks + 1, false),
        ] {
            assert_eq!(BlobRef { id, size, chunks }.check().is_ok(), good, "{size} bytes in {chunks} chunks");
        }
        assert!(Recipe::new([]).is_err());
        assert!(Recipe::new([(id, 0)]).is_err());
        assert!(Recipe::new([(id, u32::try_from(BLOB_CHUNK_BYTES).unwrap() + 1)]).is_err());
        assert!(Recipe::new(std::iter::repeat_n((id, 1), BLOB_CHUNKS + 1)).is_err());
    }

    #[test]
    fn runs_are_neighbours_within_the_blob() {
        let runs = Run::gather([0, 1, 2, 5, 7, 8]);
        assert_eq!(runs, [Run(0, 3), Run(5, 1), Run(7, 2)]);
        let indices: Vec<_> = runs.iter().flat_map(|run| run.indices(8)).collect();
        assert_eq!(indices, [0, 1, 2, 5, 7]);
        assert_eq!(Run(u32::MAX, u32::MAX).indices(3), 3..3);
    }
}
