//! What is sent on one channel: its outbox at the client's pace, pings in between, and its end.

use std::sync::Arc;

use russh::ChannelWriteHalf;
use russh::server::{Handle, Msg};
use tokio::time::{Instant, interval_at, sleep, timeout};

use crate::gate::Gate;
use crate::limits::{CLOSE_LIMIT, DRAIN_LIMIT, PING_INTERVAL};
use crate::outbox::{End, Next, Outbox};

/// SSH's number for standard error (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// One channel's way out.
pub(crate) struct Sending {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) write: ChannelWriteHalf<Msg>,
    pub(crate) handle: Handle,
    pub(crate) gate: Arc<Gate>,
    /// The client has a terminal in raw mode, which needs a carriage return at each line's end.
    pub(crate) terminal: bool,
}

impl Sending {
    /// Sends until the channel's end, and closes it.
    pub(crate) async fn run(self) {
        let end = tokio::select! {
            end = self.send_all() => end,
            end = self.outbox.ended_at_once() => end,
            () = self.drain_limit() => End::CutOff,
            () = self.ping() => End::Gone,
        };
        if timeout(CLOSE_LIMIT, self.close(end)).await.is_err() {
            log::warn!("a connection is closed: it accepts nothing any more");
            self.gate.kill();
        }
        self.outbox.close();
    }

    async fn send_all(&self) -> End {
        loop {
            let sent = match self.outbox.next().await {
                Next::Stdout(bytes) => self.write.data_bytes(self.lines(bytes)).await,
                Next::Stderr(bytes) => {
                    let bytes = self.lines(bytes);
                    self.write.extended_data_bytes(STDERR, bytes).await
                }
                Next::End(end) => return end,
            };
            if sent.is_err() {
                return End::Gone;
            }
        }
    }

    /// Ready some time after the channel's end has been decided.
    async fn drain_limit(&self) {
        self.outbox.ended().await;
        sleep(DRAIN_LIMIT).await;
    }

    /// Makes traffic, by which both sides can tell that the other is there. Ready when the connection has gone.
    ///
    /// pico.sh sends the channel request `ping@pico.sh` here. The SSH library can send no request of a name of ours; this
    /// one wants no reply either, and tells a client what holds for it anyway.
    async fn ping(&self) {
        let mut ticks = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        loop {
            ticks.tick().await;
            let sent = self.handle.xon_xoff_request(self.write.id(), false).await;
            if sent.is_err() {
                return;
            }
        }
    }

    async fn close(&self, end: End) {
        let status = match end {
            End::Exit(status) => Some(status),
            End::CutOff => Some(1),
            End::Silent => None,
            End::Gone => return,
        };
        if let Some(status) = status {
            let _ = self.write.exit_status(status).await;
        }
        let _ = self.write.eof().await;
        let _ = self.write.close().await;
    }

    fn lines(&self, bytes: Vec<u8>) -> Vec<u8> {
        if !self.terminal {
            return bytes;
        }
        let mut lines = Vec::with_capacity(bytes.len() + bytes.len() / 16);
        for byte in bytes {
            if byte == b'\n' && lines.last() != Some(&b'\r') {
                lines.push(b'\r');
            }
            lines.push(byte);
        }
        lines
    }
}
