//! The tasks of a client: which wait, which are under way, and how often each was lost (S-04).

use std::collections::{BTreeMap, HashMap, VecDeque};

use p2p_proto::ids::{AttemptId, TaskId};
use p2p_proto::limits;
use p2p_proto::task::TaskSpec;

use super::Needs;
use crate::LinkId;

/// All unfinished tasks.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    tasks: HashMap<TaskId, Task>,
    queues: BTreeMap<Needs, VecDeque<TaskId>>,
    queued: usize,
    next_attempt: u64,
}

#[derive(Debug)]
struct Task {
    spec: TaskSpec,
    place: Place,
    started: bool,
    cancelled: bool,
    losses: u32,
}

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the queue of its needs.
    Queued,
    /// With a worker.
    Attempt {
        /// By which link.
        link: LinkId,
        /// Under which id.
        attempt: AttemptId,
    },
}

/// What becomes of a task whose attempt ended without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It waits for another worker.
    Again,
    /// It was cancelled meanwhile, and is over.
    Cancelled,
    /// It must not or will not be tried again, and is over.
    Final {
        /// Times that it was lost.
        losses: u32,
    },
}

impl Tasks {
    pub(super) fn add(&mut self, id: TaskId, spec: TaskSpec) {
        let needs = Needs::of(&spec);
        let task = Task { spec, place: Place::Queued, started: false, cancelled: false, losses: 0 };
        if self.tasks.insert(id, task).is_none() {
            self.queues.entry(needs).or_default().push_back(id);
            self.queued += 1;
        }
    }

    /// The needs of all tasks that wait.
    pub(super) fn waiting_needs(&self) -> Vec<Needs> {
        self.queues.keys().cloned().collect()
    }

    /// The next task of these needs, and whether it must start only once.
    pub(super) fn front(&self, needs: &Needs) -> Option<(TaskId, bool)> {
        let id = *self.queues.get(needs)?.front()?;
        Some((id, self.tasks.get(&id)?.spec.once))
    }

    /// Takes the front task `id` out of its queue: it is with `link` now.
    pub(super) fn start(&mut self, id: TaskId, link: LinkId) -> (AttemptId, TaskSpec) {
        self.next_attempt += 1;
        let attempt = AttemptId(self.next_attempt);
        let Some(task) = self.tasks.get_mut(&id) else {
            unreachable!("a queued task is known");
        };
        task.place = Place::Attempt { link, attempt };
        task.started = false;
        let spec = task.spec.clone();
        let needs = Needs::of(&spec);
        if let Some(queue) = self.queues.get_mut(&needs) {
            queue.pop_front();
            self.queued -= 1;
            if queue.is_empty() {
                self.queues.remove(&needs);
            }
        }
        (attempt, spec)
    }

    /// The attempt runs. Returns whether that is news about the task's present attempt.
    pub(super) fn on_started(&mut self, id: TaskId, attempt: AttemptId) -> bool {
        match self.current(id, attempt) {
            Some(task) => !std::mem::replace(&mut task.started, true),
            None => false,
        }
    }

    /// The attempt ended. Returns whether that is the task's outcome.
    pub(super) fn on_finished(&mut self, id: TaskId, attempt: AttemptId) -> bool {
        let current = self.current(id, attempt).is_some();
        if current {
            self.tasks.remove(&id);
        }
        current
    }

    /// The attempt's link broke. It counts as a loss only if it ran.
    pub(super) fn on_lost(&mut self, id: TaskId, attempt: AttemptId) -> Lost {
        let Some(task) = self.current(id, attempt) else { return Lost::Cancelled };
        let losses = task.losses + u32::from(task.started);
        // Whether a `--once` task ran is not known: its `Started` may have been lost with the link. Nor can a stream be read twice.
        let never_again = task.spec.once || (task.started && task.spec.stdin);
        if !task.cancelled && (never_again || losses >= limits::LOSSES) {
            let losses = losses.max(1);
            self.tasks.remove(&id);
            return Lost::Final { losses };
        }
        task.losses = losses;
        self.again(id)
    }

    /// The worker handed it back unstarted: that costs nothing.
    pub(super) fn on_returned(&mut self, id: TaskId, attempt: AttemptId) -> Lost {
        if self.current(id, attempt).is_none() {
            return Lost::Cancelled;
        }
        self.again(id)
    }

    /// Marks a task as cancelled, and says where it is.
    pub(super) fn cancel(&mut self, id: TaskId) -> Option<Place> {
        let task = self.tasks.get_mut(&id)?;
        let place = task.place;
        task.cancelled = true;
        if place == Place::Queued {
            let needs = Needs::of(&task.spec);
            self.tasks.remove(&id);
            if let Some(queue) = self.queues.get_mut(&needs) {
                queue.retain(|other| *other != id);
                self.queued -= 1;
                if queue.is_empty() {
                    self.queues.remove(&needs);
                }
            }
        }
        Some(place)
    }

    /// Everything ends.
    pub(super) fn drain(&mut self) -> Vec<TaskId> {
        self.queues.clear();
        self.queued = 0;
        self.tasks.drain().map(|(id, _)| id).collect()
    }

    /// Tasks without an outcome.
    pub(super) fn unfinished(&self) -> usize {
        self.tasks.len()
    }

    /// Tasks that wait.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Tasks that wait and whose needs pass the filter.
    pub(super) fn waiting_for(&self, fits: impl Fn(&Needs) -> bool) -> u32 {
        let count: usize = self.queues.iter().filter(|(needs, _)| fits(needs)).map(|(_, queue)| queue.len()).sum();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The one runtime that all waiting tasks need, if it is one.
    pub(super) fn waiting_runtime(&self) -> Option<String> {
        let mut runtimes = self.queues.keys().map(|needs| &needs.runtime);
        let first = runtimes.next()?;
        runtimes.all(|other| other == first).then(|| first.clone())
    }

    pub(super) fn needs(&self, id: TaskId) -> Option<Needs> {
        self.tasks.get(&id).map(|task| Needs::of(&task.spec))
    }

    fn current(&mut self, id: TaskId, attempt: AttemptId) -> Option<&mut Task> {
        self.tasks
            .get_mut(&id)
            .filter(|task| matches!(task.place, Place::Attempt { attempt: current, .. } if current == attempt))
    }

    fn again(&mut self, id: TaskId) -> Lost {
        let Some(task) = self.tasks.get_mut(&id) else { return Lost::Cancelled };
        if task.cancelled {
            self.tasks.remove(&id);
            return Lost::Cancelled;
        }
        task.place = Place::Queued;
        // Ahead of the others: it has waited already.
        self.queues.entry(Needs::of(&task.spec)).or_default().push_front(id);
        self.queued += 1;
        Lost::Again
    }
}
