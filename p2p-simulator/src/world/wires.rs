//! The connections of a world: two sides dial by one transit key, and records go both ways in order until something cuts them (L-02).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_proto::ids::Role;
use p2p_proto::limits;
use p2p_proto::link::{ConnectPlan, LinkError};
use p2p_scheduler::ConnectionId;

use super::{Happening, Peer, Plug, World};
use crate::ledger::Violation;

/// From one end to the other, and what a set-up's own steps take.
pub(super) const LATENCY: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(super) struct Wires {
    /// Set-ups and connections that their process has not given up, nor heard the end of.
    pub(super) live: BTreeSet<Plug>,
    dials: BTreeMap<[u8; 32], Dial>,
    all: Vec<Wire>,
    /// The wire that a connection has.
    of: BTreeMap<Plug, usize>,
    /// The other end that it has or had.
    partners: BTreeMap<Plug, Plug>,
    /// How much longer everything takes for these.
    slow: BTreeMap<Peer, Duration>,
}

#[derive(Debug)]
struct Dial {
    plug: Plug,
    binding: [u8; 32],
    role: Role,
}

/// A record that is under way when its wire is cut is lost.
#[derive(Debug)]
struct Wire {
    plugs: [Plug; 2],
    cut: bool,
    /// When the last record reaches each end: none overtakes another.
    last: [Duration; 2],
}

impl World {
    pub(super) fn prepare(&mut self, plug: Plug) {
        if !self.wires.live.insert(plug) {
            self.ledger.break_rule(Violation::new("L-02", format!("{plug:?} is used twice")));
        }
        if matches!(self.places[plug.0].machine, super::Machine::Client(_)) {
            self.on_setup();
        }
        self.later(LATENCY, Happening::Prepared(plug));
    }

    /// Both sides dial by transit key; only the two halves of one session meet.
    pub(super) fn dial(&mut self, plug: Plug, plan: &ConnectPlan) {
        if !self.wires.live.contains(&plug) {
            self.ledger.break_rule(Violation::new("L-02", format!("{plug:?} was given up, and yet is connected")));
        }
        self.on_answered(plug);
        let (key, binding, role) = (plan.transit_key.0, plan.session.channel_binding(), plan.role);
        if self.refuse_links {
            let error = LinkError::Unreachable("a wall".to_owned());
            self.later(LATENCY, Happening::Disconnected(plug, error));
            return;
        }
        let Some(other) = self.wires.dials.remove(&key) else {
            self.wires.dials.insert(key, Dial { plug, binding, role });
            self.later(limits::SETUP_TIMEOUT, Happening::NobodyCame(key));
            return;
        };
        if other.binding != binding || other.role == role {
            self.ledger.break_rule(Violation::new("I-08", format!("two sessions met: {plug:?} and {:?}", other.plug)));
        }
        let wire = self.wires.all.len();
        let after = LATENCY + self.slowness(plug.0) + self.slowness(other.plug.0);
        self.wires.all.push(Wire { plugs: [plug, other.plug], cut: false, last: [self.at + after; 2] });
        for (plug, partner) in [(plug, other.plug), (other.plug, plug)] {
            self.wires.of.insert(plug, wire);
            self.wires.partners.insert(plug, partner);
            self.later(after, Happening::Connected(plug));
        }
    }

    pub(super) fn on_nobody_came(&mut self, key: [u8; 32]) {
        if let Some(dial) = self.wires.dials.remove(&key) {
            self.later(
                Duration::ZERO,
                Happening::Disconnected(dial.plug, LinkError::Unreachable("nobody came".to_owned())),
            );
        }
    }

    /// Ends a set-up or connection at once: only the other side hears of it.
    pub(super) fn abandon(&mut self, plug: Plug) {
        self.on_answered(plug);
        self.wires.live.remove(&plug);
        self.wires.dials.retain(|_, dial| dial.plug != plug);
        self.unplug(plug);
        if let Some(wire) = self.wires.of.remove(&plug) {
            self.wires.all[wire].cut = true;
            if let Some(other) = self.other_plug(plug) {
                self.later(LATENCY, Happening::Disconnected(other, LinkError::Lost("abandoned".to_owned())));
            }
        }
    }

    /// Ends a connection in order: what was sent before still arrives.
    pub(super) fn hang_up(&mut self, plug: Plug) {
        self.wires.live.remove(&plug);
        let Some(wire) = self.wires.of.remove(&plug) else { return };
        let Some(side) = self.other_side(wire, plug) else { return };
        let other = self.wires.all[wire].plugs[side];
        let arrives = self.arrival(wire, side);
        self.later(arrives.saturating_sub(self.at), Happening::Disconnected(other, LinkError::Closed));
    }

