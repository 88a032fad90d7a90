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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `stream` in pieces of at most `sizes`, and takes out what is whole.
    fn records(stream: &[u8], begin: usize, sizes: &[usize]) -> Vec<Vec<u8>> {
        let (rest, mut stream) = stream.split_at(begin.min(stream.len()));
        let mut inbox = Inbox::new(rest);
        let mut records = Vec::new();
        let mut sizes = sizes.iter().cycle();
        loop {
            while let Some(message) = inbox.next() {
                records.push(inbox.bytes(message).to_vec());
            }
            let space = inbox.space();
            assert!(!space.is_empty());
            let count = space.len().min(stream.len()).min(*sizes.next().unwrap_or(&1));
            if count == 0 {
                return records;
            }
            space[..count].copy_from_slice(&stream[..count]);
            stream = &stream[count..];
            inbox.filled(count);
            assert!(inbox.buffer.len() <= LARGE);
        }
    }

    fn stream(lengths: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let records: Vec<Vec<u8>> = lengths.iter().zip(0..).map(|(length, nth)| vec![nth; *length]).collect();
        let framed = |record: &Vec<u8>| [&u16::try_from(record.len()).unwrap().to_be_bytes()[..], record].concat();
        let stream = records.iter().flat_map(framed).collect();
        (records, stream)
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            lengths in proptest::collection::vec(prop_oneof![0..300_usize, 0..=RECORD_WIRE_BYTES], 0..12),
            begin in 0..1000_usize,
            sizes in proptest::collection::vec(1..300_000_usize, 1..8),
        ) {
            let (expected, stream) = stream(&lengths);
            prop_assert_eq!(records(&stream, begin, &sizes), expected);
        }

        #[test]
        fn anything_is_cut_somehow(bytes in proptest::collection::vec(any::<u8>(), 0..5000), size in 1..5000_usize) {
            let total: usize = records(&bytes, 0, &[size]).iter().map(|record| LENGTH_BYTES + record.len()).sum();
            prop_assert!(total <= bytes.len());
        }
    }

    #[test]
    fn memory_is_given_back() {
        let (expected, stream) = stream(&[RECORD_WIRE_BYTES; 10]);
        assert_eq!(records(&stream, 0, &[1]), expected);
        let mut inbox = Inbox::new(&stream);
        while inbox.next().is_some() {}
        inbox.shrink();
        assert_eq!(inbox.buffer.len(), SMALL);
    }
}
