//! Carries stdin, stdout and stderr between a command and its client, as they come.
//!
//! A reader that takes its time holds up the command, not the worker's memory: per stream there is the pipe, one piece on its way and
//! nothing else.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

/// A pipe out of the command, and the end that the command gets.
pub(crate) fn from_command(channel: Channel) -> io::Result<(FromCommand, OwnedFd)> {
    let (ours, theirs) = pair()?;
    let pipe = non_blocking(ours)?;
    let state = FromCommand {
        channel,
        pipe,
        pieces: AtomicU64::new(0),
        waits: AtomicBool::new(true),
        ended: AtomicBool::new(false),
    };
    Ok((state, theirs))
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
    /// How many were read.
    pieces: AtomicU64,
    /// Whether the command, rather than the client, is waited for.
    waits: AtomicBool,
    ended: AtomicBool,
}

impl FromCommand {
    /// Sends what comes until nobody has the other end open any more.
    pub(crate) async fn carry(&self, output: &OutputWriter) -> Result<(), Gone> {
        let mut room = FIRST_READ_BYTES;
        loop {
            let mut bytes = Vec::with_capacity(room);
            self.waits.store(true, Ordering::Relaxed);
            let read = self.pipe.read_with(|fd| Ok(rustix::io::read(fd, spare_capacity(&mut bytes))?)).await;
            self.waits.store(false, Ordering::Relaxed);
            self.pieces.fetch_add(1, Ordering::Relaxed);
            if bytes.is_empty() || read.is_err() {
                return self.end(output).await;
            }
            if bytes.len() == room {
                room = CHUNK_BYTES.min(room * 4);
            } else if bytes.len() < room / 2 {
                bytes.shrink_to_fit();
            }
            output.write(self.channel, bytes, false).await?;
        }
    }

    /// Sends the end of the stream, unless it was sent.
    pub(crate) async fn end(&self, output: &OutputWriter) -> Result<(), Gone> {
        if self.ended.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        output.write(self.channel, Vec::new(), true).await
    }

    /// How many pieces came, if it waits for another one or has ended; `None` while the client is waited for.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        let idle = self.waits.load(Ordering::Relaxed) || self.ended.load(Ordering::Relaxed);
        idle.then(|| self.pieces.load(Ordering::Relaxed))
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
