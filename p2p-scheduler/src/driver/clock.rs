//! Both clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::machine::Now;

/// Time since it was made, and the calendar.
///
/// Time in which the machine is suspended counts where the system can tell (L-06). Timers do not run meanwhile, and are late by as much: whatever
/// wakes the peer next, a ping or a broken connection within seconds, finds everything due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Moment,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { began: Moment::now() }
    }

    pub(crate) fn now(&self) -> Now {
        // A calendar before 1970 is a broken clock: certificates will say so.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Now { at: self.at(), unix }
    }

    /// How long it is until the moment `at` of this clock.
    pub(crate) fn until(&self, at: Duration) -> Duration {
        at.saturating_sub(self.at())
    }

    fn at(&self) -> Duration {
        self.began.elapsed()
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
use boot::Moment;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use std::time::Instant as Moment;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod boot {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    /// Since the system was started, suspended or not; [`std::time::Instant`] stands still meanwhile.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Moment(Duration);

    impl Moment {
        pub(super) fn now() -> Self {
            let time = clock_gettime(ClockId::Boottime);
            let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
            // The system never says a negative time here.
            Self(Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default()))
        }

        pub(super) fn elapsed(&self) -> Duration {
            Self::now().0.saturating_sub(self.0)
        }
    }
}
