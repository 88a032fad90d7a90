//! Who gets which task, and what becomes of a task whose attempt ended (S-01 to S-06).

use p2p_proto::ids::{AttemptId, TaskId};
use p2p_proto::link::item::{Finished, Returned, Submit};
use p2p_proto::link::{LinkError, ToWorker};
use p2p_proto::task::{Ended, ReturnReason};

use super::locality::large;
use super::tasks::{After, ClassId, Room};
use super::workers::Worker;
use super::{ClientMachine, ClientOutput, Outcome};
use crate::LinkId;
use crate::machine::Now;

impl ClientMachine {
    pub(super) fn on_cancel(&mut self, task: TaskId, out: &mut Vec<ClientOutput>) {
        let Some(cancelling) = self.tasks.cancel(task) else { return };
        cancel(cancelling.attempts, out);
        if cancelling.over {
            out.push(ClientOutput::Outcome(task, Outcome::Cancelled));
        }
    }

    pub(super) fn on_started(&mut self, now: Now, link: LinkId, attempt: AttemptId, out: &mut Vec<ClientOutput>) {
        let Some(task) = self.workers.task_of(link, attempt) else { return };
        self.workers.on_started(link, attempt);
        if self.tasks.on_started(task, attempt) {
            if let Some(class) = self.tasks.class_of(task) {
                self.stragglers.on_started(now, task, attempt, class, &self.tasks);
            }
            out.push(ClientOutput::Started { task, attempt });
        }
    }

    pub(super) fn on_finished(&mut self, now: Now, link: LinkId, finished: Finished, out: &mut Vec<ClientOutput>) {
        let Some(worker) = self.workers.get_mut(link) else { return };
        worker.returns = 0;
        let (name, process) = (worker.name.clone(), worker.process);
        self.calls.forget_failures(process);
        let attempt = finished.attempt;
        let Some(task) = self.on_ended(now, link, attempt, out) else { return };
        let class = self.tasks.class_of(task);
        if matches!(finished.ended, Ended::Failed(_))
            && let Some((worker, spec)) = self.workers.get(link).zip(self.tasks.spec(task))
        {
            self.locality.on_failed(worker.present.verified.keys.machine, spec);
        }
        let Some(others) = self.tasks.on_finished(task, attempt) else { return };
        if let Some(class) = class {
            self.tasks.classes_mut().on_ran(class, finished.ran_us);
        }
        // The first outcome wins.
        cancel(others, out);
        out.push(ClientOutput::Outcome(task, Outcome::Finished { worker: name, finished }));
    }

    /// An attempt has ended: a worker that leaves may be done with it.
    fn on_ended(&mut self, now: Now, link: LinkId, attempt: AttemptId, out: &mut Vec<ClientOutput>) -> Option<TaskId> {
        self.stragglers.on_ended(attempt);
        let task = self.workers.on_ended(now, link, attempt);
        self.leave_if_drained(link, out);
        task
    }

    pub(super) fn on_returned(&mut self, now: Now, link: LinkId, returned: Returned, out: &mut Vec<ClientOutput>) {
        let attempt = returned.attempt;
        let Some(task) = self.on_ended(now, link, attempt, out) else { return };
        let never_takes = self.workers.on_returned(link, returned.why);
        if never_takes && let Some(class) = self.tasks.class_of(task) {
            self.workers.exclude(link, class);
            self.calls.look_again();
        }
        let recalled_from = (returned.why == ReturnReason::Recalled).then_some(link);
        if let Some(after) = self.tasks.on_returned(task, attempt, recalled_from) {
            self.on_attempt_over(task, attempt, after, out);
        }
    }

    /// The output of an attempt that the reader does not see waits for room.
    pub(super) fn on_crowded(&mut self, task: TaskId, attempt: AttemptId, out: &mut Vec<ClientOutput>) {
        if let Some((link, attempt)) = self.tasks.on_crowded(task, attempt) {
            cancel(vec![(link, attempt)], out);
            out.push(ClientOutput::Withdraw { task, attempt });
        }
    }

    /// The link has no connection: what it had may be lost.
    pub(super) fn on_attempts_broken(&mut self, link: LinkId, out: &mut Vec<ClientOutput>) {
        self.workers.tell_again();
        for (attempt, task, may_have_run) in self.workers.attempts_of(link) {
            self.stragglers.on_ended(attempt);
            if let Some(After::Cancelled) = self.tasks.on_broken(task, attempt, may_have_run) {
                out.push(ClientOutput::Outcome(task, Outcome::Cancelled));
            }
        }
    }

