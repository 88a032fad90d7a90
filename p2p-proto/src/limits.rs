//! Every bound of the protocol, named, in one place.
//!
//! A bound exists so that no peer can make another one's memory, disk or time grow without end (I-07, I-10). The
//! worst case of every board message fits in [`LINE_BYTES`]; a test in `board::line` proves it.

use std::time::Duration;

/// One board line in all, prefix and newline included, bytes (section "The board" of `docs/protocol.md`).
pub const LINE_BYTES: usize = 4096;
/// A user's name, bytes. pico.sh's own limit is 50; ours keeps the worst case of a hello inside one line.
pub const USER_BYTES: usize = 32;
/// A cluster's name without its owner, bytes.
pub const CLUSTER_NAME_BYTES: usize = 48;
/// The host part of a peer's display name, bytes; longer host names are cut.
pub const HOSTNAME_BYTES: usize = 40;
/// Labels that a worker offers or a task asks for.
pub const LABELS: usize = 32;
/// One label, bytes.
pub const LABEL_BYTES: usize = 64;
/// Runtimes that a worker offers.
pub const RUNTIMES: usize = 8;
/// The name of a runtime, bytes.
pub const RUNTIME_BYTES: usize = 16;
/// Address hints in one set-up, relays included (L-07).
pub const HINTS: usize = 16;
/// A relay's host name in a hint, bytes.
pub const RELAY_HOST_BYTES: usize = 64;
/// Removals in one beat: the latest ones, so that a beat fits in a line (T-03).
pub const REMOVALS: usize = 48;

/// Removals that a host or a member remembers; a membership that was removed longer ago has ended by itself (T-03).
pub const REMOVALS_KEPT: usize = 1024;
/// Machines of one user that a host takes.
pub const MACHINES_PER_USER: usize = 64;
/// Processes of one machine that a host answers for sure, and counts as peers: a machine makes as many as it likes.
pub const PROCESSES_PER_MACHINE: usize = 16;
/// Side topics in which a host looks for claimants at the same time (T-02).
pub const SIDE_TOPICS: usize = 8;
/// The same for one user, so that claims in his name keep nobody else waiting.
pub const SIDE_TOPICS_PER_USER: usize = 4;
/// Claims of one user's machines that wait for a side topic, or for the host's approval.
pub const CLAIMS_WAITING: usize = 16;
/// Side topics of guests that a host visits at the same time, so that they see her (T-02).
pub const SIDE_VISITS: usize = 8;
/// Keys of supposed hosts that a newcomer checks at the same time (T-02).
pub const HOSTS_CHECKED: usize = 4;
/// Keys of supposed hosts that a newcomer remembers: those that are heard claim after claim are checked before those that come once.
pub const HOSTS_HEARD: usize = 64;
/// Signatures of supposed hosts that wait until their keys are checked, and supposed hosts that a newcomer is told of.
pub const HOSTS_WAITING: usize = 8;

/// Board events that wait for a reader before the oldest presence lines are dropped (B-07).
pub const BOARD_INBOX: usize = 1024;
/// Board lines that wait to be sent.
pub const BOARD_OUTBOX: usize = 256;
/// Peers that one process remembers from the board.
pub const DIRECTORY_PEERS: usize = 10_000;

/// One Noise message on the wire, bytes: the largest that the Noise specification allows.
pub const RECORD_WIRE_BYTES: usize = 65_535;
/// What fits into one record, bytes: a Noise message less its 16-byte tag.
pub const RECORD_BYTES: usize = RECORD_WIRE_BYTES - 16;
/// Payload of one `Data` item, bytes; leaves room in a record for the item's own fields.
pub const CHUNK_BYTES: usize = 64_000;
/// Payload that may be under way on one channel of an attempt before the reader acknowledges, bytes.
pub const CHANNEL_WINDOW_BYTES: u64 = 1024 * 1024;
/// A file or folder in or out, bytes.
pub const FILE_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// A payload, or the value of a function, bytes: both sides hold it in memory.
pub const VALUE_BYTES: u64 = 64 * 1024 * 1024;
/// Inputs and payloads above this are blobs (D-01); smaller ones are sent again rather than asked for, bytes.
pub const BLOB_ABOVE_BYTES: u64 = 64 * 1024;
/// A chunk of a blob, bytes.
pub const BLOB_CHUNK_BYTES: usize = 1024 * 1024;
/// Files, folders and links of one tree.
pub const TREE_ENTRIES: usize = 256 * 1024;
/// The list of a tree's entries, bytes: so much is read into memory before any of it is believed.
pub const TREE_LIST_BYTES: usize = 32 * 1024 * 1024;
/// Chunks of a blob: four times as many as [`FILE_BYTES`] needs at their greatest size, as chunks that are cut by content are smaller.
pub const BLOB_CHUNKS: usize = (4 * FILE_BYTES / BLOB_CHUNK_BYTES as u64) as usize;
/// Runs of chunks in one request; more are asked for afterwards.
pub const FETCH_RUNS: usize = 1024;
/// Files in, or out, of one task.
pub const FILES: usize = 1024;
/// The relative name of a file of a task, bytes.
pub const FILE_NAME_BYTES: usize = 1024;
/// All file names of one task together, bytes: they travel in one item, beside a payload and what each file costs.
pub const FILE_NAMES_BYTES: usize = 16 * 1024;
/// The payload of a task or the value of an outcome inside its item, bytes.
pub const PAYLOAD_BYTES: usize = 20 * 1024;
/// A message in words inside an item, bytes.
pub const NOTE_BYTES: usize = 1024;
/// Bulk that was sent on one link and is not acknowledged, bytes: more waits (L-05). Several windows, so that no link waits for it.
pub const LINK_KEPT_BULK_BYTES: usize = 8 * 1024 * 1024;
/// Items received before they are acknowledged, should nothing else be sent that an acknowledgement could travel with (L-05).
pub const ACK_ITEMS: u64 = 64;
/// Bytes received before they are acknowledged, should nothing else be sent.
pub const ACK_BYTES: usize = 256 * 1024;
/// Control items of one link that wait or are not acknowledged before the link is given up as stalled, bytes.
pub const LINK_CONTROL_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Credits that a worker grants to one client beyond its slots, at most (S-02).
pub const PREFETCH: u32 = 1024;
/// Slots that a worker offers, at most.
pub const SLOTS: u32 = 4096;
/// A user's share of a worker in relation to others of weight 1, at most (S-01).
pub const WEIGHT: u32 = 1000;
/// Links that one client keeps, at most (B-03).
pub const CLIENT_LINKS: usize = 64;
/// Links that one worker keeps, at most.
pub const WORKER_LINKS: usize = 256;
/// Links and set-ups of one member at one worker, at most: he must not shut all others out.
pub const WORKER_LINKS_PER_MEMBER: usize = WORKER_LINKS / 4;
/// Set-ups under way towards one worker, at most, per member (L-01).
pub const HALF_OPEN_PER_MEMBER: usize = 16;
/// Set-ups under way towards one worker, at most, in all.
pub const HALF_OPEN: usize = 64;
/// Tasks that a client holds before `submit` makes its caller wait (S-07).
pub const CLIENT_TASKS: usize = 1_000_000;
/// Times that a task may be lost with its worker before it is failed (S-04).
pub const LOSSES: u32 = 3;

