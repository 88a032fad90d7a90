//! Whose login is behind the key of somebody who signs as host: what a newcomer finds out before he believes it (T-02).

use std::collections::{BTreeMap, VecDeque};
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
#[derive(Debug, Default)]
pub(super) struct Hosts {
    checked: BTreeMap<MachineKey, Check>,
    /// Looks begun so far.
    looks: u64,
    waiting: VecDeque<MachineKey>,
    /// How many came.
    count: usize,
    signed: BTreeMap<MachineKey, Admit>,
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
        if self.checked.contains_key(&host) || self.waiting.contains(&host) {
            return;
        }
        self.count = self.count.wrapping_add(1);
        if self.waiting.len() >= limits::HOSTS_WAITING {
            // Anybody can say that his key is hers: which one is crowded out is not for him to choose.
            self.waiting.remove(self.count.wrapping_mul(3) % limits::HOSTS_WAITING);
        }
        self.waiting.push_back(host);
        self.begin(now, me, out);
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
        *self = Self { looks: self.looks, ..Self::default() };
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
        let wait = !self.waiting.is_empty();
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
        let until = self.checked.values().map(|check| check.ends_at(!self.waiting.is_empty())).min();
        earliest([until, self.checked.values().filter_map(|check| check.summon_at).min()])
    }

    fn begin(&mut self, now: Now, me: &Me, out: &mut Vec<SideOutput>) {
        while self.checked.len() < limits::HOSTS_CHECKED {
            let Some(host) = self.waiting.pop_front() else { break };
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
    fn so_many_keys_are_checked_at_a_time_and_so_many_wait() {
        let (me, mut hosts, mut out) = (me("bob", Role::Worker), Hosts::default(), Vec::new());
        for number in 0..200 {
            hosts.consider(at(0), &me, MachineKey([number; 32]), &mut out);
        }
        assert_eq!(out.len(), limits::HOSTS_CHECKED);
        assert_eq!(hosts.waiting.len(), limits::HOSTS_WAITING);
        assert!(hosts.waiting.iter().any(|key| key.0[0] < 192), "only the last ones are left");
        let (mut speaker, mut lines) = (Speaker::new(me.name.clone()), Vec::new());
        for second in 0..=120 {
            hosts.on_tick(at(second), &me, &mut speaker, &mut lines, &mut out);
        }
        assert!(!hosts.is_busy() && hosts.wake_at().is_none(), "something stays for ever");
    }
}
