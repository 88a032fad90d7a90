//! `p2p run`: one command on a worker, as if it ran here: live output, stdin, its exit code.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::FutureExt as _;
use p2p_blobs::Folder;
use p2p_proto::ids::PeerName;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Command, Ended};
use p2p_scheduler::{Client, Outcome, Task, TaskEvent, TaskHandle};
use serde_bytes::ByteBuf;

use super::{Insistent, Signals};
use crate::needs::Needs;
use crate::options::Common;
use crate::outputs::Outputs;
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::wiring::{EXPLAIN_AFTER, PERSONAL, Patience, Wiring, say_report};

/// Options of `p2p run`.
#[derive(Debug, Args)]
pub struct Options {
    /// A file to take along, under the same relative name, or a folder, as DIR/; may be given several times.
    #[arg(long = "in", value_name = "FILE")]
    pub inputs: Vec<PathBuf>,

    /// A file to bring back, a pattern with * ? [..] **, or a folder, as DIR/; may be given several times.
    #[arg(long = "out", value_name = "PATTERN")]
    pub outputs: Vec<String>,

    /// A variable for the command; may be given several times.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub env: Vec<(String, String)>,

    /// Kill the command after so long.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    #[command(flatten)]
    pub needs: Needs,

    /// Never start it a second time, even if its worker is lost.
    #[arg(long)]
    pub once: bool,

    /// Do not read stdin.
    #[arg(short = 'n', long)]
    pub no_stdin: bool,

    /// How long a worker goes on, and is waited for, when its connection broke or this program was stopped.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub grace: Duration,

    /// How long to wait for a worker.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub wait: Duration,

    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `NAME=VALUE`.
pub fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// Runs it; the exit code is the command's, or one of docs/exit-codes.md.
pub async fn run(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let signals = Signals::insist()?;
    let task = task(&options)?;
    let mut outputs = Outputs::new(&options.outputs, PathBuf::from("."))?;
    let wiring = Wiring::new(common, PERSONAL).await?;
    let client = wiring.client_with_grace(options.grace)?;
    signals.leaves(&client);
    let Some(mut handle) = submit(&client, task, &signals).await else {
        client.close().await;
        return Ok(Code::Interrupted.into());
    };
    let mut patience = Patience::new(options.wait);
    let mut interrupts = 0;
    let ended = loop {
        futures::select_biased! {
            // First: a command that prints without end would never let them through.
            () = signals.next().fuse() => {
                interrupts += 1;
                if interrupts > 1 {
                    drop(handle);
                    client.close().await;
                    return Ok(Code::Interrupted.into());
                }
                handle.cancel();
            }
            event = handle.next().fuse() => match event {
                Some(TaskEvent::Outcome(outcome)) => break Ok(outcome),
                Some(event) => on_event(event, &handle, &mut outputs, &mut patience)?,
                None => break Ok(Outcome::Cancelled),
            },
            report = client.report().fuse() => if let Some(report) = report {
                say_report(&report, &client);
                if let Err(trouble) = patience.look(client.waiting()) {
                    break Err(trouble);
                }
            },
            () = async_std::task::sleep(patience.next_look()).fuse() => {
                if let Err(trouble) = patience.look(client.waiting()) {
                    break Err(trouble);
                }
            }
        }
    };
    let code = match ended {
        Ok(outcome) => finish(outcome, &mut outputs, options.timeout),
        Err(trouble) => Err(trouble),
    };
    drop(handle);
    client.close().await;
    code
}

/// Reads what is large in the task to find out its name, which may take long, and submits it; `None` when that was interrupted.
async fn submit(client: &Client, task: Task, signals: &Insistent) -> Option<TaskHandle> {
    let mut submitted = pin!(client.submit(task).fuse());
    let mut slow = pin!(async_std::task::sleep(EXPLAIN_AFTER).fuse());
    loop {
        futures::select_biased! {
            () = signals.next().fuse() => return None,
            handle = submitted => return Some(handle),
            () = slow => say::info("reading the input files, to send only what a worker does not have"),
        }
    }
}

fn task(options: &Options) -> Result<Task, Trouble> {
    let argv = options.command.iter().map(|word| ByteBuf::from(word.clone().into_vec())).collect();
    let mut task = options.needs.of(Task::command(&Command { argv, env: options.env.clone() }))?;
    for path in &options.inputs {
        let name = path.to_str().ok_or_else(|| {
            Trouble::new(Code::Input, format!("the name of {} is not UTF-8: rename it", path.display()))
        })?;
        let sent = name.trim_start_matches("./");
        let added = match sent.strip_suffix('/') {
            Some(sent) => Folder::open(path).and_then(|folder| task.input_folder(sent, &Arc::new(folder))),
            None => task.input(sent, path),
        };
        task = added.map_err(|failure| Trouble::new(Code::Input, failure.message))?;
    }
    for pattern in &options.outputs {
        task = task.output(pattern)?;
    }
    if let Some(limit) = options.timeout {
        task = task.timeout(limit);
    }
    if options.once {
        task = task.once();
    }
    if !options.no_stdin {
        task = task.stdin(async_std::io::stdin());
    }
    Ok(task)
}

fn on_event(
    event: TaskEvent,
    handle: &TaskHandle,
    outputs: &mut Outputs,
    patience: &mut Patience,
) -> Result<(), Trouble> {
    match event {
        TaskEvent::Sent(worker) => {
            log::info!("sent to {worker}");
            patience.on_sent();
        }
        TaskEvent::Started => patience.reset(),
        TaskEvent::Data { channel: Channel::Stdout, bytes, .. } => pass_on(&mut std::io::stdout(), &bytes, handle)?,
        TaskEvent::Data { channel: Channel::Stderr, bytes, .. } => pass_on(&mut std::io::stderr(), &bytes, handle)?,
        TaskEvent::Data { channel: Channel::Output(index), bytes, .. } => outputs.write(index, &bytes)?,
        TaskEvent::Data { .. } => {}
        TaskEvent::Note(text) => say::info(&say::harmless(&text)),
        TaskEvent::Again => {
            outputs.discard();
            say::info("another attempt takes its place, on another worker: what it printed comes again");
        }
        TaskEvent::Outcome(_) => {}
    }
    Ok(())
}

/// Whoever reads our output may close it, as `head` does: then the command is told to end, as a broken pipe would.
fn pass_on(to: &mut impl std::io::Write, bytes: &[u8], handle: &TaskHandle) -> Result<(), Trouble> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Ok(()) => Ok(()),
        Err(fault) if fault.kind() == std::io::ErrorKind::BrokenPipe => {
            handle.cancel();
            Ok(())
        }
        Err(fault) => Err(Trouble::new(Code::CannotWrite, format!("the command's output cannot be written: {fault}"))),
    }
}

