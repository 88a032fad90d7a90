//! Whose login is behind a claimed key: side topics that the host opens, and those of guests that she visits (T-02).
//!
//! Strangers can claim any name with any number of keys. So users have their turns, nobody has all places, and a place in which nobody was
//! proved is kept for its least time even where the answer came at once: who floods in one name takes nothing from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_proto::board::message::Claim;
use p2p_proto::ids::{MachineKey, PeerName, ProcessKey, UserName};
use p2p_proto::limits;

use super::super::side::SideOutput;
use super::super::{Me, Now, earliest};
use super::turns::Turns;

/// A place is kept so long while others of its user wait, and is taken for as long even if its topic was closed at once.
const LEAST: Duration = Duration::from_secs(3);

/// A claim and by whom it was said.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    pub(super) name: PeerName,
    pub(super) claim: Claim,
}

impl PartialEq for Claimed {
    /// The same process of the same user asks again: with these keys anybody can ask in his own name, and no answer to him is one to the others.
    fn eq(&self, other: &Self) -> bool {
        self.claim.user == other.claim.user && self.claim.keys == other.claim.keys
    }
}

#[derive(Debug)]
struct Watched {
    claimed: Claimed,
    look: u64,
    since: Duration,
    open: bool,
    /// Nothing is looked for any more; the place is kept.
    over: bool,
}

/// What is under way and what waits.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    watched: BTreeMap<String, Watched>,
    /// Looks begun so far.
    looks: u64,
    claims: Turns<Claimed>,
    /// By guest and process: in somebody else's name nobody takes his place.
    visits: BTreeMap<(UserName, ProcessKey), Duration>,
    calls: Turns<ProcessKey>,
}

impl Proofs {
    /// A claim that wants a proof. Returns whether its topic is open already, so that the claimant can be told again.
    pub(super) fn on_claim(&mut self, now: Now, me: &Me, claimed: Claimed, out: &mut Vec<SideOutput>) -> bool {
        let watched = self.watched.values().find(|watched| watched.claimed == claimed);
        if let Some(watched) = watched {
            return watched.open && !watched.over;
        }
        self.claims.push(&me.secret, claimed.claim.user.clone(), claimed);
        self.begin(now, me, out);
        false
    }

    /// A topic is open: whom to tell.
    pub(super) fn on_opened(&mut self, topic: &str, look: u64) -> Option<&Claimed> {
        let watched = self.watched.get_mut(topic).filter(|watched| !watched.over && watched.look == look)?;
        watched.open = true;
        Some(&watched.claimed)
    }

    /// Something was seen: for whose claim.
    pub(super) fn on_seen(&mut self, topic: &str, look: u64, out: &mut Vec<SideOutput>) -> Option<Claimed> {
        let watched = self.watched.get_mut(topic).filter(|watched| !watched.over && watched.look == look)?;
        watched.over = true;
        out.push(SideOutput::Leave { topic: topic.to_owned() });
        Some(watched.claimed.clone())
    }

    /// The machine is the user's: its place is free, and its other processes need no proof.
    pub(super) fn on_proved(&mut self, user: &UserName, machine: MachineKey) -> Vec<Claimed> {
        self.watched.retain(|_, Watched { claimed: Claimed { claim, .. }, over, .. }| {
            !*over || claim.user != *user || claim.keys.machine != machine
        });
        self.claims.take(user, |claimed| claimed.claim.keys.machine == machine)
    }

    /// A process of a listed user wants to see the host in its topic.
    pub(super) fn on_summon(
        &mut self,
        now: Now,
        me: &Me,
        user: UserName,
        process: ProcessKey,
        out: &mut Vec<SideOutput>,
    ) {
        if !self.visits.contains_key(&(user.clone(), process)) {
            self.calls.push(&me.secret, user, process);
        }
        self.begin(now, me, out);
    }

    /// A process has shown what she signed: it has seen her.
    pub(super) fn on_hello(&mut self, me: &Me, user: &UserName, process: ProcessKey, out: &mut Vec<SideOutput>) {
        if self.visits.remove(&(user.clone(), process)).is_some() {
            out.push(leave_visit(me, user, process));
        }
    }

    /// For whom something is under way or waits.
    pub(super) fn users(&self) -> BTreeSet<UserName> {
        let watched = self.watched.values().map(|watched| &watched.claimed.claim.user);
        let visited = self.visits.keys().map(|(user, _)| user);
        watched.chain(visited).chain(self.claims.users()).chain(self.calls.users()).cloned().collect()
    }

