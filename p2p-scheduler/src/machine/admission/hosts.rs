//! Whose login is behind the key of somebody who signs as host: what a newcomer finds out before he believes it (T-02).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::board::message::{Admit, Summon};
use p2p_proto::board::{Line, Message};
use p2p_proto::ids::MachineKey;
use p2p_proto::limits;

use super::super::side::SideOutput;
use super::super::speaker::Speaker;
use super::super::{Me, Now, earliest};

/// She is called again after this long: lines get lost.
const SUMMON_AGAIN: Duration = Duration::from_secs(3);

/// A key is checked for so long while others wait.
const LEAST: Duration = Duration::from_secs(4);

/// Keys that are checked, wait for it, or have signed meanwhile.
///
/// Anybody can say that a key is hers, with as many keys as he likes. The host says hers after each claim: so keys that come again after another
/// claim are checked before those that come once, and where there are many of either, the lot decides.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    checked: BTreeMap<MachineKey, Check>,
    /// Looks begun so far.
    looks: u64,
    heard: BTreeMap<MachineKey, Heard>,
    /// Claims said so far.
    claims: u64,
    /// Lots drawn so far.
    draws: u64,
    signed: BTreeMap<MachineKey, Admit>,
}

#[derive(Debug)]
struct Heard {
    /// After which claim, the last time.
    claim: u64,
    /// It came after several.
    again: bool,
    /// It is to be checked.
    waits: bool,
    /// How often it was checked in vain.
    tries: u32,
}

#[derive(Debug)]
struct Check {
    look: u64,
    since: Duration,
    /// Once the topic is open.
    summon_at: Option<Duration>,
}

impl Check {
    /// Others that wait make it short.
    fn ends_at(&self, others_wait: bool) -> Duration {
        self.since + if others_wait { LEAST } else { limits::SIDE_TOPIC_TIME }
    }
}

impl Hosts {
    /// Somebody says that this is the host's key.
    pub(super) fn consider(&mut self, now: Now, me: &Me, host: MachineKey, out: &mut Vec<SideOutput>) {
        let waits = !self.checked.contains_key(&host);
        if let Some(heard) = self.heard.get_mut(&host) {
            heard.again |= heard.claim != self.claims;
            heard.claim = self.claims;
            heard.waits |= waits;
        } else {
            if self.heard.len() >= limits::HOSTS_HEARD
                && let Some(gone) = self.draw(me, |heard| Some(!heard.again))
            {
                self.heard.remove(&gone);
            }
            self.heard.insert(host, Heard { claim: self.claims, again: false, waits, tries: 0 });
        }
        self.begin(now, me, out);
    }

    /// A claim was said: whom it brings is heard anew.
    pub(super) fn on_claim(&mut self) {
        self.claims += 1;
    }

    /// One of those that rank highest, by lot.
    fn draw<R: Ord>(&mut self, me: &Me, rank: impl Fn(&Heard) -> Option<R>) -> Option<MachineKey> {
        let best = self.heard.values().filter_map(&rank).max()?;
        let highest: Vec<_> = self.heard.iter().filter(|(_, heard)| rank(heard).as_ref() == Some(&best)).collect();
        self.draws += 1;
        let at = me.secret.lot(self.draws) % u64::try_from(highest.len()).ok()?;
        highest.get(usize::try_from(at).ok()?).map(|(host, _)| **host)
    }

    fn has_waiting(&self) -> bool {
        self.heard.values().any(|heard| heard.waits)
    }

    /// Keeps what she has signed until it is known whether she is the host.
    pub(super) fn keep(&mut self, host: MachineKey, admit: Admit) {
        if self.signed.len() < limits::HOSTS_WAITING || self.signed.contains_key(&host) {
            self.signed.insert(host, admit);
        }
    }

    /// The topic is open: calls her there.
    pub(super) fn on_opened(&mut self, now: Now, me: &Me, topic: &str, look: u64) {
        for (host, check) in &mut self.checked {
            if check.look == look && topic_of(me, *host) == topic {
                check.summon_at = Some(now.at);
            }
        }
    }

    /// Something was seen there: which key it was for.
    pub(super) fn on_seen(
        &mut self,
        now: Now,
        me: &Me,
        topic: &str,
        look: u64,
        out: &mut Vec<SideOutput>,
    ) -> Option<MachineKey> {
        let here = |(host, check): &(&MachineKey, &Check)| check.look == look && topic_of(me, **host) == topic;
        let host = *self.checked.iter().find(here)?.0;
        self.checked.remove(&host);
        out.push(SideOutput::Leave { topic: topic.to_owned() });
        self.begin(now, me, out);
        Some(host)
    }

