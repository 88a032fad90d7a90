//! Where a task is, and so why it has no outcome yet, for people.

use std::fmt;
use std::time::Duration;

use p2p_proto::ids::{PeerName, TaskId};

use super::{ClientMachine, Waiting};
use crate::machine::Now;

/// Where an unfinished task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// No worker has it.
    Waiting(Waiting),
    /// A worker has it: it is being sent, waits there for a slot, or has just begun.
    Sent(PeerName),
    /// It runs.
    Running {
        /// Where.
        worker: PeerName,
        /// For how long, as far as the worker said.
        ran: Duration,
    },
    /// The connection to its worker broke. It may come back, and then nothing was lost.
    Disconnected {
        /// Which worker.
        worker: PeerName,
        /// Why the task does not start elsewhere meanwhile, if it does not.
        stays: Option<Stays>,
    },
}

/// Why a task stays with a worker whose connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// It may start only once, or its stdin was read.
    Once,
    /// It may have taken down so many workers that first must be known whether they come back.
    Suspect,
    /// It broke only now.
    Soon,
}

impl ClientMachine {
    /// Where an unfinished task is; `None` for one that is over or was never submitted.
    pub fn state(&self, now: Now, task: TaskId) -> Option<TaskState> {
        let (attempts, waits) = self.tasks.attempts(task)?;
        let name = |link| self.workers.get(link).map(|worker| worker.name.clone());
        let connected = || attempts.iter().filter(|attempt| !attempt.broken);
        let runs = connected().find_map(|attempt| Some((attempt, self.stragglers.since(attempt.id)?)));
        if let Some((attempt, since)) = runs {
            return Some(TaskState::Running { worker: name(attempt.link)?, ran: now.at.saturating_sub(since) });
        }
        if let Some(attempt) = connected().next() {
            return Some(TaskState::Sent(name(attempt.link)?));
        }
        match attempts.last() {
            Some(attempt) if !waits => {
                let stays = Some(self.tasks.stays(task)?);
                Some(TaskState::Disconnected { worker: name(attempt.link)?, stays })
            }
            Some(attempt) if self.waiting(now).is_none() => {
                Some(TaskState::Disconnected { worker: name(attempt.link)?, stays: None })
            }
            _ => self.waiting(now).map(TaskState::Waiting),
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting(why) => write!(f, "waiting: {why}"),
            Self::Sent(worker) => write!(f, "with {worker}, where it starts when a slot is free"),
            Self::Running { worker, ran } => write!(f, "running on {worker} for {} s", ran.as_secs()),
            Self::Disconnected { worker, stays } => {
                write!(f, "the connection to {worker} broke; it is tried again")?;
                match stays {
                    None => write!(f, ", and the task starts wherever a slot is free first"),
                    Some(Stays::Soon) => write!(f, ", and in some seconds the task may start elsewhere"),
                    Some(Stays::Once) => write!(f, "; the task must not start twice, so it waits for that worker"),
                    Some(Stays::Suspect) => write!(
                        f,
                        "; with {} workers lost while it ran, the task waits to see whether they come back",
                        p2p_proto::limits::LOSSES
                    ),
                }
            }
        }
    }
}
