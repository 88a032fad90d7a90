//! Names a file by its content, and reads its chunks again.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use fastcdc::v2020::{FastCDC, StreamCDC};
use p2p_proto::blob::{BlobId, Chunk, Recipe};
use p2p_proto::limits::BLOB_CHUNK_BYTES;

/// No chunk of a cut file but its last is smaller, bytes.
const LEAST_BYTES: usize = BLOB_CHUNK_BYTES / 16;
/// The usual size of a chunk, bytes: a change costs two or three of them, and the list of a gibibyte has 150 kB.
const USUAL_BYTES: usize = BLOB_CHUNK_BYTES / 4;

/// Threads that name one file, at most: it is read from a disk by then.
const THREADS: usize = 4;
/// A thread is worth it for so much of a file, bytes.
const PART_BYTES: u64 = 16 * 1024 * 1024;

/// The recipe of a file's content. One of at most [`BLOB_CHUNK_BYTES`] is one chunk; larger ones are cut by their content (FastCDC), so that a
/// change moves only the cuts around it. Memory is bounded by a few chunks; time is that of reading and hashing it once, by several
/// threads where it is large.
///
/// # Errors
/// When it cannot be read, is empty, or is larger than a blob may be.
pub fn name(path: &Path) -> io::Result<Recipe> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS) as u64;
    name_by(path, file, size / threads.min(size / PART_BYTES).max(1) + 1)
}

/// The same, by a thread for every `part` bytes.
fn name_by(path: &Path, file: File, part: u64) -> io::Result<Recipe> {
    let size = file.metadata()?.len();
    if size <= part {
        return name_reader(file);
    }
    let starts: Vec<u64> = (0..size.div_ceil(part)).map(|nth| nth * part).collect();
    let lists: Vec<io::Result<Vec<Cut>>> = std::thread::scope(|scope| {
        let cutting = starts.iter().map(|&start| scope.spawn(move || cuts(path, start, |end| end >= start + part)));
        // Started all, and then waited for.
        let cutting: Vec<_> = cutting.collect();
        let ended = cutting.into_iter().map(|thread| thread.join());
        ended.map(|list| list.unwrap_or_else(|_| Err(io::Error::other("a file was not cut to its end")))).collect()
    });
    // A list that begins amid the file has other cuts than the whole file's, until both happen to cut at the same place: from there on they
    // are the same, as a cut depends on nothing before the one before it.
    let mut whole: Vec<Cut> = Vec::new();
    for list in lists {
        let list = list?;
        let end = whole.last().map_or(0, Cut::end);
        let meets = |end: u64| end == 0 || list.iter().any(|cut| cut.end() == end);
        if !meets(end) {
            whole.extend(cuts(path, end, meets)?);
        }
        let end = whole.last().map_or(0, Cut::end);
        whole.extend(list.into_iter().filter(|cut| cut.at >= end));
    }
    recipe(whole.into_iter().map(|cut| (cut.id, cut.size)))
}

/// A chunk, and where it was found.
struct Cut {
    at: u64,
    size: u32,
    id: BlobId,
}

impl Cut {
    fn end(&self) -> u64 {
        self.at + u64::from(self.size)
    }
}

/// The chunks of a file from `start` on, up to the first whose end is wanted to be the last.
fn cuts(path: &Path, start: u64, last: impl Fn(u64) -> bool) -> io::Result<Vec<Cut>> {
    let mut file = File::open(path)?;
    file.seek(io::SeekFrom::Start(start))?;
    let mut list = Vec::new();
    for cut in StreamCDC::new(file, LEAST_BYTES, USUAL_BYTES, BLOB_CHUNK_BYTES) {
        let cut = cut.map_err(io::Error::from)?;
        let (id, size) = part(&cut.data);
        let cut = Cut { at: start + cut.offset, size, id };
        let end = cut.end();
        list.push(cut);
        if last(end) {
            break;
        }
    }
    Ok(list)
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
    fn several_threads_cut_as_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        // Where a content has no cuts of its own, the lists of two threads may never meet.
        let plain = [noise(5, 3_500_000), vec![0; 6_300_000], noise(6, 2_000_001)].concat();
        for bytes in [noise(4, 12_000_000), plain, vec![7; 5_000_000]] {
            std::fs::write(&path, &bytes).unwrap();
            let one = name_bytes(&bytes).unwrap();
            for part in [1_500_000, 4_000_000, bytes.len() as u64] {
                assert_eq!(name_by(&path, File::open(&path).unwrap(), part).unwrap(), one, "parts of {part} bytes");
            }
        }
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
