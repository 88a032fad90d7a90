//! What becomes of a task that ended: it is printed when its turn comes, and then written down in the log.
//!
//! In this order, so that whoever goes on with `--resume` after a crash has lost nothing that was printed: what the log has was passed on.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use futures::FutureExt as _;
use futures::future::{Fuse, FusedFuture as _, LocalBoxFuture};

use super::follow::{Done, Verdict};
use super::joblog::{Joblog, Line};
use super::mapping::Stopped;
use super::plan::Plan;
use super::print::Printer;
use crate::trouble::{Code, Trouble};

/// Tasks that are printed at once, at most.
const PRINTED: usize = 256;

/// A batch that is being printed.
type Printing = Fuse<LocalBoxFuture<'static, io::Result<Vec<Done>>>>;

/// All tasks that ended and are not yet printed.
pub struct Outlet {
    printer: Printer,
    joblog: Option<Joblog>,
    /// Makes the command lines of the log.
    plan: Arc<Plan>,
    /// With `--keep-order`: whose turn it is, in this order.
    turns: Option<VecDeque<u64>>,
    /// Those that ended before their turn.
    early: BTreeMap<u64, Done>,
    /// Those whose turn has come.
    ready: VecDeque<Done>,
    printing: Printing,
    printed_now: usize,
}

impl Outlet {
    /// Nothing has ended yet.
    pub fn new(printer: Printer, keep_order: bool, joblog: Option<Joblog>, plan: Arc<Plan>) -> Self {
        Self {
            printer,
            joblog,
            plan,
            turns: keep_order.then(VecDeque::new),
            early: BTreeMap::new(),
            ready: VecDeque::new(),
            printing: Fuse::terminated(),
            printed_now: 0,
        }
    }

    /// This task will end, after all that were expected before it if the order matters.
    pub fn expect(&mut self, number: u64) {
        if let Some(turns) = &mut self.turns {
            turns.push_back(number);
        }
    }

    /// A task ended.
    ///
    /// # Errors
    /// As [`Outlet::on_printed`].
    pub fn put(&mut self, done: Done) -> Result<(), Stopped> {
        if self.turns.is_none() {
            return self.take_turn(done);
        }
        self.early.insert(done.row.number, done);
        while let Some(done) = self.next_early() {
            self.take_turn(done)?;
        }
        Ok(())
    }

    fn next_early(&mut self) -> Option<Done> {
        let turns = self.turns.as_mut()?;
        let done = self.early.remove(turns.front()?)?;
        turns.pop_front();
        Some(done)
    }

    fn take_turn(&mut self, done: Done) -> Result<(), Stopped> {
        let told = self.printer.json || done.verdict != Verdict::Unfinished;
        if told && self.printer.prints(&done) {
            self.ready.push_back(done);
            return Ok(());
        }
        self.write_down(&done)
    }

    /// How many tasks are here.
    pub fn len(&self) -> usize {
        self.early.len() + self.ready.len() + self.printed_now
    }

    /// Whether nothing is being printed.
    pub fn is_idle(&self) -> bool {
        self.printing.is_terminated()
    }

    /// Begins to print what may be printed, unless a print goes on.
    pub fn start(&mut self) {
        if self.printing.is_terminated() && !self.ready.is_empty() {
            let tasks: Vec<Done> = self.ready.drain(..self.ready.len().min(PRINTED)).collect();
            self.printed_now = tasks.len();
            self.printing = self.printer.clone().print(tasks).boxed_local().fuse();
        }
    }

    /// The print that goes on; its result is for [`Outlet::on_printed`].
    pub fn printing(&mut self) -> &mut Printing {
        &mut self.printing
    }

    /// A print ended.
    ///
    /// # Errors
    /// When it could not be printed, or not be written down.
    pub fn on_printed(&mut self, printed: io::Result<Vec<Done>>) -> Result<(), Stopped> {
        self.printed_now = 0;
        match printed {
            Ok(tasks) => tasks.iter().try_for_each(|done| self.write_down(done)),
            // Whoever reads has enough, as `head` does.
            Err(fault) if fault.kind() == io::ErrorKind::BrokenPipe => Err(Stopped::Interrupted),
            Err(fault) => {
                let words = format!("what the commands print cannot be passed on: {fault}");
                Err(Stopped::Trouble(Trouble::new(Code::CannotWrite, words)))
            }
        }
    }

    /// `--joblog`. What was stopped has no line there, and is run by `--resume`.
    fn write_down(&mut self, done: &Done) -> Result<(), Stopped> {
        let Some(joblog) = self.joblog.as_mut().filter(|_| done.verdict != Verdict::Unfinished) else {
            return Ok(());
        };
        let line = Line {
            seq: done.row.number,
            host: done.worker.as_ref().map(ToString::to_string),
            started: done.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            ran: done.ran,
            sent: done.sent,
            received: done.received,
            end: done.end,
            command: &self.plan.line(&done.row),
        };
        joblog.write(&line).map_err(Stopped::Trouble)
    }
}