    /// It is settled who she is: what she has signed, if anything. All else is given up.
    pub(super) fn settle(&mut self, me: &Me, host: MachineKey, out: &mut Vec<SideOutput>) -> Option<Admit> {
        let topics = self.checked.keys().map(|other| topic_of(me, *other));
        out.extend(topics.map(|topic| SideOutput::Leave { topic }));
        let signed = self.signed.remove(&host);
        *self = Self { looks: self.looks, draws: self.draws, ..Self::default() };
        signed
    }

    pub(super) fn on_tick(
        &mut self,
        now: Now,
        me: &Me,
        speaker: &mut Speaker,
        lines: &mut Vec<Line>,
        out: &mut Vec<SideOutput>,
    ) {
        let wait = self.has_waiting();
        self.checked.retain(|host, check| {
            let lasts = check.ends_at(wait) > now.at;
            if !lasts {
                out.push(SideOutput::Leave { topic: topic_of(me, *host) });
            }
            lasts
        });
        for (host, check) in &mut self.checked {
            if check.summon_at.is_some_and(|at| at <= now.at) {
                check.summon_at = Some(now.at + SUMMON_AGAIN);
                let summon = Summon { user: me.user.clone(), host: *host, process: me.secret.process_key() };
                speaker.say(now, Message::Summon(summon), lines);
            }
        }
        self.begin(now, me, out);
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.checked.is_empty()
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        let wait = self.has_waiting();
        let until = self.checked.values().map(|check| check.ends_at(wait)).min();
        earliest([until, self.checked.values().filter_map(|check| check.summon_at).min()])
    }

    fn begin(&mut self, now: Now, me: &Me, out: &mut Vec<SideOutput>) {
        while self.checked.len() < limits::HOSTS_CHECKED {
            // In turn: what was in vain so far comes last, and each that came again has the same chance, since a slow host may be among them.
            let host = if self.looks.is_multiple_of(2) {
                self.draw(me, |heard| heard.waits.then_some((Reverse(heard.tries), heard.again)))
            } else {
                self.draw(me, |heard| heard.waits.then_some(heard.again))
            };
            let Some(host) = host else { break };
            if let Some(heard) = self.heard.get_mut(&host) {
                heard.waits = false;
                heard.tries += 1;
            }
            let topic = topic_of(me, host);
            self.looks += 1;
            out.push(SideOutput::Watch { topic, guest: me.cluster.owner().clone(), look: self.looks });
            self.checked.insert(host, Check { look: self.looks, since: now.at, summon_at: None });
        }
    }
}

fn topic_of(me: &Me, host: MachineKey) -> String {
    me.cluster.host_topic(&me.user, host, me.secret.process_key())
}

#[cfg(test)]
mod tests {
    use p2p_proto::ids::{PeerName, Role, UserName};
    use p2p_proto::trust::{Identity, ProcessSecret};

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

    #[test]
    fn a_key_that_comes_after_each_claim_is_checked_soon_whatever_comes_once() {
        let (me, mut hosts, mut out) = (me("bob", Role::Worker), Hosts::default(), Vec::new());
        let (mut speaker, mut lines) = (Speaker::new(me.name.clone()), Vec::new());
        let host = MachineKey([255; 32]);
        let mut number = 0_u64;
        let mut looks = 0;
        for second in 0..120 {
            for _ in 0..20 {
                number += 1;
                let mut key = [0; 32];
                key[..8].copy_from_slice(&number.to_be_bytes());
                hosts.consider(at(second), &me, MachineKey(key), &mut out);
            }
            // She answers claims, however little is left of what was heard before.
            if [10, 11, 13, 17, 25, 41, 71, 101].contains(&second) {
                hosts.on_claim();
                hosts.consider(at(second), &me, host, &mut out);
            }
            let before = hosts.checked.contains_key(&host);
            hosts.on_tick(at(second), &me, &mut speaker, &mut lines, &mut out);
            looks += usize::from(!before && hosts.checked.contains_key(&host));
        }
        assert!(looks >= 3, "she is looked for {looks} times in two minutes");
    }

    #[test]
    fn so_many_keys_are_checked_at_a_time_and_so_many_wait() {
        let (me, mut hosts, mut out) = (me("bob", Role::Worker), Hosts::default(), Vec::new());
        for number in 0..200 {
            hosts.consider(at(0), &me, MachineKey([number; 32]), &mut out);
        }
        assert_eq!(out.len(), limits::HOSTS_CHECKED);
        assert_eq!(hosts.heard.len(), limits::HOSTS_HEARD);
        assert!(hosts.heard.keys().any(|key| key.0[0] < 200 - 64), "only the last ones are left");
        let (mut speaker, mut lines) = (Speaker::new(me.name.clone()), Vec::new());
        for second in 0..=300 {
            hosts.on_tick(at(second), &me, &mut speaker, &mut lines, &mut out);
        }
        assert!(!hosts.is_busy() && hosts.wake_at().is_none(), "something stays for ever");
    }
}
