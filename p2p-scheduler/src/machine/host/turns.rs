//! What waits in many names: each name has a short queue of its own, and names have their turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2p_proto::ids::UserName;
use p2p_proto::limits;
use p2p_proto::trust::ProcessSecret;

/// Anybody can say anything in any name: who floods in one keeps nobody else waiting, and what he crowds out in that one is chosen so that
/// it can be any of it.
#[derive(Debug)]
pub(super) struct Turns<T> {
    waiting: BTreeMap<UserName, VecDeque<T>>,
    /// Whose turn was last.
    last: Option<UserName>,
    /// How many came.
    count: u64,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), last: None, count: 0 }
    }
}

impl<T: PartialEq> Turns<T> {
    /// Waits in this name. What waits already keeps its place: anybody can say again what was said once, and must not put it back by that.
    pub(super) fn push(&mut self, secret: &ProcessSecret, user: UserName, item: T) {
        let queue = self.waiting.entry(user).or_default();
        if queue.contains(&item) {
            return;
        }
        self.count = self.count.wrapping_add(1);
        if queue.len() >= limits::CLAIMS_WAITING {
            // By lot: who counts what is said must not be able to tell when whose claim is the one to lose.
            let lot = usize::try_from(secret.lot(self.count) % limits::CLAIMS_WAITING as u64);
            queue.remove(lot.unwrap_or_default());
        }
        queue.push_back(item);
    }

    /// The oldest of whoever is next in turn and `may` have more.
    pub(super) fn next(&mut self, may: impl Fn(&UserName) -> bool) -> Option<(UserName, T)> {
        let after = |user: &&UserName| self.last.as_ref().is_none_or(|last| *user > last);
        let next = self.waiting.keys().filter(after).find(|user| may(user));
        let user = next.or_else(|| self.waiting.keys().find(|user| may(user)))?.clone();
        let queue = self.waiting.get_mut(&user)?;
        let item = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&user);
        }
        self.last = Some(user.clone());
        Some((user, item))
    }

    /// Takes out what is not kept.
    pub(super) fn take(&mut self, user: &UserName, take: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(queue) = self.waiting.get_mut(user) else { return Vec::new() };
        let (taken, kept): (VecDeque<T>, VecDeque<T>) = std::mem::take(queue).into_iter().partition(take);
        *queue = kept;
        if queue.is_empty() {
            self.waiting.remove(user);
        }
        taken.into()
    }

    pub(super) fn has(&self, user: &UserName) -> bool {
        self.waiting.contains_key(user)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn users(&self) -> BTreeSet<&UserName> {
        self.waiting.keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> ProcessSecret {
        ProcessSecret::from_entropy([1; 32])
    }

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    #[test]
    fn names_have_their_turns_whatever_waits_in_one() {
        let mut turns = Turns::default();
        for number in 0..100 {
            turns.push(&secret(), user("bob"), number);
        }
        turns.push(&secret(), user("carol"), 1);
        turns.push(&secret(), user("alice"), 2);
        let order: Vec<_> = (0..4).map(|_| turns.next(|_| true).unwrap().0.to_string()).collect();
        assert_eq!(order, ["alice", "bob", "carol", "bob"]);
        assert_eq!(turns.next(|user| user.as_str() != "bob"), None);
    }

    #[test]
    fn who_is_named_again_keeps_his_place() {
        let mut turns = Turns::default();
        for number in [1, 2, 3, 1, 1] {
            turns.push(&secret(), user("bob"), number);
        }
        let order: Vec<_> = (0..3).map(|_| turns.next(|_| true).unwrap().1).collect();
        assert_eq!(order, [1, 2, 3]);
        assert!(turns.is_empty());
    }

    #[test]
    fn a_queue_is_bounded_and_what_was_there_first_may_outlast_a_flood() {
        let mut turns = Turns::default();
        for number in 0..50 {
            turns.push(&secret(), user("bob"), number);
        }
        let left = turns.take(&user("bob"), |_| true);
        assert_eq!(left.len(), limits::CLAIMS_WAITING);
        assert!(left.iter().any(|number| *number < 30) && left.contains(&49), "{left:?}");
        assert!(turns.is_empty());
    }
}
