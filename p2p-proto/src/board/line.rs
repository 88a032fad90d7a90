//! One message as one line: `~p2p1 ` + base64url without padding of its CBOR + `\n`, at most [`limits::LINE_BYTES`] in all.
//!
//! A board is a byte stream without message boundaries, shared with older clients and with people who type: anything
//! that is not such a line is skipped, up to the next newline, and costs nothing else.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::message::Envelope;
use crate::codec;
use crate::error::ProtoError;
use crate::limits;

/// What every line of protocol version 1 starts with.
pub const PREFIX: &str = "~p2p1 ";
/// CBOR bytes that fit in one line.
pub const BODY_BYTES: usize = (limits::LINE_BYTES - PREFIX.len() - 1) * 3 / 4;

/// A line of the protocol, newline included, within its bounds; its content is not parsed yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Line(String);

impl Line {
    /// The line that carries `envelope`.
    ///
    /// # Errors
    /// [`ProtoError::Bounds`] when it does not fit; messages within their own limits always do.
    pub fn encode(envelope: &Envelope) -> Result<Self, ProtoError> {
        let body = codec::encode(envelope);
        if body.len() > BODY_BYTES {
            return Err(ProtoError::bounds("a board line", body.len(), BODY_BYTES));
        }
        let mut line = String::with_capacity(PREFIX.len() + body.len() * 4 / 3 + 3);
        line.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&body, &mut line);
        line.push('\n');
        Ok(Self(line))
    }

    /// The message in it.
    ///
    /// # Errors
    /// [`ProtoError::Malformed`] or [`ProtoError::UnknownKind`]; both mean: ignore the line.
    pub fn decode(&self) -> Result<Envelope, ProtoError> {
        let text = self.0.trim_end_matches('\n').strip_prefix(PREFIX).unwrap_or_default();
        let body = URL_SAFE_NO_PAD.decode(text).map_err(|_| ProtoError::malformed("a board line"))?;
        Envelope::from_cbor(&body)
    }

    /// The bytes to write, in one piece, newline included.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// `text` without its newline as a line of ours, if it looks like one or ends in one: a writer who was cut off in the middle of a line, or
    /// wrote none, has left the beginning. No line has the prefix inside.
    fn from_text(text: &[u8]) -> Option<Self> {
        let at = text.windows(PREFIX.len()).rposition(|window| window == PREFIX.as_bytes())?;
        let text = &text[at..];
        let in_bounds = text.len() < limits::LINE_BYTES;
        let text = std::str::from_utf8(text).ok()?;
        let payload = text.strip_prefix(PREFIX)?;
        let plain = payload.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (in_bounds && plain && !payload.is_empty()).then(|| Self(format!("{text}\n")))
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decode() {
            Ok(envelope) => write!(f, "Line({envelope:?})"),
            Err(fault) => write!(f, "Line({} bytes: {fault})", self.0.len()),
        }
    }
}

/// Cuts a board's byte stream into lines; holds at most one line's bytes, whatever comes.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// The current line is over its bound: drop what follows, up to the next newline.
    skipping: bool,
}

impl Lines {
    /// Takes the next bytes of the stream and calls `each` for every complete line of ours in them.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (head, rest) = (&bytes[..end], &bytes[end + 1..]);
            if !self.skipping && self.partial.len() + head.len() < limits::LINE_BYTES {
                let text = if self.partial.is_empty() {
                    head
                } else {
                    self.partial.extend_from_slice(head);
                    &self.partial
                };
                if let Some(line) = Line::from_text(text.strip_suffix(b"\r").unwrap_or(text)) {
                    each(line);
                }
            }
            self.reset();
            bytes = rest;
        }
        if self.skipping || self.partial.len() + bytes.len() >= limits::LINE_BYTES {
            self.partial.clear();
            self.skipping = true;
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Forgets a half line: the stream starts anew.
    pub fn reset(&mut self) {
        self.partial.clear();
        self.skipping = false;
    }
}
