//! Windows: how far the writer of a channel may be ahead of its reader. Pure.

use p2p_proto::error::ProtoError;
use p2p_proto::limits::CHANNEL_WINDOW_BYTES;

/// The writer's side of one channel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SendWindow {
    sent: u64,
    taken: u64,
}

impl SendWindow {
    /// Bytes that may be sent now.
    pub(crate) fn room(&self) -> u64 {
        CHANNEL_WINDOW_BYTES.saturating_sub(self.sent.saturating_sub(self.taken))
    }

    pub(crate) fn on_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// The reader has taken this many in all. A peer that claims more than it got gains nothing.
    pub(crate) fn on_taken(&mut self, bytes: u64) {
        self.taken = self.taken.max(bytes.min(self.sent));
    }
}

/// The reader's side of one channel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReceiveWindow {
    received: u64,
    taken: u64,
    told: u64,
}

impl ReceiveWindow {
    /// Bytes came.
    ///
    /// # Errors
    /// [`ProtoError::Bounds`] when the writer is further ahead than it may be.
    pub(crate) fn on_received(&mut self, bytes: usize) -> Result<(), ProtoError> {
        self.received += bytes as u64;
        let ahead = self.received - self.taken;
        if ahead > CHANNEL_WINDOW_BYTES {
            return Err(ProtoError::Bounds {
                what: "data beyond its window",
                found: ahead,
                limit: CHANNEL_WINDOW_BYTES,
            });
        }
        Ok(())
    }

    /// Bytes were put where they belong. Returns the total to tell the writer, once that is worth a message.
    pub(crate) fn on_taken(&mut self, bytes: u64) -> Option<u64> {
        self.taken = (self.taken + bytes).min(self.received);
        if self.taken - self.told < CHANNEL_WINDOW_BYTES / 4 {
            return None;
        }
        self.told = self.taken;
        Some(self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_stops_at_the_window_and_goes_on_when_told() {
        let (mut writer, mut reader) = (SendWindow::default(), ReceiveWindow::default());
        let mut told = None;
        let mut sent = 0;
        while writer.room() > 0 {
            let piece = writer.room().min(64_000) as usize;
            writer.on_sent(piece);
            reader.on_received(piece).unwrap();
            sent += piece as u64;
        }
        assert_eq!(sent, CHANNEL_WINDOW_BYTES);
        assert!(reader.on_received(1).is_err());
        for _ in 0..sent / 1024 {
            told = reader.on_taken(1024).or(told);
        }
        writer.on_taken(told.unwrap());
        assert_eq!(writer.room(), CHANNEL_WINDOW_BYTES);
        writer.on_taken(u64::MAX);
        assert_eq!(writer.room(), CHANNEL_WINDOW_BYTES, "a lie about the future is no permission");
    }
}
