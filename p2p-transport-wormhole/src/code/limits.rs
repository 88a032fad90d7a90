//! Every bound of a transfer under a code, named, in one place. The waits are in [`Waits`](super::Waits).

use std::time::Duration;

/// A code, bytes.
pub const CODE_BYTES: usize = 256;
/// A message of the other side through the mailbox, bytes; a text is one.
pub const MESSAGE_BYTES: usize = 1024 * 1024;
/// Messages of the other side through the mailbox in one transfer; it needs three.
pub const MESSAGES: usize = 32;
/// What is read and sealed into one record, bytes: as much as all other clients put into one.
pub const RECORD_BYTES: usize = 16 * 1024;
/// A record of the other side on the wire without its length, bytes: announced before anything proves who announces it.
pub const RECORD_WIRE_BYTES: usize = 1024 * 1024;
/// Relays of the other side that are dialled too: the two may have none in common.
pub const THEIR_RELAYS: usize = 2;
/// The name of a file or folder that arrives, bytes: what file systems take.
pub const NAME_BYTES: usize = 255;
/// Files and folders in a folder that is sent or arrives.
pub const ENTRIES: usize = 200_000;
/// Folders within folders.
pub const DEPTH: usize = 64;
/// Goodbyes to the mailbox and the other side end within this time, however the transfer ended.
pub const GOODBYE: Duration = Duration::from_secs(5);
/// For a connection that broke, the other side's reason is waited for so long.
pub const REASON: Duration = Duration::from_secs(2);
