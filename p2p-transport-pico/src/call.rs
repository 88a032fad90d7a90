//! One command in a channel of its own, step by step, so that it can run beside others on the same connection.

use std::io;

use crate::session::CommandOutput;
use crate::wire::{Channel, Wire};

/// What a command may print, bytes, on each of its two streams; the rest is read and dropped, and the output is known not to be whole.
pub(crate) const OUTPUT_BYTES: usize = 1024 * 1024;
const READ_BYTES: usize = 16 * 1024;

/// A command under way. Call [`Call::step`] whenever the connection may have moved, until it returns the output.
pub(crate) struct Call {
    command: String,
    stage: Stage,
    output: Vec<u8>,
    errors: Vec<u8>,
    whole: bool,
}

enum Stage {
    Open,
    Start(Channel),
    Read(Channel),
    Close(Channel),
}

impl Call {
    pub(crate) fn new(command: &str) -> Self {
        Self { command: command.to_owned(), stage: Stage::Open, output: Vec::new(), errors: Vec::new(), whole: true }
    }

    /// Goes as far as it can without waiting; `None` means: wait and call again.
    pub(crate) fn step(&mut self, wire: &Wire) -> io::Result<Option<CommandOutput>> {
        loop {
            let next = match &mut self.stage {
                Stage::Open => wire.open()?.map(Stage::Start),
                Stage::Start(channel) => channel.exec(&self.command)?.map(|()| Stage::Read(channel.clone())),
                Stage::Read(channel) => {
                    while drain(channel, &mut self.output, &mut self.errors, &mut self.whole)? {}
                    channel.eof().then(|| Stage::Close(channel.clone()))
                }
                Stage::Close(channel) => {
                    if channel.close()?.is_none() {
                        return Ok(None);
                    }
                    return Ok(Some(CommandOutput {
                        status: channel.exit_status()?,
                        stdout: String::from_utf8_lossy(&self.output).into_owned(),
                        stderr: String::from_utf8_lossy(&self.errors).into_owned(),
                        whole: self.whole,
                    }));
                }
            };
            match next {
                Some(stage) => self.stage = stage,
                None => return Ok(None),
            }
        }
    }

    /// Whether bytes wait in libssh2 that no event of the socket will announce.
    pub(crate) fn has_unread(&self) -> bool {
        match &self.stage {
            Stage::Read(channel) => channel.has_unread(),
            _ => false,
        }
    }
}

/// Reads both streams of a channel once; whether anything came. What is beyond the bound makes it not `whole`.
fn drain(channel: &mut Channel, output: &mut Vec<u8>, errors: &mut Vec<u8>, whole: &mut bool) -> io::Result<bool> {
    let mut buffer = [0; READ_BYTES];
    let mut any = false;
    let mut keep = |kept: &mut Vec<u8>, bytes: &[u8]| {
        let room = OUTPUT_BYTES.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
        *whole &= room == bytes.len();
        any = true;
    };
    if let Some(count @ 1..) = channel.read(&mut buffer)? {
        keep(output, &buffer[..count]);
    }
    if let Some(count @ 1..) = channel.read_stderr(&mut buffer)? {
        keep(errors, &buffer[..count]);
    }
    Ok(any)
}
