//! Every bound of the hub in one place: what a peer can make it hold, and how long it waits.

use std::time::Duration;

/// Connections of known users at once; a further one is closed when it has logged in.
pub const MAX_CONNECTIONS: usize = 512;

/// As [`MAX_CONNECTIONS`], for unknown keys: strangers cannot take the users' places.
pub const MAX_PUBLIC_CONNECTIONS: usize = 128;

/// Connections at once that have not logged in yet; a further one is closed before a byte is exchanged.
pub const MAX_LOGINS: usize = 128;

/// Channels (commands) that run at once on one connection; further ones are refused.
pub const MAX_CHANNELS: usize = 16;

/// Channels that one connection of a known user may open in its life; then the connection ends, and the client comes back.
///
/// The SSH library keeps about 3 KiB for every channel that the server closed, until its connection ends.
pub const MAX_CHANNELS_OPENED: usize = 16_384;

/// As [`MAX_CHANNELS_OPENED`], for a connection with an unknown key.
pub const MAX_CHANNELS_OPENED_PUBLIC: usize = 256;

/// Topics at once.
pub const MAX_TOPICS: usize = 4_096;

/// Length of a topic's name in bytes, the owner's name included.
pub const MAX_TOPIC_BYTES: usize = 256;

/// Length of a user's name in bytes.
pub const MAX_USER_BYTES: usize = 64;

/// Names and fingerprints on one access list.
pub const MAX_ACCESS_ENTRIES: usize = 1_024;

/// Length of a command line in bytes.
pub const MAX_COMMAND_BYTES: usize = 24 * 1024;

/// Size of the users file in bytes.
pub const MAX_USERS_FILE_BYTES: u64 = 1024 * 1024;

/// Size of the host key file in bytes.
pub const MAX_HOST_KEY_FILE_BYTES: u64 = 16 * 1024;

/// Keys that a client may offer before it is disconnected (OpenSSH's own default is 6).
pub const MAX_AUTH_ATTEMPTS: usize = 20;

/// From the TCP connection to the end of authentication.
pub const LOGIN_GRACE: Duration = Duration::from_secs(30);

/// The largest piece of a writer's bytes that reaches readers without another writer's bytes in between; pico.sh reads
/// into a buffer of this size.
pub const MAX_CHUNK_BYTES: usize = 32 * 1024;

/// Bytes that wait for one client before it is cut off.
pub const BACKLOG_BYTES: usize = 1024 * 1024;

/// Chunks that wait for one client before it is cut off.
pub const BACKLOG_CHUNKS: usize = 1_024;

/// Bytes that wait for one client from which on those who write to it are slowed down.
pub const BACKLOG_SLOW_BYTES: usize = BACKLOG_BYTES / 2;

/// Chunks that wait for one client from which on those who write to it are slowed down.
pub const BACKLOG_SLOW_CHUNKS: usize = BACKLOG_CHUNKS / 2;

/// How long a writer is held for a slow reader that takes nothing at all, before its next packet is read after all.
///
/// A reader that stops for good is therefore cut off within about (`BACKLOG_BYTES` - `BACKLOG_SLOW_BYTES`) /
/// `MAX_CHUNK_BYTES` of these steps (4 s) once a bulk writer has filled its backlog; two clients that fill each other's
/// backlog get on all the same, because the packet that is let through can be the one that makes room.
pub const HOLD_STEP: Duration = Duration::from_millis(250);

/// Bytes that a publisher may send ahead while nobody listens; more is not read from it.
pub const PENDING_BYTES: usize = 256 * 1024;

/// Chunks that a publisher may send ahead while nobody listens; more is not read from it.
pub const PENDING_CHUNKS: usize = 256;

/// How often a client with an open command hears from the hub, as from pico.sh.
pub const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long what was sent to a client may stay unacknowledged by its machine before the connection is dropped.
pub const DEAD_AFTER: Duration = Duration::from_secs(60);

/// How long a connection without any command stays open.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(600);

/// How long the last bytes to a client whose command has ended may take.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long the end of a command may take to reach the connection before the connection is dropped.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long [`Hub::stop`](crate::Hub::stop) waits for the hub's thread.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);
