//! The connection under both halves, and what waits to be written to it.

use std::future::poll_fn;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures::future::{self, Either};
use p2p_proto::link::LinkError;
use p2p_proto::link::handshake::Sealer;

use super::{LENGTH_BYTES, TAG_BYTES};

/// Size of the write buffer of an idle link.
const SMALL: usize = 4096;
/// Fed and not flushed, at most; a caller flushes at a quarter of it.
const LARGE: usize = 1024 * 1024;
/// How long a link that ended in order is kept to read away what the peer still sends: closing a socket with unread
/// bytes makes TCP reset it, and a reset may overtake the closing record.
const LINGER: Duration = Duration::from_secs(2);

/// One connection. Dropped with its last half.
pub(super) struct Wire {
    stream: Arc<Async<TcpStream>>,
    out: Mutex<Out>,
    /// The end of our stream was sent.
    finished: AtomicBool,
    /// The end of the peer's stream, or of the connection, was seen.
    peer_finished: AtomicBool,
}

/// Sealed records that wait to be written: `buffer[written..end]`.
struct Out {
    sealer: Sealer,
    /// Longer than what it holds, so that sealing into it needs no clearing.
    buffer: Vec<u8>,
    written: usize,
    end: usize,
    last: Instant,
}

impl Wire {
    /// Takes the connection, and sends an empty record whenever none was sent for `keepalive`.
    pub(super) fn start(stream: Arc<Async<TcpStream>>, sealer: Sealer, keepalive: Duration) -> Arc<Self> {
        let out = Out { sealer, buffer: vec![0; SMALL], written: 0, end: 0, last: Instant::now() };
        let wire = Arc::new(Self { stream, out: Mutex::new(out), finished: false.into(), peer_finished: false.into() });
        async_std::task::spawn(keep_alive(Arc::downgrade(&wire), keepalive));
        wire
    }

    pub(super) fn stream(&self) -> &Async<TcpStream> {
        &self.stream
    }

    /// Sends the empty record that begins a stream.
    pub(super) fn greet(&self) -> Result<(), LinkError> {
        let mut out = self.lock();
        out.seal(&[])?;
        self.try_write(&mut out).map(|_| ())
    }

    /// Seals `record` behind what waits already; returns what waits now, bytes.
    pub(super) fn feed(&self, record: &[u8]) -> Result<usize, LinkError> {
        let mut out = self.lock();
        out.seal(record)?;
        Ok(out.waiting())
    }

    pub(super) async fn flush(&self) -> Result<(), LinkError> {
        while !self.try_write(&mut self.lock())? {
            poll_fn(|cx| self.stream.poll_writable(cx)).await.map_err(lost)?;
        }
        Ok(())
    }

    /// Waits until the system has little that it has not sent.
    pub(super) async fn ready(&self) -> Result<(), LinkError> {
        if is_writable(self.stream.get_ref())? {
            return Ok(());
        }
        poll_fn(|cx| self.stream.poll_writable(cx)).await.map_err(lost)
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn finish(&self) {
        if self.stream.get_ref().shutdown(Shutdown::Write).is_ok() {
            self.finished.store(true, Ordering::Relaxed);
        }
    }

    /// Nothing is left to be read away.
    pub(super) fn peer_finished(&self) {
        self.peer_finished.store(true, Ordering::Relaxed);
    }

    /// Writes what can be written now; says whether that was all.
    fn try_write(&self, out: &mut Out) -> Result<bool, LinkError> {
        while out.waiting() > 0 {
            match self.stream.get_ref().write(&out.buffer[out.written..out.end]) {
                Ok(0) => return Err(lost(ErrorKind::WriteZero)),
                Ok(count) => {
                    out.written += count;
                    out.last = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
        (out.written, out.end) = (0, 0);
        Ok(true)
    }

    /// Sends a keepalive if one is due; returns when to look again.
    fn keep_alive(&self, every: Duration) -> Instant {
        let mut out = self.lock();
        let now = Instant::now();
        if out.last + every > now || self.finished.load(Ordering::Relaxed) {
            // Not much sooner than usual: a wake-up costs more than a keepalive that is a little late.
            return (out.last + every).max(now + every / 2);
        }
        // Behind bytes that wait for the peer to read, a keepalive would tell it nothing.
        if out.waiting() == 0 {
            out.shrink();
            if out.seal(&[]).is_err() {
                return now + every;
            }
        }
        // A broken connection is the halves' to notice.
        let _ = self.try_write(&mut out);
        now + every
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.finished.load(Ordering::Relaxed) && !self.peer_finished.load(Ordering::Relaxed) {
            async_std::task::spawn(linger(Arc::clone(&self.stream)));
        }
    }
}

impl Out {
    fn seal(&mut self, record: &[u8]) -> Result<(), LinkError> {
        let needed = self.end + LENGTH_BYTES + record.len() + TAG_BYTES;
        if needed > LARGE {
            return Err(LinkError::Misuse(format!("{} bytes wait for a flush", self.waiting())));
        }
        if needed > self.buffer.len() {
            self.buffer.resize(needed.next_power_of_two(), 0);
        }
        let (length, message) = self.buffer[self.end..needed].split_at_mut(LENGTH_BYTES);
        let sealed = self.sealer.seal(record, message).map_err(|error| LinkError::Misuse(error.to_string()))?;
        let bytes = u16::try_from(sealed).map_err(|_| LinkError::Misuse("a record is too large".to_owned()))?;
        length.copy_from_slice(&bytes.to_be_bytes());
        self.end += LENGTH_BYTES + sealed;
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.end - self.written
    }

    fn shrink(&mut self) {
        if self.buffer.len() > SMALL {
            self.buffer = vec![0; SMALL];
        }
    }
}

/// Whether a write would be taken now: asking is much quicker than waiting for the reactor to say so.
#[cfg(unix)]
fn is_writable(stream: &TcpStream) -> Result<bool, LinkError> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(stream, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| poll(&mut asked, Some(&at_once))).map(|ready| ready > 0).map_err(lost)
}

#[cfg(not(unix))]
fn is_writable(_: &TcpStream) -> Result<bool, LinkError> {
    Ok(false)
}

/// What ended a connection from outside.
pub(super) fn lost(error: impl Into<std::io::Error>) -> LinkError {
    LinkError::Lost(error.into().to_string())
}

async fn keep_alive(wire: Weak<Wire>, every: Duration) {
    let mut timer = Timer::after(every);
    loop {
        (&mut timer).await;
        // Holding the wire only here lets it go with its halves.
        let Some(next) = wire.upgrade().map(|wire| wire.keep_alive(every)) else { return };
        timer.set_at(next);
    }
}

async fn linger(stream: Arc<Async<TcpStream>>) {
    let drain = async {
        let mut sink = [0; 4096];
        while let Ok(1..) = stream.read_with(|mut stream| stream.read(&mut sink)).await {}
    };
    match future::select(Box::pin(drain), Timer::after(LINGER)).await {
        Either::Left(_) | Either::Right(_) => {}
    }
}
