//! The TCP connection below SSH, with two things that the SSH library cannot do: not to read for a while, and to stop.
//!
//! Reading less is the only brake on a writer that is faster than its readers: the library widens a channel's window by
//! itself. Waiting in its callbacks instead would also stop what the connection has to send, and two clients that
//! wait for each other would stand still.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::lock;

/// Until when nothing is read.
pub(crate) type Hold = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Controls one [`GatedStream`].
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hold: Option<Hold>,
    killed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Gate {
    /// Nothing is read until `hold` is ready; it replaces an earlier one.
    pub(crate) fn hold(&self, hold: Hold) {
        lock(&self.state).hold = Some(hold);
    }

    /// The connection fails at once, whether it is being read, written or neither.
    pub(crate) fn kill(&self) {
        let mut state = lock(&self.state);
        state.killed = true;
        state.hold = None;
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// A TCP connection that a [`Gate`] controls.
pub(crate) struct GatedStream {
    tcp: TcpStream,
    gate: Arc<Gate>,
}

impl GatedStream {
    pub(crate) fn new(tcp: TcpStream) -> (GatedStream, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        let stream = GatedStream { tcp, gate: Arc::clone(&gate) };
        (stream, gate)
    }

    fn check_writer(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut state = lock(&self.gate.state);
        if state.killed {
            return Err(killed());
        }
        state.writer = Some(cx.waker().clone());
        Ok(())
    }
}

impl AsyncRead for GatedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        {
            let mut state = lock(&self.gate.state);
            if state.killed {
                return Poll::Ready(Err(killed()));
            }
            state.reader = Some(cx.waker().clone());
            if let Some(hold) = &mut state.hold {
                if hold.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                state.hold = None;
            }
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for GatedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_writer(cx)?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_writer(cx)?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

fn killed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "closed by the hub")
}
