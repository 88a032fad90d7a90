//! Both clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::machine::Now;

/// Time since it was made, and the calendar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Now {
        // A calendar before 1970 is a broken clock: certificates will say so.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Now { at: self.0.elapsed(), unix }
    }

    /// The monotonic moment `at` of this clock.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.0 + at
    }
}