    /// Nobody looks for this user any more.
    pub(super) fn forget(&mut self, me: &Me, user: &UserName, out: &mut Vec<SideOutput>) {
        self.claims.take(user, |_| true);
        self.calls.take(user, |_| true);
        for (topic, watched) in &mut self.watched {
            if watched.claimed.claim.user == *user && !std::mem::replace(&mut watched.over, true) {
                out.push(SideOutput::Leave { topic: topic.clone() });
            }
        }
        self.visits.retain(|(guest, process), _| {
            let other = guest != user;
            if !other {
                out.push(leave_visit(me, user, *process));
            }
            other
        });
    }

    /// Ends what has lasted long enough, begins what waits. Returns those whose time ran out unseen.
    pub(super) fn on_tick(&mut self, now: Now, me: &Me, out: &mut Vec<SideOutput>) -> Vec<Claimed> {
        let (claims, calls, mut unseen) = (&self.claims, &self.calls, Vec::new());
        self.watched.retain(|topic, watched| {
            let lasts = watched.ends_at(claims) > now.at;
            if !lasts && !watched.over {
                out.push(SideOutput::Leave { topic: topic.clone() });
                unseen.push(watched.claimed.clone());
            }
            lasts
        });
        self.visits.retain(|(user, process), since| {
            let lasts = visit_ends_at(*since, calls) > now.at;
            if !lasts {
                out.push(leave_visit(me, user, *process));
            }
            lasts
        });
        self.begin(now, me, out);
        unseen
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        let watched = self.watched.values().map(|watched| watched.ends_at(&self.claims)).min();
        earliest([watched, self.visits.values().map(|since| visit_ends_at(*since, &self.calls)).min()])
    }

    fn begin(&mut self, now: Now, me: &Me, out: &mut Vec<SideOutput>) {
        while self.watched.len() < limits::SIDE_TOPICS {
            let watched = &self.watched;
            let busy = |user: &UserName| watched.values().filter(|watched| watched.claimed.claim.user == *user).count();
            let Some((user, claimed)) = self.claims.next(|user| busy(user) < limits::SIDE_TOPICS_PER_USER) else {
                break;
            };
            let topic = me.cluster.admit_topic(&user, claimed.claim.keys);
            // Keys that differ only behind the digits: one after the other.
            if self.watched.contains_key(&topic) {
                continue;
            }
            self.looks += 1;
            out.push(SideOutput::Watch { topic: topic.clone(), guest: user, look: self.looks });
            self.watched.insert(topic, Watched { claimed, look: self.looks, since: now.at, open: false, over: false });
        }
        while self.visits.len() < limits::SIDE_VISITS {
            let visits = &self.visits;
            let busy = |user: &UserName| visits.keys().filter(|(guest, _)| guest == user).count();
            let Some((user, process)) = self.calls.next(|user| busy(user) < limits::SIDE_TOPICS_PER_USER) else {
                break;
            };
            out.push(SideOutput::Attend { topic: me.cluster.host_topic(&user, me.identity.machine_key(), process) });
            self.visits.insert((user, process), now.at);
        }
    }
}

fn leave_visit(me: &Me, user: &UserName, process: ProcessKey) -> SideOutput {
    SideOutput::Leave { topic: me.cluster.host_topic(user, me.identity.machine_key(), process) }
}

impl Watched {
    fn ends_at(&self, claims: &Turns<Claimed>) -> Duration {
        let short = self.over || claims.has(&self.claimed.claim.user);
        self.since + if short { LEAST } else { limits::SIDE_TOPIC_TIME }
    }
}

fn visit_ends_at(since: Duration, calls: &Turns<ProcessKey>) -> Duration {
    since + if calls.is_empty() { limits::SIDE_VISIT_TIME } else { LEAST }
}

#[cfg(test)]
mod tests {
    use p2p_proto::ids::{PeerKeys, Role};
    use p2p_proto::trust::{Identity, ProcessCertificate, ProcessSecret};

    use super::*;

    fn me(user: &str, role: Role) -> Me {
        let user: UserName = user.parse().unwrap();
        Me {
            cluster: "alice/friends".parse().unwrap(),
            name: PeerName::new(&user, "box", 1),
            user,
            role,
            identity: Identity::from_secret(&[1; 32]),
            secret: ProcessSecret::from_entropy([2; 32]),
        }
    }

    fn at(seconds: u64) -> Now {
        Now { at: Duration::from_secs(seconds), unix: 1_800_000_000 + seconds }
    }

    fn claimed(user: &str, number: u8) -> Claimed {
        let cluster = "alice/friends".parse().unwrap();
        let identity = Identity::from_secret(&[number; 32]);
        let process = ProcessSecret::from_entropy([number; 32]).process_key();
        let certificate = ProcessCertificate::sign(&identity, &cluster, Role::Worker, process, 0, u64::MAX);
        let user: UserName = user.parse().unwrap();
        let name = PeerName::new(&user, "box", 1);
        let keys = PeerKeys { machine: identity.machine_key(), process };
        Claimed { name, claim: Claim { user, keys, certificate, role: Role::Worker } }
    }

