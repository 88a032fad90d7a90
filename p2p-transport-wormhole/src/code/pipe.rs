//! The connection of a transfer: records over TCP, each wait bounded.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use async_io::Async;
use futures::FutureExt as _;
use p2p_proto::link::{LinkPath, TransitKey};

use super::config::Stop;
use super::error::{CodeError, Stage};
use super::limits::{RECORD_BYTES, RECORD_WIRE_BYTES};
use super::mailbox::bounded;
use super::records::{self, LENGTH_BYTES, OVERHEAD_BYTES, Opener, Sealer};
use crate::procedure::Side;
use crate::transport::Chosen;

/// What is sent with one write, and what room is made for reading.
pub(super) const BATCH_BYTES: usize = 16 * RECORD_BYTES;

/// Both directions of a connection.
pub(super) struct Pipe {
    stream: Arc<Async<TcpStream>>,
    sealer: Sealer,
    opener: Opener,
    /// What was read and not yet used is `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    sealed: Vec<u8>,
    path: LinkPath,
    stall: Duration,
    stop: Stop,
}

impl Pipe {
    pub(super) fn new(chosen: Chosen, key: &TransitKey, side: Side, stall: Duration, stop: Stop) -> Self {
        let (sealer, opener) = records::split(key, side);
        let mut buffer = chosen.rest;
        let end = buffer.len();
        buffer.resize(BATCH_BYTES.max(end), 0);
        let sealed = Vec::with_capacity(BATCH_BYTES + 16 * OVERHEAD_BYTES);
        Self { stream: chosen.stream, sealer, opener, buffer, start: 0, end, sealed, path: chosen.path, stall, stop }
    }

    pub(super) fn path(&self) -> &LinkPath {
        &self.path
    }

    /// Sends `plain` as records.
    pub(super) async fn send(&mut self, plain: &[u8]) -> Result<(), CodeError> {
        self.sealed.clear();
        for record in plain.chunks(RECORD_BYTES) {
            self.sealer.seal(record, &mut self.sealed);
        }
        let mut written = 0;
        while written < self.sealed.len() {
            self.check_stop()?;
            match self.stream.get_ref().write(&self.sealed[written..]) {
                Ok(0) => return Err(lost(ErrorKind::WriteZero)),
                Ok(count) => written += count,
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => {
                    let late = || CodeError::Silent { stage: Stage::Taking, within: self.stall };
                    bounded(&self.stop, self.stall, late, self.stream.writable()).await?.map_err(lost)?;
                }
                Err(fault) => return Err(lost(fault)),
            }
        }
        Ok(())
    }

    /// The next record. `within` is how long nothing may arrive.
    pub(super) async fn receive(&mut self, stage: Stage, within: Duration) -> Result<&[u8], CodeError> {
        while self.end - self.start < LENGTH_BYTES {
            self.fill(stage, within).await?;
        }
        let mut prefix = [0; LENGTH_BYTES];
        prefix.copy_from_slice(&self.buffer[self.start..self.start + LENGTH_BYTES]);
        let length = Opener::length(prefix).map_err(CodeError::Protocol)?;
        while self.end - self.start < LENGTH_BYTES + length {
            self.fill(stage, within).await?;
        }
        let begin = self.start + LENGTH_BYTES;
        self.start = begin + length;
        self.opener.open(&mut self.buffer[begin..begin + length]).map_err(CodeError::Protocol)
    }

    /// Reads what there is. Room grows with what has arrived, never with what was announced.
    async fn fill(&mut self, stage: Stage, within: Duration) -> Result<(), CodeError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                let larger = (2 * self.buffer.len()).min(LENGTH_BYTES + RECORD_WIRE_BYTES);
                self.buffer.resize(larger.max(self.end + 1), 0);
            }
        }
        loop {
            self.check_stop()?;
            match self.stream.get_ref().read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(CodeError::Lost("the other side ended it".to_owned())),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => {
                    let late = || CodeError::Silent { stage, within };
                    bounded(&self.stop, within, late, self.stream.readable()).await?.map_err(lost)?;
                }
                Err(fault) => return Err(lost(fault)),
            }
        }
    }

    /// Where bytes flow without a wait, nothing else would notice.
    fn check_stop(&self) -> Result<(), CodeError> {
        match self.stop.clone().stopped().now_or_never() {
            Some(()) => Err(CodeError::Stopped),
            None => Ok(()),
        }
    }
}

fn lost(fault: impl Into<std::io::Error>) -> CodeError {
    CodeError::Lost(fault.into().to_string())
}
