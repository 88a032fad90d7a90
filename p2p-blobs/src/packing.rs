//! Compression on the way, where it pays: zstd, piece by piece, so that each can be read alone.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2p_proto::limits::CHUNK_BYTES;

/// Packed pieces must have at most this part of their bytes, in percent, to be worth the work of both sides.
const WORTH_PERCENT: usize = 90;
/// After a piece that was not worth it so many are sent as they are before the next one is tried; most files are alike throughout.
const SKIP: u32 = 31;
/// The fastest of zstd's ordinary levels: the link is to wait for nobody.
const LEVEL: i32 = 1;
/// So much is packed before it is judged whether that pays: more than windows and buffers hold, before which nobody waits for any link.
const JUDGED_BYTES: u64 = 4 * 1024 * 1024;

/// Packs the pieces of one blob, as long as that pays.
#[derive(Debug, Default)]
pub struct Packer {
    skip: u32,
}

impl Packer {
    /// The piece packed, at most [`CHUNK_BYTES`] of it; `None` where it is to be sent as it is.
    pub fn pack(&mut self, piece: &[u8]) -> Option<Vec<u8>> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let packed = zstd::bulk::compress(piece, LEVEL).ok();
        let packed = packed.filter(|packed| packed.len() * 100 <= piece.len() * WORTH_PERCENT);
        if packed.is_none() {
            self.skip = SKIP;
        }
        packed
    }
}

/// Whether packing is worth its time for one receiver: not where it takes longer than the link lets one wait. Whoever packs and sends says how long each took.
#[derive(Debug, Default)]
pub struct Worth {
    packed_bytes: AtomicU64,
    packing_us: AtomicU64,
    waited_us: AtomicU64,
}

impl Worth {
    /// Whether the next pieces are to be packed.
    pub fn pays(&self) -> bool {
        self.packed_bytes.load(Ordering::Relaxed) < JUDGED_BYTES
            || self.packing_us.load(Ordering::Relaxed) <= self.waited_us.load(Ordering::Relaxed)
    }

    /// So many bytes were packed, or tried, in this time.
    pub fn on_packed(&self, bytes: usize, took: Duration) {
        self.packed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        add(&self.packing_us, took);
    }

    /// The link made the sender wait for so long.
    pub fn on_waited(&self, waited: Duration) {
        add(&self.waited_us, waited);
    }
}

fn add(total_us: &AtomicU64, time: Duration) {
    total_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// A piece as it was before it was packed.
///
/// # Errors
/// Where it is no zstd frame of at most [`CHUNK_BYTES`].
pub fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::decompress(packed, CHUNK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::super::naming::tests::noise;
    use super::*;

    #[test]
    fn what_shrinks_is_packed_and_comes_back() {
        let text = b"one line like another\n".repeat(2000);
        let mut packer = Packer::default();
        for _ in 0..3 {
            let packed = packer.pack(&text).unwrap();
            assert!(packed.len() < text.len() / 10);
            assert_eq!(unpack(&packed).unwrap(), text);
        }
    }

    #[test]
    fn noise_is_tried_now_and_then_and_sent_as_it_is() {
        let (noise, text) = (noise(1, CHUNK_BYTES), vec![b'x'; CHUNK_BYTES]);
        let mut packer = Packer::default();
        assert_eq!(packer.pack(&noise), None);
        let waited = (0..100).take_while(|_| packer.pack(&text).is_none()).count();
        assert_eq!(waited, SKIP as usize);
    }

    #[test]
    fn packing_pays_only_where_the_link_is_slower_than_it() {
        let (worth, second) = (Worth::default(), Duration::from_secs(1));
        worth.on_packed(usize::try_from(JUDGED_BYTES).unwrap() - 1, second);
        assert!(worth.pays(), "too early to say");
        worth.on_packed(1, second);
        assert!(!worth.pays(), "nobody waited");
        worth.on_waited(2 * second);
        assert!(worth.pays());
    }

    #[test]
    fn a_frame_that_would_grow_beyond_its_bound_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; CHUNK_BYTES + 1], LEVEL).unwrap();
        assert!(unpack(&bomb).is_err());
        assert!(unpack(b"no frame").is_err());
        assert_eq!(unpack(&zstd::bulk::compress(&vec![0; CHUNK_BYTES], LEVEL).unwrap()).unwrap().len(), CHUNK_BYTES);
    }
}
