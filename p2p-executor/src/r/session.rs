//! One R session, and what is said to it and by it.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::pin;
use std::process::Command as Tool;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use async_std::future::timeout;
use async_std::task;
use futures::future::FusedFuture;
use futures::{FutureExt, select_biased, try_join};
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Command, Ended, Failure, FailureKind};
use p2p_scheduler::executor::{AttemptEnd, Gone, OutputWriter, Stop, Stops};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use super::R;
use crate::failure::worker_failure;
use crate::home::Home;
use crate::leftovers;
use crate::pipes::{self, FromCommand};
use crate::process::Process;
use crate::program::{Environment, Program};
use crate::run::{start, until_killed};
use crate::scratch::Scratch;

/// How long R may take to be ready, at its start and after a task.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// What R says in one piece, bytes; larger conditions are dropped there.
const FRAME_BYTES: usize = 16 * 1024 * 1024;
/// Kind and length of a frame.
const HEAD_BYTES: usize = 5;
/// What R said last is told to this length, bytes.
const LAST_WORDS_BYTES: usize = 2000;
/// Memory that a session keeps from one task to the next, bytes. The system's own rule is half of that at most; 50 MB of numbers are read in a quarter of
/// the time when their pages need not be made anew.
const KEPT_BYTES: usize = 64 * 1024 * 1024;

const SCRIPT: &str = "session.R";
const REQUESTS: &str = "requests";
const ANSWERS: &str = "answers";

/// Where sessions run.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Their folders are in it.
    pub(crate) home: Arc<Home>,
    /// What they have of the worker's environment.
    pub(crate) environment: Arc<Environment>,
    /// Their stdin.
    pub(crate) nothing: OwnedFd,
}

/// What a session is to do.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The attempt's folder.
    pub(crate) folder: &'a Path,
    /// Names of files in it: the future, then globals.
    pub(crate) files: &'a Command,
    /// How many slots it has.
    pub(crate) cpus: u32,
}

/// How far a task may go.
pub(crate) struct Run<'a> {
    /// How long it may run.
    pub(crate) limit: Option<Duration>,
    /// How long it may go on after an interrupt.
    pub(crate) grace: Duration,
    /// Who may stop it.
    pub(crate) stops: &'a mut Stops,
    /// Who hears it.
    pub(crate) output: &'a OutputWriter,
}

/// What became of a session's task.
#[derive(Debug)]
pub(crate) enum Ran {
    /// The task ended, and the session can be used again.
    Kept(AttemptEnd),
    /// So did the session, or it must.
    Lost(AttemptEnd),
}

/// An R process, and the pipes to it. Dropped, it is killed with all that it started.
#[derive(Debug)]
pub(super) struct Session {
    process: Process,
    requests: Async<OwnedFd>,
    answers: Frames,
    stdout: FromCommand,
    stderr: FromCommand,
    /// The process number that was the system's last before the task began: what the task started has a higher one.
    since: Option<i32>,
    /// Removed after the process is gone.
    _scratch: Arc<Scratch>,
}

impl Session {
    /// Starts R, and waits until it is ready.
    pub(super) async fn start(r: &R, setting: &Arc<Setting>) -> Result<Self, Failure> {
        let doing = |error: &io::Error| worker_failure("preparing an R session", error);
        let scratch = Arc::new(setting.home.scratch().map_err(|error| doing(&error))?);
        let (theirs, script) = (Arc::clone(&scratch), include_bytes!("session.R"));
        let prepared = task::spawn_blocking(move || prepare(theirs.path(), script)).await;
        let [requests, answers] = prepared.map_err(|error| doing(&error))?;
        let word = |word: &std::ffi::OsStr| serde_bytes::ByteBuf::from(word.as_encoded_bytes());
        let program = r.config.program.as_os_str();
        let words = [program, "--vanilla".as_ref(), SCRIPT.as_ref(), REQUESTS.as_ref(), ANSWERS.as_ref()];
        let argv = words.into_iter().map(word).collect();
        let kept = KEPT_BYTES.to_string();
        let env = vec![
            ("R_LIBS".to_owned(), r.libraries.clone()),
            ("MALLOC_MMAP_THRESHOLD_".to_owned(), kept.clone()),
            ("MALLOC_TRIM_THRESHOLD_".to_owned(), kept),
        ];
        let program = Program::resolve(&Command { argv, env }, 1, &setting.environment, &scratch)?;
        let (stdout, stdout_end) = pipes::from_command(Channel::Stdout).map_err(|error| doing(&error))?;
        let (stderr, stderr_end) = pipes::from_command(Channel::Stderr).map_err(|error| doing(&error))?;
        let started = start(&program, [setting.nothing.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()]).await;
        let pid = started.map_err(|error| program.start_failure(&error))?;
        let process = Process::new(pid, scratch.token().to_owned());
        let answers = Frames { pipe: answers, buffer: Vec::new() };
        let mut session = Self { process, requests, answers, stdout, stderr, since: None, _scratch: scratch };
        session.until_ready().await.map_err(|why| {
            let said = session.stderr.rest();
            let words = String::from_utf8_lossy(&said[said.len().saturating_sub(LAST_WORDS_BYTES)..]).trim().to_owned();
            Failure::new(FailureKind::Worker, format!("R on this worker does not start: {why}: {words}"))
        })?;
        Ok(session)
    }

