//! Fair shares, as the world sees them (I-06, S-01): who has had how much of a worker's slots while others waited there. Nothing of this asks
//! the worker; a start costs what the users of that worker are many.
//!
//! What each user of a worker has *had* is his slot-seconds, divided by his weight. Who comes, or had nothing waiting, is put where those are for
//! whom something waits: time in which nothing waited for him is no credit of his. Where nobody was, all begin anew. A slot that goes to somebody is
//! fair while he has had no more than each for whom something waits, by what that one's running attempts will add, and one attempt's length on one slot.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::ids::UserName;
use p2p_proto::limits;

use crate::world::Peer;

/// What a slot adds in a nanosecond for a user of weight 1: enough that weights lose nothing to rounding.
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
    /// The least that anybody had had of those for whom something waited, when that last ended for one of them: nobody begins below.
    floor: i128,
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
    had: i128,
    waiting: u32,
    slots: u32,
}

impl User {
    fn is_here(&self) -> bool {
        self.waiting + self.slots > 0
    }

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
        if shares.users[id].waiting == 0 {
            shares.comes(id);
        }
        shares.users[id].waiting += 1;
    }

    /// It waits no longer, and did not start.
    pub(crate) fn on_unstaged(&mut self, at: Duration, worker: Peer, user: &UserName, load: Load) {
        self.change(at, worker, user, |shares, id| {
            shares.special = shares.special.saturating_sub(u32::from(!load.plain));
            shares.waits_less(id);
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
            shares.users[id].slots += load.cpus;
            shares.waits_less(id);
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
        self.users.push(User { name: name.clone(), weight, had: 0, waiting: 0, slots: 0 });
        self.users.len() - 1
    }

    fn settle(&mut self, at: Duration) {
        let passed = at.saturating_sub(std::mem::replace(&mut self.settled, at));
        for user in &mut self.users {
            user.had += user.of(passed, user.slots);
        }
    }

    /// Nothing waited for him before.
    fn comes(&mut self, id: usize) {
        let others = || self.users.iter().enumerate().filter(|(other, user)| *other != id && user.is_here());
        let waiting = others().filter(|(_, user)| user.waiting > 0).map(|(_, user)| user.had).min();
        let least = waiting.or_else(|| others().map(|(_, user)| user.had).min());
        // If something of his still runs, he was away for a moment only, and is left what he was behind in one turn.
        let behind = if self.users[id].slots > 0 { self.stride() } else { 0 };
        let from = match least {
            Some(least) => least.max(self.floor),
            None if self.users[id].slots > 0 => self.floor,
            None => self.users.iter().map(|user| user.had).max().unwrap_or(0),
        };
        self.users[id].had = self.users[id].had.max(from - behind);
    }

    /// One less waits for him.
    fn waits_less(&mut self, id: usize) {
        let least = self.users.iter().filter(|user| user.waiting > 0).map(|user| user.had).min();
        self.users[id].waiting = self.users[id].waiting.saturating_sub(1);
        if self.users[id].waiting == 0 {
            self.floor = self.floor.max(least.unwrap_or(0));
        }
    }

    /// What one attempt on one slot adds at most.
    fn stride(&self) -> i128 {
        self.users.iter().map(|user| user.of(self.longest, 1)).max().unwrap_or(0)
    }

    fn passed_over(&self, id: usize) -> Option<(UserName, Duration)> {
        let stride = self.stride();
        let others = self.users.iter().enumerate().filter(|(other, user)| *other != id && user.waiting > 0);
        let more = |user: &User| self.users[id].had - user.had;
        let passed = others.map(|(_, user)| (user, more(user) - user.of(self.longest, user.slots)));
        let (user, beyond) = passed.max_by_key(|(_, beyond)| *beyond)?;
        (beyond > stride).then(|| {
            let lead = more(user) / SCALE;
            (user.name.clone(), Duration::from_nanos(u64::try_from(lead).unwrap_or(u64::MAX)))
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
