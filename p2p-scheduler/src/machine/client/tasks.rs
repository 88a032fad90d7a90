//! The tasks of a client: which wait, which are under way, and how often each was lost (S-04).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use p2p_proto::ids::{AttemptId, TaskId};
use p2p_proto::limits;
use p2p_proto::task::TaskSpec;

use super::Needs;
use crate::LinkId;

/// Tasks with the same [`Needs`] are one class and wait in one queue; this is its number. There are as many as a program has kinds of
/// tasks, and they stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ClassId(pub(super) usize);

/// All unfinished tasks.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    tasks: HashMap<TaskId, Task>,
    classes: Vec<Class>,
    by_needs: HashMap<Needs, ClassId>,
    /// Classes of which tasks wait.
    waiting: BTreeSet<ClassId>,
    queued: usize,
    next_attempt: u64,
}

#[derive(Debug)]
struct Class {
    needs: Needs,
    /// Those that wait, and some that were cancelled: they are skipped when their turn comes.
    queue: VecDeque<TaskId>,
    /// Those in `queue` that do wait.
    waiting: usize,
    unfinished: usize,
}

#[derive(Debug)]
struct Task {
    spec: TaskSpec,
    class: ClassId,
    place: Place,
    started: bool,
    cancelled: bool,
    losses: u32,
    /// Times that it was lost when it may have run, without a word from its worker.
    silent_losses: u32,
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

/// Silent losses of a task before it is given up.
const SILENT_LOSSES: u32 = 10;
/// Cancelled tasks that a queue may hold beyond as many as wait in it, before it is swept.
const SWEEP: usize = 64;

impl Tasks {
    /// Adds a task. Returns its class when that is new.
    pub(super) fn add(&mut self, id: TaskId, spec: TaskSpec) -> Option<ClassId> {
        if self.tasks.contains_key(&id) {
            return None;
        }
        let needs = Needs::of(&spec);
        let known = self.by_needs.get(&needs).copied();
        let class = known.unwrap_or_else(|| {
            let class = ClassId(self.classes.len());
            self.by_needs.insert(needs.clone(), class);
            self.classes.push(Class { needs, queue: VecDeque::new(), waiting: 0, unfinished: 0 });
            class
        });
        let task =
            Task { spec, class, place: Place::Queued, started: false, cancelled: false, losses: 0, silent_losses: 0 };
        self.tasks.insert(id, task);
        self.classes[class.0].unfinished += 1;
        self.queue(class, id, VecDeque::push_back);
        known.is_none().then_some(class)
    }

    /// Classes of which tasks wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = ClassId> + Clone {
        self.waiting.iter().copied()
    }

