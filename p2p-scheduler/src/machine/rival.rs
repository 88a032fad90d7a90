//! Another process that hosts the same cluster: the one that came later must go, since friends would be sent from one list to the other.
//!
//! Beats say since when. Whoever hears that of a later one names it in a beat of its own; whoever is named by an earlier one goes. Only
//! beats that the same machine has signed count for that: anybody can say that he hosts, but then keys differ. And nobody goes because of a beat
//! that does not name him: an earlier life of hers may have said it, and somebody plays it again.

use std::collections::{BTreeSet, VecDeque};

use p2p_proto::board::message::Beat;
use p2p_proto::ids::PeerName;
use p2p_proto::trust::{Signed, UnixTime};

use super::{Me, Now};

/// One's own beats that are remembered: they may be played back under another name.
const OWN_BEATS: usize = 64;
/// Others that are remembered, so that each is answered and told of once.
const OTHERS: usize = 16;

/// What a host knows of others.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    since: Option<UnixTime>,
    own: VecDeque<Signed>,
    others: BTreeSet<PeerName>,
    /// Who is to hear with the next beat that it must go.
    named: Option<PeerName>,
}

/// What another host's beat means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rival {
    /// It came later: it must hear that somebody hosts.
    Newcomer {
        /// It was not heard before.
        first: bool,
    },
    /// It was here before, and says that this one must go.
    Elder,
    /// It signs with another machine's key, so it proves nothing.
    Stranger,
}

impl Rivals {
    /// Since when she hosts: since the board was up for the first time.
    pub(super) fn since(&mut self, now: Now) -> UnixTime {
        *self.since.get_or_insert(now.unix)
    }

    /// Whom the next beat is to name.
    pub(super) fn take_named(&mut self) -> Option<PeerName> {
        self.named.take()
    }

    /// A beat of one's own.
    pub(super) fn said(&mut self, beat: &Signed) {
        if self.own.len() >= OWN_BEATS {
            self.own.pop_front();
        }
        self.own.push_back(beat.clone());
    }

    /// A beat that came from the board.
    pub(super) fn on_beat(&mut self, me: &Me, from: &PeerName, signed: &Signed) -> Option<Rival> {
        let since = self.since?;
        if self.own.contains(signed) {
            return None;
        }
        let beat = Beat::verify(signed, &me.cluster).ok()?;
        // An earlier life's may still be on its way, or be played again.
        if beat.leaving || beat.time < since {
            return None;
        }
        let first = self.others.len() < OTHERS && self.others.insert(from.clone());
        if beat.host != me.identity.machine_key() {
            return first.then_some(Rival::Stranger);
        }
        if (beat.since, from.to_string()) < (since, me.name.to_string()) {
            return (beat.rival.as_ref() == Some(&me.name)).then_some(Rival::Elder);
        }
        self.named = Some(from.clone());
        Some(Rival::Newcomer { first })
    }
}

#[cfg(test)]
mod tests {
    use p2p_proto::ids::Role;
    use p2p_proto::trust::{Identity, ProcessSecret};

    use super::*;

    fn me(name: &str, secret: u8) -> Me {
        Me {
            cluster: "alice/friends".parse().unwrap(),
            user: "alice".parse().unwrap(),
            name: name.parse().unwrap(),
            role: Role::Host,
            identity: Identity::from_secret(&[secret; 32]),
            secret: ProcessSecret::from_entropy([1; 32]),
        }
    }

    fn beat(me: &Me, since: UnixTime, time: UnixTime) -> Signed {
        beat_to(me, since, time, None)
    }

    /// One that names another process.
    fn beat_to(me: &Me, since: UnixTime, time: UnixTime, rival: Option<&Me>) -> Signed {
        let (host, rival) = (me.identity.machine_key(), rival.map(|rival| rival.name.clone()));
        let beat =
            Beat { host, peers: 1, serial: 1, removals: Vec::new(), roster: None, time, since, rival, leaving: false };
        beat.sign(&me.identity, &me.cluster)
    }

    fn heard(me: &Me, since: UnixTime, from: &Me, beat: &Signed) -> Option<Rival> {
        let mut rivals = Rivals { since: Some(since), ..Rivals::default() };
        rivals.on_beat(me, &from.name, beat)
    }

    #[test]
    fn the_later_one_goes_whoever_hears_the_other_first() {
        let (a, b) = (me("alice@box:1", 7), me("alice@box:2", 7));
        let newcomer = Some(Rival::Newcomer { first: true });
        assert_eq!(heard(&a, 100, &b, &beat(&b, 105, 106)), newcomer);
        assert_eq!(heard(&b, 105, &a, &beat_to(&a, 100, 106, Some(&b))), Some(Rival::Elder));
        // In the same second, exactly one of them, whatever the other one says.
        assert_eq!(heard(&a, 100, &b, &beat_to(&b, 100, 100, Some(&a))), newcomer);
        assert_eq!(heard(&b, 100, &a, &beat_to(&a, 100, 100, Some(&b))), Some(Rival::Elder));
    }

    #[test]
    fn nobody_can_make_a_host_go() {
        let (alice, eve) = (me("alice@box:1", 7), me("alice@box:2", 8));
        assert_eq!(heard(&alice, 100, &eve, &beat(&eve, 1, 101)), Some(Rival::Stranger));
        // A beat of an earlier life, also of one that ended in the second in which this one began, or while its clock was ahead.
        let before = me("alice@box:0", 7);
        for time in [99, 100, 1000] {
            assert_eq!(heard(&alice, 100, &before, &beat(&before, 50, time)), None, "{time}");
        }
        assert_eq!(heard(&alice, 100, &before, &beat_to(&before, 50, 100, Some(&before))), None);
        // And one of her own under another name.
        let own = beat(&alice, 100, 101);
        let mut rivals = Rivals { since: Some(100), ..Rivals::default() };
        rivals.said(&own);
        assert_eq!(rivals.on_beat(&alice, &eve.name, &own), None);
    }

    #[test]
    fn each_is_told_of_once_and_answered_each_time() {
        let (a, b) = (me("alice@box:1", 7), me("alice@box:2", 7));
        let mut rivals = Rivals { since: Some(100), ..Rivals::default() };
        for (time, first) in [(106, true), (107, false)] {
            assert_eq!(rivals.on_beat(&a, &b.name, &beat(&b, 105, time)), Some(Rival::Newcomer { first }));
            assert_eq!(rivals.take_named(), Some(b.name.clone()));
            assert_eq!(rivals.take_named(), None);
        }
        for number in 0..3 * OTHERS {
            let _ = rivals.on_beat(&a, &me(&format!("alice@box:{}", 10 + number), 7).name, &beat(&b, 105, 107));
        }
        assert!(rivals.others.len() <= OTHERS);
    }
}
