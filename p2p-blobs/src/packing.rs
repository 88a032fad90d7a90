//! Compression on the way, where it pays: zstd, piece by piece, so that each can be read alone.

use std::io;

use p2p_proto::limits::CHUNK_BYTES;

/// Packed pieces must have at most this part of their bytes, in percent, to be worth the work of both sides.
const WORTH_PERCENT: usize = 90;
/// After a piece that was not worth it so many are sent as they are before the next one is tried; most files are alike throughout.
const SKIP: u32 = 31;
/// The fastest of zstd's ordinary levels: the link is to wait for nobody.
const LEVEL: i32 = 1;

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
    fn a_frame_that_would_grow_beyond_its_bound_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; CHUNK_BYTES + 1], LEVEL).unwrap();
        assert!(unpack(&bomb).is_err());
        assert!(unpack(b"no frame").is_err());
        assert_eq!(unpack(&zstd::bulk::compress(&vec![0; CHUNK_BYTES], LEVEL).unwrap()).unwrap().len(), CHUNK_BYTES);
    }
}
