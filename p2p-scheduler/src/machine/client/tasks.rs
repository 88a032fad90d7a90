//! The tasks of a client: which wait, which are under way and where, and who is to blame when workers are lost (S-04).
//!
//! A task has at most one outcome, but may have several live attempts: one whose link is broken and one that was started elsewhere
//! meanwhile (L-06), or one that straggles and its copy (S-05). The first outcome wins.

mod attempt;
mod class;

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use p2p_proto::ids::{AttemptId, PeerName, ProcessKey, TaskId};
use p2p_proto::limits;
use p2p_proto::task::TaskSpec;

pub(super) use self::attempt::Attempt;
use self::attempt::Blame;
pub(super) use self::class::{ClassId, Classes, Turn};
use super::Needs;
use super::state::Stays;
use crate::LinkId;

/// All unfinished tasks.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    tasks: HashMap<TaskId, Task>,
    classes: Classes,
    /// Classes of which tasks wait: those of higher priority first, and then the one whose next task came first.
    waiting: BTreeSet<Turn>,
    queued: usize,
    new_classes: Vec<ClassId>,
    /// Classes of which a task waits since that was asked last, and none did before.
    woken: BTreeSet<ClassId>,
    next_attempt: u64,
    blame: Blame,
}

#[derive(Debug)]
struct Task {
    spec: TaskSpec,
    class: ClassId,
    queued: Queued,
    cancelled: bool,
    /// A copy of it would write more than can wait for its turn.
    uncopied: bool,
    /// Who handed it back because it was recalled, the last one: it is for somebody else.
    recalled_from: Option<LinkId>,
    attempts: Vec<Attempt>,
    /// Workers that were lost while they ran it, or may have.
    losses: Vec<(ProcessKey, PeerName)>,
}

/// Whether a task is in the queue of its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queued {
    No,
    Yes,
    /// For a copy of an attempt that straggles.
    Copy,
}

/// What a worker must have for a task beside a credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing: it may wait there.
    Queue,
    /// A free slot: it may start only once, and is never sent ahead (S-02).
    Slot,
    /// Nothing else of ours: it must run alone.
    Worker,
}

/// The task whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Front {
    pub(super) task: TaskId,
    /// It would be a copy of an attempt that goes on.
    pub(super) copy: bool,
}

/// An attempt that begins.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) attempt: AttemptId,
    pub(super) spec: TaskSpec,
    /// Nothing else may run beside it: it was lost with its worker too often.
    pub(super) alone: bool,
}

/// What becomes of a task one of whose attempts is over without an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It waits for another worker.
    Again,
    /// Another attempt of it goes on.
    GoesOn,
    /// It was cancelled meanwhile, and is over.
    Cancelled,
    /// It must not or will not be tried again, and is over.
    Lost {
        /// Workers that were lost with it.
        losses: Vec<PeerName>,
    },
}

/// What becomes of a task that is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cancelling {
    /// It is over already: no worker that could answer has it.
    pub(super) over: bool,
    /// Whom to tell.
    pub(super) attempts: Vec<(LinkId, AttemptId)>,
}

impl Tasks {
    /// Adds a task.
    pub(super) fn add(&mut self, id: TaskId, spec: TaskSpec) {
        if self.tasks.contains_key(&id) {
            return;
        }
        let class = self.class_with(Needs::of(&spec));
        let (attempts, losses, recalled_from) = Default::default();
        let queued = Queued::No;
        let task = Task { spec, class, queued, cancelled: false, uncopied: false, recalled_from, attempts, losses };
        self.tasks.insert(id, task);
        self.classes.get_mut(class).unfinished += 1;
        self.enqueue(id, Queued::Yes, false);
    }

    /// A kind of tasks that there was none of when this was asked last: workers are to be looked at anew.
    pub(super) fn next_new_class(&mut self) -> Option<ClassId> {
        self.new_classes.pop()
    }

    /// Classes of which tasks wait, in the order of their turns.
    pub(super) fn waiting(&self) -> impl Iterator<Item = ClassId> + Clone {
        self.waiting.iter().map(|(_, _, class)| *class)
    }

