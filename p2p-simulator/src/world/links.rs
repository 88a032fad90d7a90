//! The links of a world: each side's stream, and the connection that carries it now (L-05).

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::link::item::{Item, Open};
use p2p_proto::link::{LinkError, LinkPath, Stream, ToClient, ToWorker};
use p2p_scheduler::LinkId;
use p2p_scheduler::machine::client::ClientInput;
use p2p_scheduler::machine::worker::WorkerInput;

use super::{End, Happening, Machine, Peer, Plug, World};
use crate::ledger::Violation;

/// How long the other side may take to read what was sent before an orderly end.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Links {
    all: BTreeMap<End, Link>,
    /// What a connection carries, or has carried.
    carries: BTreeMap<Plug, LinkId>,
    /// What has carried a link last, also one that is over: a worker may start what is here before it hears that.
    last: BTreeMap<End, Plug>,
}

struct Link {
    side: Side,
    carrier: Option<Plug>,
    closing: bool,
}

enum Side {
    Client(Stream<ToWorker, ToClient>),
    Worker(Stream<ToClient, ToWorker>),
}

impl Side {
    fn on_connected(&mut self, open: Open, resumes: bool) {
        match self {
            Self::Client(stream) => stream.on_connected(open, resumes),
            Self::Worker(stream) => stream.on_connected(open, resumes),
        }
    }

    fn on_disconnected(&mut self) {
        match self {
            Self::Client(stream) => stream.on_disconnected(),
            Self::Worker(stream) => stream.on_disconnected(),
        }
    }

    fn records(&mut self) -> (Vec<Vec<u8>>, bool) {
        match self {
            Self::Client(stream) => filled(stream),
            Self::Worker(stream) => filled(stream),
        }
    }
}

/// Everything that a stream may send now, and whether nothing is left.
fn filled<Out: Item, In: Item>(stream: &mut Stream<Out, In>) -> (Vec<Vec<u8>>, bool) {
    let mut records = Vec::new();
    loop {
        let mut record = Vec::new();
        // What no record can hold is dropped, which a driver does too.
        if stream.fill(&mut record).is_err() || record.is_empty() {
            return (records, stream.is_drained());
        }
        records.push(record);
    }
}

