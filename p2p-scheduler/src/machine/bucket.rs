//! A token bucket: so much at once, so much a second.

use std::time::Duration;

/// Holds up to a burst of tokens, and fills at a rate. Full at first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    filled_at: Duration,
}

impl Bucket {
    pub(crate) fn full(burst: f64) -> Self {
        Self { tokens: burst, filled_at: Duration::ZERO }
    }

    /// Lets what has passed since the last call flow in.
    pub(crate) fn fill(&mut self, at: Duration, per_s: f64, burst: f64) {
        self.tokens = self.level(at, per_s, burst);
        self.filled_at = at;
    }

    /// Tokens that there would be then.
    pub(crate) fn level(&self, at: Duration, per_s: f64, burst: f64) -> f64 {
        let passed = at.saturating_sub(self.filled_at).as_secs_f64();
        (self.tokens + passed * per_s).min(burst)
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self) -> bool {
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// When there is a whole token, if it fills at this rate.
    pub(crate) fn next_at(&self, per_s: f64) -> Duration {
        // A millisecond more than exact, so that rounding never wakes a moment too early.
        let missing = (1.0 - self.tokens).max(0.0) / per_s + 0.001;
        self.filled_at + Duration::from_secs_f64(missing)
    }
}
