//! One timer per peer: it wakes the machine when that asked to be woken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_std::future::timeout;
use event_listener::Event;

use super::Clock;

/// Nothing is due.
const NEVER: u64 = u64::MAX;

/// The moment of the next tick. It may fire too early (a machine does not mind), never too late.
#[derive(Debug)]
pub(crate) struct Timer {
    due_us: AtomicU64,
    earlier: Event,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Self { due_us: AtomicU64::new(NEVER), earlier: Event::new() }
    }

    /// The machine wants to be woken then. Wakes the timer's task only when that is earlier than it knows.
    pub(crate) fn set(&self, at: Option<Duration>) {
        let due = at.map_or(NEVER, |at| u64::try_from(at.as_micros()).unwrap_or(NEVER));
        if self.due_us.fetch_min(due, Ordering::AcqRel) > due {
            self.earlier.notify(1);
        }
    }

    /// Waits for the next tick; afterwards nothing is due until it is set again. One waiter.
    pub(crate) async fn tick(&self, clock: &Clock) {
        loop {
            let earlier = self.earlier.listen();
            let due = self.due_us.load(Ordering::Acquire);
            if due == NEVER {
                earlier.await;
                continue;
            }
            let left = clock.until(Duration::from_micros(due));
            if left.is_zero() || timeout(left, earlier).await.is_err() {
                self.due_us.store(NEVER, Ordering::Release);
                return;
            }
        }
    }
}
