//! Whose turn it is: fair queueing by slot-seconds over users (S-01, I-06).
//!
//! What a user's attempts have occupied of the slots, divided by his weight, is his *usage*; of the users for whom something waits, the one
//! with the least is next. What runs is counted up to now, and once more as long as his attempts take on average: who was just given
//! a slot waits for the next one until the others have theirs, though he has used nothing of it yet.
//!
//! Usage says nothing by itself, only who is ahead of whom. Who comes, or had nothing waiting, is brought up to the least usage of those who wait:
//! time away is no credit, and no debt either, for whoever was ahead stays so until the others have caught up. Where nobody is, all begin anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use p2p_proto::ids::UserName;
use p2p_proto::limits;

/// Users without a link whose usage is remembered while they are ahead of the others; of more, those who are least ahead are forgotten.
const REMEMBERED_USERS: usize = 256;
/// What one slot adds to the usage of a user of weight 1 in a nanosecond: enough that the largest weight loses nothing to rounding.
const SCALE: u128 = 1 << 16;
/// Of this many lengths, one is the newest in the mean.
const MEAN_OF: u64 = 8;

/// A user, for as long as something of his is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct UserId(u64);

/// What each user has had of the slots.
#[derive(Debug)]
pub(super) struct Shares {
    weights: BTreeMap<UserName, u32>,
    ids: HashMap<UserName, UserId>,
    users: BTreeMap<UserId, Share>,
    next_id: u64,
    /// Those for whom something waits.
    waiting: BTreeSet<UserId>,
    /// Those for whom something waits or runs.
    active: BTreeSet<UserId>,
    /// Those who are remembered only for what they are ahead.
    gone: BTreeSet<UserId>,
    /// The least usage of those who waited, when somebody last stopped waiting, or the most of all, when nobody was here: nobody starts below.
    floor: u128,
    /// The most that anybody has used.
    most: u128,
    /// How long an attempt of whomever occupies its slots on average, nanoseconds.
    mean_ns: u64,
    /// Counts starts: among equals, who was served longest ago is next.
    turn: u64,
}

#[derive(Debug)]
struct Share {
    name: UserName,
    weight: u32,
    /// Up to `settled`; in [`SCALE`]ths of a slot-nanosecond, divided by his weight.
    usage: u128,
    settled: Duration,
    /// Slots that his attempts occupy.
    slots: u32,
    links: u32,
    mean_ns: Option<u64>,
    turn: u64,
}

impl Share {
    fn usage_at(&self, at: Duration) -> u128 {
        let passed = at.saturating_sub(self.settled).as_nanos();
        self.usage + self.of(passed * u128::from(self.slots))
    }

    fn settle(&mut self, at: Duration) {
        self.usage = self.usage_at(at);
        self.settled = at;
    }

    /// What so many slot-nanoseconds are for him.
    fn of(&self, slot_ns: u128) -> u128 {
        slot_ns * SCALE / u128::from(self.weight)
    }

    fn mean(&self, of_all: u64) -> u128 {
        // Not nothing, so that of two who have used the same the one with fewer slots is next.
        u128::from(self.mean_ns.unwrap_or(of_all).max(1))
    }
}

impl Shares {
    /// Who is not in `weights` has weight 1; a weight is taken as from 1 to [`limits::WEIGHT`].
    pub(super) fn new(weights: BTreeMap<UserName, u32>) -> Self {
        Self {
            weights,
            ids: HashMap::new(),
            users: BTreeMap::new(),
            next_id: 0,
            waiting: BTreeSet::new(),
            active: BTreeSet::new(),
            gone: BTreeSet::new(),
            floor: 0,
            most: 0,
            mean_ns: 0,
            turn: 0,
        }
    }

    /// One more link of a user is here.
    pub(super) fn on_link(&mut self, at: Duration, name: &UserName) -> UserId {
        let id = match self.ids.get(name) {
            Some(id) => *id,
            None => {
                self.next_id += 1;
                let id = UserId(self.next_id);
                let weight = self.weights.get(name).copied().unwrap_or(1).clamp(1, limits::WEIGHT);
                let (name, turn) = (name.clone(), self.turn);
                self.ids.insert(name.clone(), id);
                let share = Share { name, weight, usage: 0, settled: at, slots: 0, links: 0, mean_ns: None, turn };
                self.users.insert(id, share);
                id
            }
        };
        self.gone.remove(&id);
        if let Some(share) = self.users.get_mut(&id) {
            share.links += 1;
        }
        id
    }

