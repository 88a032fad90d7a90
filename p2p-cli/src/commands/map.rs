//! `p2p map`: a command for each of many inputs, on all workers, as GNU parallel does it on one machine.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use async_std::channel::Receiver;
use clap::Args;
use futures::channel::oneshot;
use futures::future::{Fuse, FusedFuture as _, LocalBoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use p2p_scheduler::{Client, Waiting};

use super::Signals;
use super::run::parse_variable;
use crate::map::feed::{self, Fed};
use crate::map::follow::{Company, Done, Following, Verdict};
use crate::map::plan::Plan;
use crate::map::print::Printer;
use crate::map::progress::Progress;
use crate::map::sources::{self, Rows, Source};
use crate::map::summary::Summary;
use crate::map::template::{Row, Template};
use crate::options::Common;
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::wiring::{Patience, Wiring, say_report};

/// Tasks that are submitted and not yet printed, at most: an endless list of inputs is read no faster than that.
const AHEAD: usize = 10_000;
/// What these take, bytes.
const AHEAD_BYTES: u64 = 64 * 1024 * 1024;
/// More failures than this have one exit code.
const COUNTED: u64 = 100;
/// Tasks that are printed at once, at most.
const PRINTED: usize = 256;

/// Options of `p2p map`.
#[derive(Debug, Args)]
#[command(
    override_usage = "p2p map [OPTIONS] COMMAND... [::: VALUE...]... [:::: FILE...]...\n       ... | p2p map [OPTIONS] COMMAND...",
    after_help = "In COMMAND, --in and --out, {} stands for the value, {.} for it without its extension, {/} for its last part, {//} for its \
        folder, {/.} for its last part without extension, {#} for the task's number; {2} {2.} ... for the value of the second source. \
        In COMMAND values are quoted for the shell. Without any of these, {} is appended.\n\n\
        Files keep their names in the task's folder, and come back to where their names say; there absolute names have no leading /.\n\n\
        The exit code is the number of tasks that failed, or 101 when more than 100 did."
)]
pub struct Options {
    /// A file to take along; may be given several times.
    #[arg(long = "in", value_name = "FILE")]
    pub inputs: Vec<OsString>,

    /// A file to bring back, or a pattern with * ? [..] **; may be given several times.
    #[arg(long = "out", value_name = "FILE")]
    pub outputs: Vec<OsString>,

    /// Print in the order of the inputs, not as tasks end.
    #[arg(short, long)]
    pub keep_order: bool,

    /// Begin each line of output with the task's value and a tab.
    #[arg(long)]
    pub tag: bool,

    /// Only print the command lines.
    #[arg(long)]
    pub dry_run: bool,

    /// Values end with a NUL instead of a newline.
    #[arg(short = '0', long)]
    pub null: bool,

    /// Read values from a file, - for stdin; may be given several times.
    #[arg(short, long, value_name = "FILE")]
    pub arg_file: Vec<PathBuf>,

    /// A variable for the commands; may be given several times.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub env: Vec<(String, String)>,

    /// Kill a command after so long.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    /// Slots that each task takes.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(p2p_proto::limits::SLOTS)))]
    pub cpus: u32,

    /// Never start a task a second time, even if its worker is lost.
    #[arg(long)]
    pub once: bool,

    /// How long to wait for a worker.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub wait: Duration,