    /// Whether it could run something now.
    pub(super) fn is_alive(&self) -> bool {
        self.process.exited().now_or_never().is_none()
    }

    /// After a task: waits until R is as it was before, and kills what the task left running.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        self.until_ready().await?;
        // What it said since is nobody's.
        self.stdout.rest();
        self.stderr.rest();
        self.process.kill_others(self.since.take()).await;
        Ok(())
    }

    async fn until_ready(&mut self) -> Result<(), String> {
        let ready = async {
            let mut exited = pin!(self.process.exited().fuse());
            select_biased! {
                frame = self.answers.next().fuse() => match frame {
                    Ok(Frame::Ready) => Ok(()),
                    Ok(Frame::Failed(words)) => Err(words),
                    Ok(other) => Err(format!("it said {other:?} when it was to be ready")),
                    Err(fault) => Err(fault.to_string()),
                },
                _ = exited => Err("it ended".to_owned()),
            }
        };
        let late = |_| Err(format!("it was not ready within {} s", READY_TIMEOUT.as_secs()));
        timeout(READY_TIMEOUT, ready).await.unwrap_or_else(late)
    }

    /// Runs one task to its end.
    pub(super) async fn run(&mut self, request: &Request<'_>, run: Run<'_>) -> Ran {
        self.since = leftovers::last_number();
        let Run { limit, grace, stops, output } = run;
        let (requests, answers, process) = (&self.requests, &mut self.answers, &self.process);
        let answer = async {
            request.write(requests).await?;
            loop {
                match answers.next().await? {
                    Frame::Condition(bytes) => {
                        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
                        output
                            .write(Channel::Value, [&length, &bytes[..]].concat(), false)
                            .await
                            .map_err(io::Error::other)?;
                    }
                    other => return Ok(other),
                }
            }
        };
        let (stdout, stderr) = (&self.stdout, &self.stderr);
        let carry = async { try_join!(stdout.carry(output), stderr.carry(output)).map(drop) };
        let mut carry = pin!(carry.fuse());
        let started = Instant::now();
        let (ended, cause) = until_end(process, answer, carry.as_mut(), (limit, grace), stops).await;
        let ran = started.elapsed();
        // What is left in the pipes was said by the task.
        stdout.close();
        stderr.close();
        let heard = carry.is_terminated() || until_killed(stops, carry).await == Some(Ok(()));
        stdout.reopen();
        stderr.reopen();
        let end = |ended| AttemptEnd { ran, ..AttemptEnd::new(ended) };
        if let Some(cause) = cause.or_else(|| (!heard).then_some(Ended::Cancelled)) {
            return Ran::Lost(end(cause));
        }
        match ended {
            End::Answer(Ok(Frame::Done)) => Ran::Kept(end(Ended::Exit(0))),
            End::Answer(Ok(Frame::Failed(words))) => {
                Ran::Kept(end(Ended::Failed(Failure::new(FailureKind::FunctionFailed, words))))
            }
            End::Answer(Ok(other)) => Ran::Lost(end(Ended::Failed(strange(&format!("{other:?}"))))),
            End::Answer(Err(fault)) => Ran::Lost(end(Ended::Failed(strange(&fault.to_string())))),
            End::Exit(ended) => Ran::Lost(end(match ended {
                Ok(Ended::Exit(0)) => Ended::Failed(Failure::new(
                    FailureKind::FunctionFailed,
                    "R ended in the middle of the task, as quit() does: leave it out",
                )),
                Ok(ended) => ended,
                Err(error) => Ended::Failed(worker_failure("waiting for R", &error)),
            })),
        }
    }
}

fn strange(what: &str) -> Failure {
    let message = format!("the R session on this worker cannot be understood: {what}; another worker may do better");
    Failure::new(FailureKind::Worker, message)
}

/// Makes what a session needs in its folder; blocks.
fn prepare(folder: &Path, script: &[u8]) -> io::Result<[Async<OwnedFd>; 2]> {
    std::fs::write(folder.join(SCRIPT), script)?;
    let pipes = [REQUESTS, ANSWERS].map(|name| folder.join(name));
    // There is no system call for it that all systems have.
    let made = Tool::new("mkfifo").args(["-m", "600"]).args(&pipes).output()?;
    if !made.status.success() {
        return Err(io::Error::other(format!("mkfifo: {}", String::from_utf8_lossy(&made.stderr).trim())));
    }
    // Both ways, so that neither side waits for the other to open it.
    let open = |path: &Path| {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Async::new_nonblocking(rustix::fs::open(path, flags, Mode::empty())?)
    };
    let [requests, answers] = &pipes;
    Ok([open(requests)?, open(answers)?])
}

