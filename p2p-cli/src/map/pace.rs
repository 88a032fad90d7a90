//! When tasks are submitted.
//!
//! Usually all at once: what no slot is free for waits at a worker, and starts there as soon as one is. With `--delay` the next one is
//! submitted only when no other waits for its start, and some time after that. With `--halt soon` there are never more than slots, for what
//! waits at a worker would start before that hears that no more should; each slot then has a round trip between two tasks.

use std::time::{Duration, Instant};

/// When the next task may be submitted.
#[derive(Debug)]
pub struct Pace {
    delay: Duration,
    last: Option<Instant>,
}

/// The tasks that were submitted, and what there is for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Tasks without an end.
    pub submitted: usize,
    /// Those of them that are known to run.
    pub running: usize,
    /// How many may run at once, if that is a bound.
    pub places: Option<usize>,
}

/// What may be submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// So many.
    For(usize),
    /// One at this moment, if nothing happens before.
    At(Instant),
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

    /// What may be submitted.
    pub fn room(&self, now: Instant, load: Load) -> Room {
        // The first one makes the client look for workers.
        let free = load.places.map_or(usize::MAX, |places| places.max(1)).saturating_sub(load.submitted);
        if !self.is_slow() || free == 0 {
            return Room::For(free);
        }
        match self.last.map(|last| last + self.delay) {
            _ if load.submitted > load.running => Room::For(0),
            Some(due) if due > now => Room::At(due),
            _ => Room::For(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(submitted: usize, running: usize, places: Option<usize>) -> Load {
        Load { submitted, running, places }
    }

    #[test]
    fn with_a_delay_one_starts_after_the_other() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(Duration::from_millis(100));
        assert_eq!(pace.room(at(0), load(0, 0, None)), Room::For(1));
        assert_eq!(pace.room(at(500), load(1, 0, None)), Room::For(0));
        pace.on_start(at(600));
        let table = [
            (600, load(1, 1, None), Room::At(at(700))),
            (699, load(0, 0, None), Room::At(at(700))),
            (700, load(1, 1, None), Room::For(1)),
            (700, load(2, 1, None), Room::For(0)),
            (700, load(2, 2, Some(2)), Room::For(0)),
            (700, load(2, 2, Some(3)), Room::For(1)),
        ];
        for (now, load, room) in table {
            assert_eq!(pace.room(at(now), load), room, "{now} {load:?}");
        }
    }

    #[test]
    fn without_a_delay_only_places_are_a_bound() {
        let table = [
            (load(7, 3, None), usize::MAX - 7),
            (load(0, 0, Some(0)), 1),
            (load(1, 0, Some(0)), 0),
            (load(1, 0, Some(4)), 3),
            (load(5, 0, Some(4)), 0),
        ];
        for (load, free) in table {
            assert_eq!(Pace::new(Duration::ZERO).room(Instant::now(), load), Room::For(free), "{load:?}");
        }
    }
}