    /// The command, then ::: and values, or :::: and files of values; else values are read from stdin.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Runs them all; the exit code is the number of those that failed.
pub async fn map(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let mut signals = Signals::listen()?;
    let timeout = options.timeout;
    let (keep_order, wait, dry_run) = (options.keep_order, options.wait, options.dry_run);
    let (tag, json) = (options.tag, common.json);
    let (plan, rows) = plan(options)?;
    if dry_run {
        return print_lines(&plan, rows);
    }
    let wiring = Wiring::new(common, "personal").await?;
    let client = wiring.client()?;
    let fed = feed::start(plan, rows).map_err(|fault| Trouble::system("a thread cannot be started", fault))?;
    let progress = Progress::new(!common.quiet);
    let printer = Printer { tag, json, bars: progress.bars() };
    let mut mapping = Mapping::new(fed, timeout, printer, keep_order, progress);
    let result = mapping.run(&client, &mut signals, Patience::new(wait)).await;
    mapping.progress.clear();
    let end = mapping.end(result);
    client.close().await;
    end
}

/// The plan and the rows that the command line asks for.
fn plan(options: Options) -> Result<(Plan, Rows), Trouble> {
    let usage = |words: String| Trouble::new(Code::Usage, words);
    let (command, sources) = sources::split(options.command, options.arg_file)?;
    if sources.iter().any(|source| matches!(source, Source::Stdin)) && io::stdin().is_terminal() {
        say::info("the values are read from the terminal, one on a line; Ctrl-D ends them");
    }
    let words: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
    let bare = words.is_empty();
    let text = if bare { b"{}".to_vec() } else { words.join(&b' ') };
    let mut command = Template::parse(&text).map_err(usage)?;
    if !command.replaces() {
        command.append_value();
    }
    let templates = |texts: &[OsString]| -> Result<Vec<Template>, Trouble> {
        texts.iter().map(|text| Template::parse(text.as_bytes()).map_err(usage)).collect()
    };
    let (inputs, outputs) = (templates(&options.inputs)?, templates(&options.outputs)?);
    let (env, timeout, cpus, once) = (options.env, options.timeout, options.cpus, options.once);
    let plan = Plan { command, bare, inputs, outputs, env, timeout, cpus, once };
    let rows = Rows::open(sources, if options.null { 0 } else { b'\n' })?;
    Ok((plan, rows))
}

/// `--dry-run`.
fn print_lines(plan: &Plan, mut rows: Rows) -> Result<ExitCode, Trouble> {
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let mut number = 0;
    let mut print = |line: Option<&[u8]>| match line {
        Some(line) => stdout.write_all(line).and_then(|()| stdout.write_all(b"\n")),
        None => stdout.flush(),
    };
    let printed = |result: io::Result<()>| match result {
        Err(fault) if fault.kind() != io::ErrorKind::BrokenPipe => {
            Err(Trouble::new(Code::CannotWrite, format!("the command lines cannot be printed: {fault}")))
        }
        result => Ok(result.is_ok()),
    };
    while let Some(values) = rows.next()? {
        number += 1;
        let more = printed(print(Some(&plan.line(&Row { number, values }))))?;
        if !more || !rows.is_ready() && !printed(print(None))? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    printed(print(None))?;
    Ok(ExitCode::SUCCESS)
}

/// Why it stopped before its end.
enum Stopped {
    /// By a signal, or because nobody reads what is printed.
    Interrupted,
    /// By a second signal: at once.
    AtOnce,
    /// By something of ours.
    Trouble(Trouble),
}

/// All tasks that are on their way.
struct Mapping {
    fed: Option<Receiver<Fed>>,
    printer: Printer,
    keep_order: bool,
    progress: Progress,
    summary: Summary,
    company: Company,
    running: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    stopper: Option<oneshot::Sender<()>>,
    /// Bytes of submitted tasks.
    bytes: u64,
    /// Those that ended before an earlier one did, with `-k`.
    early: BTreeMap<u64, Done>,
    next: u64,
    /// Those whose turn to be printed has come.
    ready: VecDeque<Done>,
    /// In the printer's hands.
    printing: Fuse<LocalBoxFuture<'static, io::Result<Vec<Done>>>>,
    printed_now: usize,
    /// What went wrong while something else was still to be done.
    trouble: Option<Trouble>,
    interrupted: bool,
}

impl Mapping {
    fn new(
        fed: Receiver<Fed>,
        timeout: Option<Duration>,
        printer: Printer,
        keep_order: bool,
        progress: Progress,
    ) -> Self {
        let (stopper, stop) = oneshot::channel();
        Self {
            fed: Some(fed),
            printer,
            keep_order,
            progress,
            summary: Summary::new(),
            company: Company { store: Rc::default(), working: Rc::default(), stop: stop.shared(), timeout },
            running: FuturesUnordered::new(),
            stopper: Some(stopper),
            bytes: 0,
            early: BTreeMap::new(),
            next: 1,
            ready: VecDeque::new(),
            printing: Fuse::terminated(),
            printed_now: 0,
            trouble: None,
            interrupted: false,
        }
    }

    /// Until all inputs have been read, all tasks have ended, and all that they printed is printed.
    async fn run(&mut self, client: &Client, signals: &mut Signals, mut patience: Patience) -> Result<(), Stopped> {
        let mut seconds = futures::StreamExt::fuse(async_io::Timer::interval(Duration::from_secs(1)));
        loop {
            self.start_printing();
            if self.fed.is_none() && self.running.is_empty() && self.printing.is_terminated() {
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
            futures::select_biased! {
                () = signals.next().fuse() => self.on_signal()?,
                done = self.running.select_next_some() => {
                    patience.reset();
                    self.on_done(done);
                }
                printed = &mut self.printing => self.on_printed(printed)?,
                fed = next_fed.fuse() => self.on_fed(fed, client).await,
                report = client.report().fuse() => if let Some(report) = report {
                    say_report(&report);
                    self.look(client, &mut patience)?;
                },
                _ = seconds.next() => self.look(client, &mut patience)?,
            }
        }
    }

    /// Whether more may be submitted.
    fn has_room(&self) -> bool {
        let unprinted = self.running.len() + self.early.len() + self.ready.len() + self.printed_now;
        unprinted < AHEAD && self.bytes < AHEAD_BYTES
    }

    async fn on_fed(&mut self, fed: Option<Fed>, client: &Client) {
        match fed {
            Some(Fed::Total(total)) => self.progress.total(total),
            Some(Fed::Rows(rows)) => {
                let (mut tasks, mut rest) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
                for (row, made) in rows {
                    match made {
                        Ok(ready) => {
                            self.bytes += ready.bytes;
                            rest.push((row, ready.wanted, ready.bytes));
                            tasks.push(ready.task);
                        }
                        Err(failure) => self.on_done(Done::impossible(row, &failure, &self.company.store)),
                    }
                }
                for (handle, rest) in client.submit_all(tasks).await.into_iter().zip(rest) {
                    let following = Following::new(rest, handle, &self.company);
                    self.running.push(following.end().boxed_local());
                }
            }
            Some(Fed::Trouble(trouble)) => {
                // What was submitted before is finished first.
                self.trouble = Some(trouble);
                self.fed = None;
            }
            None => self.fed = None,
        }
    }

    fn on_done(&mut self, done: Done) {
        self.bytes -= done.bytes;
        self.summary.count(&done);
        self.progress.ended(self.summary.ended());
        if !self.keep_order {
            return self.queue_for_print(done);
        }
        self.early.insert(done.row.number, done);
        while let Some(done) = self.early.remove(&self.next) {
            self.next += 1;
            self.queue_for_print(done);
        }
    }

    fn queue_for_print(&mut self, done: Done) {
        let told = self.printer.json || done.verdict != Verdict::Unfinished;
        if told && self.printer.prints(&done) {
            self.ready.push_back(done);
        }
    }

    fn start_printing(&mut self) {
        if self.printing.is_terminated() && !self.ready.is_empty() {
            let tasks: Vec<Done> = self.ready.drain(..self.ready.len().min(PRINTED)).collect();
            self.printed_now = tasks.len();
            self.printing = self.printer.clone().print(tasks).boxed_local().fuse();
        }
    }

    fn on_printed(&mut self, printed: io::Result<Vec<Done>>) -> Result<(), Stopped> {
        self.printed_now = 0;
        match printed {
            Ok(_) => Ok(()),
            // Whoever reads has enough, as `head` does.
            Err(fault) if fault.kind() == io::ErrorKind::BrokenPipe => Err(Stopped::Interrupted),
            Err(fault) => {
                let words = format!("what the commands print cannot be passed on: {fault}");
                Err(Stopped::Trouble(Trouble::new(Code::CannotWrite, words)))
            }
        }
    }

    fn on_signal(&mut self) -> Result<(), Stopped> {
        if self.interrupted {
            return Err(Stopped::AtOnce);
        }
        self.interrupted = true;
        self.fed = None;
        self.stopper = None;
        let running = self.running.len();
        if running > 0 {
            say::info(&format!("interrupted: stopping {running} tasks; interrupt again to leave at once"));
        }
        Ok(())
    }

    /// Looks after the bar, and at why nothing happens, if nothing does.
    fn look(&self, client: &Client, patience: &mut Patience) -> Result<(), Stopped> {
        if self.progress.is_drawn() {
            self.progress.say(&client.status(), self.summary.failed());
        }
        // Some of a thousand tasks always wait: while others run there is nothing to explain.
        let working = self.company.working.get() > 0;
        let waiting = client.waiting().filter(|waiting| !(working && matches!(waiting, Waiting::Busy { .. })));
        patience.look(waiting).map_err(Stopped::Trouble)
    }

    /// Says how it went.
    fn end(mut self, result: Result<(), Stopped>) -> Result<ExitCode, Trouble> {
        if matches!(result, Err(Stopped::AtOnce)) {
            return Ok(Code::Interrupted.into());
        }
        let abandoned = std::mem::take(&mut self.running).len();
        self.summary.add_unfinished(abandoned);
        self.summary.say();
        match result {
            Ok(()) => Ok(match self.summary.failed() {
                failed @ 0..=COUNTED => ExitCode::from(u8::try_from(failed).unwrap_or(u8::MAX)),
                _ => ExitCode::from(101),
            }),
            Err(Stopped::Trouble(trouble)) => Err(trouble),
            Err(Stopped::Interrupted | Stopped::AtOnce) => Ok(Code::Interrupted.into()),
        }
    }
}