impl Request<'_> {
    async fn write(&self, to: &Async<OwnedFd>) -> io::Result<()> {
        let mut names = Vec::new();
        for name in &self.files.argv {
            names.extend_from_slice(name);
            names.push(b'\n');
        }
        let mut bytes = format!("run {} {} ", self.cpus, names.len()).into_bytes();
        bytes.extend_from_slice(self.folder.as_os_str().as_encoded_bytes());
        bytes.push(b'\n');
        bytes.append(&mut names);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let written = to.write_with(|fd| Ok(rustix::io::write(fd, rest)?)).await?;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

/// What ended a task.
enum End {
    /// R said so.
    Answer(io::Result<Frame>),
    /// R is gone.
    Exit(io::Result<Ended>),
}

/// Waits for the end, and sees to it where somebody asks for it; then says who.
async fn until_end(
    process: &Process,
    answer: impl Future<Output = io::Result<Frame>>,
    mut carry: std::pin::Pin<&mut impl FusedFuture<Output = Result<(), Gone>>>,
    (limit, grace): (Option<Duration>, Duration),
    stops: &mut Stops,
) -> (End, Option<Ended>) {
    let mut answer = pin!(answer.fuse());
    let mut exited = pin!(process.exited().fuse());
    let mut limit = limit.map_or_else(Timer::never, Timer::after);
    let mut patience = Timer::never();
    let mut cause = None;
    loop {
        let (why, stop) = select_biased! {
            answer = answer => return (End::Answer(answer), cause),
            exit = exited => return (End::Exit(exit.and_then(|()| process.status())), cause),
            stop = stops.next().fuse() => (Ended::Cancelled, stop),
            _ = (&mut limit).fuse() => {
                limit = Timer::never();
                (Ended::TimedOut, Stop::Interrupt)
            }
            _ = (&mut patience).fuse() => (Ended::Cancelled, Stop::Kill),
            carried = carry => match carried {
                // R closed its own streams: that ends nothing.
                Ok(()) => continue,
                Err(Gone) => (Ended::Cancelled, Stop::Kill),
            },
        };
        let first = cause.is_none();
        // The first cause is the cause.
        let ended = cause.get_or_insert(why).clone();
        match stop {
            Stop::Interrupt if first => {
                patience = Timer::after(grace);
                process.signal(Signal::INT);
            }
            Stop::Interrupt => {}
            // The session is dropped, and so killed.
            Stop::Kill => return (End::Exit(Ok(ended)), cause),
        }
    }
}

/// What R says.
#[derive(Debug)]
enum Frame {
    /// It can take a task.
    Ready,
    /// A condition that the client is to have at once, serialized.
    Condition(Vec<u8>),
    /// The task is over, and its result is there.
    Done,
    /// The task could not be run, and why.
    Failed(String),
}

#[derive(Debug)]
struct Frames {
    pipe: Async<OwnedFd>,
    buffer: Vec<u8>,
}

impl Frames {
    /// The next frame. Cancel-safe.
    async fn next(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(frame);
            }
            self.buffer.reserve(4096);
            let buffer = &mut self.buffer;
            self.pipe
                .read_with(|fd| match rustix::io::read(fd, rustix::buffer::spare_capacity(buffer)) {
                    Err(Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
                    read => Ok(read?),
                })
                .await?;
        }
    }
}

/// Takes the first frame, once all of it is there.
fn take_frame(buffer: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let Some((head, rest)) = buffer.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let [kind, length @ ..] = *head;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let Some(content) = rest.get(..length) else { return Ok(None) };
    let words = || String::from_utf8_lossy(content).into_owned();
    let frame = match kind {
        1 => Frame::Ready,
        2 => Frame::Condition(content.to_vec()),
        3 => Frame::Done,
        4 => Frame::Failed(words()),
        kind => return Err(io::Error::other(format!("a frame of kind {kind}"))),
    };
    buffer.drain(..HEAD_BYTES + length);
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut buffer = vec![2, 3, 0, 0, 0, 7, 8];
        assert!(take_frame(&mut buffer).unwrap().is_none());
        buffer.extend([9, 3, 0, 0, 0, 0, 1]);
        assert!(matches!(take_frame(&mut buffer).unwrap(), Some(Frame::Condition(bytes)) if bytes == [7, 8, 9]));
        assert!(matches!(take_frame(&mut buffer).unwrap(), Some(Frame::Done)));
        assert!(take_frame(&mut buffer).unwrap().is_none());
        assert_eq!(buffer, [1]);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert!(take_frame(&mut vec![9, 0, 0, 0, 0]).is_err());
        assert!(take_frame(&mut vec![2, 0, 0, 0, 255]).is_err());
    }
}
