//! Windows: how far the writer of an attempt's channels may be ahead of their reader. Pure.
//!
//! Each channel has a window of its own, so that a slow reader of one does not hold another one up; all channels of an attempt together
//! have a larger one, because a task may have a thousand files.

use std::collections::HashMap;

use p2p_proto::error::ProtoError;
use p2p_proto::limits::{CHANNEL_WINDOW_BYTES, FILE_BYTES, FILES, VALUE_BYTES};
use p2p_proto::link::item::Channel;

/// What may be under way on all channels of one attempt together, bytes.
const ATTEMPT_WINDOW_BYTES: u64 = 4 * CHANNEL_WINDOW_BYTES;
/// Channels of one attempt, one way: its files, and what it has beside them.
const CHANNELS: usize = FILES + 8;
/// Pieces of one attempt that wait for their reader: each takes room beside its bytes, however few those are.
const PIECES: u64 = 65_536;

/// The writer's side of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Outflow {
    channels: HashMap<Channel, Sent>,
    ahead: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    sent: u64,
    taken: u64,
}

impl Outflow {
    /// Takes room for a piece. Returns `false` when there is none yet.
    pub(crate) fn reserve(&mut self, channel: Channel, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let of = self.channels.entry(channel).or_default();
        let fits = of.sent - of.taken + bytes <= CHANNEL_WINDOW_BYTES && self.ahead + bytes <= ATTEMPT_WINDOW_BYTES;
        if fits {
            of.sent += bytes;
            self.ahead += bytes;
        }
        fits
    }

    /// Whether there is room for the smallest piece.
    pub(crate) fn has_room(&self, channel: Channel) -> bool {
        let ahead = self.channels.get(&channel).map_or(0, |of| of.sent - of.taken);
        ahead < CHANNEL_WINDOW_BYTES && self.ahead < ATTEMPT_WINDOW_BYTES
    }

    /// The reader has taken this many of a channel in all. A peer that claims more than it got gains nothing.
    pub(crate) fn on_taken(&mut self, channel: Channel, bytes: u64) {
        if let Some(of) = self.channels.get_mut(&channel) {
            let taken = of.taken.max(bytes.min(of.sent));
            self.ahead -= taken - of.taken;
            of.taken = taken;
        }
    }
}

/// The reader's side of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Inflow {
    channels: HashMap<Channel, Received>,
    waiting: u64,
    pieces: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Received {
    received: u64,
    taken: u64,
    told: u64,
    ended: bool,
    /// It carries answers only: it is open while one is awaited.
    answers: bool,
}

impl Inflow {
    /// Nothing may come on this channel but what is asked for.
    pub(crate) fn answers_only(&mut self, channel: Channel) {
        let of = self.channels.entry(channel).or_default();
        (of.answers, of.ended) = (true, true);
    }

    /// Something was asked for. Returns `false` where it is no channel of answers, or one is still awaited there.
    pub(crate) fn on_asked(&mut self, channel: Channel) -> bool {
        let of = self.channels.get_mut(&channel).filter(|of| of.answers && of.ended);
        of.is_some_and(|of| {
            of.ended = false;
            true
        })
    }

    /// Whether it carries answers.
    pub(crate) fn is_of_answers(&self, channel: Channel) -> bool {
        self.channels.get(&channel).is_some_and(|of| of.answers)
    }

    /// A piece came. Returns whether it says anything.
    ///
    /// # Errors
    /// When the writer is further ahead than it may be, has too many channels, or goes on after the end of one.
    pub(crate) fn on_received(&mut self, channel: Channel, bytes: usize, end: bool) -> Result<bool, ProtoError> {
        if self.channels.len() >= CHANNELS && !self.channels.contains_key(&channel) {
            let found = self.channels.len() as u64 + 1;
            return Err(ProtoError::Bounds { what: "streams of one attempt", found, limit: CHANNELS as u64 });
        }
        let of = self.channels.entry(channel).or_default();
        if of.ended {
            let what = if of.answers { "data that nobody asked for" } else { "data after the end of its stream" };
            return Err(ProtoError::Malformed(what.to_owned()));
        }
        of.received += bytes as u64;
        of.ended = end;
        self.waiting += bytes as u64;
        self.pieces += 1;
        let (size, limit) = match channel {
            _ if of.answers => (0, 0),
            Channel::Stdin | Channel::Stdout | Channel::Stderr => (0, 0),
            Channel::Payload | Channel::Value => (of.received, VALUE_BYTES),
            Channel::Input(_) | Channel::Output(_) => (of.received, FILE_BYTES),
        };
        let limits = [
            ("data beyond its window", of.received - of.taken, CHANNEL_WINDOW_BYTES),
            ("data beyond its window", self.waiting, ATTEMPT_WINDOW_BYTES),
            ("pieces that wait", self.pieces, PIECES),
            ("the bytes of a file or value", size, limit),
        ];
        for (what, found, limit) in limits {
            if found > limit {
                return Err(ProtoError::Bounds { what, found, limit });
            }
        }
        Ok(bytes > 0 || end)
    }

    /// Whether more than half of what may wait does, on this channel or in all.
    pub(crate) fn is_crowded(&self, channel: Channel) -> bool {
        let waiting = self.channels.get(&channel).map_or(0, |of| of.received - of.taken);
        waiting > CHANNEL_WINDOW_BYTES / 2 || self.waiting > ATTEMPT_WINDOW_BYTES / 2 || self.pieces > PIECES / 2
    }