    fn watched(out: &[SideOutput]) -> usize {
        out.iter().filter(|output| matches!(output, SideOutput::Watch { .. })).count()
    }

    fn attended(out: &[SideOutput]) -> usize {
        out.iter().filter(|output| matches!(output, SideOutput::Attend { .. })).count()
    }

    #[test]
    fn so_many_topics_are_open_at_a_time_in_all_and_for_one_user() {
        let (me, mut proofs, mut out) = (me("alice", Role::Host), Proofs::default(), Vec::new());
        for number in 1..=20 {
            proofs.on_claim(at(0), &me, claimed("bob", number), &mut out);
        }
        assert_eq!(watched(&out), limits::SIDE_TOPICS_PER_USER);
        for number in 21..=40 {
            proofs.on_claim(at(0), &me, claimed(&format!("user{number}"), number), &mut out);
        }
        assert_eq!(watched(&out), limits::SIDE_TOPICS);
        // Who was proved makes room at once, who was not when his time is over.
        let SideOutput::Watch { topic, look, .. } = out[0].clone() else { panic!("{out:?}") };
        out.clear();
        let proved = proofs.on_seen(&topic, look, &mut out).unwrap();
        proofs.on_proved(&proved.claim.user, proved.claim.keys.machine);
        assert!(proofs.on_tick(at(0), &me, &mut out).is_empty());
        assert_eq!(watched(&out), 1);
        out.clear();
        let unseen = proofs.on_tick(at(3), &me, &mut out);
        assert!(!unseen.is_empty() && watched(&out) > 0, "{unseen:?}");
    }

    /// The same keys in two names, and what was seen too late.
    #[test]
    fn a_sighting_counts_for_the_user_and_the_look_that_it_was_for() {
        let (me, mut proofs, mut out) = (me("alice", Role::Host), Proofs::default(), Vec::new());
        proofs.on_claim(at(0), &me, claimed("carol", 1), &mut out);
        let SideOutput::Watch { topic: carols, look: first, .. } = out[0].clone() else { panic!("{out:?}") };
        proofs.on_claim(at(0), &me, claimed("bob", 1), &mut out);
        assert_eq!(watched(&out), 2, "bob does not wait for her");
        assert_eq!(proofs.on_tick(at(limits::SIDE_TOPIC_TIME.as_secs()), &me, &mut out).len(), 2);
        for user in ["bob", "carol"] {
            proofs.on_claim(at(60), &me, claimed(user, 1), &mut out);
        }
        assert!(proofs.on_opened(&carols, first).is_none() && proofs.on_seen(&carols, first, &mut out).is_none());
        let again = out.iter().rev().find_map(|output| match output {
            SideOutput::Watch { topic, look, .. } if *topic == carols => Some(*look),
            _ => None,
        });
        let seen = proofs.on_seen(&carols, again.unwrap(), &mut out).unwrap();
        assert_eq!(seen.claim.user.as_str(), "carol");
    }

    #[test]
    fn a_call_in_another_name_keeps_no_guest_waiting() {
        let (me, mut proofs, mut out) = (me("alice", Role::Host), Proofs::default(), Vec::new());
        for user in ["carol", "bob"] {
            proofs.on_summon(at(0), &me, user.parse().unwrap(), ProcessKey([5; 32]), &mut out);
        }
        assert_eq!(attended(&out), 2);
    }

    #[test]
    fn a_claimant_has_so_long_to_show_himself_and_a_guest_to_see_her() {
        let (me, mut proofs, mut out) = (me("alice", Role::Host), Proofs::default(), Vec::new());
        proofs.on_claim(at(0), &me, claimed("bob", 1), &mut out);
        for number in 0..100 {
            proofs.on_summon(at(0), &me, "bob".parse().unwrap(), ProcessKey([number; 32]), &mut out);
            proofs.on_summon(
                at(0),
                &me,
                format!("user{number}").parse().unwrap(),
                ProcessKey([100 + number; 32]),
                &mut out,
            );
        }
        assert_eq!(attended(&out), limits::SIDE_VISITS);
        assert!(proofs.on_tick(at(limits::SIDE_TOPIC_TIME.as_secs() - 1), &me, &mut out).is_empty());
        assert_eq!(proofs.on_tick(at(limits::SIDE_TOPIC_TIME.as_secs()), &me, &mut out).len(), 1);
        for second in 0..2000 {
            proofs.on_tick(at(20 + second), &me, &mut out);
        }
        assert!(proofs.wake_at().is_none() && proofs.users().is_empty(), "something stays for ever");
    }
}
