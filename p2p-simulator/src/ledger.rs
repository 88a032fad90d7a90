//! What must always hold, and what is known of each task: checked as it happens, so that a step costs what it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use p2p_proto::ids::TaskId;
use p2p_proto::limits;
use p2p_proto::task::{Content, Ended, TaskSpec};
use p2p_scheduler::Outcome;

use crate::world::{End, Peer};

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which, as `docs/protocol.md` numbers it.
    pub rule: &'static str,
    /// How.
    pub what: String,
}

impl Violation {
    /// This rule was broken in this way.
    pub fn new(rule: &'static str, what: String) -> Self {
        Self { rule, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// A task, as the world has seen it.
#[derive(Debug)]
pub struct TaskState {
    /// Whose it is.
    pub client: Peer,
    /// What it asks for.
    pub spec: TaskSpec,
    /// How it ended; more than one is a broken rule.
    pub outcomes: Vec<Outcome>,
    /// Times that it began to run.
    pub runs: u32,
    /// Attempts that run now.
    pub running: u32,
    /// Attempts that wait at a worker now.
    pub staged: u32,
    /// Times that it ran to its end.
    completed: u32,
    timed_out: u32,
    cancel_asked: bool,
}

/// All tasks of a world, and the first rule that was broken.
#[derive(Debug, Default)]
pub struct Ledger {
    tasks: BTreeMap<TaskId, TaskState>,
    /// Tasks without an outcome.
    open: BTreeSet<TaskId>,
    /// Credits of a client's link, as the world counts them.
    credits: BTreeMap<End, i64>,
    /// Clients that were told to leave: they take no more tasks.
    leaving: BTreeSet<Peer>,
    /// Workers that grant what they like.
    uncounted: BTreeSet<Peer>,
    /// Cuts, crashes and sleep: without any, nothing is lost.
    troubles: u64,
    lines: u64,
    violation: Option<Violation>,
}

impl Ledger {
    /// Whether all rules held until now.
    ///
    /// # Errors
    /// The first one that did not.
    pub fn verdict(&self) -> Result<(), Violation> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// A rule was broken. The first one counts: the others may follow from it.
    pub fn break_rule(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// What is known of a task.
    pub fn task(&self, id: TaskId) -> Option<&TaskState> {
        self.tasks.get(&id)
    }

    /// All tasks.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, &TaskState)> {
        self.tasks.iter().map(|(id, task)| (*id, task))
    }

    /// Tasks without an outcome.
    pub fn open(&self) -> impl Iterator<Item = (TaskId, &TaskState)> {
        self.open.iter().filter_map(|id| Some((*id, self.tasks.get(id)?)))
    }

    pub(crate) fn is_open(&self, id: TaskId) -> bool {
        self.open.contains(&id)
    }

    /// Whether every task has its outcome.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Lines that were said.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// It grants what it likes: nobody counts it.
    pub fn trust_no_credits_of(&mut self, worker: Peer) {
        self.uncounted.insert(worker);
    }

    pub(crate) fn owner(&self, id: TaskId) -> Option<Peer> {
        self.tasks.get(&id).map(|task| task.client)
    }

    pub(crate) fn on_submitted(&mut self, id: TaskId, client: Peer, spec: TaskSpec) {
        let task = TaskState {
            client,
            spec,
            outcomes: Vec::new(),
            runs: 0,
            running: 0,
            staged: 0,
            completed: 0,
            timed_out: 0,
            cancel_asked: self.leaving.contains(&client),
        };
        self.tasks.insert(id, task);
        self.open.insert(id);
    }

    pub(crate) fn on_cancel(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.cancel_asked = true;
        }
    }

    /// The client leaves, or its process is gone: nobody waits for these any more.
    pub(crate) fn on_client_gone(&mut self, client: Peer) {
        self.open.retain(|id| self.tasks.get(id).is_some_and(|task| task.client != client));
    }

    pub(crate) fn on_client_leaves(&mut self, client: Peer) {
        self.leaving.insert(client);
        self.tasks.values_mut().filter(|task| task.client == client).for_each(|task| task.cancel_asked = true);
    }

    pub(crate) fn on_trouble(&mut self) {
        self.troubles += 1;
    }

    pub(crate) fn on_line(&mut self) {
        self.lines += 1;
    }

    pub(crate) fn on_staged(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.staged += 1;
        }
    }

    pub(crate) fn on_unstaged(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.staged = task.staged.saturating_sub(1);
        }
    }