    /// The next turn behind `last`: who had his and could not use it holds nobody up.
    pub(super) fn turn_after(&self, last: Option<Turn>) -> Option<Turn> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.waiting.range((from, Bound::Unbounded)).next().copied()
    }

    /// Whether tasks of some kind wait of which none did when this was asked last.
    pub(super) fn has_woken(&mut self) -> bool {
        let woken = std::mem::take(&mut self.woken);
        woken.into_iter().any(|class| self.waiting_in(class) > 0)
    }

    /// All kinds of tasks.
    pub(super) fn classes(&self) -> &Classes {
        &self.classes
    }

    /// All kinds of tasks, for what is learnt of them.
    pub(super) fn classes_mut(&mut self) -> &mut Classes {
        &mut self.classes
    }

    pub(super) fn needs(&self, class: ClassId) -> &Needs {
        &self.classes.get(class).needs
    }

    pub(super) fn class_of(&self, id: TaskId) -> Option<ClassId> {
        self.tasks.get(&id).map(|task| task.class)
    }

    /// Slots that would let all that wait of this class run at once.
    pub(super) fn slots_needed(&self, class: ClassId) -> u32 {
        let class = self.classes.get(class);
        u32::try_from(class.waiting).unwrap_or(u32::MAX).saturating_mul(class.needs.cpus)
    }

    /// What a worker must have for a task of this class beside a credit.
    pub(super) fn room(&self, class: ClassId) -> Room {
        match self.needs(class) {
            Needs { alone: true, .. } => Room::Worker,
            Needs { once: true, .. } => Room::Slot,
            _ => Room::Queue,
        }
    }

    /// The next task of this class.
    pub(super) fn front(&mut self, class: ClassId) -> Option<Front> {
        let queue = &mut self.classes.get_mut(class).queue;
        while let Some(id) = queue.front() {
            if let Some(task) = self.tasks.get(id).filter(|task| task.queued != Queued::No) {
                return Some(Front { task: *id, copy: task.queued == Queued::Copy });
            }
            queue.pop_front();
        }
        None
    }

    /// What a task is.
    pub(super) fn spec(&self, id: TaskId) -> Option<&TaskSpec> {
        self.tasks.get(&id).map(|task| &task.spec)
    }

    /// Whether this worker has the task already.
    pub(super) fn is_with(&self, id: TaskId, link: LinkId) -> bool {
        self.tasks.get(&id).is_some_and(|task| task.attempts.iter().any(|attempt| attempt.link == link))
    }

    /// Who handed it back because it was recalled, the last one.
    pub(super) fn recalled_from(&self, id: TaskId) -> Option<LinkId> {
        self.tasks.get(&id)?.recalled_from
    }

    /// Takes the front task `id` out of its queue: it is with `link` now.
    pub(super) fn start(&mut self, id: TaskId, link: LinkId) -> Option<Begun> {
        self.dequeue(id);
        let task = self.tasks.get_mut(&id)?;
        self.next_attempt += 1;
        let attempt = AttemptId(self.next_attempt);
        let alone = task.runs_alone();
        task.attempts.push(Attempt::new(link, attempt));
        Some(Begun { attempt, spec: task.spec.clone(), alone })
    }

    /// Whether more than one task of this class waits.
    pub(super) fn waits_behind(&self, class: ClassId) -> bool {
        self.classes.get(class).waiting > 1
    }

    /// Nobody takes the copy for which `id` waits.
    pub(super) fn drop_copy(&mut self, id: TaskId) {
        if self.tasks.get(&id).is_some_and(|task| task.queued == Queued::Copy) {
            self.dequeue(id);
        }
    }

    /// The attempt runs. Returns whether that is news of a live attempt.
    pub(super) fn on_started(&mut self, id: TaskId, attempt: AttemptId) -> bool {
        self.attempt_mut(id, attempt).is_some_and(|attempt| !std::mem::replace(&mut attempt.started, true))
    }

    /// Whether it is known that the attempt runs.
    pub(super) fn has_started(&self, id: TaskId, attempt: AttemptId) -> bool {
        let task = self.tasks.get(&id);
        task.is_some_and(|task| task.attempts.iter().any(|known| known.id == attempt && known.started))
    }

    /// Whether a copy of the task's one attempt may be started (S-05). If so, it waits for a worker.
    pub(super) fn copy(&mut self, id: TaskId) -> bool {
        let Some(task) = self.tasks.get(&id) else { return false };
        let may = !task.cancelled && !task.uncopied && !task.spec.once && !task.spec.stdin && task.losses.is_empty();
        let fit = may && task.queued == Queued::No && task.attempts.len() == 1;
        if fit {
            self.enqueue(id, Queued::Copy, true);
        }
        fit
    }

    /// The attempt ended. If that is the task's outcome: its other attempts, which are to be cancelled.
    pub(super) fn on_finished(&mut self, id: TaskId, attempt: AttemptId) -> Option<Vec<(LinkId, AttemptId)>> {
        self.attempt_mut(id, attempt)?;
        let task = self.remove(id)?;
        Some(task.attempts.iter().filter(|other| other.id != attempt).map(|other| (other.link, other.id)).collect())
    }

    /// The connection to the attempt's worker broke; it may come back. `may_have_run`: it was among the first that the worker had.
    pub(super) fn on_broken(&mut self, id: TaskId, attempt: AttemptId, may_have_run: bool) -> Option<After> {
        let broken = self.attempt_mut(id, attempt)?;
        broken.broken = true;
        broken.suspect = broken.started || may_have_run;
        let task = self.tasks.get(&id)?;
        // Nobody is there to answer: who cancelled waits no longer.
        (task.cancelled && task.attempts.iter().all(|attempt| attempt.broken)).then(|| {
            self.remove(id);
            After::Cancelled
        })
    }

    /// The connection is back before anybody gave the attempt up.
    pub(super) fn on_resumed(&mut self, id: TaskId, attempt: AttemptId) {
        if let Some(attempt) = self.attempt_mut(id, attempt) {
            (attempt.broken, attempt.suspect, attempt.away) = (false, false, false);
            self.dequeue(id);
        }
    }

    /// The attempt's connection is broken for so long that the task should start elsewhere too, if it may. Returns whether it does.
    pub(super) fn elsewhere(&mut self, id: TaskId, attempt: AttemptId) -> bool {
        let Some(away) = self.attempt_mut(id, attempt) else { return false };
        away.away = true;
        let fit = self.tasks.get(&id).is_some_and(|task| task.queued == Queued::No && task.may_start_elsewhere());
        if fit {
            self.enqueue(id, Queued::Yes, true);
        }
        fit
    }

    /// The attempt is gone with its link. `by` is the worker that never came back; `None` if its process lives, so that nobody is to
    /// blame.
    pub(super) fn on_lost(
        &mut self,
        id: TaskId,
        attempt: AttemptId,
        by: Option<(ProcessKey, PeerName)>,
    ) -> Option<After> {
        self.attempt_mut(id, attempt)?;
        let task = self.tasks.get_mut(&id)?;
        let never_again = task.never_again();
        let at = task.attempts.iter().position(|known| known.id == attempt)?;
        let gone = task.attempts.remove(at);
        if let Some((process, name)) = by.filter(|_| gone.suspect || gone.started) {
            self.blame.add(process, id);
            task.losses.push((process, name));
        }
        let too_often = task.losses.len() >= limits::LOSSES as usize;
        let idle = task.attempts.is_empty() && task.queued != Queued::Yes;
        if idle && !task.cancelled && (never_again || too_often) {
            let losses = self.remove(id)?.losses.into_iter().map(|(_, name)| name).collect();
            return Some(After::Lost { losses });
        }
        Some(self.after(id))
    }

    /// The worker handed it back unstarted: that costs nothing.
    pub(super) fn on_returned(
        &mut self,
        id: TaskId,
        attempt: AttemptId,
        recalled_from: Option<LinkId>,
    ) -> Option<After> {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.recalled_from = recalled_from;
        }
        self.give_up(id, attempt).then(|| self.after(id))
    }

    /// Forgets one attempt. Returns whether it was live.
    fn give_up(&mut self, id: TaskId, attempt: AttemptId) -> bool {
        let Some(task) = self.tasks.get_mut(&id) else { return false };
        let before = task.attempts.len();
        task.attempts.retain(|known| known.id != attempt);
        task.attempts.len() < before
    }

    /// The output of a live attempt that the task's reader does not see waits for him. Which attempt to give up for that: the one he sees if it
    /// has no connection; else this one, for it cannot win, and is not tried again.
    pub(super) fn on_crowded(&mut self, id: TaskId, attempt: AttemptId) -> Option<(LinkId, AttemptId)> {
        let task = self.tasks.get_mut(&id)?;
        let seen = task.attempts.first()?;
        let given_up = if seen.broken {
            (seen.link, seen.id)
        } else {
            task.uncopied = true;
            task.attempts.iter().find(|known| known.id == attempt).map(|known| (known.link, known.id))?
        };
        if task.attempts.len() < 2 {
            return None;
        }
        task.attempts.retain(|known| known.id != given_up.1);
        Some(given_up)
    }

    /// A process that was believed lost is there: nothing that ran on it took it down.
    pub(super) fn acquit(&mut self, process: ProcessKey) {
        for id in self.blame.take(process) {
            if let Some(task) = self.tasks.get_mut(&id) {
                task.losses.retain(|(lost, _)| *lost != process);
            }
        }
    }

    /// Marks a task as cancelled.
    pub(super) fn cancel(&mut self, id: TaskId) -> Option<Cancelling> {
        let task = self.tasks.get_mut(&id)?;
        task.cancelled = true;
        let attempts: Vec<_> = task.attempts.iter().map(|attempt| (attempt.link, attempt.id)).collect();
        let over = task.attempts.iter().all(|attempt| attempt.broken);
        if over {
            self.remove(id);
        } else {
            self.dequeue(id);
        }
        Some(Cancelling { over, attempts })
    }

    /// Everything ends.
    pub(super) fn drain(&mut self) -> Vec<TaskId> {
        self.classes.clear();
        self.waiting.clear();
        self.blame.clear();
        self.queued = 0;
        let mut all: Vec<TaskId> = self.tasks.drain().map(|(id, _)| id).collect();
        // The same in every run, whatever order the map has.
        all.sort_unstable();
        all
    }

    /// Tasks without an outcome.
    pub(super) fn unfinished(&self) -> usize {
        self.tasks.len()
    }

    /// Tasks that wait.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Tasks of this class that wait.
    pub(super) fn waiting_in(&self, class: ClassId) -> usize {
        self.classes.get(class).waiting
    }

    /// Tasks that wait and whose class passes the filter.
    pub(super) fn waiting_for(&self, fits: impl Fn(ClassId) -> bool) -> u32 {
        let count: usize =
            self.waiting().filter(|class| fits(*class)).map(|class| self.classes.get(class).waiting).sum();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The one runtime that all waiting tasks need, if it is one.
    pub(super) fn waiting_runtime(&self) -> Option<String> {
        let mut runtimes = self.waiting().map(|class| &self.needs(class).runtime);
        let first = runtimes.next()?;
        runtimes.all(|other| other == first).then(|| first.clone())
    }

    /// A task's live attempts, oldest first, and whether it waits for a worker; not counting one for a copy.
    pub(super) fn attempts(&self, id: TaskId) -> Option<(&[Attempt], bool)> {
        let task = self.tasks.get(&id)?;
        Some((&task.attempts, task.queued == Queued::Yes))
    }

    /// Why a task all of whose attempts have no connection does not wait for another worker.
    pub(super) fn stays(&self, id: TaskId) -> Option<Stays> {
        let task = self.tasks.get(&id)?;
        Some(if task.never_again() {
            Stays::Once
        } else if task.under_suspicion() >= limits::LOSSES as usize {
            Stays::Suspect
        } else {
            Stays::Soon
        })
    }

    fn attempt_mut(&mut self, id: TaskId, attempt: AttemptId) -> Option<&mut Attempt> {
        self.tasks.get_mut(&id)?.attempts.iter_mut().find(|known| known.id == attempt)
    }

    /// One attempt of the task is over without an outcome: waits for the others, or for another worker.
    fn after(&mut self, id: TaskId) -> After {
        let Some(task) = self.tasks.get(&id) else { return After::Cancelled };
        if task.cancelled && task.attempts.iter().all(|attempt| attempt.broken) {
            self.remove(id);
            return After::Cancelled;
        }
        let alone = task.attempts.is_empty() || task.may_start_elsewhere();
        if !alone || task.cancelled {
            return After::GoesOn;
        }
        // Ahead of the others: it has waited already. One that waited for a copy is the task itself now.
        self.dequeue(id);
        self.enqueue(id, Queued::Yes, true);
        After::Again
    }

    fn remove(&mut self, id: TaskId) -> Option<Task> {
        self.dequeue(id);
        let task = self.tasks.remove(&id)?;
        self.classes.on_removed(task.class);
        if self.tasks.is_empty() {
            self.blame.clear();
        }
        Some(task)
    }

    fn class_with(&mut self, needs: Needs) -> ClassId {
        let (class, is_new) = self.classes.of_needs(needs);
        if is_new {
            self.new_classes.push(class);
        }
        class
    }

    fn enqueue(&mut self, id: TaskId, queued: Queued, first: bool) {
        let Some(task) = self.tasks.get(&id) else { return };
        let (mut class, alone) = (task.class, task.runs_alone());
        if self.needs(class).alone != alone {
            // Those that wait for a worker of their own hold nobody up.
            let needs = Needs { alone, ..self.needs(class).clone() };
            self.classes.on_removed(class);
            class = self.class_with(needs);
            self.classes.get_mut(class).unfinished += 1;
        }
        let Some(task) = self.tasks.get_mut(&id) else { return };
        (task.queued, task.class) = (queued, class);
        if self.classes.get(class).waiting == 0 {
            self.woken.insert(class);
        }
        self.classes.push(class, id, first);
        self.queued += 1;
        self.settle(class);
    }

    /// The front of a class may be another one now.
    fn settle(&mut self, class: ClassId) {
        let tasks = &self.tasks;
        let waits = |id| tasks.get(&id).is_some_and(|task| task.queued != Queued::No && task.class == class);
        let (before, turn) = self.classes.settle(class, waits);
        if before != turn {
            before.map(|turn| self.waiting.remove(&turn));
            turn.map(|turn| self.waiting.insert(turn));
        }
    }

    /// Takes a task out of its queue, if it is there.
    fn dequeue(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if std::mem::replace(&mut task.queued, Queued::No) == Queued::No {
            return;
        }
        let class = task.class;
        self.queued -= 1;
        self.classes.on_dequeued(class, id);
        self.settle(class);
        // Numbers of those that left otherwise than by their turn stay in the queue, until they are too many.
        let tasks = &self.tasks;
        self.classes
            .sweep(class, |id| tasks.get(&id).is_some_and(|task| task.queued != Queued::No && task.class == class));
    }
}

