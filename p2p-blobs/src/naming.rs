//! Names a file by its content, and reads its chunks again.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use fastcdc::v2020::{FastCDC, StreamCDC};
use p2p_proto::blob::{BlobId, Chunk, Recipe};
use p2p_proto::limits::BLOB_CHUNK_BYTES;

/// No chunk of a cut file but its last is smaller, bytes.
const LEAST_BYTES: usize = BLOB_CHUNK_BYTES / 16;
/// The usual size of a chunk, bytes: a change costs two or three of them, and the list of a gibibyte has 150 kB.
const USUAL_BYTES: usize = BLOB_CHUNK_BYTES / 4;

/// The recipe of a file's content. One of at most [`BLOB_CHUNK_BYTES`] is one chunk; larger ones are cut by their content (FastCDC), so that a
/// change moves only the cuts around it. Memory is bounded by a few chunks; time is that of reading and hashing it once.
///
/// # Errors
/// When it cannot be read, is empty, or is larger than a blob may be.
pub fn name(path: &Path) -> io::Result<Recipe> {
    name_reader(File::open(path)?)
}

/// The same of what a reader has.
pub(crate) fn name_reader(mut from: impl Read) -> io::Result<Recipe> {
    let mut start = Vec::new();
    let whole = from.by_ref().take(BLOB_CHUNK_BYTES as u64 + 1).read_to_end(&mut start)? <= BLOB_CHUNK_BYTES;
    if whole {
        return recipe([part(&start)]);
    }
    let rest = io::Cursor::new(start).chain(from);
    let mut parts = Vec::new();
    for cut in StreamCDC::new(rest, LEAST_BYTES, USUAL_BYTES, BLOB_CHUNK_BYTES) {
        parts.push(part(&cut.map_err(io::Error::from)?.data));
    }
    recipe(parts)
}

/// The same of bytes in memory: a file of these bytes has the same name.
///
/// # Errors
/// When there are none, or more than a blob may have.
pub fn name_bytes(bytes: &[u8]) -> io::Result<Recipe> {
    if bytes.len() <= BLOB_CHUNK_BYTES {
        return recipe([part(bytes)]);
    }
    let cuts = FastCDC::new(bytes, LEAST_BYTES, USUAL_BYTES, BLOB_CHUNK_BYTES);
    recipe(cuts.map(|cut| part(&bytes[cut.offset..cut.offset + cut.length])))
}

/// Reads a chunk, and checks that it is what its name says.
///
/// # Errors
/// When it cannot be read, or the file has changed.
pub fn read_chunk(file: &File, chunk: &Chunk) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; chunk.size as usize];
    file.read_exact_at(&mut bytes, chunk.at).map_err(|fault| match fault.kind() {
        io::ErrorKind::UnexpectedEof => changed(),
        _ => fault,
    })?;
    if BlobId::of(&bytes) == chunk.id { Ok(bytes) } else { Err(changed()) }
}

pub(crate) fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it has changed since it was read first")
}

fn part(bytes: &[u8]) -> (BlobId, u32) {
    (BlobId::of(bytes), u32::try_from(bytes.len()).unwrap_or(u32::MAX))
}

fn recipe(parts: impl IntoIterator<Item = (BlobId, u32)>) -> io::Result<Recipe> {
    Recipe::new(parts).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bytes without patterns, the same for the same seed.
    pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(&mut next).take(size.div_ceil(8)).flatten().take(size).collect()
    }

    /// Name, bytes and chunks. The first is BLAKE3's own of `abc`.
    const GOLDEN: [(&str, u64, u32); 2] = [
        ("6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85", 3, 1),
        ("333a5e67a67cf59da85b665d7dd9699cd697f504c288ba9062e75e8ee88f9ec3", 9_000_000, 30),
    ];

    fn ids(recipe: &Recipe) -> std::collections::HashSet<BlobId> {
        recipe.chunks().iter().map(|chunk| chunk.id).collect()
    }

    #[test]
    fn a_file_and_its_bytes_have_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (size, chunks) in [(1, 1..2), (BLOB_CHUNK_BYTES, 1..2), (BLOB_CHUNK_BYTES + 1, 2..20), (9_000_000, 9..140)]
        {
            let bytes = noise(1, size);
            std::fs::write(&path, &bytes).unwrap();
            let recipe = name(&path).unwrap();
            assert_eq!(recipe, name_bytes(&bytes).unwrap());
            assert!(chunks.contains(&recipe.chunks().len()), "{size} bytes have {} chunks", recipe.chunks().len());
            let file = File::open(&path).unwrap();
            let read: Vec<_> = recipe.chunks().iter().flat_map(|chunk| read_chunk(&file, chunk).unwrap()).collect();
            assert!(read == bytes);
        }
        assert!(name_bytes(&[]).is_err());
    }

    #[test]
    fn bytes_in_the_middle_change_the_chunks_around_them_only() {
        let mut bytes = noise(2, 20_000_000);
        let before = name_bytes(&bytes).unwrap();
        bytes.splice(10_000_000..10_000_000, noise(3, 1_000_000));
        let after = name_bytes(&bytes).unwrap();
        let known = ids(&before);
        let new: u64 = after.chunks().iter().filter(|c| !known.contains(&c.id)).map(|c| u64::from(c.size)).sum();
        assert!(new < 1_000_000 + 3 * BLOB_CHUNK_BYTES as u64, "{new} bytes would be sent");
    }

    /// A new version that names files in another way would send all of them again.
    #[test]
    fn names_stay_the_same() {
        let named = |bytes: &[u8]| {
            let name = name_bytes(bytes).unwrap().name();
            (name.id.to_string(), name.size, name.chunks)
        };
        let [small, large] = GOLDEN;
        assert_eq!(named(b"abc"), (small.0.to_owned(), small.1, small.2));
        assert_eq!(named(&noise(1, 9_000_000)), (large.0.to_owned(), large.1, large.2));
    }

    #[test]
    fn a_file_that_changed_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"before").unwrap();
        let recipe = name(&path).unwrap();
        for after in [&b"affter"[..], b"be"] {
            std::fs::write(&path, after).unwrap();
            let fault = read_chunk(&File::open(&path).unwrap(), &recipe.chunks()[0]).unwrap_err();
            assert!(fault.to_string().contains("has changed"), "{fault}");
        }
    }
}