    /// A piece became part of an earlier one that waits.
    pub(crate) fn on_joined(&mut self) {
        self.pieces = self.pieces.saturating_sub(1);
    }

    /// A piece of a channel, of so many bytes, was put where it belongs. Returns the total to tell the writer, once that is worth a message: a quarter of
    /// the window, or the end of the channel.
    pub(crate) fn on_taken(&mut self, channel: Channel, bytes: u64) -> Option<u64> {
        let of = self.channels.get_mut(&channel)?;
        let taken = (of.taken + bytes).min(of.received);
        self.pieces = self.pieces.saturating_sub(1);
        self.waiting -= taken - of.taken;
        of.taken = taken;
        let all = of.ended && of.taken == of.received;
        if of.told == of.taken || (!all && of.taken - of.told < CHANNEL_WINDOW_BYTES / 4) {
            return None;
        }
        of.told = of.taken;
        Some(of.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Channel = Channel::Stdout;

    #[test]
    fn a_writer_stops_at_the_window_and_goes_on_when_told() {
        let (mut writer, mut reader) = (Outflow::default(), Inflow::default());
        let mut told = None;
        let mut sent = 0;
        while writer.reserve(A, 64 * 1024) {
            assert!(reader.on_received(A, 64 * 1024, false).unwrap());
            sent += 64 * 1024;
        }
        assert_eq!(sent, CHANNEL_WINDOW_BYTES);
        for _ in 0..sent / 1024 {
            told = reader.on_taken(A, 1024).or(told);
        }
        writer.on_taken(A, told.unwrap());
        assert!(writer.reserve(A, 1024 * 1024));
        writer.on_taken(A, u64::MAX);
        writer.on_taken(A, 3);
        assert!(writer.reserve(A, 1024 * 1024), "the past is not forgotten");
        assert!(!writer.reserve(A, 1), "a lie about the future is no permission");
    }

    #[test]
    fn many_small_files_share_one_window_and_are_told_when_taken() {
        let (mut writer, mut reader) = (Outflow::default(), Inflow::default());
        let mut files = 0;
        while writer.reserve(Channel::Output(files), 8000) {
            reader.on_received(Channel::Output(files), 8000, true).unwrap();
            files += 1;
        }
        assert_eq!(u64::from(files), ATTEMPT_WINDOW_BYTES / 8000);
        let total = reader.on_taken(Channel::Output(0), 8000).expect("the end of a file is told");
        writer.on_taken(Channel::Output(0), total);
        assert!(writer.reserve(Channel::Output(files), 8000));
    }

    #[test]
    fn a_writer_that_keeps_no_rule_is_noticed() {
        let window = usize::try_from(CHANNEL_WINDOW_BYTES).unwrap();
        let mut reader = Inflow::default();
        assert!(reader.on_received(A, window + 1, false).is_err());
        let mut reader = Inflow::default();
        for file in 0..4 {
            reader.on_received(Channel::Output(file), window, true).unwrap();
        }
        assert!(reader.on_received(Channel::Output(4), 1, true).is_err());
        let mut reader = Inflow::default();
        for file in 0..u16::try_from(CHANNELS).unwrap() {
            reader.on_received(Channel::Output(file), 0, true).unwrap();
        }
        assert!(reader.on_received(A, 0, true).is_err());
        let mut reader = Inflow::default();
        assert!(!reader.on_received(A, 0, false).unwrap(), "nothing is no event, however often it comes");
        assert!(reader.on_received(A, 0, true).unwrap());
        assert!(reader.on_received(A, 1, true).is_err());
    }

    #[test]
    fn a_reader_bounds_pieces_and_files_whatever_their_writer_does() {
        let mut reader = Inflow::default();
        let mut pieces = 0;
        while reader.on_received(Channel::Stdout, 1, false).is_ok() {
            pieces += 1;
        }
        assert_eq!(pieces, PIECES, "tiny pieces fill memory before they fill the window");
        for (channel, limit) in [(Channel::Output(0), FILE_BYTES), (Channel::Value, VALUE_BYTES)] {
            let mut reader = Inflow::default();
            let mut received = 0;
            while reader.on_received(channel, 64_000, false).is_ok() {
                reader.on_taken(channel, 64_000);
                received += 64_000;
            }
            assert!(received <= limit && received + 64_000 > limit, "{received} bytes of {channel:?} were taken");
        }
    }

    #[test]
    fn a_channel_of_answers_is_open_while_one_is_awaited() {
        let channel = Channel::Input(0);
        let mut reader = Inflow::default();
        assert!(!reader.on_asked(channel), "it carries no answers");
        reader.answers_only(channel);
        assert!(reader.is_of_answers(channel) && !reader.is_of_answers(Channel::Payload));
        let quarter = usize::try_from(CHANNEL_WINDOW_BYTES / 4).unwrap();
        for _ in 0..3 {
            assert!(reader.on_received(channel, 1, false).is_err(), "nobody has asked");
            assert!(reader.on_asked(channel));
            assert!(!reader.on_asked(channel), "one at a time");
            reader.on_received(channel, quarter + 1, false).unwrap();
            assert!(reader.on_taken(channel, quarter as u64 + 1).is_some());
            reader.on_received(channel, 1, true).unwrap();
            assert!(reader.on_taken(channel, 1).is_some(), "the end of an answer is told");
        }
    }
}
