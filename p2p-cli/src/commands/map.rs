//! `p2p map`: a command for each of many inputs, on all workers, as GNU parallel does it on one machine.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use p2p_proto::task::Command;
use p2p_scheduler::Task;

use super::Signals;
use super::run::parse_variable;
use crate::map::advice::Advice;
use crate::map::duration;
use crate::map::feed;
use crate::map::halt::{Before, Halt, Halting};
use crate::map::joblog::Joblog;
use crate::map::logged::{Again, Logged};
use crate::map::mapping::{Mapping, Settings};
use crate::map::outlet::Outlet;
use crate::map::pace::Pace;
use crate::map::plan::{Folders, Plan};
use crate::map::print::Printer;
use crate::map::progress::Progress;
use crate::map::sources::{self, Rows, Source};
use crate::map::template::{Row, Template};
use crate::needs::Needs;
use crate::options::Common;
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::wiring::{PERSONAL, Patience, Wiring};

/// Options of `p2p map`.
#[derive(Debug, Args)]
#[command(
    override_usage = "p2p map [OPTIONS] COMMAND... [::: VALUE...]... [:::: FILE...]...\n       ... | p2p map [OPTIONS] COMMAND...",
    after_help = "In COMMAND, --in and --out, {} stands for the value, {.} for it without its extension, {/} for its last part, {//} for its \
        folder, {/.} for its last part without extension, {#} for the task's number; {2} {2.} ... for the value of the second source. \
        In COMMAND values are quoted for the shell. Without any of these, {} is appended.\n\n\
        Files keep their names in the task's folder, and come back to where their names say; there absolute names have no leading /.\n\n\
        This program has to stay up until its tasks have ended. With --joblog FILE it writes down what was done; after a crash or an interrupt, \
        the same command with --resume does the rest.\n\n\
        The exit code is the number of tasks that failed, or 101 when more than 100 did. When --halt ended it: with fail=1 or done=1 the exit \
        code of that task, with success 0, with a percentage the percentage that failed."
)]
pub struct Options {
    /// A file to take along, or a folder, as DIR/; may be given several times.
    #[arg(long = "in", value_name = "FILE")]
    pub inputs: Vec<OsString>,

    /// A file to bring back, a pattern with * ? [..] **, or a folder, as DIR/; may be given several times.
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

    /// Kill a command after so long: 30, 30s, 5m, 1h30m.
    #[arg(long, value_name = "TIME", value_parser = duration::parse_timeout)]
    pub timeout: Option<Duration>,

    /// Try a task that fails up to so many times in all; 0 for without end.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub retries: u64,

    /// Pause between the starts of two tasks.
    #[arg(long, default_value = "0", hide_default_value = true, value_name = "TIME", value_parser = duration::parse_delay)]
    pub delay: Duration,

