//! Fair shares, as the world sees them (I-06, S-01): who has had how much of a worker's slots while others waited there. Nothing of this asks
//! the worker; a start costs what the users of that worker are many.
//!
//! For each two users of a worker there is a *lead*: the slot-seconds of the one less those of the other, each divided by his weight. Time in which
//! nothing waited for one of them is no credit of his. A slot that goes to somebody is fair while his lead over each for whom something waits is
//! no more than what the other's running attempts will add, and one attempt's length on one slot.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::ids::UserName;
use p2p_proto::limits;

use crate::world::Peer;

/// What a slot adds to a lead in a nanosecond for a user of weight 1: enough that weights lose nothing to rounding.
const SCALE: i128 = 1 << 16;

/// An attempt, as far as fairness goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Slots.
    pub(crate) cpus: u32,
    /// It takes one slot and no memory, and others may run beside it: nothing but its turn keeps it waiting.
    pub(crate) plain: bool,
}

/// All workers.
#[derive(Debug, Default)]
pub(crate) struct Fair {
    workers: BTreeMap<Peer, Shares>,
}

#[derive(Debug, Default)]
struct Shares {
    users: Vec<User>,
    /// Of each user over each other one.
    leads: Vec<Vec<i128>>,
    settled: Duration,
    /// Attempts here that are not plain: while there are any, who is next depends on what fits.
    special: u32,
    /// The longest that an attempt ran here.
    longest: Duration,
}

#[derive(Debug)]
struct User {
    name: UserName,
    weight: u32,
    waiting: u32,
    slots: u32,
}

impl User {
    fn of(&self, time: Duration, slots: u32) -> i128 {
        let slot_ns = time.as_nanos() * u128::from(slots);
        i128::try_from(slot_ns).unwrap_or(i128::MAX / SCALE) * SCALE / i128::from(self.weight)
    }
}

impl Fair {
    /// Something waits there.
    pub(crate) fn on_staged(&mut self, at: Duration, worker: Peer, user: &UserName, weight: u32, load: Load) {
        let shares = self.workers.entry(worker).or_default();
        shares.settle(at);
        let id = shares.id(user, weight);
        shares.special += u32::from(!load.plain);
        shares.users[id].waiting += 1;
        if shares.users[id].waiting == 1 {
            shares.comes(id);
        }
    }

    /// It waits no longer, and did not start.
    pub(crate) fn on_unstaged(&mut self, at: Duration, worker: Peer, user: &UserName, load: Load) {
        self.change(at, worker, user, |shares, id| {
            shares.special = shares.special.saturating_sub(u32::from(!load.plain));
            shares.users[id].waiting = shares.users[id].waiting.saturating_sub(1);
        });
    }

    /// It waited, and starts. Returns whom that passes over, if it is not his turn, and by how much the other one leads.
    pub(crate) fn on_start(
        &mut self,
        at: Duration,
        worker: Peer,
        user: &UserName,
        load: Load,
    ) -> Option<(UserName, Duration)> {
        let mut passed = None;
        self.change(at, worker, user, |shares, id| {
            passed = shares.passed_over(id).filter(|_| shares.special == 0);
            shares.users[id].waiting = shares.users[id].waiting.saturating_sub(1);
            shares.users[id].slots += load.cpus;
        });
        passed
    }

    /// What ran for so long has ended.
    pub(crate) fn on_end(&mut self, at: Duration, worker: Peer, user: &UserName, load: Load, ran: Duration) {
        self.change(at, worker, user, |shares, id| {
            shares.special = shares.special.saturating_sub(u32::from(!load.plain));
            shares.longest = shares.longest.max(ran);
            shares.users[id].slots = shares.users[id].slots.saturating_sub(load.cpus);
        });
    }

    /// The process is gone.
    pub(crate) fn on_gone(&mut self, worker: Peer) {
        self.workers.remove(&worker);
    }

