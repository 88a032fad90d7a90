//! One attempt at a command, from its files to its end.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{self, BoxFuture, Either};
use p2p_blobs::{Cache, CacheConfig, DEFAULT_CAPACITY_BYTES};
use p2p_proto::ids::UserName;
use p2p_proto::link::item::{CacheUse, Channel};
use p2p_proto::task::{COMMAND_RUNTIME, Command, Ended, Failure, FailureKind, R_RUNTIME, TaskSpec};
use p2p_scheduler::blobs::FetchError;
use p2p_scheduler::executor::{AttemptEnd, AttemptIo, ContentReader, Executor, Gone, OutputWriter, Piece, Stops};
use rustix::fs::Mode;

use crate::config::{CommandConfig, StartError};
use crate::failure::{file_failure, worker_failure};
use crate::home::Home;
use crate::inputs::{Blobs, has_blobs};
use crate::outputs;
use crate::pipes;
use crate::process::Process;
use crate::program::{self, Environment, Program};
use crate::r::{self, Sessions, Setting};
use crate::run::{Run, Streams, feed, start};
use crate::scratch::Scratch;
use crate::spawn;
use crate::stage;

/// Runs tasks of the runtime `command`, and of `r` where there is R.
///
/// Every attempt has a folder of its own, which is its working directory, `HOME` and `TMPDIR`, and a session of its own. When the
/// attempt is over, or its future is dropped, both are gone. An interrupted command that ends by itself is still `Cancelled`; output
/// files come back from a command that ended by itself, whatever its exit code, and a missing or refused one fails the attempt only if
/// the command succeeded.
///
/// To be used on an async-io based runtime, such as async-std.
#[derive(Debug)]
pub struct CommandExecutor {
    worker: Arc<Worker>,
}

/// What all attempts share.
#[derive(Debug)]
struct Worker {
    home: Arc<Home>,
    environment: Arc<Environment>,
    nothing: OwnedFd,
    cache: Arc<Cache>,
    interrupt_grace: Duration,
    sessions: Option<Arc<Sessions>>,
}

impl CommandExecutor {
    /// Makes this worker's folder, and removes folders and processes that dead workers of the same user left; blocks meanwhile.
    ///
    /// Two things change for the whole process: files that are open now close on exec, and new files are not writable for others.
    ///
    /// # Errors
    /// When there is no folder to be had.
    pub fn new(config: CommandConfig) -> Result<Self, StartError> {
        spawn::close_on_exec_from_here();
        let open = Mode::WGRP | Mode::WOTH;
        let before = rustix::process::umask(open);
        rustix::process::umask(before | open);
        let user = program::user();
        let home = Home::create(&config.base, &user)
            .map_err(|source| StartError::Folder { base: config.base.clone(), source })?;
        let cache = config.cache.unwrap_or_else(|| CacheConfig {
            folder: home.path().join("blobs"),
            realm: String::new(),
            capacity: DEFAULT_CAPACITY_BYTES,
            shared: false,
        });
        let folder = cache.folder.clone();
        let cache = Cache::open(cache).map_err(|source| StartError::Cache { folder, source })?;
        let (home, environment) = (Arc::new(home), Arc::new(Environment::new(&config.path, user)));
        let nothing = || OpenOptions::new().read(true).open("/dev/null").map(OwnedFd::from);
        let setting = |nothing| Setting { home: Arc::clone(&home), environment: Arc::clone(&environment), nothing };
        let sessions = match config.r {
            Some(r) => Some(Sessions::new(r, setting(nothing()?))),
            None => None,
        };
        let (nothing, interrupt_grace) = (nothing()?, config.interrupt_grace);
        let worker = Worker { home, environment, nothing, cache, interrupt_grace, sessions };
        Ok(Self { worker: Arc::new(worker) })
    }

    /// Ends R sessions that wait, and removes this worker's folder; blocks meanwhile. For a process that is about to end, whose last tasks may hold
    /// on to the executor: without it, the next worker of the same user removes the folder.
    pub fn close(&self) {
        if let Some(sessions) = &self.worker.sessions {
            sessions.close();
        }
        self.worker.home.remove();
    }
}

impl Executor for CommandExecutor {
    fn runtimes(&self) -> Vec<String> {
        let r = self.worker.sessions.as_ref().map(|_| R_RUNTIME.to_owned());
        [COMMAND_RUNTIME.to_owned()].into_iter().chain(r).collect()
    }

    fn cache_use(&self, user: &UserName) -> Option<CacheUse> {
        Some(self.worker.cache.usage(user))
    }

    fn attempt(&self, task: TaskSpec, io: AttemptIo) -> BoxFuture<'static, AttemptEnd> {
        let worker = Arc::clone(&self.worker);
        async move {
            let scratch = match worker.home.scratch() {
                Ok(scratch) => Arc::new(scratch),
                Err(error) => return file_failure("making the task's folder", worker.home.path(), &error).into(),
            };
            let end = worker.attempt(task, io, &scratch).await.unwrap_or_else(|end| end);
            scratch.remove().await;
            end
        }
        .boxed()
    }
}