    /// A link of his is gone.
    pub(super) fn on_link_gone(&mut self, id: UserId) {
        if let Some(share) = self.users.get_mut(&id) {
            share.links -= 1;
        }
        self.forget(id);
    }

    /// Something waits for him, and nothing did before.
    pub(super) fn on_waiting(&mut self, at: Duration, id: UserId) {
        if !self.waiting.insert(id) {
            return;
        }
        let ran = !self.active.insert(id);
        let present = self.present(at, id);
        // Who still has something running was away for a moment only, such as a round trip: what he is behind in one turn is his.
        let behind = if ran { self.stride() } else { 0 };
        if let Some(share) = self.users.get_mut(&id) {
            share.settle(at);
            share.usage = share.usage.max(present.saturating_sub(behind));
        }
    }

    /// Nothing waits for him any more.
    pub(super) fn on_none_waiting(&mut self, at: Duration, id: UserId) {
        self.floor = self.least(at, &self.waiting, None).unwrap_or(0).max(self.floor);
        self.waiting.remove(&id);
        self.rest(id);
    }

    /// An attempt of his takes so many slots.
    pub(super) fn on_start(&mut self, at: Duration, id: UserId, slots: u32) {
        self.turn += 1;
        if let Some(share) = self.users.get_mut(&id) {
            share.settle(at);
            share.slots += slots;
            share.turn = self.turn;
        }
    }

    /// An attempt of his that ran since then has left its slots.
    pub(super) fn on_end(&mut self, at: Duration, id: UserId, slots: u32, since: Duration) {
        let ran_ns = u64::try_from(at.saturating_sub(since).as_nanos()).unwrap_or(u64::MAX);
        let mixed = |mean: u64| mean - mean / MEAN_OF + ran_ns / MEAN_OF;
        self.mean_ns = if self.mean_ns == 0 { ran_ns } else { mixed(self.mean_ns) };
        if let Some(share) = self.users.get_mut(&id) {
            share.settle(at);
            share.slots -= slots;
            share.mean_ns = Some(share.mean_ns.map_or(ran_ns, mixed));
            self.most = self.most.max(share.usage);
        }
        self.rest(id);
    }

    /// Whose turn it is.
    pub(super) fn next(&self, at: Duration) -> Option<UserId> {
        match self.waiting.len() {
            0 | 1 => self.waiting.first().copied(),
            _ => self.waiting.iter().copied().min_by_key(|id| self.key(at, *id)),
        }
    }

    /// Everybody for whom something waits, in the order of their turns.
    pub(super) fn in_turn(&self, at: Duration) -> Vec<UserId> {
        let mut users: Vec<UserId> = self.waiting.iter().copied().collect();
        users.sort_by_cached_key(|id| self.key(at, *id));
        users
    }