fn finish(outcome: Outcome, outputs: &mut Outputs, timeout: Option<Duration>) -> Result<ExitCode, Trouble> {
    // What was printed before comes before what is said now.
    let _ = std::io::stdout().flush();
    match outcome {
        Outcome::Finished { finished, worker } => {
            outputs.place(&finished.outputs)?;
            match finished.ended {
                Ended::Exit(code) => Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
                Ended::Signal(signal) => {
                    say::info(&format!("signal {signal} ended the command on {worker}"));
                    Ok(ExitCode::from(u8::try_from(128 + (signal & 0x7f)).unwrap_or(u8::MAX)))
                }
                Ended::TimedOut => {
                    let limit =
                        timeout.map(|limit| format!(" {}", humantime::format_duration(limit))).unwrap_or_default();
                    Err(Trouble::new(
                        Code::TimedOut,
                        format!("the command was killed on {worker}: it ran longer than --timeout{limit}"),
                    ))
                }
                Ended::Cancelled => Ok(Code::Interrupted.into()),
                Ended::Failed(failure) => {
                    let words = format!("{worker}: {}", say::harmless(&failure.message));
                    Err(Trouble::new(Code::of(failure.kind), words))
                }
            }
        }
        Outcome::Cancelled => Ok(Code::Interrupted.into()),
        Outcome::Lost { worker, error, losses } => Err(lost(&worker.to_string(), &error.to_string(), &losses)),
    }
}

/// The words for a task that was lost with its worker; `losses` are the workers that never came back after it ran there.
pub fn lost(worker: &str, error: &str, losses: &[PeerName]) -> Trouble {
    let words = if losses.len() >= p2p_proto::limits::LOSSES as usize {
        let names: Vec<String> = losses.iter().map(ToString::to_string).collect();
        format!(
            "given up: {} workers were lost while they ran it, the last time with nothing beside it, and did not come back ({}; {error}); \
             it may be what brings them down",
            losses.len(),
            names.join(", ")
        )
    } else {
        format!(
            "the connection to {worker} was lost while the command may have run there ({error}); it is not started again by itself"
        )
    };
    Trouble::new(Code::Lost, words)
}
