//! What peers owe to others by a certain time, so that a timer that somebody forgets is noticed: an end of a link is given up when its grace is
//! over (L-06), a call is said again while nobody answers, so often and no more (L-01), who is present says so (B-01). And what the board may
//! carry at most (I-09): lines grow with time and with what happens to peers and links, never with tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_proto::board::{Line, Message};
use p2p_proto::ids::{ProcessKey, SetupId};
use p2p_proto::limits;

use super::{End, Machine, Peer, Plug, World};
use crate::ledger::Violation;

/// A machine is woken when it asked to be, so what is due is done then; what it says may wait for the board's bucket.
const AT_ONCE: Duration = Duration::from_secs(2);
/// From when a line is due until it is said: peers share the board's rate.
const SAID_WITHIN: Duration = Duration::from_secs(10);
/// A host who was not heard for so long is taken to be away.
const BEAT_WITHIN: Duration = Duration::from_secs(90);
/// Lines of a set-up: a call and its repeats, as many answers, or a refusal.
const LINES_OF_SETUP: u64 = 2 * (limits::CONNECT_RESENDS.len() as u64 + 1) + 1;
/// Each peer may cause as much as one event in this time: its hello, its search, its claim.
const EVENT_EACH: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Promises {
    /// What is due when; the entries of the tables below.
    due: BTreeSet<(Duration, Due)>,
    graces: BTreeMap<End, Duration>,
    calls: BTreeMap<Plug, Call>,
    /// Whose call the next `connect` of its peer is for, while that is known.
    preparing: Option<Plug>,
    said: BTreeMap<(ProcessKey, SetupId), Said>,
    present: BTreeMap<Peer, Duration>,
    budget: Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// This end of a link has no connection and is given up.
    Grace(End),
    /// This call is said again.
    Call(Plug),
    /// This peer says that it is here.
    Presence(Peer),
}

#[derive(Debug)]
struct Call {
    key: (ProcessKey, SetupId),
    at: Duration,
}

/// A `connect`, as it was heard on the board.
#[derive(Clone, Copy, Debug)]
struct Said {
    first: Duration,
    times: usize,
}

/// What the board may have carried by now.
#[derive(Debug, Default)]
struct Budget {
    lines: u64,
    allowed: u64,
    /// Peers that run, and their time on the board until `settled`.
    peers: u32,
    peer_time: Duration,
    settled: Duration,
    /// Up to where that was turned into events.
    spent: Duration,
}

impl Budget {
    /// Something happened that everybody may answer, none of it a task.
    fn event(&mut self) {
        self.allowed += 2 * (u64::from(self.peers) + 2);
    }

    fn settle(&mut self, at: Duration) {
        self.peer_time += at.saturating_sub(self.settled) * self.peers;
        self.settled = at;
        while self.spent + EVENT_EACH <= self.peer_time {
            self.spent += EVENT_EACH;
            self.event();
        }
    }
}

impl World {
    /// Something happened to a peer, a link or the board that everybody may say something about.
    pub(super) fn on_event(&mut self) {
        self.promises.budget.event();
    }

    /// So many processes run from now on.
    pub(super) fn on_population(&mut self, more: bool) {
        let budget = &mut self.promises.budget;
        budget.settle(self.at);
        budget.peers = if more { budget.peers + 1 } else { budget.peers.saturating_sub(1) };
        budget.event();
    }

    /// A client begins a set-up.
    pub(super) fn on_setup(&mut self) {
        self.promises.budget.allowed += LINES_OF_SETUP;
    }

    /// Sees to it that everybody has done by now what is due.
    pub(super) fn check_promises(&mut self) {
        while let Some((at, due)) = self.promises.due.first().copied().filter(|(at, _)| *at < self.at) {
            self.promises.due.pop_first();
            let peer = match due {
                Due::Grace((peer, _)) | Due::Call((peer, _)) | Due::Presence(peer) => peer,
            };
            // Who sleeps does what is due when he wakes up.
            if let Some(until) = self.places[peer].asleep_until {
                self.put_off(until.max(at) + SAID_WITHIN, due);
                continue;
            }
            let broken = match due {
                Due::Grace((peer, link)) => {
                    self.promises.graces.remove(&(peer, link));
                    let link = link.0;
                    Some((
                        "L-06",
                        format!("{peer} has not given up its link {link}, which had no connection for a grace"),
                    ))
                }
                Due::Call(plug) => {
                    let call = self.promises.calls.remove(&plug);
                    call.map(|call| ("L-01", format!("{peer} does not repeat its call {}", call.key.1.0)))
                }
                Due::Presence(peer) => {
                    self.promises.present.remove(&peer);
                    Some(("B-01", format!("{peer} is on the board and does not say so any more")))
                }
            };
            if let Some((rule, what)) = broken {
                self.ledger.break_rule(Violation::new(rule, what));
            }
        }
    }

