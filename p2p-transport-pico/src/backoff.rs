//! When to try again (B-05): full jitter over a span that doubles, so that thousands who lost a server at the same moment do
//! not come back at the same moment.
#![warn(clippy::disallowed_methods)]

use std::time::Duration;

/// The shortest wait.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// The longest wait: whoever waits for a board is back within 10 s of its return (B-05).
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(6);

/// The waits between tries; `reset` it after a success that lasted.
#[derive(Debug)]
pub(crate) struct Backoff {
    span: Duration,
    state: u64,
}

impl Backoff {
    /// The same seed gives the same waits.
    pub(crate) fn new(seed: u64) -> Self {
        Self { span: BACKOFF_FIRST, state: seed }
    }

    /// The next wait: evenly spread from [`BACKOFF_FIRST`] to a span that doubles up to [`BACKOFF_MAX`].
    pub(crate) fn next(&mut self) -> Duration {
        self.span = (self.span * 2).min(BACKOFF_MAX);
        BACKOFF_FIRST + (self.span - BACKOFF_FIRST).mul_f64(self.fraction())
    }

    /// Starts again with short waits.
    pub(crate) fn reset(&mut self) {
        self.span = BACKOFF_FIRST;
    }

    /// SplitMix64, as a number from 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_their_bounds_and_start_over() {
        let mut backoff = Backoff::new(7);
        let first = backoff.next();
        assert!(first >= BACKOFF_FIRST && first <= BACKOFF_FIRST * 2);
        let waits: Vec<Duration> = (0..1000).map(|_| backoff.next()).collect();
        assert!(waits.iter().all(|wait| (BACKOFF_FIRST..=BACKOFF_MAX).contains(wait)));
        assert!(waits.iter().any(|wait| *wait > BACKOFF_MAX / 2));
        backoff.reset();
        assert!(backoff.next() <= BACKOFF_FIRST * 2);
    }

    #[test]
    fn those_who_fell_together_come_back_apart() {
        let mut waits: Vec<Duration> = (0..100).map(|seed| Backoff::new(seed).next()).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 90);
    }
}
