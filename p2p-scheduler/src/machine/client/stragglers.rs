//! Attempts that run far longer than their siblings: copies of them are started elsewhere when nothing else is to do (S-05).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use p2p_proto::ids::{AttemptId, TaskId};

use super::tasks::{ClassId, Tasks};
use crate::machine::Now;

/// An attempt straggles when it has run for so many times as long as its siblings do on average...
const TIMES_LONGER: f64 = 3.0;
/// ...and this much longer still, seconds: below that a copy gains nothing.
const LONGER_S: f64 = 0.25;
/// An attempt that cannot be copied now, or of whose kind too few have ended, is looked at again after this long at the earliest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Attempts that run, as far as their workers said so: short ones end before they do.
#[derive(Debug, Default)]
pub(super) struct Stragglers {
    running: HashMap<AttemptId, Running>,
    /// When to look at each.
    looks: BTreeSet<(Duration, AttemptId)>,
}

#[derive(Debug)]
struct Running {
    task: TaskId,
    since: Duration,
    look_at: Duration,
}

impl Stragglers {
    pub(super) fn on_started(&mut self, now: Now, task: TaskId, attempt: AttemptId, class: ClassId, tasks: &Tasks) {
        let since = now.at;
        let look_at = straggles_at(since, class, tasks).unwrap_or(since + LOOK_AGAIN);
        if self.running.insert(attempt, Running { task, since, look_at }).is_none() {
            self.looks.insert((look_at, attempt));
        }
    }

    pub(super) fn on_ended(&mut self, attempt: AttemptId) {
        if let Some(running) = self.running.remove(&attempt) {
            self.looks.remove(&(running.look_at, attempt));
        }
    }

    /// Those that straggle by now, of which somebody `could` take a copy; the others are looked at again in their time.
    pub(super) fn due(&mut self, now: Now, tasks: &Tasks, could: impl Fn(TaskId, ClassId) -> bool) -> Vec<TaskId> {
        let mut due = Vec::new();
        while let Some((_, attempt)) = self.looks.first().copied().filter(|(at, _)| *at <= now.at) {
            self.looks.pop_first();
            let Some(running) = self.running.get_mut(&attempt) else { continue };
            let Some(class) = tasks.class_of(running.task) else { continue };
            let at = straggles_at(running.since, class, tasks);
            if at.is_some_and(|at| at <= now.at) && could(running.task, class) {
                due.push(running.task);
            }
            // Longer each time: one that runs for a day is not looked at each second.
            let pause = LOOK_AGAIN.max((now.at - running.since) / 2);
            running.look_at = at.unwrap_or_default().max(now.at + pause);
            self.looks.insert((running.look_at, attempt));
        }
        due
    }

    /// Since when it runs, if its worker said so.
    pub(super) fn since(&self, attempt: AttemptId) -> Option<Duration> {
        self.running.get(&attempt).map(|running| running.since)
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.looks.first().map(|(at, _)| *at)
    }

    pub(super) fn clear(&mut self) {
        self.running.clear();
        self.looks.clear();
    }
}

/// When an attempt of this kind that runs since then begins to straggle; `None` while too few have ended to say.
fn straggles_at(since: Duration, class: ClassId, tasks: &Tasks) -> Option<Duration> {
    let mean_us = tasks.classes().mean_ran_us(class)?;
    let after = Duration::try_from_secs_f64(mean_us / 1e6 * TIMES_LONGER + LONGER_S).ok()?;
    since.checked_add(after)
}
