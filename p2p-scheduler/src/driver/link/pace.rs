//! How much is handed to a connection at once: much to a fast one, and little to a slow one, where control would wait behind it (L-04).

use std::time::Duration;

/// The most that is gathered for one write, bytes: more makes nothing faster, and the peer can read while more is sealed.
const MOST_BYTES: usize = 256 * 1024;
/// The least: a part of one record.
const LEAST_BYTES: usize = 16 * 1024;
/// What one write may take of the connection's time. What becomes urgent meanwhile waits that long.
const WRITE_TIME: Duration = Duration::from_millis(5);

/// The size of the next write over one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    bytes: usize,
}

impl Pace {
    /// Of a connection about which nothing is known.
    pub(super) fn new() -> Self {
        Self { bytes: LEAST_BYTES }
    }

    /// So many bytes are gathered before the next write.
    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// The connection took a write of that size, and was ready for the next after this time.
    pub(super) fn on_written(&mut self, took: Duration) {
        self.bytes = if took < WRITE_TIME / 2 {
            (self.bytes * 2).min(MOST_BYTES)
        } else if took > WRITE_TIME {
            (self.bytes / 2).max(LEAST_BYTES)
        } else {
            self.bytes
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of a write after many over a line of this speed.
    fn settled(bytes_per_s: f64) -> usize {
        let mut pace = Pace::new();
        for _ in 0..20 {
            pace.on_written(Duration::from_secs_f64(pace.bytes() as f64 / bytes_per_s));
        }
        pace.bytes()
    }

    #[test]
    fn a_slow_line_gets_little_at_once_and_a_fast_one_much() {
        assert_eq!(settled(1.25e6), LEAST_BYTES);
        assert_eq!(settled(500e6), MOST_BYTES);
        let between = settled(12.5e6);
        assert!((LEAST_BYTES..=64 * 1024).contains(&between), "{between}");
    }
}
