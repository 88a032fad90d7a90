//! One task from its submission to its end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt as _;
use futures::channel::mpsc::UnboundedSender;
use futures::channel::oneshot;
use futures::future::Shared;
use p2p_proto::ids::PeerName;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Ended, Failure, FailureKind};
use p2p_scheduler::{Outcome, TaskEvent, TaskHandle};

use super::joblog::End;
use super::plan::Ready;
use super::spool::{Spool, Store};
use super::template::Row;
use crate::commands::run::lost;
use crate::outputs::{Outputs, Wanted};
use crate::say;

/// The end of what did not come so far that it has an exit code.
const NO_EXIT: End = End { exit: -1, signal: 0 };

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
    /// When it started.
    pub started: SystemTime,
    /// Its input files, bytes.
    pub sent: u64,
    /// Its stdout and its output files, bytes.
    pub received: u64,
    /// Its end, as the log has it.
    pub end: End,
    /// How often it was tried, with this time; not counting workers that were lost.
    pub attempt: u64,
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
        let mut done = Self::unfinished(row, store);
        done.verdict = Verdict::failed(say::harmless(&failure.message));
        done.end = NO_EXIT;
        done
    }

    /// A task that is not started any more.
    pub fn unfinished(row: Row, store: &Rc<Store>) -> Self {
        Self {
            row,
            verdict: Verdict::Unfinished,
            worker: None,
            ran: Duration::ZERO,
            files: Vec::new(),
            stdout: Spool::new(store),
            stderr: Spool::new(store),
            bytes: 0,
            started: SystemTime::now(),
            sent: 0,
            received: 0,
            end: End::default(),
            attempt: 1,
        }
    }

    /// Whether it failed where another attempt may do better: on a worker, and not because of something here.
    pub fn may_be_retried(&self) -> bool {
        matches!(self.verdict, Verdict::Failed { .. }) && self.worker.is_some()
    }
}

/// What all tasks share.
#[derive(Clone)]
pub struct Company {
    /// Where they keep what they print.
    pub store: Rc<Store>,
    /// How many of them run on a worker now.
    pub working: Rc<Cell<usize>>,
    /// Whether one of them was ever sent to a worker.
    pub sent: Rc<Cell<bool>>,
    /// Ends all of them.
    pub stop: Stop,
    /// When one of them started last.
    pub last_start: Rc<Cell<Option<Instant>>>,
    /// Told of each start, if anybody wants to know.
    pub starts: Option<UnboundedSender<()>>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
}

/// What is known of a task when it is submitted.
pub struct Begun {
    /// What it was made of.
    pub row: Row,
    /// What comes back.
    pub wanted: Vec<Wanted>,
    /// What it takes of the bound on what is submitted ahead, bytes.
    pub bytes: u64,
    /// Its input files, bytes.
    pub sent: u64,
    /// From 1.
    pub attempt: u64,
}

/// A submitted task.
pub struct Following {
    handle: TaskHandle,
    company: Company,
    outputs: Option<Outputs>,
    done: Done,
    works: bool,
    started: Option<SystemTime>,
    /// The last words of the worker or the client about it.
    note: Option<String>,
    /// Why what it prints or sends back cannot be kept here.
    trouble: Option<String>,
    stopped: bool,
}

impl Following {
    /// Begins to follow a task.
    pub fn new(begun: Begun, handle: TaskHandle, company: &Company) -> Self {
        let Begun { row, wanted, bytes, sent, attempt } = begun;
        let outputs = (!wanted.is_empty()).then(|| Ready::outputs(wanted));
        let done = Done { bytes, sent, attempt, ..Done::unfinished(row, &company.store) };
        let company = company.clone();
        let (works, stopped) = (false, false);
        Self { handle, company, outputs, done, works, started: None, note: None, trouble: None, stopped }
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
            TaskEvent::Data { channel: Channel::Stdout, bytes, .. } => {
                self.done.received += bytes.len() as u64;
                self.done.stdout.push(&bytes).map_err(no_room)
            }
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
                self.started = Some(SystemTime::now());
                self.company.last_start.set(Some(Instant::now()));
                if let Some(starts) = &self.company.starts {
                    // Nobody listens when all is over.
                    let _ = starts.unbounded_send(());
                }
                Ok(())
            }
            TaskEvent::Again => {
                self.works(false);
                self.started = None;
                self.done.received = 0;
                self.done.stdout.clear();
                self.done.stderr.clear();
                if let Some(outputs) = &mut self.outputs {
                    outputs.discard();
                }
                self.trouble = None;
                Ok(())
            }
            TaskEvent::Sent(_) => {
                self.company.sent.set(true);
                Ok(())
            }
            TaskEvent::Data { .. } | TaskEvent::Outcome(_) => Ok(()),
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
            Outcome::Cancelled => {
                self.done.end = NO_EXIT;
                return self.done.verdict = self.cancelled();
            }
            Outcome::Lost { worker, error, losses } => {
                let trouble = lost(&worker.to_string(), &error.to_string(), &losses);
                self.done.worker = Some(worker);
                self.done.end = NO_EXIT;
                return self.done.verdict = Verdict::failed(trouble.to_string());
            }
        };
        self.done.worker = Some(worker);
        self.done.ran = Duration::from_micros(finished.ran_us);
        // What is short may never be told as started.
        let started = SystemTime::now().checked_sub(self.done.ran).unwrap_or(SystemTime::UNIX_EPOCH);
        self.done.started = self.started.map_or(started, |told| told.min(started));
        if self.started.is_none() {
            self.company.last_start.set(self.company.last_start.get().max(Instant::now().checked_sub(self.done.ran)));
        }
        self.done.received += finished.outputs.iter().map(|file| file.content.size()).sum::<u64>();
        self.done.end = end(&finished.ended);
        self.done.verdict = match finished.ended {
            Ended::Exit(0) => match self.place(&finished.outputs, true) {
                Ok(()) => Verdict::Good,
                Err(why) => {
                    self.done.end = NO_EXIT;
                    Verdict::failed(why)
                }
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

/// As a shell and GNU parallel have it.
fn end(ended: &Ended) -> End {
    match ended {
        Ended::Exit(exit) => End { exit: *exit, signal: 0 },
        Ended::Signal(signal) => End { exit: 0, signal: *signal },
        Ended::TimedOut => End { exit: -1, signal: 15 },
        Ended::Failed(failure) => match failure.kind {
            FailureKind::CommandNotFound => End { exit: 127, signal: 0 },
            FailureKind::NotExecutable => End { exit: 126, signal: 0 },
            _ => NO_EXIT,
        },
        Ended::Cancelled => NO_EXIT,
    }
}

fn shown_path(path: &std::path::Path) -> String {
    path.strip_prefix(".").unwrap_or(path).to_string_lossy().into_owned()
}

fn no_room(fault: std::io::Error) -> String {
    format!("what it prints cannot be kept in a temporary file: {fault}; make room, or set TMPDIR to a larger disk")
}
