//! All tasks of a map: submits them and waits for their ends.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_std::channel::Receiver;
use futures::channel::mpsc::UnboundedReceiver;
use futures::channel::{mpsc, oneshot};
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use p2p_proto::task::Failure;
use p2p_scheduler::{Client, Waiting};

use super::advice::Advice;
use super::feed::Fed;
use super::follow::{Begun, Company, Done, Following, Verdict};
use super::halt::{Halting, When};
use super::outlet::Outlet;
use super::pace::{Load, Pace, Room};
use super::plan::{Plan, Ready};
use super::progress::Progress;
use super::summary::Summary;
use super::template::Row;
use crate::commands::Signals;
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::wiring::{Patience, say_report};

/// Tasks that are read and not yet printed, at most: an endless list of inputs is read no faster than that.
const AHEAD: usize = 10_000;
/// What these take, bytes.
const AHEAD_BYTES: u64 = 64 * 1024 * 1024;
/// Why it stopped before its end.
pub enum Stopped {
    /// By a signal, or because nobody reads what is printed.
    Interrupted,
    /// By a second signal: at once.
    AtOnce,
    /// By something of ours.
    Trouble(Trouble),
}

/// What is wanted.
pub struct Settings {
    /// Makes tasks of rows.
    pub plan: Arc<Plan>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--retries`; 0 is without end.
    pub retries: u64,
    /// Prints what ended, and writes it down.
    pub outlet: Outlet,
    /// Draws.
    pub progress: Progress,
    /// `--halt`.
    pub halting: Halting,
    /// `--delay`.
    pub pace: Pace,
    /// What is to be said.
    pub advice: Advice,
}

/// A task that can be submitted, or why it cannot.
struct Made {
    row: Row,
    attempt: u64,
    made: Result<Ready, Failure>,
}

/// All tasks that are on their way.
pub struct Mapping {
    client: Client,
    settings: Settings,
    fed: Option<Receiver<Fed>>,
    summary: Summary,
    company: Company,
    /// Those that fail are made anew, for their files may have to be read again.
    making: FuturesUnordered<LocalBoxFuture<'static, Made>>,
    /// Those that wait for their submission.
    pending: VecDeque<Made>,
    running: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    /// Wakes with `--delay`, for the next may be submitted some time after a start.
    starts: UnboundedReceiver<()>,
    stopper: Option<oneshot::Sender<()>>,
    /// Nothing more is started.
    stopping: bool,
    /// Something was left when that began.
    cut_short: bool,
    /// Tasks that were read.
    read: u64,
    /// Bytes of tasks that wait or run.
    bytes: u64,
    /// What went wrong while something else was still to be done.
    trouble: Option<Trouble>,
    interrupted: bool,
}

impl Mapping {
    /// Nothing is submitted yet.
    pub fn new(fed: Receiver<Fed>, client: Client, settings: Settings) -> Self {
        let (stopper, stop) = oneshot::channel();
        let (told_starts, starts) = mpsc::unbounded();
        let company = Company {
            store: Rc::default(),
            working: Rc::default(),
            sent: Rc::default(),
            stop: stop.shared(),
            last_start: Rc::default(),
            starts: settings.pace.is_slow().then_some(told_starts),
            timeout: settings.timeout,
        };
        Self {
            client,
            settings,
            fed: Some(fed),
            summary: Summary::new(),
            company,
            making: FuturesUnordered::new(),
            pending: VecDeque::new(),
            running: FuturesUnordered::new(),
            starts,
            stopper: Some(stopper),
            stopping: false,
            cut_short: false,
            read: 0,
            bytes: 0,
            trouble: None,
            interrupted: false,
        }
    }

    /// Until all inputs have been read, all tasks have ended, and all that they printed is printed.
    pub async fn run(&mut self, signals: &mut Signals, mut patience: Patience) -> Result<(), Stopped> {
        let mut seconds = futures::StreamExt::fuse(async_io::Timer::interval(Duration::from_secs(1)));
        let client = self.client.clone();
        if self.settings.halting.option().is_soon() {
            // No more tasks than slots wait, so that workers have to be looked for.
            client.survey();
        }
        loop {
            let due = self.submit().await?;
            self.settings.outlet.start();
            if self.is_over() {
                return match self.trouble.take() {
                    Some(trouble) => Err(Stopped::Trouble(trouble)),
                    None if self.interrupted => Err(Stopped::Interrupted),
                    None => Ok(()),
                };
            }
            let feeding = self.fed.clone().filter(|_| self.has_room());
            let next_fed = async move {
                match feeding {
                    Some(fed) => fed.recv().await.ok(),
                    None => futures::future::pending().await,
                }
            };
            let pause = async move {
                match due {
                    Some(due) => async_io::Timer::at(due).await,
                    None => futures::future::pending().await,
                }
            };
            futures::select_biased! {
                () = signals.next().fuse() => self.on_signal()?,
                done = self.running.select_next_some() => {
                    patience.reset();
                    self.on_done(done)?;
                }
                printed = self.settings.outlet.printing() => self.settings.outlet.on_printed(printed)?,
                made = self.making.select_next_some() => self.on_made(made)?,
                _ = self.starts.next() => {}
                fed = next_fed.fuse() => self.on_fed(fed)?,
                _ = pause.fuse() => {}
                report = client.report().fuse() => if let Some(report) = report {
                    say_report(&report, &client);
                    self.look(&mut patience)?;
                },
                _ = seconds.next() => self.look(&mut patience)?,
            }
        }
    }

    fn is_over(&self) -> bool {
        let none_left = self.fed.is_none() && self.making.is_empty() && self.pending.is_empty();
        none_left && self.running.is_empty() && self.settings.outlet.is_idle()
    }

    /// Whether more may be read.
    fn has_room(&self) -> bool {
        let on_their_way = self.pending.len() + self.making.len() + self.running.len();
        on_their_way + self.settings.outlet.len() < AHEAD && self.bytes < AHEAD_BYTES
    }

    fn on_fed(&mut self, fed: Option<Fed>) -> Result<(), Stopped> {
        match fed {
            Some(Fed::Total(total)) => {
                self.settings.progress.total(total.saturating_sub(self.settings.halting.before().done));
                self.settings.advice.on_tasks(total);
                let when = self.settings.halting.on_total(total);
                self.halt(when)?;
            }
            Some(Fed::Rows(rows)) => {
                self.read += rows.len() as u64;
                self.settings.advice.on_tasks(self.read);
                for (row, made) in rows {
                    self.settings.outlet.expect(row.number);
                    self.on_made(Made { row, attempt: 1, made })?;
                }
            }
            Some(Fed::Trouble(trouble)) => {
                // What was read before is finished first.
                self.trouble = Some(trouble);
                self.fed = None;
            }
            None => self.fed = None,
        }
        Ok(())
    }

    fn on_made(&mut self, made: Made) -> Result<(), Stopped> {
        if self.stopping {
            return self.on_done(Done::unfinished(made.row, &self.company.store));
        }
        self.bytes += made.made.as_ref().map_or(0, |ready| ready.bytes);
        self.pending.push_back(made);
        Ok(())
    }

    /// Submits what may be; when to look again, if that is known.
    async fn submit(&mut self) -> Result<Option<Instant>, Stopped> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        if let Some(last) = self.company.last_start.get() {
            self.settings.pace.on_start(last);
        }
        let places = self.settings.halting.option().is_soon().then(|| self.places());
        let load = Load { submitted: self.running.len(), running: self.company.working.get(), places };
        let count = match self.settings.pace.room(Instant::now(), load) {
            Room::For(count) => count.min(self.pending.len()),
            Room::At(due) => return Ok(Some(due)),
        };
        let lot: Vec<Made> = self.pending.drain(..count).collect();
        let (mut tasks, mut begun) = (Vec::with_capacity(lot.len()), Vec::with_capacity(lot.len()));
        for Made { row, attempt, made } in lot {
            match made {
                Ok(Ready { task, wanted, bytes, sent }) => {
                    begun.push(Begun { row, wanted, bytes, sent, attempt });
                    tasks.push(task);
                }
                Err(failure) => self.on_done(Done::impossible(row, &failure, &self.company.store))?,
            }
        }
        for (handle, begun) in self.client.submit_all(tasks).await.into_iter().zip(begun) {
            self.running.push(Following::new(begun, handle, &self.company).end().boxed_local());
        }
        // If none of them could be submitted, then nothing but this asks for the next ones.
        Ok((self.running.is_empty() && !self.pending.is_empty()).then(Instant::now))
    }

    /// How many tasks the linked workers can run at once.
    fn places(&self) -> usize {
        let cpus = self.settings.plan.needs.cpus.max(1);
        let status = self.client.status();
        let linked = status.workers.iter().filter(|worker| worker.path.is_some() && !worker.draining);
        linked.map(|worker| (worker.slots / cpus) as usize).sum()
    }

    fn on_done(&mut self, done: Done) -> Result<(), Stopped> {
        self.bytes -= done.bytes;
        let more = self.settings.retries == 0 || done.attempt < self.settings.retries;
        if more && done.may_be_retried() {
            self.make_again(done);
            return Ok(());
        }
        self.summary.count(&done);
        self.settings.progress.ended(self.summary.ended());
        let halting = &mut self.settings.halting;
        let when = match done.verdict {
            Verdict::Good => halting.on_good(),
            Verdict::Failed { .. } => halting.on_failed(done.end.exit, done.end.signal),
            Verdict::Unfinished => None,
        };
        self.settings.outlet.put(done)?;
        self.halt(when)
    }

    /// Another attempt. What the last one printed is forgotten.
    fn make_again(&mut self, done: Done) {
        let (plan, row, attempt) = (Arc::clone(&self.settings.plan), done.row, done.attempt + 1);
        let make = async_std::task::spawn_blocking(move || {
            let made = plan.task(&row);
            Made { row, attempt, made }
        });
        self.making.push(make.boxed_local());
    }

    fn halt(&mut self, when: Option<When>) -> Result<(), Stopped> {
        let Some(when) = when else { return Ok(()) };
        let halt = self.settings.halting.option();
        let running = self.running.len();
        match when {
            _ if running == 0 => say::info(&format!("--halt {halt}: no more tasks start")),
            When::Now => say::info(&format!("--halt {halt}: stopping {running} tasks")),
            When::Soon => say::info(&format!("--halt {halt}: no more tasks start; waiting for {running} that run")),
        }
        self.stop(when)
    }

    /// Starts no more tasks; with [`When::Now`] stops those that run.
    fn stop(&mut self, when: When) -> Result<(), Stopped> {
        self.stopping = true;
        let on_their_way = self.pending.len() + self.making.len() + self.running.len();
        self.cut_short |= self.fed.is_some() || on_their_way > 0;
        self.fed = None;
        self.settings.retries = 1;
        if when == When::Now {
            self.stopper = None;
        }
        for made in std::mem::take(&mut self.pending) {
            self.bytes -= made.made.as_ref().map_or(0, |ready| ready.bytes);
            self.on_done(Done::unfinished(made.row, &self.company.store))?;
        }
        Ok(())
    }

    fn on_signal(&mut self) -> Result<(), Stopped> {
        if self.interrupted {
            return Err(Stopped::AtOnce);
        }
        self.interrupted = true;
        let running = self.running.len();
        if running > 0 {
            say::info(&format!("interrupted: stopping {running} tasks; interrupt again to leave at once"));
        }
        self.stop(When::Now)
    }

    /// Looks after the bar, and at why nothing happens, if nothing does.
    fn look(&mut self, patience: &mut Patience) -> Result<(), Stopped> {
        self.settings.advice.on_tasks(self.read);
        if self.settings.progress.is_drawn() {
            self.settings.progress.say(&self.client.status(), self.summary.failed());
        }
        // Some of a thousand tasks always wait: while others run there is nothing to explain.
        let working = self.company.working.get() > 0;
        let waiting = self.client.waiting().filter(|waiting| !(working && matches!(waiting, Waiting::Busy { .. })));
        if self.company.sent.get() {
            patience.on_sent();
        }
        patience.look(waiting).map_err(Stopped::Trouble)
    }

    /// Says how it went.
    pub fn end(mut self, result: Result<(), Stopped>) -> Result<ExitCode, Trouble> {
        self.settings.progress.clear();
        let advice = &self.settings.advice;
        if matches!(result, Err(Stopped::AtOnce)) {
            advice.say_how_to_go_on();
            return Ok(Code::Interrupted.into());
        }
        let abandoned = std::mem::take(&mut self.running).len() + self.pending.len() + self.making.len();
        self.summary.add_unfinished(abandoned);
        self.summary.say();
        let early = matches!(result, Err(Stopped::Interrupted)) || self.cut_short;
        if early || result.is_err() && advice.has_log() && self.summary.ended() > 0 {
            advice.say_how_to_go_on();
        }
        match result {
            Ok(()) => Ok(ExitCode::from(self.settings.halting.code())),
            Err(Stopped::Trouble(trouble)) => Err(trouble),
            Err(Stopped::Interrupted | Stopped::AtOnce) => Ok(Code::Interrupted.into()),
        }
    }
}