    /// The link has a connection again, before it was given up.
    pub(super) fn on_attempts_resumed(&mut self, link: LinkId) {
        self.workers.tell_again();
        for (attempt, task, _) in self.workers.attempts_of(link) {
            self.tasks.on_resumed(task, attempt);
        }
    }

    /// The link has had no connection for so long that its tasks start elsewhere too, if they may (L-06). Returns how many do.
    pub(super) fn start_elsewhere(&mut self, link: LinkId) -> usize {
        // The last one first: each goes ahead of the others, and they keep their order.
        let attempts = self.workers.attempts_of(link).into_iter().rev();
        attempts.filter(|(attempt, task, _)| self.tasks.elsewhere(*task, *attempt)).count()
    }

    /// The link is over, and with it its attempts. Returns how many tasks wait for another worker.
    ///
    /// Nobody is to blame when its process lives.
    pub(super) fn lose_attempts(
        &mut self,
        link: LinkId,
        error: &LinkError,
        process_lives: bool,
        out: &mut Vec<ClientOutput>,
    ) -> usize {
        let attempts = self.workers.attempts_of(link);
        let Some(worker) = self.forget_link(link, out) else { return 0 };
        let mut again = 0;
        for (attempt, task, may_have_run) in attempts.into_iter().rev() {
            self.stragglers.on_ended(attempt);
            let broken = self.tasks.on_broken(task, attempt, may_have_run);
            let by = (!process_lives).then(|| (worker.process, worker.name.clone()));
            let Some(after) = broken.or_else(|| self.tasks.on_lost(task, attempt, by)) else { continue };
            again += usize::from(after == After::Again);
            match after {
                After::Lost { losses } => {
                    let (worker, error) = (worker.name.clone(), error.clone());
                    out.push(ClientOutput::Outcome(task, Outcome::Lost { worker, error, losses }));
                }
                after => self.on_attempt_over(task, attempt, after, out),
            }
        }
        again
    }

    fn on_attempt_over(&mut self, task: TaskId, attempt: AttemptId, after: After, out: &mut Vec<ClientOutput>) {
        match after {
            After::Again | After::GoesOn => out.push(ClientOutput::Withdraw { task, attempt }),
            After::Cancelled | After::Lost { .. } => out.push(ClientOutput::Outcome(task, Outcome::Cancelled)),
        }
    }

    /// Gives waiting tasks to workers that granted credits, calls some back that could start at once elsewhere, and tells workers what
    /// waits.
    pub(super) fn assign(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        self.copy_stragglers(now);
        while let Some(class) = self.tasks.next_new_class() {
            self.workers.on_class(class, &self.tasks);
        }
        self.hand_out(now, out);
        let queued = self.workers.queued_here(&self.tasks);
        let recalls = self.workers.recalls(&self.tasks);
        out.extend(recalls.into_iter().map(|(link, attempt)| ClientOutput::Send(link, ToWorker::Recall(attempt))));
        if self.tasks.has_woken() {
            self.workers.tell_again();
        }
        self.tell_wants(now, queued, out);
    }