    /// The next class, behind `last`, of which tasks wait.
    pub(super) fn waiting_after(&self, last: Option<ClassId>) -> Option<ClassId> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.waiting.range((from, Bound::Unbounded)).next().copied()
    }

    /// All classes, in order.
    pub(super) fn classes(&self) -> impl Iterator<Item = (ClassId, &Needs)> {
        self.classes.iter().enumerate().map(|(at, class)| (ClassId(at), &class.needs))
    }

    pub(super) fn needs(&self, class: ClassId) -> &Needs {
        &self.classes[class.0].needs
    }

    pub(super) fn class_of(&self, id: TaskId) -> Option<ClassId> {
        self.tasks.get(&id).map(|task| task.class)
    }

    /// Slots that would let every unfinished task of this class run at once.
    pub(super) fn slots_needed(&self, class: ClassId) -> u32 {
        let Class { needs, unfinished, .. } = &self.classes[class.0];
        u32::try_from(*unfinished).unwrap_or(u32::MAX).saturating_mul(needs.cpus)
    }

    /// The next task of this class, and whether it must start only once.
    pub(super) fn front(&mut self, class: ClassId) -> Option<(TaskId, bool)> {
        let queue = &mut self.classes[class.0].queue;
        while let Some(id) = queue.front() {
            if let Some(task) = self.tasks.get(id) {
                return Some((*id, task.spec.once));
            }
            queue.pop_front();
        }
        None
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
        let (spec, class) = (task.spec.clone(), task.class);
        self.classes[class.0].queue.pop_front();
        self.unqueue(class);
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
            self.remove(id);
        }
        current
    }

    /// The attempt's link broke. It counts as a loss if it ran; one that only `may_have_run`, because it was among the first that its
    /// worker had, counts less: a task that ends every worker before that can say so must not go on for ever.
    pub(super) fn on_lost(&mut self, id: TaskId, attempt: AttemptId, may_have_run: bool) -> Option<Lost> {
        let task = self.current(id, attempt)?;
        if task.started {
            task.losses += 1;
        } else if may_have_run {
            task.silent_losses += 1;
        }
        // Whether a `--once` task ran is not known: its `Started` may have been lost with the link. Nor can a stream be read twice.
        let never_again = task.spec.once || (task.started && task.spec.stdin);
        let too_often = task.losses >= limits::LOSSES || task.silent_losses >= SILENT_LOSSES;
        if !task.cancelled && (never_again || too_often) {
            let losses = (task.losses + task.silent_losses).max(1);
            self.remove(id);
            return Some(Lost::Final { losses });
        }
        Some(self.again(id))
    }

    /// Its worker lives and does not have it any more: that costs nothing, if it may start again.
    pub(super) fn on_forgotten(&mut self, id: TaskId, attempt: AttemptId) -> Option<Lost> {
        let task = self.current(id, attempt)?;
        if !task.cancelled && (task.spec.once || (task.started && task.spec.stdin)) {
            let losses = task.losses + task.silent_losses + 1;
            self.remove(id);
            return Some(Lost::Final { losses });
        }
        Some(self.again(id))
    }

    /// The worker handed it back unstarted: that costs nothing.
    pub(super) fn on_returned(&mut self, id: TaskId, attempt: AttemptId) -> Option<Lost> {
        self.current(id, attempt)?;
        Some(self.again(id))
    }

    /// Marks a task as cancelled, and says where it is.
    pub(super) fn cancel(&mut self, id: TaskId) -> Option<Place> {
        let task = self.tasks.get_mut(&id)?;
        let (place, class) = (task.place, task.class);
        task.cancelled = true;
        if place == Place::Queued {
            self.remove(id);
            self.unqueue(class);
            // Its number stays in the queue: to look for it would cost more the more tasks wait.
            let Class { queue, waiting, .. } = &mut self.classes[class.0];
            if queue.len() > 2 * *waiting + SWEEP {
                queue.retain(|id| self.tasks.contains_key(id));
            }
        }
        Some(place)
    }

    /// Everything ends.
    pub(super) fn drain(&mut self) -> Vec<TaskId> {
        for class in &mut self.classes {
            (class.waiting, class.unfinished) = (0, 0);
            class.queue.clear();
        }
        self.waiting.clear();
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

    /// Tasks that wait and whose class passes the filter.
    pub(super) fn waiting_for(&self, fits: impl Fn(ClassId) -> bool) -> u32 {
        let count: usize = self.waiting().filter(|class| fits(*class)).map(|class| self.classes[class.0].waiting).sum();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The one runtime that all waiting tasks need, if it is one.
    pub(super) fn waiting_runtime(&self) -> Option<String> {
        let mut runtimes = self.waiting().map(|class| &self.needs(class).runtime);
        let first = runtimes.next()?;
        runtimes.all(|other| other == first).then(|| first.clone())
    }

    fn current(&mut self, id: TaskId, attempt: AttemptId) -> Option<&mut Task> {
        self.tasks
            .get_mut(&id)
            .filter(|task| matches!(task.place, Place::Attempt { attempt: current, .. } if current == attempt))
    }

    fn again(&mut self, id: TaskId) -> Lost {
        let Some(task) = self.tasks.get_mut(&id).filter(|task| !task.cancelled) else {
            self.remove(id);
            return Lost::Cancelled;
        };
        task.place = Place::Queued;
        // Ahead of the others: it has waited already.
        let class = task.class;
        self.queue(class, id, VecDeque::push_front);
        Lost::Again
    }

    fn remove(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.remove(&id) {
            self.classes[task.class.0].unfinished -= 1;
        }
    }

    fn queue(&mut self, class: ClassId, id: TaskId, push: impl FnOnce(&mut VecDeque<TaskId>, TaskId)) {
        let entry = &mut self.classes[class.0];
        push(&mut entry.queue, id);
        entry.waiting += 1;
        self.queued += 1;
        self.waiting.insert(class);
    }

    /// One that waited does not any more.
    fn unqueue(&mut self, class: ClassId) {
        let entry = &mut self.classes[class.0];
        entry.waiting -= 1;
        self.queued -= 1;
        if entry.waiting == 0 {
            entry.queue.clear();
            self.waiting.remove(&class);
        }
    }
}