    pub(crate) fn on_run(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.staged = task.staged.saturating_sub(1);
        task.runs += 1;
        task.running += 1;
        if task.spec.once && task.runs > 1 {
            let what = format!("task {} of {} is marked once and ran {} times", id.0, task.client, task.runs);
            self.break_rule(Violation::new("I-02", what));
        }
    }

    /// What ran of it ran no further.
    pub(crate) fn on_run_over(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.running = task.running.saturating_sub(1);
        }
    }

    pub(crate) fn on_ended(&mut self, id: TaskId, ended: &Ended) {
        self.on_run_over(id);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        match ended {
            Ended::Exit(0) => task.completed += 1,
            Ended::TimedOut => task.timed_out += 1,
            _ => {}
        }
    }

    pub(crate) fn on_outcome(&mut self, client: Peer, id: TaskId, outcome: Outcome) {
        self.open.remove(&id);
        let troubles = self.troubles;
        let Some(task) = self.tasks.get_mut(&id) else {
            return self.break_rule(Violation::new("I-01", format!("nobody submitted task {} of {client}", id.0)));
        };
        let fault = if !task.outcomes.is_empty() {
            Some(("I-01", format!("it ended before: {:?}", task.outcomes)))
        } else if task.client != client {
            Some(("I-08", format!("it is a task of {}", task.client)))
        } else {
            task.cannot_end_so(id, &outcome, troubles).map(|why| ("I-01", why))
        };
        task.outcomes.push(outcome.clone());
        if let Some((rule, why)) = fault {
            let what = format!("task {} of client {client} ended with {outcome:?}: {why}", id.0);
            self.break_rule(Violation::new(rule, what));
        }
    }

    pub(crate) fn on_credit(&mut self, end: End, credits: i64) {
        *self.credits.entry(end).or_default() += credits;
    }

    pub(crate) fn on_submit(&mut self, end: End, worker: Option<Peer>) {
        let credits = self.credits.entry(end).or_default();
        *credits -= 1;
        let left = *credits;
        if left < 0 && worker.is_none_or(|worker| !self.uncounted.contains(&worker)) {
            let what = format!("client {} sent {} tasks without a credit on link {}", end.0, -left, end.1.0);
            self.break_rule(Violation::new("I-04", what));
        }
    }
}

impl TaskState {
    /// Why the task cannot have ended like this.
    fn cannot_end_so(&self, id: TaskId, outcome: &Outcome, troubles: u64) -> Option<String> {
        match outcome {
            Outcome::Finished { finished, .. } => match &finished.ended {
                Ended::Exit(0) if self.completed == 0 => Some("it never ran to its end".to_owned()),
                Ended::Exit(0) if finished.value != Content::Inline(id.0.to_be_bytes().to_vec()) => {
                    Some("that is another task's value".to_owned())
                }
                Ended::TimedOut if self.timed_out == 0 => Some("it never ran for too long".to_owned()),
                Ended::Cancelled if !self.cancel_asked => Some("nobody cancelled it".to_owned()),
                _ => None,
            },
            Outcome::Cancelled if !self.cancel_asked => Some("nobody cancelled it".to_owned()),
            Outcome::Lost { .. } if troubles == 0 => Some("nothing was ever cut".to_owned()),
            Outcome::Lost { losses, .. }
                if losses.len() < limits::LOSSES as usize && !self.spec.once && !self.spec.stdin =>
            {
                Some("it may be tried again".to_owned())
            }
            _ => None,
        }
    }
}
