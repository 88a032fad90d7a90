//! The connections of a world: two sides dial by one transit key, and records go both ways in order until something cuts them (L-02).

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::ids::Role;
use p2p_proto::limits;
use p2p_proto::link::{ConnectPlan, LinkError};

use super::{End, Happening, Peer, World};
use crate::ledger::Violation;

/// From one end to the other, and what a set-up's own steps take.
pub(super) const LATENCY: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(super) struct Wires {
    dials: BTreeMap<[u8; 32], Dial>,
    all: Vec<Wire>,
    /// The wire that an end has.
    of: BTreeMap<End, usize>,
    /// The other end that it has or had: a worker may start what is here before it hears that the link was cut.
    partners: BTreeMap<End, End>,
    /// How much longer everything takes for these.
    slow: BTreeMap<Peer, Duration>,
}

#[derive(Debug)]
struct Dial {
    end: End,
    binding: [u8; 32],
    role: Role,
}

/// A record that is under way when its wire is cut is lost.
#[derive(Debug)]
struct Wire {
    ends: [End; 2],
    cut: bool,
    /// When the last record reaches each end: none overtakes another.
    last: [Duration; 2],
}

impl World {
    /// Both sides dial by transit key; only the two halves of one session meet.
    pub(super) fn dial(&mut self, end: End, plan: &ConnectPlan) {
        let (key, binding, role) = (plan.transit_key.0, plan.session.channel_binding(), plan.role);
        if self.refuse_links {
            let error = LinkError::Unreachable("a wall".to_owned());
            self.later(LATENCY, Happening::LinkDown(end, error));
            return;
        }
        let Some(other) = self.wires.dials.remove(&key) else {
            self.wires.dials.insert(key, Dial { end, binding, role });
            self.later(limits::SETUP_TIMEOUT, Happening::NobodyCame(key));
            return;
        };
        if other.binding != binding || other.role == role {
            self.ledger.break_rule(Violation::new("I-08", format!("two sessions met: {end:?} and {:?}", other.end)));
        }
        let wire = self.wires.all.len();
        let after = LATENCY + self.slowness(end.0) + self.slowness(other.end.0);
        self.wires.all.push(Wire { ends: [end, other.end], cut: false, last: [self.at + after; 2] });
        for (end, partner) in [(end, other.end), (other.end, end)] {
            self.wires.of.insert(end, wire);
            self.wires.partners.insert(end, partner);
            self.later(after, Happening::LinkUp(end));
        }
    }

    pub(super) fn on_nobody_came(&mut self, key: [u8; 32]) {
        if let Some(dial) = self.wires.dials.remove(&key) {
            self.later(Duration::ZERO, Happening::LinkDown(dial.end, LinkError::Unreachable("nobody came".to_owned())));
        }
    }

    pub(super) fn forget_dials(&mut self, peer: Peer) {
        self.wires.dials.retain(|_, dial| dial.end.0 != peer);
    }

    /// An orderly end: what was sent before still arrives.
    pub(super) fn close(&mut self, end: End) {
        self.wires.dials.retain(|_, dial| dial.end != end);
        let Some(wire) = self.wires.of.remove(&end) else { return };
        let Some(side) = self.other_side(wire, end) else { return };
        let other = self.wires.all[wire].ends[side];
        self.wires.of.remove(&other);
        let arrives = self.arrival(wire, side);
        self.later(arrives.saturating_sub(self.at), Happening::LinkDown(other, LinkError::Closed));
    }

    pub(super) fn send(&mut self, from: End, record: Vec<u8>) {
        let Some(&wire) = self.wires.of.get(&from) else { return };
        let Some(side) = self.other_side(wire, from) else { return };
        let to = self.wires.all[wire].ends[side];
        let arrives = self.arrival(wire, side);
        self.later(arrives.saturating_sub(self.at), Happening::Record(wire, to, record));
    }

    /// Whether what comes by this wire is still heard.
    pub(super) fn carries(&self, wire: usize) -> bool {
        !self.wires.all[wire].cut
    }

    /// The other end of a link, as long as it is known.
    pub fn partner(&self, end: End) -> Option<End> {
        self.wires.partners.get(&end).copied()
    }

    /// Links that this peer has, oldest first.
    pub fn ends_of(&self, peer: Peer) -> Vec<End> {
        let low = (peer, p2p_scheduler::LinkId(0));
        let high = (peer, p2p_scheduler::LinkId(u64::MAX));
        self.wires.of.range(low..=high).map(|(end, _)| *end).collect()
    }

    /// Connections and dials that there are.
    pub fn connections(&self) -> usize {
        self.wires.of.len() / 2 + self.wires.dials.len()
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
    pub fn cut_half(&mut self, peer: Peer) {
        self.cut_with(peer, |own| {
            Some(if own {
                (LATENCY, LinkError::Lost("cut".to_owned()))
            } else {
                (limits::LINK_SILENCE, LinkError::Silent)
            })
        });
    }

    /// All links of a peer break, and nobody notices but by the silence.
    pub fn cut_unnoticed(&mut self, peer: Peer) {
        self.cut_with(peer, |_| Some((limits::LINK_SILENCE, LinkError::Silent)));
    }

    /// All links of a peer break, and only it notices.
    pub fn cut_silently(&mut self, peer: Peer) {
        self.cut_with(peer, |own| own.then(|| (LATENCY, LinkError::Lost("cut".to_owned()))));
    }

    /// All links of a peer break. `notices` says when and how its own side, and the other one, hears of it.
    pub(super) fn cut_with(&mut self, peer: Peer, notices: impl Fn(bool) -> Option<(Duration, LinkError)>) {
        self.ledger.on_trouble();
        for end in self.ends_of(peer) {
            self.note(peer, || format!("link {} is cut", end.1.0));
            let Some(wire) = self.wires.of.remove(&end) else { continue };
            self.wires.all[wire].cut = true;
            for end in self.wires.all[wire].ends {
                self.wires.of.remove(&end);
                if let Some((after, error)) = notices(end.0 == peer) {
                    self.later(after, Happening::LinkDown(end, error));
                }
            }
        }
    }

    fn other_side(&self, wire: usize, end: End) -> Option<usize> {
        self.wires.all[wire].ends.iter().position(|other| *other != end)
    }

    /// When what is sent to this side now arrives.
    fn arrival(&mut self, wire: usize, side: usize) -> Duration {
        let [one, other] = self.wires.all[wire].ends;
        let after = LATENCY + self.slowness(one.0) + self.slowness(other.0);
        let last = &mut self.wires.all[wire].last[side];
        *last = (*last).max(self.at + after);
        *last
    }

    fn slowness(&self, peer: Peer) -> Duration {
        self.wires.slow.get(&peer).copied().unwrap_or_default()
    }
}
