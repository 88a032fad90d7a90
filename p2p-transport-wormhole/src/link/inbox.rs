//! Received bytes, cut into sealed records.

use std::ops::Range;

use p2p_proto::limits::RECORD_WIRE_BYTES;

use super::LENGTH_BYTES;

/// Size of the buffer of an idle link.
const SMALL: usize = 4096;
/// What is read at once at most. More would not fit the caches of a small processor.
const LARGE: usize = 256 * 1024;
/// A whole sealed record.
const WHOLE: usize = LENGTH_BYTES + RECORD_WIRE_BYTES;

/// Bytes that were read and not used yet: `buffer[start..end]`.
///
/// The buffer grows while reads fill it, up to [`LARGE`], and becomes small again by [`Inbox::shrink`].
pub(super) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Begins with `rest`, which arrived before.
    pub(super) fn new(rest: &[u8]) -> Self {
        let mut buffer = rest.to_vec();
        buffer.resize(SMALL.max(rest.len()), 0);
        Self { buffer, start: 0, end: rest.len() }
    }

    /// Takes the next whole record out: where in [`Inbox::bytes`] its message is.
    pub(super) fn next(&mut self) -> Option<Range<usize>> {
        let waiting = &self.buffer[self.start..self.end];
        let length: [u8; LENGTH_BYTES] = waiting.get(..LENGTH_BYTES)?.try_into().ok()?;
        let whole = LENGTH_BYTES + usize::from(u16::from_be_bytes(length));
        if waiting.len() < whole {
            return None;
        }
        let message = self.start + LENGTH_BYTES..self.start + whole;
        self.start += whole;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Some(message)
    }

    /// The bytes behind a range from [`Inbox::next`]; valid until the next [`Inbox::space`] or [`Inbox::shrink`].
    pub(super) fn bytes(&self, message: Range<usize>) -> &[u8] {
        &self.buffer[message]
    }

    /// Where to read to: never empty. Call it only when [`Inbox::next`] has nothing more.
    pub(super) fn space(&mut self) -> &mut [u8] {
        // At most one incomplete record is left: moving it to the front makes room for the rest of it and more.
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        // An incomplete record that nearly fills the buffer needs more.
        if self.end * 2 > self.buffer.len() {
            self.grow();
        }
        &mut self.buffer[self.end..]
    }

    /// Says how many bytes were read to [`Inbox::space`].
    pub(super) fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
        // A read that filled everything says that more is on its way.
        if self.end == self.buffer.len() {
            self.grow();
        }
    }

    /// Gives memory back if nothing waits.
    pub(super) fn shrink(&mut self) {
        if self.start == self.end && self.buffer.len() > SMALL {
            *self = Self::new(&[]);
        }
    }

    fn grow(&mut self) {
        if self.buffer.len() < LARGE {
            let size = (4 * self.buffer.len()).clamp(SMALL, LARGE);
            self.buffer.resize(size, 0);
        }
    }
}

const _: () = assert!(LARGE > 2 * WHOLE);
