//! A token bucket: so much at once, so much a second. In whole numbers, so that the moment it names for the next token is exact: neither is
//! there one before, nor is there none then.

use std::time::Duration;

/// What a token is counted in.
const PARTS: u64 = 1_000_000_000;

/// How much a bucket holds, and how fast it fills.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// Tokens that may be taken at once.
    pub(crate) burst: u32,
    /// A token comes so often; more than nothing.
    pub(crate) every: Duration,
}

impl Flow {
    pub(crate) fn per_s(tokens: u32, burst: u32) -> Self {
        Self { burst, every: Duration::from_secs(1) / tokens }
    }
}

/// Holds up to a burst of tokens, and fills at a rate. Full at first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    parts: u64,
    filled_at: Duration,
}

impl Bucket {
    pub(crate) fn full(burst: u32) -> Self {
        Self { parts: u64::from(burst) * PARTS, filled_at: Duration::ZERO }
    }

    /// Lets what has passed since the last call flow in.
    pub(crate) fn fill(&mut self, at: Duration, flow: Flow) {
        self.parts = self.level(at, flow);
        self.filled_at = at;
    }

    /// Whether more than half of a burst would be there then.
    pub(crate) fn is_half_full(&self, at: Duration, flow: Flow) -> bool {
        2 * self.level(at, flow) > u64::from(flow.burst) * PARTS
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self) -> bool {
        let left = self.parts.checked_sub(PARTS);
        self.parts = left.unwrap_or(self.parts);
        left.is_some()
    }

    /// When there is a whole token, if nothing is taken before.
    pub(crate) fn next_at(&self, flow: Flow) -> Duration {
        let missing = u128::from(PARTS.saturating_sub(self.parts));
        let nanos = (missing * flow.every.as_nanos()).div_ceil(u128::from(PARTS));
        self.filled_at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn level(&self, at: Duration, flow: Flow) -> u64 {
        let most = u64::from(flow.burst) * PARTS;
        let passed = at.saturating_sub(self.filled_at).as_nanos();
        let came = passed * u128::from(PARTS) / flow.every.as_nanos().max(1);
        u64::try_from(came).map_or(most, |came| self.parts.saturating_add(came).min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Found by simulation (seeds 30105609 and 30193617): a machine that said a millisecond too late when it was to be woken.
        #[test]
        fn there_is_a_token_when_it_said_and_not_before(
            burst in 1..100u32,
            every_ns in 1..10_000_000_000u64,
            taken in 0..200u32,
            waits in prop::collection::vec(0..20_000_000_000u64, 0..8),
        ) {
            let flow = Flow { burst, every: Duration::from_nanos(every_ns) };
            let mut bucket = Bucket::full(burst);
            for _ in 0..taken {
                bucket.take();
            }
            let mut at = Duration::ZERO;
            for wait in waits {
                at += Duration::from_nanos(wait);
                bucket.fill(at, flow);
                while bucket.take() {}
            }
            let next = bucket.next_at(flow);
            let mut then = bucket;
            then.fill(next, flow);
            prop_assert!(then.take());
            if next > at {
                bucket.fill(next - Duration::from_nanos(1), flow);
                prop_assert!(!bucket.take());
            }
        }
    }
}