    /// Gives waiting tasks to workers that granted credits, each in its turn. For one that waits for a free slot or for a worker of its own, one
    /// worker is kept free of those whose turn comes later: it would wait for ever if they took what frees.
    fn hand_out(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        let (mut turn, mut kept) = (None, false);
        while let Some(next) = self.tasks.turn_after(turn) {
            let (_, _, class) = next;
            let room = self.tasks.room(class);
            let Some(front) = self.tasks.front(class) else {
                turn = Some(next);
                continue;
            };
            let task = front.task;
            let Some(link) = self.next_for(class, task, room, kept) else {
                self.locality.goes(class);
                let takes = |link| !self.tasks.is_with(task, link);
                if front.copy && (self.tasks.waits_behind(class) || !self.workers.could_start(class, takes)) {
                    self.tasks.drop_copy(task);
                    continue;
                }
                if room != Room::Queue && !kept {
                    self.workers.reserve(class);
                    kept = true;
                }
                turn = Some(next);
                continue;
            };
            if self.waits_for_better(now, class, task, link) {
                turn = Some(next);
                continue;
            }
            let name = self.workers.get(link).map(|worker| worker.name.clone());
            let (Some(worker), Some(begun)) = (name, self.tasks.start(task, link)) else {
                turn = Some(next);
                continue;
            };
            let attempt = begun.attempt;
            self.locality.goes(class);
            if let Some(worker) = self.workers.get(link) {
                self.locality.on_sent(worker.present.verified.keys.machine, &begun.spec);
            }
            self.workers.on_submit(link, attempt, (task, class), self.tasks.needs(class), begun.alone);
            // In this order: what streams in follows its `Submit`.
            let submit = Submit { attempt, task: begun.spec, alone: begun.alone };
            out.push(ClientOutput::Send(link, ToWorker::Submit(submit)));
            out.push(ClientOutput::Attempt { task, link, attempt, worker });
            // One that came back waits ahead of older ones of its class.
            if self.tasks.classes().turn(class).is_some_and(|new| turn.is_some_and(|turn| new < turn)) {
                (turn, kept) = (None, false);
            }
        }
        if !kept {
            self.workers.end_reservation();
        }
        self.locality.end_waits(now);
    }

    /// The worker for the next task of its class: rather not who just handed it back.
    fn next_for(&self, class: ClassId, task: TaskId, room: Room, kept: bool) -> Option<LinkId> {
        let blobs: Vec<_> = self.tasks.spec(task).into_iter().flat_map(large).collect();
        let held = |worker: &Worker| self.locality.held(&blobs, worker.present.verified.keys.machine);
        let held = (!blobs.is_empty()).then_some(&held as &dyn Fn(&Worker) -> u64);
        let best = |not: Option<LinkId>| {
            let has = |link| not == Some(link) || self.tasks.is_with(task, link);
            self.workers.best((class, self.tasks.needs(class)), room, kept, has, held)
        };
        let recalled_from = self.tasks.recalled_from(task);
        best(recalled_from).or_else(|| recalled_from.and_then(|_| best(None)))
    }

    /// Whether a task waits for the next credit of a worker that holds more of its inputs than `link` does and has a slot for it.
    fn waits_for_better(&mut self, now: Now, class: ClassId, task: TaskId, link: LinkId) -> bool {
        let blobs: Vec<_> = self.tasks.spec(task).into_iter().flat_map(large).collect();
        if blobs.is_empty() {
            return false;
        }
        let held = |worker: &Worker| self.locality.held(&blobs, worker.present.verified.keys.machine);
        let here = self.workers.get(link).map_or(0, held);
        let better = self.workers.all().filter(|worker| worker.fits(class) && worker.could_credit()).map(held).max();
        self.locality.waits(now, class, task, better.unwrap_or_default().saturating_sub(here))
    }

    /// Lets copies of attempts that straggle wait, when nothing else does.
    fn copy_stragglers(&mut self, now: Now) {
        if self.stragglers.wake_at().is_none_or(|at| at > now.at) {
            return;
        }
        // What waits at workers comes first: it moves to slots that are free.
        let quiet = self.workers.queued_here(&self.tasks) == 0 && !self.workers.is_loaded();
        let (tasks, workers) = (&self.tasks, &self.workers);
        let could = |task, class| quiet && workers.could_start(class, |link| !tasks.is_with(task, link));
        for task in self.stragglers.due(now, tasks, could) {
            self.tasks.copy(task);
        }
    }

    /// Tells workers how much waits for them, where what they know is too far from that: `queued` in all.
    fn tell_wants(&mut self, now: Now, queued: usize, out: &mut Vec<ClientOutput>) {
        for link in self.workers.must_hear(queued) {
            let tasks = match self.tasks.waiting_for(|class| self.workers.fits(link, class)) {
                0 => self.workers.movable(link),
                tasks => tasks,
            };
            if let Some(want) = self.workers.want(now, link, tasks) {
                out.push(ClientOutput::Send(link, ToWorker::Want(want)));
            }
        }
    }
}

fn cancel(attempts: Vec<(LinkId, AttemptId)>, out: &mut Vec<ClientOutput>) {
    out.extend(attempts.into_iter().map(|(link, attempt)| ClientOutput::Send(link, ToWorker::Cancel(attempt))));
}