    /// Stop early: now or soon, when so many (or so many percent) fail, succeed or are done, as now,fail=1 or soon,success=10%.
    #[arg(
        long,
        alias = "halt-on-error",
        default_value = "never",
        value_name = "WHEN,WHY=N",
        allow_hyphen_values = true
    )]
    pub halt: Halt,

    /// Write a line for each task that ended, as GNU parallel does. Overwrites FILE without --resume.
    #[arg(long, value_name = "FILE")]
    pub joblog: Option<PathBuf>,

    /// Leave out the tasks that the log has, and append the others to it; if a number has another command there, nothing is run.
    #[arg(long)]
    pub resume: bool,

    /// As --resume, but run those again that failed.
    #[arg(long)]
    pub resume_failed: bool,

    #[command(flatten)]
    pub needs: Needs,

    /// Never start a task a second time, even if its worker is lost.
    #[arg(long)]
    pub once: bool,

    /// How long a worker goes on, and is waited for, when its connection broke or this program was stopped.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub grace: Duration,

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
    let again = again(&options)?;
    let (timeout, retries) = (options.timeout.filter(|limit| !limit.is_zero()), options.retries);
    let (keep_order, wait, dry_run, delay, halt) =
        (options.keep_order, options.wait, options.dry_run, options.delay, options.halt);
    let (tag, json, joblog) = (options.tag, common.json, options.joblog.clone());
    // Once for all: what no task may ask for is refused before the first one.
    options.needs.of(Task::command(&Command::default()))?;
    let (plan, rows) = plan(Options { timeout, ..options })?;
    let (joblog, logged) = open_log(joblog, again, dry_run)?;
    if dry_run {
        return print_lines(&plan, rows, logged.as_ref());
    }
    let before = logged.as_ref().map_or_else(Before::default, Logged::before);
    if before.done > 0 {
        say::info(&format!("{} tasks are in the --joblog and are not run again", before.done));
    }
    let wiring = Wiring::new(common, PERSONAL).await?;
    let client = wiring.client_with_grace(options.grace)?;
    let plan = Arc::new(plan);
    let fed = feed::start(Arc::clone(&plan), rows, logged)
        .map_err(|fault| Trouble::system("a thread cannot be started", fault))?;
    let progress = Progress::new(!common.quiet);
    let printer = Printer { tag, json, bars: progress.bars() };
    let advice = Advice::new(joblog.as_ref().map(|log| log.path().to_owned()));
    let (halting, pace) = (Halting::new(halt, before), Pace::new(delay));
    let outlet = Outlet::new(printer, keep_order, joblog, Arc::clone(&plan));
    let settings = Settings { plan, timeout, retries, outlet, progress, halting, pace, advice };
    let mut mapping = Mapping::new(fed, client.clone(), settings);
    let result = mapping.run(&mut signals, Patience::new(wait)).await;
    let end = mapping.end(result);
    client.close().await;
    end
}

/// What `--resume` and `--resume-failed` ask for; both of them, and other options, have to fit together.
fn again(options: &Options) -> Result<Option<Again>, Trouble> {
    let usage = |words| Err(Trouble::new(Code::Usage, words));
    let again = match (options.resume, options.resume_failed) {
        (_, true) => Some(Again::Failed),
        (true, false) => Some(Again::Missing),
        (false, false) => None,
    };
    if again.is_some() && options.joblog.is_none() {
        return usage("--resume and --resume-failed need --joblog FILE: the log of the run that is to go on");
    }
    if options.once && options.retries != 1 {
        return usage("--once and --retries contradict each other: leave one of them away");
    }
    Ok(again)
}

/// Opens the log. Nothing is written to it if nothing is run.
fn open_log(
    path: Option<PathBuf>,
    again: Option<Again>,
    dry_run: bool,
) -> Result<(Option<Joblog>, Option<Logged>), Trouble> {
    match (path, again) {
        (None, _) => Ok((None, None)),
        (Some(path), Some(again)) if dry_run => Ok((None, Logged::open(&path, again)?)),
        (Some(_), None) if dry_run => Ok((None, None)),
        (Some(path), again) => Joblog::open(path, again).map(|(joblog, logged)| (Some(joblog), logged)),
    }
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
    let (env, timeout, needs, once) = (options.env, options.timeout, options.needs, options.once);
    let plan = Plan { command, bare, inputs, outputs, env, timeout, needs, once, folders: Folders::default() };
    let rows = Rows::open(sources, if options.null { 0 } else { b'\n' })?;
    Ok((plan, rows))
}

/// `--dry-run`.
fn print_lines(plan: &Plan, mut rows: Rows, logged: Option<&Logged>) -> Result<ExitCode, Trouble> {
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
        let line = plan.line(&Row { number, values });
        if logged.map_or(Ok(false), |logged| logged.skips(number, || line.clone()))? {
            continue;
        }
        let more = printed(print(Some(&line)))?;
        if !more || !rows.is_ready() && !printed(print(None))? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    printed(print(None))?;
    logged.map_or(Ok(()), |logged| logged.check_count(number))?;
    Ok(ExitCode::SUCCESS)
}
