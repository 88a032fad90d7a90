//! Carries stdin, stdout and stderr between a command and its client, as they come.
//!
//! A reader that takes its time holds up the command, not the worker's memory: per stream there is the pipe, one piece on its way and
//! nothing else.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use async_io::Async;
use futures::future;
use p2p_proto::limits::CHUNK_BYTES;
use p2p_proto::link::item::Channel;
use p2p_scheduler::executor::{ContentReader, Gone, OutputWriter, Piece};
use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// The first read of a stream has room for this, bytes; it grows towards [`CHUNK_BYTES`] while reads fill it.
const FIRST_READ_BYTES: usize = 4096;

/// Stands for not knowing how much is still to come.
const UNKNOWN: u64 = u64::MAX;

/// A pipe out of the command, and the end that the command gets.
pub(crate) fn from_command(channel: Channel) -> io::Result<(FromCommand, OwnedFd)> {
    let (ours, theirs) = pair()?;
    Ok((FromCommand { channel, pipe: non_blocking(ours)?, rest: AtomicU64::new(UNKNOWN) }, theirs))
}

/// A pipe into the command, and the end that the command gets.
pub(crate) fn to_command() -> io::Result<(ToCommand, OwnedFd)> {
    let (theirs, ours) = pair()?;
    Ok((ToCommand { pipe: Some(non_blocking(ours)?) }, theirs))
}

/// A pipe's reading and writing end; neither is inherited.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

fn non_blocking(fd: OwnedFd) -> io::Result<Async<OwnedFd>> {
    // A fresh pipe has no other flag to keep.
    rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
    Async::new_nonblocking(fd)
}

/// Stdout or stderr.
#[derive(Debug)]
pub(crate) struct FromCommand {
    channel: Channel,
    pipe: Async<OwnedFd>,
    /// How many bytes are still to be read, once that is known.
    rest: AtomicU64,
}

impl FromCommand {
    /// Sends what comes, until nobody has the other end open any more, or after [`Self::close`]. The attempt's end is the end of its output too: a
    /// message of its own for that would be two more for each task. The task that runs this must be the one that calls `close`, and poll this afterwards.
    pub(crate) async fn carry(&self, output: &OutputWriter) -> Result<(), Gone> {
        let mut room = FIRST_READ_BYTES;
        let mut full = false;
        loop {
            let mut bytes = Vec::with_capacity(room);
            if let Err(error) = future::poll_fn(|cx| self.poll_read(cx, &mut bytes, full)).await {
                log::warn!("reading a command's output: {error}");
            }
            if bytes.is_empty() {
                return Ok(());
            }
            full = bytes.len() == room;
            if full {
                room = CHUNK_BYTES.min(room * 4);
            } else if bytes.len() < room / 2 {
                bytes.shrink_to_fit();
            }
            output.write(self.channel, bytes, false).await?;
        }
    }

    /// After the command's end: only what is in the pipe at this moment still counts. Somebody who was not found may hold the other end
    /// open for ever, or write without end.
    pub(crate) fn close(&self) {
        let rest = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0);
        self.rest.store(rest, Ordering::Relaxed);
    }

    /// After [`Self::close`]: as before it, for the next one who uses the same pipe.
    pub(crate) fn reopen(&self) {
        self.rest.store(UNKNOWN, Ordering::Relaxed);
    }

    /// Takes what is in the pipe now, without waiting.
    pub(crate) fn rest(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        while bytes.len() < bytes.capacity()
            && matches!(rustix::io::read(&self.pipe, spare_capacity(&mut bytes)), Ok(1..) | Err(Errno::INTR))
        {}
        bytes
    }

    /// Reads something into the empty `bytes`, or nothing at the end. `at_once` says that there probably is something.
    fn poll_read(&self, cx: &mut Context<'_>, bytes: &mut Vec<u8>, mut at_once: bool) -> Poll<io::Result<()>> {
        loop {
            let rest = self.rest.load(Ordering::Relaxed);
            if rest == 0 {
                return Poll::Ready(Ok(()));
            }
            if !at_once && rest == UNKNOWN {
                ready!(self.pipe.poll_readable(cx))?;
            }
            at_once = false;
            match rustix::io::read(&self.pipe, spare_capacity(bytes)) {
                // After `close` it is empty too early only if somebody else reads it.
                Err(Errno::AGAIN) if rest == UNKNOWN => {}
                Err(Errno::INTR) => {}
                read => {
                    if rest != UNKNOWN {
                        self.rest.store(rest.saturating_sub(bytes.len() as u64), Ordering::Relaxed);
                    }
                    return Poll::Ready(read.map(drop).map_err(io::Error::from));
                }
            }
        }
    }
}

/// Stdin.
#[derive(Debug)]
pub(crate) struct ToCommand {
    /// `None` once it is at its end, or the command has closed it.
    pipe: Option<Async<OwnedFd>>,
}

impl ToCommand {
    /// Feeds the command what came early and what comes; a command that closes its stdin is no reason to keep the client waiting, so
    /// the rest is taken and dropped. Ends with the stream; where that breaks off, it waits for ever, as the end of a stream that is
    /// not complete would pass for its real end.
    pub(crate) async fn feed(mut self, mut early: VecDeque<Piece>, content: &mut ContentReader) {
        loop {
            let piece = match early.pop_front() {
                Some(piece) => piece,
                None => match content.next().await {
                    Ok(piece) => piece,
                    Err(Gone) => future::pending().await,
                },
            };
            if piece.channel != Channel::Stdin {
                continue;
            }
            let mut rest = piece.bytes.as_slice();
            while !rest.is_empty() {
                let written = match &self.pipe {
                    Some(pipe) => pipe.write_with(|fd| Ok(rustix::io::write(fd, rest)?)).await,
                    None => Ok(rest.len()),
                };
                match written {
                    Ok(size) => {
                        content.taken(Channel::Stdin, size);
                        rest = rest.get(size..).unwrap_or_default();
                    }
                    Err(error) => {
                        if Errno::from_io_error(&error) != Some(Errno::PIPE) {
                            log::warn!("writing a command's stdin: {error}");
                        }
                        self.pipe = None;
                    }
                }
            }
            if piece.end {
                return;
            }
        }
    }
}