impl Worker {
    /// The attempt in its folder; either side of the result is its end.
    async fn attempt(
        &self,
        mut task: TaskSpec,
        io: AttemptIo,
        scratch: &Arc<Scratch>,
    ) -> Result<AttemptEnd, AttemptEnd> {
        let AttemptIo { user, mut slot, mut content, mut stops, output } = io;
        let shelf = || self.cache.shelf(&user).map_err(FetchError::from).map_err(Failure::from);
        let kept = if has_blobs(&task) { Some(shelf()?) } else { None };
        let mut blobs = kept.clone().map(|shelf| Blobs::new(&task, shelf));
        let staging = stage::stage(&mut task, &mut content, kept.as_ref(), scratch);
        let mut staged = unless_stopped(&mut stops, staging).await??;
        if let Some(blobs) = &mut blobs {
            unless_stopped(&mut stops, blobs.fetch(&mut slot, &content)).await??;
        }
        unless_stopped(&mut stops, slot.pass()).await?.map_err(|Gone| cancelled())?;
        if let Some(blobs) = blobs {
            staged.inputs.extend(unless_stopped(&mut stops, blobs.place(scratch, &content)).await??);
        }
        let started = Started { task: &task, scratch, output: &output };
        let mut end = if task.runtime == R_RUNTIME {
            self.in_session(&started, &staged.command, &mut stops).await?
        } else {
            self.by_itself(&started, &staged.command, std::mem::take(&mut staged.stdin), &mut content, &mut stops)
                .await?
        };
        if task.outputs.is_empty() || !matches!(end.ended, Ended::Exit(_) | Ended::Signal(_)) {
            return Ok(end);
        }
        let bring = async {
            let strict = end.ended == Ended::Exit(0);
            let (scratch_too, output_too) = (Arc::clone(scratch), output.clone());
            let outputs = outputs::collect(task.outputs, staged.inputs, strict, scratch_too, output_too).await?;
            if outputs.has_large() {
                // While it is sent: it may be the input of another task.
                let keep = outputs::keep(&outputs, shelf()?, scratch);
                future::join(outputs::stream(&outputs, scratch, &output), keep).await.0?;
            } else {
                outputs::stream(&outputs, scratch, &output).await?;
            }
            Ok(outputs.files)
        };
        match unless_stopped(&mut stops, bring).await.unwrap_or_else(Err) {
            Ok(files) => end.outputs = files,
            // The exit code of a command that failed says more than a file that it did not write.
            Err(AttemptEnd { ended: Ended::Failed(failure), .. }) if end.ended != Ended::Exit(0) => {
                output.note(failure.message);
            }
            Err(failed) => end.ended = failed.ended,
        }
        Ok(end)
    }

    /// Runs a command as a program of its own.
    async fn by_itself(
        &self,
        started: &Started<'_>,
        command: &Command,
        early: VecDeque<Piece>,
        content: &mut ContentReader,
        stops: &mut Stops,
    ) -> Result<AttemptEnd, AttemptEnd> {
        let Started { task, scratch, output } = *started;
        let program = Program::resolve(command, task.cpus(), &self.environment, scratch)?;
        let (stdout, stdout_end) = pipe(pipes::from_command(Channel::Stdout))?;
        let (stderr, stderr_end) = pipe(pipes::from_command(Channel::Stderr))?;
        let stdin = if task.stdin { Some(pipe(pipes::to_command())?) } else { None };
        let (stdin, stdin_end) = stdin.unzip();
        let stdin_fd = stdin_end.as_ref().unwrap_or(&self.nothing).as_fd();
        let since = Instant::now();
        let pid = start(&program, [stdin_fd, stdout_end.as_fd(), stderr_end.as_fd()]).await;
        let pid = pid.map_err(|error| program.start_failure(&error))?;
        let process = Process::new(pid, scratch.token().to_owned());
        drop((stdin_end, stdout_end, stderr_end));

        let streams = Streams { stdout, stderr, output: output.clone() };
        let feed = feed(stdin, early, content);
        let run = Run { process, limit: limit_of(task), grace: self.interrupt_grace };
        let (ended, at) = run.until_end(&streams, feed, stops).await;
        Ok(AttemptEnd { ran: at.duration_since(since), ..AttemptEnd::new(ended) })
    }

    /// Runs a future in an R session that others use before and after it.
    async fn in_session(
        &self,
        started: &Started<'_>,
        files: &Command,
        stops: &mut Stops,
    ) -> Result<AttemptEnd, AttemptEnd> {
        let Started { task, scratch, output } = *started;
        let Some(sessions) = &self.sessions else {
            return Err(Failure::new(FailureKind::UnknownRuntime, "this worker offers no R").into());
        };
        let mut taken = unless_stopped(stops, sessions.take()).await??;
        let request = r::Request { folder: scratch.path(), files, cpus: task.cpus() };
        let run = r::Run { limit: limit_of(task), grace: self.interrupt_grace, stops, output };
        match taken.run(&request, run).await {
            r::Ran::Kept(end) => {
                taken.give_back();
                Ok(end)
            }
            r::Ran::Lost(end) => Ok(end),
        }
    }
}

/// What the attempts of both runtimes have.
#[derive(Clone, Copy)]
struct Started<'a> {
    task: &'a TaskSpec,
    scratch: &'a Arc<Scratch>,
    output: &'a OutputWriter,
}

fn limit_of(task: &TaskSpec) -> Option<Duration> {
    (task.timeout_ms > 0).then(|| Duration::from_millis(task.timeout_ms))
}

/// Does `work` until a request to stop comes.
async fn unless_stopped<T>(stops: &mut Stops, work: impl Future<Output = T>) -> Result<T, AttemptEnd> {
    match future::select(pin!(work), pin!(stops.next())).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right(_) => Err(cancelled()),
    }
}

fn cancelled() -> AttemptEnd {
    AttemptEnd::new(Ended::Cancelled)
}

fn pipe<T>(made: io::Result<T>) -> Result<T, AttemptEnd> {
    made.map_err(|error| worker_failure("making a pipe for the command", &error).into())
}