    /// How many users have something here.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    fn key(&self, at: Duration, id: UserId) -> (u128, u64) {
        self.users.get(&id).map_or((0, 0), |share| {
            let ahead = share.of(u128::from(share.slots) * share.mean(self.mean_ns));
            (share.usage_at(at) + ahead, share.turn)
        })
    }

    /// Where the others are that `newcomer` competes with.
    fn present(&self, at: Duration, newcomer: UserId) -> u128 {
        if self.active.len() == 1 {
            return self.floor;
        }
        let others =
            self.least(at, &self.waiting, Some(newcomer)).or_else(|| self.least(at, &self.active, Some(newcomer)));
        others.unwrap_or(0).max(self.floor)
    }

    fn least(&self, at: Duration, of: &BTreeSet<UserId>, but: Option<UserId>) -> Option<u128> {
        let users = of.iter().filter(|id| Some(**id) != but).filter_map(|id| self.users.get(id));
        users.map(|share| share.usage_at(at)).min()
    }

    /// The most that one attempt of ordinary length adds to the usage of anybody who is here.
    fn stride(&self) -> u128 {
        let users = self.active.iter().filter_map(|id| self.users.get(id));
        users.map(|share| share.of(share.mean(self.mean_ns))).max().unwrap_or(0)
    }

    /// He may have nothing here any more.
    fn rest(&mut self, id: UserId) {
        let runs = self.users.get(&id).is_some_and(|share| share.slots > 0);
        if !runs && !self.waiting.contains(&id) {
            self.active.remove(&id);
            if self.active.is_empty() {
                // What anybody had before that is nobody's claim.
                self.floor = self.floor.max(self.most);
            }
            self.forget(id);
        }
    }

    /// Forgets who has neither link nor attempts, unless he is ahead of the others: else he would only have to come again.
    fn forget(&mut self, id: UserId) {
        let Some(share) = self.users.get(&id) else { return };
        if share.links > 0 || self.active.contains(&id) {
            return;
        }
        if share.usage > self.floor {
            self.gone.insert(id);
            if self.gone.len() <= REMEMBERED_USERS {
                return;
            }
        }
        let usage = |id: &UserId| self.users.get(id).map(|share| share.usage);
        let least = if self.gone.contains(&id) { self.gone.iter().copied().min_by_key(usage) } else { Some(id) };
        if let Some(least) = least {
            self.gone.remove(&least);
            if let Some(share) = self.users.remove(&least) {
                self.ids.remove(&share.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn name(user: usize) -> UserName {
        format!("user{user}").parse().unwrap()
    }

    /// Users with endless work on one machine: who has had how many slot-seconds.
    struct Machine {
        shares: Shares,
        users: Vec<(UserId, Duration, Duration)>,
        at: Duration,
        /// Whose, since when, until when.
        running: Vec<(usize, Duration, Duration)>,
    }

    impl Machine {
        fn new(slots: usize, weights: &[u32]) -> Self {
            let weights = weights.iter().enumerate().map(|(user, weight)| (name(user), *weight)).collect();
            Self { shares: Shares::new(weights), users: Vec::new(), at: S, running: vec![(0, S, S); slots] }
        }

        /// Somebody comes, whose attempts take so long.
        fn comes(&mut self, length: Duration) -> usize {
            let id = self.shares.on_link(self.at, &name(self.users.len()));
            self.shares.on_waiting(self.at, id);
            self.users.push((id, length, Duration::ZERO));
            self.users.len() - 1
        }

        /// So much time passes; slots are never idle.
        fn run_for(&mut self, time: Duration) {
            let until = self.at + time;
            loop {
                let (slot, ends) =
                    (0..self.running.len()).map(|slot| (slot, self.running[slot].2)).min_by_key(|it| it.1).unwrap();
                if ends >= until {
                    break;
                }
                self.at = ends.max(self.at);
                let (user, since, _) = self.running[slot];
                if since < ends {
                    self.shares.on_end(self.at, self.users[user].0, 1, since);
                    self.users[user].2 += ends - since;
                }
                let next = self.shares.next(self.at).unwrap();
                let user = self.users.iter().position(|(id, ..)| *id == next).unwrap();
                self.shares.on_start(self.at, next, 1);
                self.running[slot] = (user, self.at, self.at + self.users[user].1);
            }
            self.at = until;
        }

        /// Slot-seconds that each has had since the last time, with what runs.
        fn had(&mut self) -> Vec<f64> {
            let running = |user| {
                let mine = self.running.iter().filter(move |it| it.0 == user);
                mine.map(|it| self.at.saturating_sub(it.1)).sum::<Duration>()
            };
            let had = (0..self.users.len()).map(|user| (self.users[user].2 + running(user)).as_secs_f64()).collect();
            for user in 0..self.users.len() {
                self.users[user].2 = Duration::ZERO;
            }
            had
        }
    }

    /// Columns: slots, how long the attempts of each take in seconds, their weights; then: what share each is due.
    #[test]
    fn users_with_endless_work_share_by_weight_however_long_their_attempts_are() {
        type Row = (usize, &'static [u64], &'static [u32], &'static [f64]);
        let table: [Row; 8] = [
            (1, &[1, 1], &[1, 1], &[0.5, 0.5]),
            (2, &[1, 1], &[1, 1], &[0.5, 0.5]),
            (3, &[1, 1], &[1, 1], &[0.5, 0.5]),
            (1, &[10, 1], &[1, 1], &[0.5, 0.5]),
            (5, &[100, 3], &[1, 1], &[0.5, 0.5]),
            (4, &[1, 1], &[3, 1], &[0.75, 0.25]),
            (2, &[7, 2], &[3, 1], &[0.75, 0.25]),
            (8, &[1, 20, 5], &[1, 2, 5], &[0.125, 0.25, 0.625]),
        ];
        for (slots, lengths, weights, due) in table {
            let mut machine = Machine::new(slots, weights);
            for length in lengths {
                machine.comes(S * u32::try_from(*length).unwrap());
            }
            machine.run_for(S * 10_000);
            let (had, longest) = (machine.had(), *lengths.iter().max().unwrap() as f64);
            for (had, due) in had.iter().zip(due) {
                let due = due * 10_000.0 * slots as f64;
                assert!((had - due).abs() <= longest + 0.1, "{slots} {lengths:?} {weights:?}: {had} of {due}");
            }
        }
    }

    #[test]
    fn who_comes_late_has_neither_credit_nor_penalty() {
        let mut machine = Machine::new(2, &[]);
        machine.comes(S * 5);
        machine.run_for(S * 1000);
        machine.comes(S);
        machine.had();
        machine.run_for(S * 1000);
        let had = machine.had();
        assert!((had[0] - had[1]).abs() <= 20.0, "{had:?}");
    }

    #[test]
    fn what_one_had_alone_is_no_claim_of_who_comes_when_he_is_done() {
        let mut shares = Shares::new(BTreeMap::new());
        let (a, b) = (shares.on_link(S, &name(0)), shares.on_link(S, &name(1)));
        shares.on_waiting(S, a);
        shares.on_start(S, a, 4);
        shares.on_none_waiting(S, a);
        shares.on_end(S * 100, a, 4, S);
        shares.on_waiting(S * 200, b);
        shares.on_start(S * 200, b, 1);
        shares.on_waiting(S * 200, a);
        assert_eq!(shares.next(S * 210), Some(a));
    }

    /// Seed 6039443 of the simulator.
    #[test]
    fn where_nobody_was_for_a_while_nobody_is_ahead() {
        let mut shares = Shares::new(BTreeMap::new());
        let (a, b) = (shares.on_link(S, &name(0)), shares.on_link(S, &name(1)));
        let runs = |shares: &mut Shares, id: UserId, from: u32, to: u32, slots: u32| {
            shares.on_waiting(S * from, id);
            shares.on_start(S * from, id, slots);
            shares.on_none_waiting(S * from, id);
            shares.on_end(S * to, id, slots, S * from);
        };
        runs(&mut shares, a, 1, 100, 4);
        runs(&mut shares, b, 100, 101, 1);
        shares.on_waiting(S * 200, b);
        shares.on_start(S * 200, b, 1);
        shares.on_waiting(S * 200, a);
        assert_eq!(shares.next(S * 210), Some(a));
    }

    #[test]
    fn one_slot_used_while_others_wait_is_no_claim_to_all_of_them_later() {
        let mut shares = Shares::new(BTreeMap::new());
        let (a, b) = (shares.on_link(S, &name(0)), shares.on_link(S, &name(1)));
        for id in [a, b] {
            shares.on_waiting(S, id);
        }
        shares.on_start(S, a, 1);
        shares.on_none_waiting(S, a);
        shares.on_start(S, b, 7);
        let later = S * 3600;
        shares.on_waiting(later, a);
        assert_eq!(shares.users[&a].usage, shares.users[&b].usage_at(later) - shares.stride());
    }

    #[test]
    fn who_leaves_ahead_comes_back_ahead_and_not_more_are_remembered_than_the_bound() {
        let mut shares = Shares::new(BTreeMap::new());
        let waits = shares.on_link(S, &name(0));
        shares.on_waiting(S, waits);
        let greedy = |shares: &mut Shares, user: usize, seconds: u32| {
            let id = shares.on_link(S, &name(user));
            shares.on_waiting(S, id);
            shares.on_start(S, id, 1);
            shares.on_none_waiting(S, id);
            shares.on_end(S * (1 + seconds), id, 1, S);
            shares.on_link_gone(id);
        };
        greedy(&mut shares, 1, 100);
        let back = shares.on_link(S * 101, &name(1));
        shares.on_waiting(S * 101, back);
        assert_eq!(shares.next(S * 101), Some(waits));
        for user in 2..1000 {
            greedy(&mut shares, user, 100 + u32::try_from(user).unwrap());
        }
        assert_eq!((shares.gone.len(), shares.users.len(), shares.ids.len()), (256, 258, 258));
        assert!(shares.ids.contains_key(&name(999)) && !shares.ids.contains_key(&name(2)));
        // Who is not ahead is nobody to remember.
        let id = shares.on_link(S * 101, &name(1000));
        shares.on_link_gone(id);
        assert!(!shares.ids.contains_key(&name(1000)));
    }
}
