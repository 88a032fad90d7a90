//! A machine on the way: a channel of its SSH connection that leads to the next machine, carried to a socket, so that the next
//! connection runs over it as over any other.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use async_io::Async;
use async_std::task;
use futures::future::{self, Either};
use ssh2::Channel;

use crate::native::Native;

const BUFFER_BYTES: usize = 32 * 1024;

/// A socket that leads from the machine behind `wire` to this port. The connection lives as long as that socket.
///
/// # Errors
/// What the machine says when it cannot or may not connect.
pub(super) async fn beyond(wire: Native, host: &str, port: u16) -> io::Result<UnixStream> {
    let channel = wire.drive(|| wire.ssh.channel_direct_tcpip(host, port, None)).await?;
    let (ours, theirs) = UnixStream::pair()?;
    let ours = Async::new(ours)?;
    task::spawn(async move {
        if let Err(fault) = (Carrier { wire, channel, socket: ours }).run().await {
            log::debug!("the connection over a machine in between ended: {fault}");
        }
    });
    Ok(theirs)
}

struct Carrier {
    wire: Native,
    channel: Channel,
    socket: Async<UnixStream>,
}

impl Carrier {
    /// Until one of the two sides ends.
    async fn run(mut self) -> io::Result<()> {
        let (mut here, mut there) = (Pending::default(), Pending::default());
        loop {
            let mut moved = false;
            if here.is_empty() {
                match unblocked_io(self.channel.read(&mut here.buffer))? {
                    Some(0) if self.channel.eof() => return Ok(()),
                    Some(count) => moved |= here.fill(count),
                    None => {}
                }
            }
            if let Some(count) = here.drain(|bytes| self.socket.get_ref().write(bytes))? {
                moved |= count > 0;
            }
            if there.is_empty() {
                match unblocked_io(self.socket.get_ref().read(&mut there.buffer))? {
                    Some(0) => return Ok(()),
                    Some(count) => moved |= there.fill(count),
                    None => {}
                }
            }
            if let Some(count) = there.drain(|bytes| self.channel.write(bytes))? {
                moved |= count > 0;
            }
            if moved || (here.is_empty() && self.channel.read_window().available > 0) {
                task::yield_now().await;
            } else {
                self.wait(here.is_empty(), there.is_empty()).await;
            }
        }
    }

    async fn wait(&self, nothing_here: bool, nothing_there: bool) {
        let wire = async {
            // What waits for room in the channel waits for the machine's word that there is some.
            match (nothing_here || !nothing_there, self.wire.wants_to_send()) {
                (true, true) => {
                    drop(future::select(Box::pin(self.wire.readable()), Box::pin(self.wire.writable())).await)
                }
                (true, false) => self.wire.readable().await,
                (false, true) => self.wire.writable().await,
                (false, false) => future::pending().await,
            }
        };
        let socket = async {
            let _ = match (nothing_there, nothing_here) {
                (true, true) => self.socket.readable().await,
                (false, false) => self.socket.writable().await,
                (false, true) => future::pending().await,
                (true, false) => {
                    match future::select(Box::pin(self.socket.readable()), Box::pin(self.socket.writable())).await {
                        Either::Left((done, _)) | Either::Right((done, _)) => done,
                    }
                }
            };
        };
        future::select(std::pin::pin!(wire), std::pin::pin!(socket)).await;
    }
}

/// Bytes that were taken on one side and not yet given to the other.
struct Pending {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Default for Pending {
    fn default() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), from: 0, to: 0 }
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    fn fill(&mut self, count: usize) -> bool {
        (self.from, self.to) = (0, count);
        count > 0
    }

    /// Gives away what it can; `None` when nothing could go.
    fn drain(&mut self, mut give: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<Option<usize>> {
        if self.is_empty() {
            return Ok(None);
        }
        let given = unblocked_io(give(&self.buffer[self.from..self.to]))?;
        self.from += given.unwrap_or(0);
        Ok(given)
    }
}

fn unblocked_io<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(fault) => Err(fault),
    }
}