    pub(super) fn send(&mut self, from: Plug, record: Vec<u8>) {
        let Some(&wire) = self.wires.of.get(&from) else { return };
        let Some(side) = self.other_side(wire, from) else { return };
        let to = self.wires.all[wire].plugs[side];
        let arrives = self.arrival(wire, side);
        self.later(arrives.saturating_sub(self.at), Happening::Record(wire, to, record));
    }

    /// Whether what comes by this wire is still heard.
    pub(super) fn is_whole(&self, wire: usize) -> bool {
        !self.wires.all[wire].cut
    }

    /// Whether the connection is there and not cut.
    pub(super) fn is_wired(&self, plug: Plug) -> bool {
        self.wires.of.get(&plug).is_some_and(|wire| self.is_whole(*wire))
    }

    /// The connection has ended for this side. Returns whether its process still waits for news of it.
    pub(super) fn forget(&mut self, plug: Plug) -> bool {
        self.on_answered(plug);
        self.wires.of.remove(&plug);
        self.wires.live.remove(&plug)
    }

    pub(super) fn other_plug(&self, plug: Plug) -> Option<Plug> {
        self.wires.partners.get(&plug).copied()
    }

    /// Set-ups and connections of a process that is gone.
    pub(super) fn forget_connections(&mut self, peer: Peer) {
        self.wires.dials.retain(|_, dial| dial.plug.0 != peer);
        let plugs: Vec<Plug> = self.wires.live.range(all_of(peer)).copied().collect();
        for plug in plugs {
            self.forget(plug);
        }
    }

    /// Set-ups and connections that there are.
    pub fn connections(&self) -> usize {
        self.wires.live.len()
    }

    /// Everything takes so much longer for it.
    pub fn set_slow(&mut self, peer: Peer, by: Duration) {
        self.wires.slow.insert(peer, by);
    }

    /// All links of a peer break, and both sides notice at once.
    pub fn cut(&mut self, peer: Peer) {
        self.cut_with(peer, |_| Some((LATENCY, LinkError::Lost("cut".to_owned()))));
    }

    /// All links of a peer break: it notices at once, the others only by the silence.
    pub fn cut_silently(&mut self, peer: Peer) {
        self.cut_with(peer, |own| {
            Some(match own {
                true => (LATENCY, LinkError::Lost("cut".to_owned())),
                false => (limits::LINK_SILENCE, LinkError::Silent),
            })
        });
    }

    /// All links of a peer break, and nobody notices but by the silence.
    pub fn cut_unnoticed(&mut self, peer: Peer) {
        self.cut_with(peer, |_| Some((limits::LINK_SILENCE, LinkError::Silent)));
    }

    /// All links of a peer break. `notices` says when and how its own side, and the other one, hears of it.
    pub(super) fn cut_with(&mut self, peer: Peer, notices: impl Fn(bool) -> Option<(Duration, LinkError)>) {
        self.ledger.on_trouble();
        let plugs: Vec<(Plug, usize)> = self.wires.of.range(all_of(peer)).map(|(plug, wire)| (*plug, *wire)).collect();
        for (plug, wire) in plugs {
            if std::mem::replace(&mut self.wires.all[wire].cut, true) {
                continue;
            }
            self.note(peer, || format!("connection {} is cut", plug.1.0));
            for plug in self.wires.all[wire].plugs {
                self.unsettle(plug.0, self.at + limits::LINK_SILENCE);
                if let Some((after, error)) = notices(plug.0 == peer) {
                    self.later(after, Happening::Disconnected(plug, error));
                }
            }
        }
    }

    fn other_side(&self, wire: usize, plug: Plug) -> Option<usize> {
        self.wires.all[wire].plugs.iter().position(|other| *other != plug)
    }

    /// When what is sent to this side now arrives.
    fn arrival(&mut self, wire: usize, side: usize) -> Duration {
        let [one, other] = self.wires.all[wire].plugs;
        let after = LATENCY + self.slowness(one.0) + self.slowness(other.0);
        let last = &mut self.wires.all[wire].last[side];
        *last = (*last).max(self.at + after);
        *last
    }

    fn slowness(&self, peer: Peer) -> Duration {
        self.wires.slow.get(&peer).copied().unwrap_or_default()
    }
}

fn all_of(peer: Peer) -> std::ops::RangeInclusive<Plug> {
    (peer, ConnectionId(0))..=(peer, ConnectionId(u64::MAX))
}
