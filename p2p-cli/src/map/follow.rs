//! One task from its submission to its end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::Shared;
use p2p_proto::ids::PeerName;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Ended, Failure};
use p2p_scheduler::{Outcome, TaskEvent, TaskHandle};

use super::plan::Ready;
use super::spool::{Spool, Store};
use super::template::Row;
use crate::commands::run::lost;
use crate::outputs::{Outputs, Wanted};
use crate::say;

/// Told to all tasks at once: end now.
pub type Stop = Shared<oneshot::Receiver<()>>;

/// A task that is over.
pub struct Done {
    /// What it was made of.
    pub row: Row,
    /// How it ended.
    pub verdict: Verdict,
    /// Where it ran, if it ran.
    pub worker: Option<PeerName>,
    /// How long it ran.
    pub ran: Duration,
    /// The files that came back.
    pub files: Vec<String>,
    /// What it printed.
    pub stdout: Spool,
    /// What it said.
    pub stderr: Spool,
    /// What it took of the bound on what is submitted ahead, bytes.
    pub bytes: u64,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeded.
    Good,
    /// It failed.
    Failed {
        /// In words.
        why: String,
        /// The command's exit code, if it came so far.
        exit: Option<i32>,
        /// The signal that ended the command.
        signal: Option<i32>,
    },
    /// It was stopped because the whole was.
    Unfinished,
}

impl Verdict {
    fn failed(why: impl Into<String>) -> Self {
        Self::Failed { why: why.into(), exit: None, signal: None }
    }
}

impl Done {
    /// A task that could not even be submitted.
    pub fn impossible(row: Row, failure: &Failure, store: &Rc<Store>) -> Self {
        let mut done = Self::begin(row, 0, store);
        done.verdict = Verdict::failed(say::harmless(&failure.message));
        done
    }

    fn begin(row: Row, bytes: u64, store: &Rc<Store>) -> Self {
        Self {
            row,
            verdict: Verdict::Unfinished,
            worker: None,
            ran: Duration::ZERO,
            files: Vec::new(),
            stdout: Spool::new(store),
            stderr: Spool::new(store),
            bytes,
        }
    }
}

/// What all tasks share.
#[derive(Clone)]
pub struct Company {
    /// Where they keep what they print.
    pub store: Rc<Store>,
    /// How many of them run on a worker now.
    pub working: Rc<Cell<usize>>,
    /// Ends all of them.
    pub stop: Stop,
    /// `--timeout`.
    pub timeout: Option<Duration>,
}

/// A submitted task.
pub struct Following {
    handle: TaskHandle,
    company: Company,
    outputs: Option<Outputs>,
    done: Done,
    works: bool,
    /// The last words of the worker or the client about it.
    note: Option<String>,
    /// Why what it prints or sends back cannot be kept here.
    trouble: Option<String>,
    stopped: bool,
}

impl Following {
    /// Begins to follow a task.
    pub fn new((row, wanted, bytes): (Row, Vec<Wanted>, u64), handle: TaskHandle, company: &Company) -> Self {
        let outputs = (!wanted.is_empty()).then(|| Ready::outputs(wanted));
        let done = Done::begin(row, bytes, &company.store);
        let company = company.clone();
        Self { handle, company, outputs, done, works: false, note: None, trouble: None, stopped: false }
    }

    /// Waits for its end.
    pub async fn end(mut self) -> Done {
        loop {
            let event = if self.stopped {
                self.handle.next().await
            } else {
                futures::select_biased! {
                    event = self.handle.next().fuse() => event,
                    _ = &mut self.company.stop => {
                        self.stopped = true;
                        self.handle.cancel();
                        continue;
                    }
                }
            };
            match event {
                Some(TaskEvent::Outcome(outcome)) => {
                    self.works(false);
                    self.on_outcome(outcome);
                    return self.done;
                }
                Some(event) => self.on_event(event),
                None => return self.done,
            }
        }
    }

    fn works(&mut self, works: bool) {
        let working = self.company.working.get() + usize::from(works) - usize::from(self.works);
        self.company.working.set(working);
        self.works = works;
    }