    fn change(&mut self, at: Duration, worker: Peer, user: &UserName, what: impl FnOnce(&mut Shares, usize)) {
        let Some(shares) = self.workers.get_mut(&worker) else { return };
        shares.settle(at);
        if let Some(id) = shares.users.iter().position(|known| known.name == *user) {
            what(shares, id);
        }
    }
}

impl Shares {
    fn id(&mut self, name: &UserName, weight: u32) -> usize {
        if let Some(id) = self.users.iter().position(|user| user.name == *name) {
            return id;
        }
        let weight = weight.clamp(1, limits::WEIGHT);
        self.users.push(User { name: name.clone(), weight, waiting: 0, slots: 0 });
        self.leads.iter_mut().for_each(|row| row.push(0));
        self.leads.push(vec![0; self.users.len()]);
        self.users.len() - 1
    }

    fn settle(&mut self, at: Duration) {
        let passed = at.saturating_sub(std::mem::replace(&mut self.settled, at));
        if passed.is_zero() {
            return;
        }
        for id in 0..self.users.len() {
            let had = self.users[id].of(passed, self.users[id].slots);
            if had > 0 {
                self.add(id, had);
            }
        }
    }

    fn add(&mut self, id: usize, had: i128) {
        for other in (0..self.users.len()).filter(|other| *other != id) {
            self.leads[id][other] += had;
            self.leads[other][id] -= had;
        }
    }

    /// Nothing waited for him before: that is no credit, but for one turn, if something of his still runs.
    fn comes(&mut self, id: usize) {
        let most = if self.users[id].slots > 0 { self.stride() } else { 0 };
        for other in (0..self.users.len()).filter(|other| *other != id) {
            let lead = self.leads[other][id].min(most);
            (self.leads[other][id], self.leads[id][other]) = (lead, -lead);
        }
    }

    /// What one attempt on one slot adds to a lead at most.
    fn stride(&self) -> i128 {
        self.users.iter().map(|user| user.of(self.longest, 1)).max().unwrap_or(0)
    }

    fn passed_over(&self, id: usize) -> Option<(UserName, Duration)> {
        let stride = self.stride();
        let others = self.users.iter().enumerate().filter(|(other, user)| *other != id && user.waiting > 0);
        let passed = others.map(|(other, user)| (other, self.leads[id][other] - user.of(self.longest, user.slots)));
        let (other, beyond) = passed.max_by_key(|(_, beyond)| *beyond)?;
        (beyond > stride).then(|| {
            let lead = self.leads[id][other] / SCALE;
            (self.users[other].name.clone(), Duration::from_nanos(u64::try_from(lead).unwrap_or(u64::MAX)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const PLAIN: Load = Load { cpus: 1, plain: true };

    /// On one slot, each turn a second: in this order; then: whose turn is a broken rule, and from which one on.
    fn broken(order: &[&str], weights: [u32; 2]) -> Option<usize> {
        let mut fair = Fair::default();
        let users: [UserName; 2] = ["a", "b"].map(|user| user.parse().unwrap());
        for _ in order {
            for (user, weight) in users.iter().zip(weights) {
                fair.on_staged(S, 0, user, weight, PLAIN);
            }
        }
        let mut at = S;
        order.iter().position(|user| {
            let user = user.parse().unwrap();
            let passed = fair.on_start(at, 0, &user, PLAIN);
            at += S;
            fair.on_end(at, 0, &user, PLAIN, S);
            passed.is_some()
        })
    }

    #[test]
    fn turns_are_fair_by_weight_within_one_attempt_on_one_slot() {
        assert_eq!(broken(&["a", "b", "a", "b", "b", "a", "a", "b"], [1, 1]), None);
        assert_eq!(broken(&["a", "a", "a", "a"], [1, 1]), Some(2));
        assert_eq!(broken(&["a", "a", "a", "b", "a", "a", "a", "b"], [3, 1]), None);
        assert_eq!(broken(&["b", "b", "b", "b"], [3, 1]), Some(2));
    }
}
