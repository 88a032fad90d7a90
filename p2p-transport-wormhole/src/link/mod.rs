//! Records over one connection (L-02).
//!
//! ```text
//! u16 length, big-endian | Noise transport message of that length: the record and a tag of 16 bytes
//! ```
//!
//! Each side sends an empty record at once, and later whenever it had nothing to say for a while: a keepalive (L-05). A record of
//! the one byte 0xff, which begins no CBOR item, ends the stream in order; a connection that ends without it was cut.
//!
//! The two halves share the connection through a [`Wire`]. What is to be sent lives behind its lock, because keepalives
//! are sent by a timer of their own: so they also come while the owner of the sending half does something else.

mod inbox;
mod receiver;
mod sender;
mod wire;

use std::net::TcpStream;
use std::sync::Arc;

use async_io::Async;
use p2p_proto::link::{Connected, LinkError, LinkPath, LinkReceiver, LinkSender, Session};

use crate::config::Timing;
use receiver::Receiver;
use sender::Sender;
use wire::Wire;

/// The record that ends the stream in order.
const CLOSE: &[u8] = &[0xff];
/// What a sealed record begins with: its length.
const LENGTH_BYTES: usize = 2;
/// What sealing adds to a record.
const TAG_BYTES: usize = 16;

/// Makes a link of a connection on which both sides agreed, `rest` being what arrived on it already, and waits for the
/// peer's first record.
///
/// # Errors
/// [`LinkError::Broken`] when what arrives does not decrypt or is not the empty record, [`LinkError::Lost`] and
/// [`LinkError::Silent`] when nothing arrives.
pub(crate) async fn establish(
    stream: Arc<Async<TcpStream>>,
    rest: &[u8],
    session: Session,
    path: LinkPath,
    timing: Timing,
) -> Result<Connected, LinkError> {
    let (sealer, opener) = session.split();
    let wire = Wire::start(stream, sealer, timing.keepalive);
    wire.greet()?;
    let mut receiver = Receiver::new(Arc::clone(&wire), opener, rest, timing.silence);
    receiver.first().await?;
    let receiver: Box<dyn LinkReceiver> = Box::new(receiver);
    let sender: Box<dyn LinkSender> = Box::new(Sender::new(wire));
    Ok(Connected { sender, receiver, path })
}
