//! `--delay`: one start after the other, with a pause between.
//!
//! A task that was submitted starts when a slot is free for it. So the next one is submitted only when no other waits for its start.

use std::time::{Duration, Instant};

/// When the next task may be submitted.
#[derive(Debug)]
pub struct Pace {
    delay: Duration,
    last: Option<Instant>,
}

/// What may be submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// As many as there are.
    All,
    /// One.
    One,
    /// One at this moment, if nothing happens before.
    At(Instant),
    /// None before another one has started.
    None,
}

impl Pace {
    /// No pause if `delay` is zero.
    pub fn new(delay: Duration) -> Self {
        Self { delay, last: None }
    }

    /// Whether there is any pause.
    pub fn is_slow(&self) -> bool {
        !self.delay.is_zero()
    }

    /// A task started at `now`.
    pub fn on_start(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// What may be submitted while so many submitted tasks wait for their start.
    pub fn room(&self, now: Instant, waiting: usize) -> Room {
        match self.last.map(|last| last + self.delay) {
            _ if !self.is_slow() => Room::All,
            _ if waiting > 0 => Room::None,
            Some(due) if due > now => Room::At(due),
            _ => Room::One,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_starts_after_the_other() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(Pace::new(Duration::ZERO).room(start, 7), Room::All);
        let mut pace = Pace::new(Duration::from_millis(100));
        assert_eq!(pace.room(at(0), 0), Room::One);
        assert_eq!(pace.room(at(500), 1), Room::None);
        pace.on_start(at(600));
        for (now, waiting, room) in
            [(600, 0, Room::At(at(700))), (699, 0, Room::At(at(700))), (700, 0, Room::One), (800, 1, Room::None)]
        {
            assert_eq!(pace.room(at(now), waiting), room, "{now}");
        }
    }
}
