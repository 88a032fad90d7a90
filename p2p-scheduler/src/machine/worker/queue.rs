//! What waits of one user: higher priorities first, his links in turn, each in its own order (S-01).

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use p2p_proto::ids::AttemptId;

use crate::LinkId;

/// An attempt that waits, and what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) attempt: AttemptId,
    /// Slots; all there are for one that runs alone.
    pub(super) cpus: u32,
    /// MiB.
    pub(super) memory_mib: u64,
    /// Higher ones start first.
    pub(super) priority: i8,
    /// Its client sends stdin once it hears that it runs.
    pub(super) stdin: bool,
}

/// Where an attempt was when it was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withdrawn {
    /// It waited, and is forgotten.
    Queued,
    /// It runs; its end is to come.
    Running,
    /// It is not here.
    Unknown,
}

/// Everything of one user that waits.
#[derive(Debug, Default)]
pub(super) struct UserQueue {
    levels: BTreeMap<Reverse<i8>, Level>,
}

/// His attempts of one priority.
#[derive(Debug)]
struct Level {
    /// Ids rise in each, and none is empty.
    queues: BTreeMap<LinkId, VecDeque<Waiting>>,
    /// Whose turn was last: the next one in order is next.
    last_served: LinkId,
}

impl UserQueue {
    /// Puts an attempt last of its link and priority. Its id is above all of that link before it.
    pub(super) fn push(&mut self, link: LinkId, waiting: Waiting) {
        let new = || Level { queues: BTreeMap::new(), last_served: LinkId(0) };
        let level = self.levels.entry(Reverse(waiting.priority)).or_insert_with(new);
        level.queues.entry(link).or_default().push_back(waiting);
    }

    /// What may start, each link's first of each priority, in the order of their turns.
    pub(super) fn fronts(&self) -> impl Iterator<Item = (LinkId, Waiting)> {
        self.levels.values().flat_map(|level| {
            let after = (Bound::Excluded(level.last_served), Bound::Unbounded);
            let turns = level.queues.range(after).chain(level.queues.range(..=level.last_served));
            turns.filter_map(|(link, queue)| queue.front().map(|next| (*link, *next)))
        })
    }

    /// One of [`UserQueue::fronts`] starts.
    pub(super) fn serve(&mut self, link: LinkId, priority: i8) {
        let Some(level) = self.levels.get_mut(&Reverse(priority)) else { return };
        level.last_served = link;
        if let Some(queue) = level.queues.get_mut(&link) {
            queue.pop_front();
            if queue.is_empty() {
                self.tidy(link, priority);
            }
        }
    }

    /// Takes an attempt out. Returns whether it was here.
    pub(super) fn withdraw(&mut self, link: LinkId, attempt: AttemptId) -> bool {
        let priority = self.levels.iter_mut().find_map(|(Reverse(priority), level)| {
            let queue = level.queues.get_mut(&link)?;
            let at = queue.binary_search_by_key(&attempt, |waiting| waiting.attempt).ok()?;
            queue.remove(at);
            Some(*priority)
        });
        if let Some(priority) = priority {
            self.tidy(link, priority);
        }
        priority.is_some()
    }

    /// Takes everything of a link out.
    pub(super) fn withdraw_link(&mut self, link: LinkId) -> Vec<AttemptId> {
        let queues = self.levels.values_mut().filter_map(|level| level.queues.remove(&link));
        let attempts = queues.flatten().map(|waiting| waiting.attempt).collect();
        self.levels.retain(|_, level| !level.queues.is_empty());
        attempts
    }

    /// Takes everything out.
    pub(super) fn into_all(self) -> impl Iterator<Item = (LinkId, AttemptId)> {
        let queues = self.levels.into_values().flat_map(|level| level.queues);
        queues.flat_map(|(link, queue)| queue.into_iter().map(move |waiting| (link, waiting.attempt)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Keeps no empty queue: a client may use every priority once.
    fn tidy(&mut self, link: LinkId, priority: i8) {
        let Some(level) = self.levels.get_mut(&Reverse(priority)) else { return };
        if level.queues.get(&link).is_some_and(VecDeque::is_empty) {
            level.queues.remove(&link);
        }
        if level.queues.is_empty() {
            self.levels.remove(&Reverse(priority));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LinkId = LinkId(1);
    const B: LinkId = LinkId(2);

    fn waiting(attempt: u64, priority: i8) -> Waiting {
        Waiting { attempt: AttemptId(attempt), cpus: 1, memory_mib: 0, priority, stdin: false }
    }

    fn queue(attempts: &[(LinkId, u64, i8)]) -> UserQueue {
        let mut queue = UserQueue::default();
        for (link, attempt, priority) in attempts {
            queue.push(*link, waiting(*attempt, *priority));
        }
        queue
    }

    /// In which order it starts.
    fn order(mut queue: UserQueue) -> Vec<(LinkId, u64)> {
        std::iter::from_fn(|| {
            let (link, next) = queue.fronts().next()?;
            queue.serve(link, next.priority);
            Some((link, next.attempt.0))
        })
        .collect()
    }

    /// Columns: what came, as (link, attempt, priority); then: in which order it starts.
    #[test]
    fn higher_priorities_first_then_links_in_turn_then_as_they_came() {
        let table: [(&[_], &[_]); 4] = [
            (&[(A, 1, 0), (A, 2, 0), (A, 3, 0)], &[(A, 1), (A, 2), (A, 3)]),
            (&[(A, 1, 0), (A, 2, 0), (A, 3, 0), (B, 1, 0), (B, 2, 0)], &[(A, 1), (B, 1), (A, 2), (B, 2), (A, 3)]),
            (&[(A, 1, 0), (A, 2, 5), (A, 3, -5), (A, 4, 5)], &[(A, 2), (A, 4), (A, 1), (A, 3)]),
            (&[(A, 1, 0), (A, 2, 1), (B, 1, 0), (B, 2, 1)], &[(A, 2), (B, 2), (A, 1), (B, 1)]),
        ];
        for (came, expected) in table {
            assert_eq!(order(queue(came)), expected, "{came:?}");
        }
    }

    #[test]
    fn what_is_withdrawn_leaves_nothing_behind() {
        let mut queue = queue(&[(A, 1, 0), (A, 2, 3), (A, 3, 3), (B, 1, 0)]);
        assert!(queue.withdraw(A, AttemptId(2)));
        assert!(!queue.withdraw(A, AttemptId(2)));
        assert!(!queue.withdraw(B, AttemptId(3)));
        assert_eq!(queue.withdraw_link(A), [AttemptId(3), AttemptId(1)]);
        assert!(!queue.is_empty());
        assert!(queue.withdraw(B, AttemptId(1)));
        assert!(queue.is_empty());
    }
}