    fn on_event(&mut self, event: TaskEvent) {
        let kept = match event {
            TaskEvent::Data { channel: Channel::Stdout, bytes, .. } => self.done.stdout.push(&bytes).map_err(no_room),
            TaskEvent::Data { channel: Channel::Stderr, bytes, .. } => self.done.stderr.push(&bytes).map_err(no_room),
            TaskEvent::Data { channel: Channel::Output(index), bytes, .. } => match &mut self.outputs {
                Some(outputs) if self.trouble.is_none() => {
                    outputs.write(index, &bytes).map_err(|trouble| trouble.to_string())
                }
                _ => Ok(()),
            },
            TaskEvent::Note(text) => {
                self.note = Some(say::harmless(&text));
                Ok(())
            }
            TaskEvent::Started => {
                self.works(true);
                Ok(())
            }
            TaskEvent::Again => {
                self.works(false);
                self.done.stdout.clear();
                self.done.stderr.clear();
                if let Some(outputs) = &mut self.outputs {
                    outputs.discard();
                }
                self.trouble = None;
                Ok(())
            }
            TaskEvent::Sent(_) | TaskEvent::Data { .. } | TaskEvent::Outcome(_) => Ok(()),
        };
        if let Err(words) = kept
            && self.trouble.is_none()
        {
            self.trouble = Some(words);
            self.handle.cancel();
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        let (finished, worker) = match outcome {
            Outcome::Finished { finished, worker } => (finished, worker),
            Outcome::Cancelled => return self.done.verdict = self.cancelled(),
            Outcome::Lost { worker, error, losses } => {
                let trouble = lost(&worker.to_string(), &error.to_string(), &losses);
                self.done.worker = Some(worker);
                return self.done.verdict = Verdict::failed(trouble.to_string());
            }
        };
        self.done.worker = Some(worker);
        self.done.ran = Duration::from_micros(finished.ran_us);
        self.done.verdict = match finished.ended {
            Ended::Exit(0) => match self.place(&finished.outputs, true) {
                Ok(()) => Verdict::Good,
                Err(why) => Verdict::failed(why),
            },
            Ended::Exit(code) => {
                // What a failed command left is wanted all the same; that it failed is the news.
                let _ = self.place(&finished.outputs, false);
                Verdict::Failed { why: format!("exit code {code}"), exit: Some(code), signal: None }
            }
            Ended::Signal(signal) => {
                let _ = self.place(&finished.outputs, false);
                Verdict::Failed { why: format!("ended by signal {signal}"), exit: None, signal: Some(signal) }
            }
            Ended::TimedOut => {
                let limit = self.company.timeout.map(|limit| format!(" {}", humantime::format_duration(limit)));
                Verdict::failed(format!("killed: it ran longer than --timeout{}", limit.unwrap_or_default()))
            }
            Ended::Cancelled => self.cancelled(),
            Ended::Failed(failure) => Verdict::failed(say::harmless(&failure.message)),
        };
    }

    /// Stopped by us all, or because of its own trouble.
    fn cancelled(&mut self) -> Verdict {
        match self.trouble.take().or(self.note.take()) {
            Some(words) if !self.stopped => Verdict::failed(words),
            _ if self.stopped => Verdict::Unfinished,
            _ => Verdict::failed("it was cancelled"),
        }
    }

    fn place(&mut self, files: &[p2p_proto::task::File], complete: bool) -> Result<(), String> {
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        let Some(outputs) = &mut self.outputs else { return Ok(()) };
        if let Some(missing) = outputs.missing(files).filter(|_| complete) {
            return Err(format!("it succeeded, but its output file {missing} is not there"));
        }
        let placed = outputs.place(files).map_err(|trouble| trouble.to_string())?;
        self.done.files = placed.iter().map(|path| shown_path(path)).collect();
        Ok(())
    }
}

fn shown_path(path: &std::path::Path) -> String {
    path.strip_prefix(".").unwrap_or(path).to_string_lossy().into_owned()
}

fn no_room(fault: std::io::Error) -> String {
    format!("what it prints cannot be kept in a temporary file: {fault}; make room, or set TMPDIR to a larger disk")
}