    fn put_off(&mut self, until: Duration, due: Due) {
        let at = match due {
            Due::Grace(end) => self.promises.graces.get_mut(&end),
            Due::Call(plug) => self.promises.calls.get_mut(&plug).map(|call| &mut call.at),
            Due::Presence(peer) => self.promises.present.get_mut(&peer),
        };
        if let Some(at) = at {
            *at = until;
            self.promises.due.insert((until, due));
        }
    }

    /// This end of a link has lost its connection.
    pub(super) fn on_away(&mut self, end: End) {
        if self.strict {
            self.on_back(end);
            let at = self.at + limits::GRACE + AT_ONCE;
            self.promises.graces.insert(end, at);
            self.promises.due.insert((at, Due::Grace(end)));
        }
    }

    /// It has one again, or is over.
    pub(super) fn on_back(&mut self, end: End) {
        if let Some(at) = self.promises.graces.remove(&end) {
            self.promises.due.remove(&(at, Due::Grace(end)));
        }
    }

    /// A line is said.
    pub(super) fn on_said(&mut self, from: Peer, line: &Line) {
        let budget = &mut self.promises.budget;
        budget.lines += 1;
        if !self.strict {
            return;
        }
        budget.settle(self.at);
        if budget.lines > budget.allowed {
            let what = format!("{} lines were said, and {} are enough for what happened", budget.lines, budget.allowed);
            self.ledger.break_rule(Violation::new("I-09", what));
        }
        let Ok(envelope) = line.decode() else { return };
        match envelope.message {
            Message::Connect(connect) => self.on_connect_said(from, (connect.caller.process, connect.setup)),
            Message::Beat(_) => self.is_present(from, BEAT_WITHIN),
            Message::Hello(_) => self.is_present(from, limits::HELLO_TTL),
            _ => {}
        }
    }

    fn on_connect_said(&mut self, from: Peer, key: (ProcessKey, SetupId)) {
        let said = self.promises.said.entry(key).or_insert(Said { first: self.at, times: 0 });
        said.times += 1;
        let said = *said;
        if said.times > limits::CONNECT_RESENDS.len() + 1 {
            let what = format!("{from} says its call {} for the {}th time", key.1.0, said.times);
            self.ledger.break_rule(Violation::new("L-01", what));
        }
        // Who has no board now repeats nothing, though he may not have heard that yet.
        let hears = self.places[from].up;
        if let Some(plug) = self.promises.preparing.filter(|plug| hears && plug.0 == from && said.times == 1) {
            self.promises.calls.insert(plug, Call { key, at: Duration::ZERO });
        }
        let Some((plug, call)) = self.promises.calls.iter_mut().find(|(_, call)| call.key == key) else { return };
        let plug = *plug;
        self.promises.due.remove(&(call.at, Due::Call(plug)));
        match limits::CONNECT_RESENDS.get(said.times - 1) {
            Some(after) => {
                call.at = said.first + *after + SAID_WITHIN;
                self.promises.due.insert((call.at, Due::Call(plug)));
            }
            None => drop(self.promises.calls.remove(&plug)),
        }
    }

    /// What is said meanwhile is said of this set-up.
    pub(super) fn preparing(&mut self, plug: Option<Plug>) {
        self.promises.preparing = plug;
    }

    /// Nobody waits for an answer to this set-up any more.
    pub(super) fn on_answered(&mut self, plug: Plug) {
        if let Some(call) = self.promises.calls.remove(&plug) {
            self.promises.due.remove(&(call.at, Due::Call(plug)));
        }
    }

    /// Its board has come up: a host says at once that she is here.
    pub(super) fn is_there(&mut self, peer: Peer) {
        if self.strict && matches!(self.places[peer].machine, Machine::Host(_)) {
            self.is_present(peer, BEAT_WITHIN);
        }
    }

    /// It said so just now, and is to say so again within this.
    fn is_present(&mut self, peer: Peer, within: Duration) {
        self.is_not_present(peer);
        let place = &self.places[peer];
        let alive = !matches!(place.machine, Machine::Gone);
        if place.up && alive && !place.draining && place.skew_s == 0 {
            let at = self.at + within;
            self.promises.present.insert(peer, at);
            self.promises.due.insert((at, Due::Presence(peer)));
        }
    }

    /// It cannot be expected to say so.
    pub(super) fn is_not_present(&mut self, peer: Peer) {
        if let Some(at) = self.promises.present.remove(&peer) {
            self.promises.due.remove(&(at, Due::Presence(peer)));
        }
    }

    /// Its board, clock or process is not what it was: nothing is owed for now.
    pub(super) fn owes_nothing(&mut self, peer: Peer) {
        self.is_not_present(peer);
        let calls: Vec<Plug> = self.promises.calls.keys().filter(|plug| plug.0 == peer).copied().collect();
        calls.into_iter().for_each(|plug| self.on_answered(plug));
    }

    /// Lines that were said, and those that would have been too many.
    pub fn lines(&self) -> (u64, u64) {
        (self.promises.budget.lines, self.promises.budget.allowed)
    }
}