impl World {
    pub(super) fn on_connected(&mut self, plug: Plug) {
        if !self.wires.live.contains(&plug) || !self.is_wired(plug) {
            return;
        }
        let ((peer, connection), path) = (plug, LinkPath::Memory);
        self.note(peer, || format!("connection {} is there", connection.0));
        match &self.places[peer].machine {
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::Connected { connection, path }),
            _ => self.client_input(peer, ClientInput::Connected { connection, path }),
        }
        if self.wires.live.contains(&plug) && !self.links.carries.contains_key(&plug) && self.is_alive(peer) {
            let what = format!("{peer} neither attached nor abandoned its connection {}", connection.0);
            self.ledger.break_rule(Violation::new("L-02", what));
        }
    }

    pub(super) fn on_disconnected(&mut self, plug: Plug, error: LinkError) {
        if !self.forget(plug) {
            return;
        }
        self.unplug(plug);
        let (peer, connection) = plug;
        self.note(peer, || format!("connection {} is over: {error}", connection.0));
        match &self.places[peer].machine {
            Machine::Worker(_) => self.worker_input(peer, WorkerInput::Disconnected { connection, error }),
            _ => self.client_input(peer, ClientInput::Disconnected { connection, error }),
        }
    }

    /// This connection carries the link from now on.
    pub(super) fn attach(&mut self, end: End, plug: Plug, open: Open, resumes: bool) {
        self.note(end.0, || format!("link {} goes by connection {}, resumes: {resumes}", end.1.0, plug.1.0));
        if !resumes {
            let is_client = matches!(self.places[end.0].machine, Machine::Client(_));
            let side = if is_client { Side::Client(Stream::default()) } else { Side::Worker(Stream::default()) };
            let link = Link { side, carrier: None, closing: false };
            if self.links.all.insert(end, link).is_some() {
                self.ledger.break_rule(Violation::new("L-05", format!("{end:?} was there before")));
            }
        }
        let Some(link) = self.links.all.get_mut(&end) else {
            self.ledger.break_rule(Violation::new("L-05", format!("{end:?} is not there, and yet resumed")));
            return;
        };
        link.side.on_connected(open, resumes);
        let before = link.carrier.replace(plug);
        self.on_back(end);
        self.on_event();
        self.unsettle(end.0, self.at);
        self.links.carries.insert(plug, end.1);
        self.links.last.insert(end, plug);
        if let Some(before) = before {
            self.abandon(before);
        }
    }

    /// A connection carries nothing any more.
    pub(super) fn unplug(&mut self, plug: Plug) {
        let Some(of) = self.links.carries.get(&plug).copied() else { return };
        let end = (plug.0, of);
        let Some(link) = self.links.all.get_mut(&end).filter(|link| link.carrier == Some(plug)) else { return };
        link.carrier = None;
        link.side.on_disconnected();
        if link.closing {
            self.links.all.remove(&end);
        } else {
            self.on_away(end);
        }
        self.on_event();
        self.unsettle(plug.0, self.at);
    }

    /// Ends a link: in order if it has a connection.
    pub(super) fn close(&mut self, end: End) {
        self.note(end.0, || format!("closes link {}", end.1.0));
        let Some(link) = self.links.all.get_mut(&end) else { return };
        link.closing = true;
        self.on_back(end);
        self.on_event();
        self.unsettle(end.0, self.at);
        let Some(link) = self.links.all.get_mut(&end) else { return };
        match link.carrier {
            None => drop(self.links.all.remove(&end)),
            Some(plug) => {
                self.later(CLOSE_WITHIN, Happening::ClosedAnyway(plug));
                self.flush(end);
            }
        }
    }

    /// It had its time to read what was sent before the end.
    pub(super) fn on_closed_anyway(&mut self, plug: Plug) {
        let closing = self.links.carries.get(&plug).and_then(|link| self.links.all.get(&(plug.0, *link)));
        if closing.is_some_and(|link| link.closing && link.carrier == Some(plug)) {
            self.abandon(plug);
        }
    }

    pub(super) fn push_to_worker(&mut self, end: End, item: ToWorker) {
        self.items += 1;
        if let Some(Link { side: Side::Client(stream), .. }) = self.links.all.get_mut(&end)
            && let Err(fault) = stream.push(item)
        {
            self.ledger.break_rule(Violation::new("I-07", fault.to_string()));
        }
    }

    pub(super) fn push_to_client(&mut self, end: End, item: ToClient) {
        self.items += 1;
        if let Some(Link { side: Side::Worker(stream), .. }) = self.links.all.get_mut(&end)
            && let Err(fault) = stream.push(item)
        {
            self.ledger.break_rule(Violation::new("I-07", fault.to_string()));
        }
    }

    pub(super) fn on_record(&mut self, wire: usize, plug: Plug, bytes: &[u8]) {
        let peer = plug.0;
        if !self.is_whole(wire) || !self.is_alive(peer) {
            return;
        }
        let Some(&link) = self.links.carries.get(&plug) else { return };
        let end = (peer, link);
        let Some(entry) = self.links.all.get_mut(&end).filter(|link| link.carrier == Some(plug)) else { return };
        let fault = match &mut entry.side {
            Side::Worker(stream) => match stream.on_record(bytes) {
                Ok(items) if items.is_empty() => None,
                Ok(items) => {
                    self.worker_input(peer, WorkerInput::Items { link, items });
                    None
                }
                Err(fault) => Some(fault),
            },
            Side::Client(stream) => match stream.on_record(bytes) {
                Ok(items) if items.is_empty() => None,
                Ok(items) => {
                    for item in &items {
                        if let ToClient::Credit(credits) = item {
                            self.ledger.on_credit(end, i64::from(*credits));
                        }
                    }
                    self.client_input(peer, ClientInput::Items { link, items });
                    None
                }
                Err(fault) => Some(fault),
            },
        };
        if let Some(fault) = fault {
            self.ledger.break_rule(Violation::new("L-05", format!("{end:?} cannot take a record: {fault}")));
        }
        self.flush(end);
    }

    /// Puts on the wire what may go.
    pub(super) fn flush(&mut self, end: End) {
        let Some(link) = self.links.all.get_mut(&end) else { return };
        let Some(plug) = link.carrier else { return };
        let (records, drained) = link.side.records();
        let closed = drained && link.closing;
        for record in records {
            self.send(plug, record);
        }
        if closed {
            self.hang_up(plug);
            self.unplug(plug);
        }
    }

    /// Links of a process that is gone.
    pub(super) fn forget_links(&mut self, peer: Peer) {
        let ends: Vec<End> = self.links.all.range(all_of(peer)).map(|(end, _)| *end).collect();
        for end in ends {
            self.links.all.remove(&end);
            self.on_back(end);
        }
    }

    /// The other end of a link, as long as it is known.
    pub fn partner(&self, end: End) -> Option<End> {
        let other = self.other_plug(*self.links.last.get(&end)?)?;
        Some((other.0, *self.links.carries.get(&other)?))
    }

    /// The process at the other end of a link.
    pub(super) fn partner_peer(&self, end: End) -> Option<Peer> {
        Some(self.other_plug(*self.links.last.get(&end)?)?.0)
    }

    /// Links of this peer that have a connection, oldest first.
    pub fn links_of(&self, peer: Peer) -> Vec<LinkId> {
        let of_peer = self.links.all.range(all_of(peer)).filter(|(_, link)| !link.closing);
        let connected = of_peer.filter(|(_, link)| link.carrier.is_some_and(|plug| self.is_wired(plug)));
        connected.map(|((_, link), _)| *link).collect()
    }

    /// The links of a peer change, or may until then.
    pub(super) fn unsettle(&mut self, peer: Peer, until: Duration) {
        let steady = &mut self.places[peer].steady;
        *steady = (*steady).max(until);
    }

    /// Since when a client has the same links, all of them with a connection, if it has one to this worker.
    pub(crate) fn steady_since(&self, client: Peer, worker: Peer) -> Option<Duration> {
        let mut linked = false;
        for (end, link) in self.links.all.range(all_of(client)) {
            if !link.carrier.is_some_and(|plug| self.is_wired(plug)) {
                return None;
            }
            linked |= !link.closing && self.partner_peer(*end) == Some(worker);
        }
        linked.then(|| self.places[client].steady)
    }

    /// Links that there are, with a connection or without: both ends of each.
    pub fn link_ends(&self) -> usize {
        self.links.all.len()
    }
}

fn all_of(peer: Peer) -> std::ops::RangeInclusive<End> {
    (peer, LinkId(0))..=(peer, LinkId(u64::MAX))
}