impl Task {
    /// Whether it ran or may have run, and must not run a second time: it says so itself, or its stdin was read.
    fn never_again(&self) -> bool {
        // Whether a `--once` task ran is not known: its `Started` may have been lost with the link.
        (self.spec.once && !self.attempts.is_empty())
            || (self.spec.stdin && self.attempts.iter().any(|attempt| attempt.started))
    }

    /// Whether all that it has are attempts without a connection, one of them for long, and it may have one more.
    fn may_start_elsewhere(&self) -> bool {
        let only_away =
            self.attempts.iter().all(|attempt| attempt.broken) && self.attempts.iter().any(|attempt| attempt.away);
        // It may have taken three workers down: first must be known whether they come back.
        let suspicious = self.under_suspicion() >= limits::LOSSES as usize;
        only_away && !self.cancelled && !self.never_again() && !suspicious
    }

    /// Workers that it has taken down, as far as one can tell now.
    fn under_suspicion(&self) -> usize {
        self.losses.len() + self.attempts.iter().filter(|attempt| attempt.suspect).count()
    }

    fn runs_alone(&self) -> bool {
        self.under_suspicion() + 1 >= limits::LOSSES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: LinkId = LinkId(1);
    const THERE: LinkId = LinkId(2);
    const THIRD: LinkId = LinkId(3);

    fn tasks(spec: TaskSpec) -> (Tasks, TaskId, ClassId) {
        let (mut tasks, id) = (Tasks::default(), TaskId(7));
        tasks.add(id, spec);
        let class = tasks.next_new_class().unwrap();
        (tasks, id, class)
    }

    fn worker(number: u8) -> (ProcessKey, PeerName) {
        (ProcessKey([number; 32]), format!("bob@box:{number}").parse().unwrap())
    }

    /// Takes the front task to `link`.
    fn begin(tasks: &mut Tasks, link: LinkId) -> Begun {
        let class = tasks.waiting().next().expect("it waits");
        let front = tasks.front(class).expect("it waits");
        tasks.start(front.task, link).unwrap()
    }

    #[test]
    fn the_first_of_two_attempts_wins_and_the_other_is_cancelled() {
        let (mut tasks, id, _) = tasks(TaskSpec::default());
        let first = begin(&mut tasks, HERE).attempt;
        assert_eq!(tasks.on_broken(id, first, true), None);
        assert!(tasks.elsewhere(id, first));
        assert!(!tasks.elsewhere(id, first), "it waits already");
        let second = begin(&mut tasks, THERE).attempt;
        assert!(!tasks.elsewhere(id, first), "one goes on");
        tasks.on_resumed(id, first);
        assert_eq!(tasks.on_finished(id, first), Some(vec![(THERE, second)]));
        assert_eq!(tasks.on_finished(id, second), None);
        assert_eq!((tasks.unfinished(), tasks.queued()), (0, 0));
    }

    #[test]
    fn a_connection_that_comes_back_takes_the_task_out_of_the_queue() {
        let (mut tasks, id, class) = tasks(TaskSpec::default());
        let first = begin(&mut tasks, HERE).attempt;
        tasks.on_broken(id, first, true);
        assert!(tasks.elsewhere(id, first));
        tasks.on_resumed(id, first);
        assert_eq!((tasks.queued(), tasks.front(class)), (0, None));
        tasks.on_broken(id, first, true);
        assert!(tasks.elsewhere(id, first));
        begin(&mut tasks, THERE);
        assert_eq!(tasks.front(class), None, "once in the queue is once");
    }

    /// Columns: once, stdin, whether it was seen to start; then: may it start elsewhere, and is it lost for good with its worker?
    #[test]
    fn what_must_not_run_twice_does_not() {
        let table = [
            (false, false, true, true, false),
            (false, false, false, true, false),
            (true, false, true, false, true),
            // Its `Started` may have been lost with the link.
            (true, false, false, false, true),
            (false, true, true, false, true),
            (false, true, false, true, false),
        ];
        for (once, stdin, started, elsewhere, lost) in table {
            let (mut tasks, id, _) = tasks(TaskSpec { once, stdin, ..TaskSpec::default() });
            let first = begin(&mut tasks, HERE).attempt;
            if started {
                tasks.on_started(id, first);
            }
            tasks.on_broken(id, first, true);
            let what = format!("once {once}, stdin {stdin}, started {started}");
            assert_eq!(tasks.elsewhere(id, first), elsewhere, "{what}");
            let after = tasks.on_lost(id, first, Some(worker(1))).unwrap();
            assert_eq!(matches!(after, After::Lost { .. }), lost, "{what}: {after:?}");
        }
    }

    #[test]
    fn the_third_attempt_runs_alone_and_its_loss_is_poison() {
        let (mut tasks, id, _) = tasks(TaskSpec::default());
        for (number, link) in [(1, HERE), (2, THERE), (3, THIRD)] {
            let begun = begin(&mut tasks, link);
            assert_eq!(begun.alone, number == 3);
            tasks.on_broken(id, begun.attempt, true);
            // None of them was given up yet: a fourth worker must wait for the evidence.
            assert_eq!(tasks.elsewhere(id, begun.attempt), number < 3);
        }
        for (number, attempt) in [(1, 1), (2, 2)] {
            assert_eq!(tasks.on_lost(id, AttemptId(attempt), Some(worker(number))), Some(After::GoesOn));
        }
        let names = |numbers: [u8; 3]| numbers.map(|number| worker(number).1).to_vec();
        let lost = After::Lost { losses: names([1, 2, 3]) };
        assert_eq!(tasks.on_lost(id, AttemptId(3), Some(worker(3))), Some(lost));
    }

    #[test]
    fn a_worker_that_comes_back_acquits_its_tasks() {
        let (mut tasks, id, class) = tasks(TaskSpec::default());
        for number in [1, 2, 3, 4, 5, 6] {
            let begun = begin(&mut tasks, LinkId(number));
            assert!(!begun.alone, "a lid that was closed {number} times");
            tasks.on_broken(id, begun.attempt, true);
            let number = u8::try_from(number).unwrap();
            assert_eq!(tasks.on_lost(id, begun.attempt, Some(worker(number))), Some(After::Again));
            tasks.acquit(worker(number).0);
        }
        assert!(tasks.front(class).is_some());
        assert_eq!(tasks.room(class), Room::Queue);
    }

    #[test]
    fn tasks_that_only_waited_on_a_lost_worker_are_not_blamed() {
        let (mut tasks, id, _) = tasks(TaskSpec::default());
        for number in 0..10 {
            let begun = begin(&mut tasks, LinkId(number));
            assert!(!begun.alone);
            tasks.on_broken(id, begun.attempt, false);
            assert_eq!(tasks.on_lost(id, begun.attempt, Some(worker(1))), Some(After::Again));
        }
    }

    #[test]
    fn who_cancels_waits_for_an_answer_only_where_one_can_come() {
        let (mut tasks, id, _) = tasks(TaskSpec::default());
        assert_eq!(tasks.cancel(id), Some(Cancelling { over: true, attempts: Vec::new() }));
        let (mut tasks, id, _) = self::tasks(TaskSpec::default());
        let first = begin(&mut tasks, HERE).attempt;
        assert_eq!(tasks.cancel(id), Some(Cancelling { over: false, attempts: vec![(HERE, first)] }));
        assert_eq!(tasks.on_broken(id, first, true), Some(After::Cancelled));
        assert_eq!(tasks.unfinished(), 0);
    }

    /// Columns: whether the attempt that is seen has no connection; then: whether it is given up for the one that is not.
    #[test]
    fn an_attempt_whose_output_cannot_wait_is_seen_or_given_up() {
        for seen_broken in [true, false] {
            let (mut tasks, id, _) = tasks(TaskSpec::default());
            let seen = begin(&mut tasks, HERE).attempt;
            tasks.on_broken(id, seen, true);
            assert!(tasks.elsewhere(id, seen));
            assert_eq!(tasks.on_crowded(id, seen), None, "it is the only one");
            let other = begin(&mut tasks, THERE).attempt;
            if !seen_broken {
                tasks.on_resumed(id, seen);
            }
            let given_up = if seen_broken { (HERE, seen) } else { (THERE, other) };
            assert_eq!(tasks.on_crowded(id, other), Some(given_up));
            assert!(!tasks.copy(id) || seen_broken);
        }
    }

    #[test]
    fn a_copy_waits_once_and_only_of_what_may_run_twice() {
        for (spec, may) in [
            (TaskSpec::default(), true),
            (TaskSpec { once: true, ..TaskSpec::default() }, false),
            (TaskSpec { stdin: true, ..TaskSpec::default() }, false),
        ] {
            let (mut tasks, id, class) = tasks(spec);
            assert!(!tasks.copy(id), "it waits itself");
            begin(&mut tasks, HERE);
            assert_eq!(tasks.copy(id), may);
            assert!(!tasks.copy(id));
            assert_eq!(tasks.front(class).is_some_and(|front| front.copy), may);
            tasks.drop_copy(id);
            assert_eq!((tasks.front(class), tasks.queued()), (None, 0));
        }
    }

    #[test]
    fn higher_priority_comes_first_and_kinds_without_tasks_are_used_again() {
        let mut tasks = Tasks::default();
        for (id, priority) in [(0, 0), (1, 5), (2, -5)] {
            tasks.add(TaskId(id), TaskSpec { priority, ..TaskSpec::default() });
        }
        let order: Vec<_> = tasks.waiting().map(|class| tasks.needs(class).priority).collect();
        assert_eq!(order, [5, 0, -5]);
        let mut tasks = Tasks::default();
        for id in 0..10_000 {
            tasks.add(TaskId(id), TaskSpec { memory_mib: id, ..TaskSpec::default() });
            tasks.cancel(TaskId(id));
        }
        assert!(tasks.classes().iter().count() < 200, "{}", tasks.classes().iter().count());
    }
}
