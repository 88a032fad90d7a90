//! All connections of one set-up, and the agreement on one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::limits;

use super::connection::{Connection, Step, Way};
use super::lines::{Lines, Side};

/// Connections that came in and are held at once, at most. When one more comes, the oldest that proved nothing makes room, so
/// that strangers who hold the line open cannot keep the other side out.
pub const INCOMING: usize = 16;
/// Connections held at once, at most: to every hint, and those that came in.
pub const CONNECTIONS: usize = limits::HINTS + INCOMING;

/// The driver's name for a connection; never used twice in one set-up.
pub type ConnectionId = u32;

/// What enters. Times are counted from the beginning of the set-up.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A connection was opened.
    Opened(ConnectionId, Way),
    /// Bytes arrived on it.
    Bytes(ConnectionId, &'a [u8]),
    /// It ended, or broke.
    Ended(ConnectionId),
    /// Time passed; see [`Outbox::wake_at`].
    Tick,
}

/// What leaves: to be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Say this on the connection: a fixed line, less than 200 bytes.
    Send(ConnectionId, Vec<u8>),
    /// Close the connection.
    Close(ConnectionId, Closed),
    /// Both sides agree on this connection. All others are closed, and the machine is done: it ignores what else enters.
    Chosen {
        /// The connection.
        id: ConnectionId,
        /// What arrived on it behind the leader's word: the first bytes of the first record.
        rest: Vec<u8>,
    },
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// What came is not Transit's, or under another key.
    Garbage,
    /// The leader took another connection.
    NotChosen,
    /// Too many connections: this one proved nothing for the longest time.
    Crowded,
}

impl Closed {
    /// The reason in words.
    pub fn why(self) -> &'static str {
        match self {
            Self::Garbage => "it answered something else than the expected line",
            Self::NotChosen => "another connection was chosen",
            Self::Crowded => "it made room for another connection",
        }
    }
}

/// Where a machine writes what should happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// What to do, in order.
    pub outputs: Vec<Output>,
    /// When to enter [`Input::Tick`], if nothing else enters before; set anew by each call.
    pub wake_at: Option<Duration>,
}

/// Agrees with the other side on one connection.
///
/// Call [`Choice::handle`] for everything that happens, and carry out what it writes. The leader takes the first direct
/// connection that is ready; one by relay only after the head start, or when none is under way directly and none can
/// come in. The follower takes the one on which it hears `go`.
#[derive(Clone, Debug)]
pub struct Choice {
    side: Side,
    lines: Lines,
    head_start: Duration,
    /// Whether direct connections may still appear: addresses not dialled yet, or an open port.
    expects_direct: bool,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Relayed connections in the order in which they became ready.
    ready: Vec<ConnectionId>,
    done: bool,
}

impl Choice {
    /// A set-up without connections. `expects_direct` says whether a direct connection can come about at all.
    pub fn new(side: Side, lines: Lines, head_start: Duration, expects_direct: bool) -> Self {
        Self { side, lines, head_start, expects_direct, connections: BTreeMap::new(), ready: Vec::new(), done: false }
    }

    /// Whether a connection was chosen.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Connections under way.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether no connection is under way.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Takes one input at `now`.
    pub fn handle(&mut self, now: Duration, input: Input<'_>, out: &mut Outbox) {
        if self.done {
            out.wake_at = None;
            return;
        }
        match input {
            Input::Opened(id, way) => self.on_opened(id, way, out),
            Input::Bytes(id, bytes) => self.on_bytes(id, bytes, out),
            Input::Ended(id) => self.forget(id),
            Input::Tick => {}
        }
        self.consider_relays(now, out);
    }

    fn on_opened(&mut self, id: ConnectionId, way: Way, out: &mut Outbox) {
        if self.connections.contains_key(&id) {
            return;
        }
        let incoming = |c: &Connection| c.way() == Way::Accepted;
        if way == Way::Accepted && self.connections.values().filter(|c| incoming(c)).count() >= INCOMING {
            let oldest = self.connections.iter().find(|(_, c)| incoming(c) && !c.is_proven()).map(|(id, _)| *id);
            self.close(oldest.unwrap_or(id), Closed::Crowded, out);
            if oldest.is_none() {
                return;
            }
        }
        if self.connections.len() >= CONNECTIONS {
            return self.close(id, Closed::Crowded, out);
        }
        let connection = Connection::new(way);
        if let Some(greeting) = connection.greeting(&self.lines) {
            out.outputs.push(Output::Send(id, greeting.to_vec()));
        }
        self.connections.insert(id, connection);
    }

    fn on_bytes(&mut self, id: ConnectionId, mut bytes: &[u8], out: &mut Outbox) {
        while let Some(connection) = self.connections.get_mut(&id) {
            let (taken, step) = connection.step(self.side, &self.lines, bytes);
            bytes = &bytes[taken..];
            match step {
                Step::More if bytes.is_empty() => return,
                Step::More => {}
                Step::Say => out.outputs.push(Output::Send(id, self.lines.ours.clone())),
                Step::Ready { say } => {
                    let direct = connection.way() != Way::Relayed;
                    if say {
                        out.outputs.push(Output::Send(id, self.lines.ours.clone()));
                    }
                    if !bytes.is_empty() {
                        return self.close(id, Closed::Garbage, out);
                    }
                    if direct {
                        return self.go(id, out);
                    }
                    self.ready.push(id);
                }
                Step::Go => return self.choose(id, bytes, out),
                Step::Nevermind => return self.close(id, Closed::NotChosen, out),
                Step::Garbage => return self.close(id, Closed::Garbage, out),
            }
        }
    }

    /// The leader goes by a relay once direct connections had their chance.
    fn consider_relays(&mut self, now: Duration, out: &mut Outbox) {
        out.wake_at = None;
        let Some(&id) = self.ready.first() else { return };
        let direct = self.expects_direct || self.connections.values().any(|c| c.way() != Way::Relayed);
        if !direct || now >= self.head_start {
            self.go(id, out);
        } else {
            out.wake_at = Some(self.head_start);
        }
    }

    fn go(&mut self, id: ConnectionId, out: &mut Outbox) {
        out.outputs.push(Output::Send(id, Lines::GO.to_vec()));
        self.choose(id, &[], out);
    }

    fn choose(&mut self, id: ConnectionId, rest: &[u8], out: &mut Outbox) {
        self.connections.remove(&id);
        for (other, connection) in std::mem::take(&mut self.connections) {
            if connection.is_ready() {
                out.outputs.push(Output::Send(other, Lines::NEVERMIND.to_vec()));
            }
            out.outputs.push(Output::Close(other, Closed::NotChosen));
        }
        self.ready.clear();
        self.done = true;
        out.wake_at = None;
        out.outputs.push(Output::Chosen { id, rest: rest.to_vec() });
    }

    fn close(&mut self, id: ConnectionId, why: Closed, out: &mut Outbox) {
        self.forget(id);
        out.outputs.push(Output::Close(id, why));
    }

    fn forget(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.ready.retain(|ready| *ready != id);
    }
}
