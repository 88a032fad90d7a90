//! The sending half.

use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;
use async_trait::async_trait;
use futures::future;
use p2p_proto::limits;
use p2p_proto::link::{LinkError, LinkSender};

use super::CLOSE;
use super::wire::Wire;

/// How long an orderly end waits for a peer that does not read.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Sender {
    wire: Arc<Wire>,
    /// What was fed since the last flush.
    buffered: usize,
    closed: bool,
}

impl Sender {
    pub(super) fn new(wire: Arc<Wire>) -> Self {
        Self { wire, buffered: 0, closed: false }
    }
}

#[async_trait]
impl LinkSender for Sender {
    fn feed(&mut self, record: &[u8]) -> Result<(), LinkError> {
        if self.closed {
            return Err(LinkError::Misuse("a record after the end of the stream".to_owned()));
        }
        if record.is_empty() || record.len() > limits::RECORD_BYTES || record == CLOSE {
            return Err(LinkError::Misuse(format!("a record of {} bytes that cannot be sent", record.len())));
        }
        self.buffered = self.wire.feed(record)?;
        Ok(())
    }

    fn buffered(&self) -> usize {
        self.buffered
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        self.wire.flush().await?;
        self.buffered = 0;
        Ok(())
    }

    async fn ready(&mut self) -> Result<(), LinkError> {
        self.wire.ready().await
    }

    async fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let end = async {
            self.wire.feed(CLOSE)?;
            self.wire.flush().await
        };
        // A peer that cannot take the end of the stream will take it for cut, which it is.
        let _ = future::select(Box::pin(end), Timer::after(CLOSE_TIMEOUT)).await;
        self.wire.finish();
        self.buffered = 0;
    }
}
