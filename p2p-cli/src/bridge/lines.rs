//! The lines of the bridge, as docs/bridge.md has them.

use std::path::PathBuf;

use p2p_proto::task::{Ended, FailureKind};
use p2p_scheduler::Outcome;
use serde::{Deserialize, Serialize};

/// What the other program asks for.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Run a task.
    Submit(Box<Submit>),
    /// End a task.
    Cancel {
        /// Its number.
        task: u64,
    },
    /// Say who is in the cluster.
    Status(Look),
}

/// When that is to be said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// Once somebody is there who runs this.
    #[serde(default)]
    pub runtime: Option<String>,
    /// But not later than this, milliseconds; 0 for at once.
    #[serde(default)]
    pub wait_ms: u64,
}

/// A task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// The number under which it is spoken of; not that of another unfinished one.
    pub task: u64,
    /// What runs it.
    #[serde(default = "command")]
    pub runtime: String,
    /// Program and arguments, or what another runtime wants to know.
    pub words: Vec<String>,
    /// Variables beside the worker's own.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Files to take along.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// Names or patterns of files to bring back.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// What its worker must offer.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Slots.
    #[serde(default = "one")]
    pub cpus: u32,
    /// MiB.
    #[serde(default)]
    pub memory_mib: u64,
    /// Milliseconds; 0 for as long as it likes.
    #[serde(default)]
    pub timeout_ms: u64,
    /// Never to be started a second time.
    #[serde(default)]
    pub once: bool,
}

fn command() -> String {
    p2p_proto::task::COMMAND_RUNTIME.to_owned()
}

fn one() -> u32 {
    1
}

/// A file to take along.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its name in the task's folder.
    pub name: String,
    /// Where it is; it must stay as it is until the task has ended.
    pub path: PathBuf,
}

/// What the other program is told.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Answer {
    /// The first line.
    Ready {
        /// Of this program.
        version: &'static str,
        /// Of these lines: it grows when older programs cannot use them any more.
        protocol: u32,
        /// Which cluster.
        cluster: String,
        /// Where results are put; whoever has read one may remove it.
        folder: PathBuf,
    },
    /// A worker has the task.
    Sent {
        /// Which one.
        task: u64,
        /// Who has it.
        worker: String,
    },
    /// It runs.
    Started {
        /// Which one.
        task: u64,
    },
    /// It printed something.
    Stdout {
        /// Which one.
        task: u64,
        /// What is no UTF-8 is replaced.
        text: String,
    },
    /// The same on stderr.
    Stderr {
        /// Which one.
        task: u64,
        /// What is no UTF-8 is replaced.
        text: String,
    },
    /// A piece of its value, while it runs.
    Value {
        /// Which one.
        task: u64,
        /// The bytes.
        base64: String,
    },
    /// Something for a person.
    Note {
        /// Which one.
        task: u64,
        /// What.
        text: String,
    },
    /// Another attempt follows, or the end: what it printed, and its value, is void.
    Again {
        /// Which one.
        task: u64,
    },
    /// How it ended. Nothing follows.
    Ended(End),
    /// Why tasks wait; once for each reason. `null` when they do no more.
    Waiting {
        /// In words.
        why: Option<String>,
        /// Only that all slots have work.
        busy: bool,
    },
    /// Who is in the cluster, as `p2p status --json` has it.
    Status {
        /// All of it.
        status: serde_json::Value,
    },
    /// A line that made no sense, or a task that cannot be made: nothing was submitted.
    Refused {
        /// Of which task, if that is known.
        task: Option<u64>,
        /// Why, and what to do.
        message: String,
    },
    /// The last line when something went wrong: all tasks are over.
    Fatal {
        /// Why, and what to do.
        message: String,
    },
}

/// How a task ended.
#[derive(Clone, Debug, Serialize)]
pub struct End {
    /// Which one.
    pub task: u64,
    /// `exit`, `signal`, `timeout`, `cancelled`, `failed` or `lost`.
    pub how: &'static str,
    /// The exit code or the signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The kind of failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<FailureKind>,
    /// Why, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How long, milliseconds.
    pub ran_ms: u64,
    /// The files that it made.
    pub outputs: Vec<PathBuf>,
}

impl End {
    /// The end of a task that could not be run to it.
    pub fn failed(task: u64, message: String) -> Self {
        Self {
            task,
            how: "failed",
            code: None,
            kind: None,
            message: Some(message),
            worker: None,
            ran_ms: 0,
            outputs: Vec::new(),
        }
    }

    /// As the scheduler has it; its files are still to be put into place.
    pub fn of(task: u64, outcome: &Outcome) -> Self {
        let plain = Self { message: None, how: "cancelled", ..Self::failed(task, String::new()) };
        match outcome {
            Outcome::Cancelled => plain,
            Outcome::Lost { worker, error, losses } => Self {
                how: "lost",
                message: Some(super::lost_words(worker, error, losses)),
                worker: Some(worker.to_string()),
                ..plain
            },
            Outcome::Finished { worker, finished } => {
                let ran = Self { worker: Some(worker.to_string()), ran_ms: finished.ran_us / 1000, ..plain };
                match &finished.ended {
                    Ended::Exit(code) => Self { how: "exit", code: Some(*code), ..ran },
                    Ended::Signal(signal) => Self { how: "signal", code: Some(*signal), ..ran },
                    Ended::TimedOut => Self { how: "timeout", ..ran },
                    Ended::Cancelled => ran,
                    Ended::Failed(failure) => Self {
                        how: "failed",
                        kind: Some(failure.kind),
                        message: Some(crate::say::harmless(&failure.message)),
                        ..ran
                    },
                }
            }
        }
    }
}
