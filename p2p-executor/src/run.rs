//! From the start of a command to its end: streams, stops and time limits.

use std::collections::VecDeque;
use std::future::{self, Future};
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use async_io::Timer;
use futures::future::FusedFuture;
use futures::{FutureExt, select_biased, try_join};
use p2p_proto::task::Ended;
use p2p_scheduler::executor::{ContentReader, Gone, OutputWriter, Piece, Stop, Stops};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::failure::{errno, worker_failure};
use crate::pipes::{FromCommand, ToCommand};
use crate::process::Process;
use crate::program::Program;
use crate::spawn::{self, Launch};

/// How often a start is tried while a neighbour that starts at this moment still has the program file open for writing.
const BUSY_TRIES: u32 = 20;
/// The first pause between two such tries; each is longer by it.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Starts a program.
pub(crate) async fn start(program: &Program, stdio: [BorrowedFd<'_>; 3]) -> io::Result<Pid> {
    let Program { file, argv, env, folder } = program;
    let mut tries = 0;
    loop {
        match spawn::spawn(&Launch { program: file, argv, env, folder, stdio }) {
            Err(error) if errno(&error) == Some(Errno::TXTBSY) && tries < BUSY_TRIES => {
                tries += 1;
                Timer::after(BUSY_PAUSE * tries).await;
            }
            done => return done,
        }
    }
}

/// Stdout and stderr, and where they go.
pub(crate) struct Streams {
    pub(crate) stdout: FromCommand,
    pub(crate) stderr: FromCommand,
    pub(crate) output: OutputWriter,
}

impl Streams {
    async fn carry(&self) -> Result<(), Gone> {
        try_join!(self.stdout.carry(&self.output), self.stderr.carry(&self.output))?;
        Ok(())
    }

    /// See [`FromCommand::close`].
    fn close(&self) {
        self.stdout.close();
        self.stderr.close();
    }
}

/// Feeds stdin where there is one.
pub(crate) async fn feed(stdin: Option<ToCommand>, early: VecDeque<Piece>, content: &mut ContentReader) {
    if let Some(stdin) = stdin {
        stdin.feed(early, content).await;
    }
}

/// A command that runs.
pub(crate) struct Run {
    pub(crate) process: Process,
    /// How long it may.
    pub(crate) limit: Option<Duration>,
    /// How long it may go on after an interrupt.
    pub(crate) grace: Duration,
}

impl Run {
    /// Runs the command to its end, kills what it leaves, and carries its streams to theirs. Says how and when it ended.
    pub(crate) async fn until_end(
        self,
        streams: &Streams,
        feed: impl Future<Output = ()>,
        stops: &mut Stops,
    ) -> (Ended, Instant) {
        let mut carry = pin!(streams.carry().fuse());
        let (exit, cause) = self.until_exit(carry.as_mut(), feed, stops).await;
        let at = Instant::now();
        let ended = match exit {
            Ok(()) => self.process.finish().await,
            Err(error) => Err(error),
        };
        let ended = match (ended, cause) {
            (Err(error), _) => return (Ended::Failed(worker_failure("waiting for the command", &error)), at),
            (Ok(_), Some(cause)) => cause,
            (Ok(ended), None) => ended,
        };
        streams.close();
        // A future that is done must not be waited for again.
        if !carry.is_terminated() && until_killed(stops, carry).await != Some(Ok(())) {
            // What the command said last is lost.
            return (Ended::Cancelled, at);
        }
        (ended, at)
    }

    /// Waits for the exit, and sees to it where somebody asks for it; then says who.
    async fn until_exit(
        &self,
        mut carry: Pin<&mut impl FusedFuture<Output = Result<(), Gone>>>,
        feed: impl Future<Output = ()>,
        stops: &mut Stops,
    ) -> (io::Result<()>, Option<Ended>) {
        let mut exited = pin!(self.process.exited().fuse());
        let mut feed = pin!(feed.fuse());
        let mut limit = self.limit.map_or_else(Timer::never, Timer::after);
        let mut grace = Timer::never();
        let mut cause = None;
        let mut killed = false;
        loop {
            let still = !killed;
            let mut stop = pin!(async { if still { stops.next().await } else { future::pending().await } }.fuse());
            let (why, stop) = select_biased! {
                exit = exited => return (exit, cause),
                stop = stop => (Ended::Cancelled, stop),
                _ = (&mut limit).fuse() => {
                    limit = Timer::never();
                    (Ended::TimedOut, Stop::Interrupt)
                }
                _ = (&mut grace).fuse() => (Ended::Cancelled, Stop::Kill),
                carried = carry => match carried {
                    // Closed streams do not end a command.
                    Ok(()) => continue,
                    Err(Gone) => (Ended::Cancelled, Stop::Kill),
                },
                () = feed => continue,
            };
            match stop {
                Stop::Kill => {
                    killed = true;
                    grace = Timer::never();
                    self.process.signal(Signal::KILL);
                }
                Stop::Interrupt if cause.is_none() => {
                    grace = Timer::after(self.grace);
                    self.process.signal(Signal::INT);
                }
                Stop::Interrupt => {}
            }
            // The first cause is the cause.
            cause.get_or_insert(why);
        }
    }
}

/// Does `work` until it is to be killed.
pub(crate) async fn until_killed<T>(stops: &mut Stops, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work.fuse());
    loop {
        select_biased! {
            done = work => return Some(done),
            stop = stops.next().fuse() => if stop == Stop::Kill {
                return None;
            }
        }
    }
}
