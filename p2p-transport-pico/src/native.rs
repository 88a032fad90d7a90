//! An SSH connection of libssh2's, and how to wait for it.
//!
//! libssh2 runs non-blocking: every call that would block is made again once the socket is ready in the direction that
//! `block_directions` names. Any call may take another channel's bytes off the socket into that channel's queue, and then the
//! socket never turns readable for them; so whoever reads several channels goes round once more before waiting.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;

use async_io::Async;
use futures::future::{self, Either};
use socket2::Socket;
use ssh2::{BlockDirections, Channel, ErrorCode};

use crate::door::proxy_command::Carrier;

/// Unread bytes that one channel may pile up in libssh2.
const CHANNEL_WINDOW: u32 = 256 * 1024;
/// What OpenSSH and libssh2 use.
const CHANNEL_PACKET: u32 = 32 * 1024;
/// `LIBSSH2_ERROR_EAGAIN`.
const WOULD_BLOCK: ErrorCode = ErrorCode::Session(-37);

/// A connection. Dropping it says goodbye and closes the socket; a call that was given up half-way makes it useless.
pub(crate) struct Native {
    pub(crate) ssh: ssh2::Session,
    socket: Arc<Async<Socket>>,
    /// The program that stands for the connection; it ends with it.
    _carrier: Option<Carrier>,
}

impl Native {
    /// Takes a connected socket; no byte of SSH has been exchanged yet.
    pub(crate) fn new(socket: Socket, carrier: Option<Carrier>) -> io::Result<Self> {
        let socket = Arc::new(Async::new(socket)?);
        let mut ssh = ssh2::Session::new()?;
        ssh.set_tcp_stream(socket.clone());
        ssh.set_blocking(false);
        Ok(Self { ssh, socket, _carrier: carrier })
    }

    /// Makes a libssh2 call until it no longer would block. Nothing else may use the connection meanwhile.
    pub(crate) async fn drive<T>(&self, mut call: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, ssh2::Error> {
        loop {
            match call() {
                Err(fault) if fault.code() == WOULD_BLOCK => self.ready().await,
                done => return done,
            }
        }
    }

    /// Opens a channel, one try.
    pub(crate) fn open(&self) -> Result<Channel, ssh2::Error> {
        self.ssh.channel_open("session", CHANNEL_WINDOW, CHANNEL_PACKET, None)
    }

    /// Asks the server for a sign of life.
    pub(crate) fn ask_for_life(&self) -> Result<(), ssh2::Error> {
        self.ssh.set_keepalive(true, 1);
        self.ssh.keepalive_send().map(drop)
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

impl Drop for Native {
    fn drop(&mut self) {
        let _ = self.ssh.disconnect(None, "left", None);
        // Without this, libssh2 would wait for the server to close each channel and then not free the session.
        let _ = self.socket.as_ref().get_ref().shutdown(Shutdown::Both);
    }
}

/// `None` for a call that would block.
pub(crate) fn unblocked<T>(result: Result<T, ssh2::Error>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.code() == WOULD_BLOCK => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}
