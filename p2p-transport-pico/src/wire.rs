//! One SSH connection and how to wait for it.
//!
//! libssh2 runs non-blocking: every call that would block is made again once the socket is ready in the direction that
//! `block_directions` names. Any call may take another channel's bytes off the socket into that channel's queue, and then the
//! socket never turns readable for them; so whoever reads several channels goes round once more before waiting.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use async_io::Async;
use futures::future::{self, Either};
use ssh2::{BlockDirections, Channel, ErrorCode};

/// Unread bytes that one channel may pile up in libssh2.
const CHANNEL_WINDOW: u32 = 256 * 1024;
/// What OpenSSH and libssh2 use.
const CHANNEL_PACKET: u32 = 32 * 1024;
/// `LIBSSH2_ERROR_EAGAIN`.
const WOULD_BLOCK: ErrorCode = ErrorCode::Session(-37);

/// An SSH connection. Dropping it says goodbye and closes the socket; a call that was given up half-way makes it useless.
pub(crate) struct Wire {
    pub(crate) ssh: ssh2::Session,
    socket: Arc<Async<TcpStream>>,
}

impl Wire {
    /// Takes a connected socket; no byte of SSH has been exchanged yet.
    pub(crate) fn new(socket: Async<TcpStream>) -> Result<Self, ssh2::Error> {
        let socket = Arc::new(socket);
        let mut ssh = ssh2::Session::new()?;
        ssh.set_tcp_stream(socket.clone());
        ssh.set_blocking(false);
        Ok(Self { ssh, socket })
    }

    /// Makes a libssh2 call until it no longer would block. Nothing else may use the connection meanwhile.
    pub(crate) async fn drive<T>(&self, mut call: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, ssh2::Error> {
        self.until(|| unblocked(call())).await
    }

    /// Polls until there is something. Nothing else may use the connection meanwhile.
    pub(crate) async fn until<T, E>(&self, mut poll: impl FnMut() -> Result<Option<T>, E>) -> Result<T, E> {
        loop {
            match poll()? {
                Some(done) => return Ok(done),
                None => self.ready().await,
            }
        }
    }

    /// Polls two things side by side until both are there.
    ///
    /// One may take the other's bytes off the socket. So nobody waits after a round in which one of them was served; and while
    /// both wait for more, that will wake up both.
    pub(crate) async fn until_both<A, B, E>(
        &self,
        mut poll_a: impl FnMut() -> Result<Option<A>, E>,
        mut poll_b: impl FnMut() -> Result<Option<B>, E>,
    ) -> Result<(A, B), E> {
        let (mut a, mut b) = (None, None);
        loop {
            let before = (a.is_some(), b.is_some());
            if a.is_none() {
                a = poll_a()?;
            }
            if b.is_none() {
                b = poll_b()?;
            }
            match (a, b) {
                (Some(a), Some(b)) => return Ok((a, b)),
                waiting => (a, b) = waiting,
            }
            if before == (a.is_some(), b.is_some()) {
                self.ready().await;
            }
        }
    }

    /// Writes a short text.
    pub(crate) async fn write(&self, channel: &mut Channel, text: &str) -> io::Result<()> {
        let mut sent = 0;
        while sent < text.len() {
            match channel.write(&text.as_bytes()[sent..]) {
                Ok(count) => sent += count,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => self.ready().await,
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Opens a channel and starts `command` in it: two round trips.
    pub(crate) async fn start(&self, command: &str) -> Result<Channel, ssh2::Error> {
        let mut channel = self.drive(|| open(&self.ssh)).await?;
        self.drive(|| channel.exec(command)).await?;
        Ok(channel)
    }

    /// Waits until the socket is ready for what the last call wanted. A socket error also ends it: the next call reports it.
    pub(crate) async fn ready(&self) {
        let _ = match self.ssh.block_directions() {
            BlockDirections::Outbound => self.socket.writable().await,
            BlockDirections::Both => {
                let either = future::select(self.socket.readable(), self.socket.writable());
                match either.await {
                    Either::Left((done, _)) | Either::Right((done, _)) => done,
                }
            }
            BlockDirections::Inbound | BlockDirections::None => self.socket.readable().await,
        };
    }

    /// Waits until the server has sent something.
    pub(crate) async fn readable(&self) {
        let _ = self.socket.readable().await;
    }

    /// Waits until more can be sent.
    pub(crate) async fn writable(&self) {
        let _ = self.socket.writable().await;
    }

    /// Whether the last call waits for room to send.
    pub(crate) fn wants_to_send(&self) -> bool {
        matches!(self.ssh.block_directions(), BlockDirections::Outbound | BlockDirections::Both)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.ssh.disconnect(None, "left", None);
        // Without this, libssh2 would wait for the server to close each channel and then not free the session.
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
    }
}

/// Opens a channel, one try.
pub(crate) fn open(ssh: &ssh2::Session) -> Result<Channel, ssh2::Error> {
    ssh.channel_open("session", CHANNEL_WINDOW, CHANNEL_PACKET, None)
}

fn would_block(fault: &ssh2::Error) -> bool {
    fault.code() == WOULD_BLOCK
}

/// `None` for a call that would block.
pub(crate) fn unblocked<T>(result: Result<T, ssh2::Error>) -> Result<Option<T>, ssh2::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(fault) if would_block(&fault) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Reads what is there: `None` when nothing is yet, 0 bytes when nothing will come any more.
pub(crate) fn read(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(buffer) {
        Ok(count) => Ok(Some(count)),
        Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(fault) => Err(fault),
    }
}
