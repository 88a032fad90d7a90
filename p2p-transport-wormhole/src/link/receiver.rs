//! The receiving half.

use std::future::poll_fn;
use std::io::{ErrorKind, Read as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::Timer;
use async_trait::async_trait;
use p2p_proto::link::handshake::Opener;
use p2p_proto::link::{LinkError, LinkReceiver};

use super::CLOSE;
use super::inbox::Inbox;
use super::wire::{Wire, lost};

pub(super) struct Receiver {
    wire: Arc<Wire>,
    opener: Opener,
    inbox: Inbox,
    /// Where records are opened to: at least as large as the largest message so far.
    record: Vec<u8>,
    silence: Duration,
    /// When the connection was first found empty after it last gave something.
    quiet_since: Option<Instant>,
    /// Fires at a time when the silence may have become too long. It lives on between waits: setting a timer costs more
    /// than receiving a record.
    alarm: Timer,
    /// How the stream ended, for those who ask again.
    ended: Option<LinkError>,
}

impl Receiver {
    pub(super) fn new(wire: Arc<Wire>, opener: Opener, rest: &[u8], silence: Duration) -> Self {
        Self {
            wire,
            opener,
            inbox: Inbox::new(rest),
            record: Vec::new(),
            silence,
            quiet_since: None,
            alarm: Timer::after(silence),
            ended: None,
        }
    }

    /// Waits for the empty record that begins the peer's stream.
    pub(super) async fn first(&mut self) -> Result<(), LinkError> {
        match self.next().await? {
            0 => Ok(()),
            _ => Err(LinkError::Broken("its first record is not the empty one".to_owned())),
        }
    }

    /// Waits for the next record of any kind and opens it to the front of `self.record`; returns its size.
    ///
    /// Cancel-safe: everything that arrived is in `self` before it waits.
    async fn next(&mut self) -> Result<usize, LinkError> {
        loop {
            if let Some(message) = self.inbox.next() {
                if self.record.len() < message.len() {
                    self.record.resize(message.len().next_power_of_two(), 0);
                }
                let message = self.inbox.bytes(message);
                let opened = self.opener.open(message, &mut self.record);
                return opened.map(<[u8]>::len).map_err(|_| LinkError::Broken("a record does not decrypt".to_owned()));
            }
            match self.wire.stream().get_ref().read(self.inbox.space()) {
                Ok(0) => return Err(LinkError::Lost("it was cut".to_owned())),
                Ok(count) => {
                    self.inbox.filled(count);
                    self.quiet_since = None;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait().await?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
    }

    /// Waits until there is something to read, but not longer than the silence may last.
    async fn wait(&mut self) -> Result<(), LinkError> {
        self.quiet_since.get_or_insert_with(Instant::now);
        poll_fn(|cx| match self.wire.stream().poll_readable(cx) {
            Poll::Ready(result) => Poll::Ready(result.map_err(lost)),
            Poll::Pending => poll_silence(&mut self.alarm, self.quiet_since, self.silence, cx),
        })
        .await
    }
}

fn poll_silence(
    alarm: &mut Timer,
    quiet_since: Option<Instant>,
    silence: Duration,
    cx: &mut Context<'_>,
) -> Poll<Result<(), LinkError>> {
    while Pin::new(&mut *alarm).poll(cx).is_ready() {
        let end = quiet_since.unwrap_or_else(Instant::now) + silence;
        if end <= Instant::now() {
            return Poll::Ready(Err(LinkError::Silent));
        }
        alarm.set_at(end);
    }
    Poll::Pending
}

#[async_trait]
impl LinkReceiver for Receiver {
    async fn receive(&mut self) -> Result<&[u8], LinkError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let size = loop {
            let end = match self.next().await {
                Ok(0) => {
                    // A keepalive: nothing else had been sent for a while.
                    self.inbox.shrink();
                    self.record = Vec::new();
                    // A peer who sends nothing else must not keep this task from ever giving way.
                    async_std::task::yield_now().await;
                    continue;
                }
                Ok(size) if self.record[..size] != *CLOSE => break size,
                Ok(_) => LinkError::Closed,
                Err(error) => error,
            };
            self.wire.peer_finished();
            return Err(self.ended.insert(end).clone());
        };
        Ok(&self.record[..size])
    }
}