/// A link is alive while a frame arrives within this time (L-05).
pub const LINK_SILENCE: Duration = Duration::from_secs(15);
/// An idle link sends an empty record this often, so that [`LINK_SILENCE`] is reached only by the dead (L-05).
pub const LINK_KEEPALIVE: Duration = Duration::from_secs(5);
/// How long a link without a connection may be resumed, unless a client wishes otherwise (L-06).
pub const GRACE: Duration = Duration::from_secs(60);
/// The longest grace that a worker grants (L-06).
pub const GRACE_MAX: Duration = Duration::from_secs(600);
/// After so long without a connection, repeatable tasks may start elsewhere (L-06).
pub const ELSEWHERE_AFTER: Duration = Duration::from_secs(5);
/// The same where the connection fell silent: then the worker has been away for [`LINK_SILENCE`] already, and both together stay below 20 s.
pub const ELSEWHERE_AFTER_SILENCE: Duration = Duration::from_secs(4);
/// A set-up must have its link within this time.
pub const SETUP_TIMEOUT: Duration = Duration::from_secs(30);
/// When a `connect` is sent again, counted from the first (L-01).
pub const CONNECT_RESENDS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(7)];
/// A client gives up a link that had nothing to do for this long (B-03).
pub const LINK_IDLE: Duration = Duration::from_secs(60);
/// Life of a membership, unless the host says otherwise (T-03).
pub const MEMBERSHIP_TTL: Duration = Duration::from_secs(24 * 3600);
/// Life of a process certificate.
pub const PROCESS_TTL: Duration = Duration::from_secs(24 * 3600);
/// Difference of two clocks that is tolerated (T-03).
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// A hello is good for this long among few, and is repeated at half of it. Among many it is good for longer, so that all hellos
/// together take [`HELLO_LINES_PER_S`] at most (B-03).
pub const HELLO_TTL: Duration = Duration::from_secs(120);
/// The part of [`BOARD_LINES_PER_S`] that presence may take; the rest is for those who call each other.
pub const HELLO_LINES_PER_S: u32 = BOARD_LINES_PER_S / 2;
/// The longest time for which a hello counts, whatever it says: what [`DIRECTORY_PEERS`] need to say theirs twice.
pub const HELLO_TTL_MAX: Duration = Duration::from_secs(2 * DIRECTORY_PEERS as u64 / HELLO_LINES_PER_S as u64);
/// The host's beat.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(30);
/// How long one looks for somebody in a side topic (T-02): a far server takes seconds to let him in.
pub const SIDE_TOPIC_TIME: Duration = Duration::from_secs(15);
/// How long he stays there at most, whether he was seen or not.
pub const SIDE_VISIT_TIME: Duration = Duration::from_secs(20);
/// A host who was not heard for this long is away.
pub const HOST_AWAY: Duration = Duration::from_secs(90);
/// Lines a second that the whole board should carry, at most (B-03).
pub const BOARD_LINES_PER_S: u32 = 10;
/// Lines that one peer may send at once before its share of [`BOARD_LINES_PER_S`] applies (B-03).
pub const BOARD_BURST: u32 = 16;
/// The same among so few peers that together they cannot flood a board: room for some twenty commands in a row.
pub const BOARD_BURST_AMONG_FEW: u32 = 64;
