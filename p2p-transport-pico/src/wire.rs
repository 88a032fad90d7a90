//! A connection to a board and its channels, whatever carries them.
//!
//! Nothing here waits by itself: a call that cannot go on returns `None`, and [`Wire::ready`] says when to make it again. Any
//! call may have taken in bytes of another channel; so whoever reads several channels goes round once more before waiting.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use crate::native::{Native, unblocked};
use crate::system::{ChildChannel, System};

/// What a hub calls itself.
const HUB: &str = "-p2p-hub_";
/// Longer than any connection lasts: whether the server lives is then not judged here.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A connection that is logged in. Dropping it ends it; a call that was given up half-way makes it useless.
pub(crate) enum Wire {
    /// libssh2's.
    Native(Native),
    /// That of the `ssh` program.
    System(System),
}

/// One command on a [`Wire`]. Clones are the same channel.
#[derive(Clone)]
pub(crate) enum Channel {
    /// libssh2's.
    Native(ssh2::Channel),
    /// That of the `ssh` program.
    System(ChildChannel),
}

impl Wire {
    /// Opens a channel, one try.
    pub(crate) fn open(&self) -> io::Result<Option<Channel>> {
        match self {
            Self::Native(native) => Ok(unblocked(native.open())?.map(Channel::Native)),
            Self::System(system) => system.open().map(|channel| Some(Channel::System(channel))),
        }
    }

    /// Opens a channel and starts `command` in it: two round trips.
    pub(crate) async fn start(&self, command: &str) -> io::Result<Channel> {
        let mut channel = self.until(|| self.open()).await?;
        self.until(|| channel.exec(command)).await?;
        Ok(channel)
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
            match channel.write(&text.as_bytes()[sent..])? {
                Some(count) => sent += count,
                None => self.ready().await,
            }
        }
        Ok(())
    }

    /// Whether the server says that it is our own hub. The `ssh` program does not tell.
    pub(crate) fn is_hub(&self) -> bool {
        match self {
            Self::Native(native) => native.ssh.banner().is_some_and(|banner| banner.contains(HUB)),
            Self::System(_) => false,
        }
    }

    /// Waits until a call that returned `None` may go on. A failure also ends it: the next call reports it.
    pub(crate) async fn ready(&self) {
        match self {
            Self::Native(native) => native.ready().await,
            Self::System(system) => system.ready().await,
        }
    }

    /// Waits until the server has sent something.
    pub(crate) async fn readable(&self) {
        match self {
            Self::Native(native) => native.readable().await,
            Self::System(system) => system.readable().await,
        }
    }

    /// Waits until more can be sent.
    pub(crate) async fn writable(&self) {
        match self {
            Self::Native(native) => native.writable().await,
            Self::System(system) => system.writable().await,
        }
    }

    /// Whether the last call waits for room to send.
    pub(crate) fn wants_to_send(&self) -> bool {
        match self {
            Self::Native(native) => native.wants_to_send(),
            Self::System(system) => system.wants_to_send(),
        }
    }

    /// Asks the server for a sign of life. The answer is not returned by any call, but it ends [`Wire::readable`].
    pub(crate) fn ask_for_life(&self) -> io::Result<()> {
        match self {
            Self::Native(native) => Ok(native.ask_for_life()?),
            Self::System(_) => Ok(()),
        }
    }

    /// After how long without a byte the server counts as gone, if `wanted` is what was asked for.
    pub(crate) fn silence(&self, wanted: Duration) -> Duration {
        match self {
            Self::Native(_) => wanted,
            Self::System(_) => FOR_EVER,
        }
    }
}

impl Channel {
    /// Starts a command, one try; `None` means: wait and call again with the same command.
    pub(crate) fn exec(&mut self, command: &str) -> io::Result<Option<()>> {
        match self {
            Self::Native(channel) => unblocked(channel.exec(command)),
            Self::System(channel) => channel.exec(command).map(Some),
        }
    }

    /// Writes what there is room for; after `None` the same bytes must be offered again.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Native(channel) => unblocked_io(channel.write(bytes)),
            Self::System(channel) => channel.write(bytes),
        }
    }

    /// Reads what is there: `None` when nothing is yet, 0 bytes when nothing will come any more.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Native(channel) => unblocked_io(channel.read(buffer)),
            Self::System(channel) => channel.read(buffer),
        }
    }

    /// As [`Channel::read`], of what the command says on its standard error.
    pub(crate) fn read_stderr(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Native(channel) => unblocked_io(channel.stderr().read(buffer)),
            Self::System(channel) => channel.read_stderr(buffer),
        }
    }

    /// Whether there is more that nothing will announce: bytes to read, or the end.
    pub(crate) fn has_unread(&self) -> bool {
        match self {
            Self::Native(channel) => channel.read_window().available > 0 || channel.eof(),
            Self::System(channel) => channel.has_unread(),
        }
    }

    /// How many bytes can be written now without being cut in two.
    pub(crate) fn room(&self) -> usize {
        match self {
            Self::Native(channel) => channel.write_window().remaining as usize,
            // A socket takes a line whole as long as `ssh` keeps up; there is no telling how much more.
            Self::System(_) => usize::MAX,
        }
    }

    /// Whether everything was read and nothing more will come.
    pub(crate) fn eof(&self) -> bool {
        match self {
            Self::Native(channel) => channel.eof(),
            Self::System(channel) => channel.eof(),
        }
    }

    /// Closes it, one try; `None` means: wait and call again.
    pub(crate) fn close(&mut self) -> io::Result<Option<()>> {
        match self {
            Self::Native(channel) => unblocked(channel.close()),
            Self::System(channel) => Ok(channel.close().then_some(())),
        }
    }

    /// The command's exit status once the channel is closed; 0 also when the server gave none.
    pub(crate) fn exit_status(&self) -> io::Result<i32> {
        match self {
            Self::Native(channel) => Ok(channel.exit_status()?),
            Self::System(channel) => channel.exit_status(),
        }
    }
}

/// `None` for a call that would block.
fn unblocked_io<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(fault) => Err(fault),
    }
}
