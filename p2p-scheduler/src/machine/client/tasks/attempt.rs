//! One live attempt, and whom lost workers are counted against.

use std::collections::HashMap;

use p2p_proto::ids::{AttemptId, ProcessKey, TaskId};

use crate::LinkId;

/// An attempt without an end.
#[derive(Debug)]
pub(in super::super) struct Attempt {
    pub(in super::super) link: LinkId,
    pub(in super::super) id: AttemptId,
    /// Its worker said that it runs.
    pub(in super::super) started: bool,
    /// Its link has no connection now.
    pub(in super::super) broken: bool,
    /// It ran when the connection broke, or may have: perhaps it took its worker down.
    pub(super) suspect: bool,
    /// It has had no connection for so long that the task may start elsewhere.
    pub(super) away: bool,
}

impl Attempt {
    pub(super) fn new(link: LinkId, id: AttemptId) -> Self {
        Self { link, id, started: false, broken: false, suspect: false, away: false }
    }
}

/// Which tasks were lost with which process: should it come back, they are acquitted.
#[derive(Debug, Default)]
pub(super) struct Blame(HashMap<ProcessKey, Vec<TaskId>>);

/// Lost processes that are remembered; a client meets no more in a day.
const PROCESSES: usize = 1024;

impl Blame {
    pub(super) fn add(&mut self, process: ProcessKey, task: TaskId) {
        if self.0.len() < PROCESSES || self.0.contains_key(&process) {
            self.0.entry(process).or_default().push(task);
        }
    }

    pub(super) fn take(&mut self, process: ProcessKey) -> Vec<TaskId> {
        self.0.remove(&process).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
