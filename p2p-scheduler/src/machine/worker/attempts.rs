//! The attempts on a worker: which wait, which run, and who is next (S-01, I-03).

use std::collections::{BTreeMap, HashMap, VecDeque};

use p2p_proto::ids::AttemptId;

use crate::LinkId;

/// All attempts of all clients.
#[derive(Debug)]
pub(super) struct Attempts {
    slots: u32,
    busy: u32,
    queues: BTreeMap<LinkId, VecDeque<(AttemptId, u32)>>,
    queued: u32,
    running: HashMap<(LinkId, AttemptId), Running>,
    /// How many of each link run, for its credits.
    running_of: HashMap<LinkId, u32>,
    /// Whose turn was last: the next one in order is next.
    last_served: LinkId,
}

#[derive(Debug)]
struct Running {
    cpus: u32,
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

impl Attempts {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slots,
            busy: 0,
            queues: BTreeMap::new(),
            queued: 0,
            running: HashMap::new(),
            running_of: HashMap::new(),
            last_served: LinkId(0),
        }
    }

    /// Lets an attempt wait for `cpus` slots. Returns `false` when its id is here already.
    pub(super) fn queue(&mut self, link: LinkId, attempt: AttemptId, cpus: u32) -> bool {
        let queue = self.queues.entry(link).or_default();
        // Ids count up, so only the last one needs a look; one that runs has left the queue.
        let fresh =
            queue.back().is_none_or(|(last, _)| *last < attempt) && !self.running.contains_key(&(link, attempt));
        if fresh {
            queue.push_back((attempt, cpus));
            self.queued += 1;
        }
        fresh
    }

    /// The next attempt to run, which from now on does: clients in turn, each in its own order.
    pub(super) fn next_to_run(&mut self) -> Option<(LinkId, AttemptId)> {
        if self.queued == 0 || self.busy >= self.slots {
            return None;
        }
        let free = self.slots - self.busy;
        let fits = |queue: &VecDeque<(AttemptId, u32)>| queue.front().is_some_and(|(_, cpus)| *cpus <= free);
        let after = (std::ops::Bound::Excluded(self.last_served), std::ops::Bound::Unbounded);
        let link = self
            .queues
            .range(after)
            .chain(self.queues.range(..=self.last_served))
            .find(|(_, queue)| fits(queue))
            .map(|(link, _)| *link)?;
        let (attempt, cpus) = self.queues.get_mut(&link)?.pop_front()?;
        self.queued -= 1;
        self.busy += cpus;
        self.last_served = link;
        self.running.insert((link, attempt), Running { cpus });
        *self.running_of.entry(link).or_default() += 1;
        Some((link, attempt))
    }

    /// An attempt ended; its slots are free. Returns whether it was here: one that was withdrawn while it ended is not.
    pub(super) fn on_ended(&mut self, link: LinkId, attempt: AttemptId) -> bool {
        let Some(running) = self.running.remove(&(link, attempt)) else {
            // It failed while it was staged.
            return self.forget_queued(link, attempt);
        };
        self.busy -= running.cpus;
        if let Some(count) = self.running_of.get_mut(&link) {
            *count -= 1;
            if *count == 0 {
                self.running_of.remove(&link);
            }
        }
        true
    }

    /// Takes an attempt back from the queue, if it is there.
    pub(super) fn cancel(&mut self, link: LinkId, attempt: AttemptId) -> Withdrawn {
        if self.running.contains_key(&(link, attempt)) {
            Withdrawn::Running
        } else if self.forget_queued(link, attempt) {
            Withdrawn::Queued
        } else {
            Withdrawn::Unknown
        }
    }

    /// The link is gone: everything of its that waits is forgotten. Returns all its attempts, to be killed; those that
    /// run keep their slots until they have ended.
    pub(super) fn on_link_gone(&mut self, link: LinkId) -> Vec<AttemptId> {
        let waiting = self.queues.remove(&link).unwrap_or_default();
        self.queued -= u32::try_from(waiting.len()).unwrap_or(self.queued);
        let running = self.running.keys().filter(|(of, _)| *of == link).map(|(_, attempt)| *attempt);
        waiting.into_iter().map(|(attempt, _)| attempt).chain(running).collect()
    }

    /// Empties all queues.
    pub(super) fn withdraw_queued(&mut self) -> Vec<(LinkId, AttemptId)> {
        self.queued = 0;
        let queues = std::mem::take(&mut self.queues);
        queues
            .into_iter()
            .flat_map(|(link, queue)| queue.into_iter().map(move |(attempt, _)| (link, attempt)))
            .collect()
    }

    /// Everything that runs.
    pub(super) fn running(&self) -> impl Iterator<Item = (LinkId, AttemptId)> {
        self.running.keys().copied()
    }

    /// Slots in use.
    pub(super) fn busy(&self) -> u32 {
        self.busy
    }

    /// Attempts that wait.
    pub(super) fn queued(&self) -> u32 {
        self.queued
    }

    /// Attempts of one link, waiting or running.
    pub(super) fn held(&self, link: LinkId) -> u32 {
        let waiting = self.queues.get(&link).map_or(0, VecDeque::len);
        u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(self.running_of.get(&link).copied().unwrap_or(0))
    }

    /// Whether nothing waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        self.queued == 0 && self.running.is_empty()
    }

    fn forget_queued(&mut self, link: LinkId, attempt: AttemptId) -> bool {
        let Some(queue) = self.queues.get_mut(&link) else { return false };
        let Some(at) = queue.iter().position(|(id, _)| *id == attempt) else { return false };
        queue.remove(at);
        self.queued -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LinkId = LinkId(1);
    const B: LinkId = LinkId(2);

    #[test]
    fn clients_take_turns_whoever_came_first() {
        let mut attempts = Attempts::new(2);
        for id in 0..4 {
            assert!(attempts.queue(A, AttemptId(id), 1));
        }
        assert!(attempts.queue(B, AttemptId(0), 1));
        assert_eq!(attempts.next_to_run(), Some((A, AttemptId(0))));
        assert_eq!(attempts.next_to_run(), Some((B, AttemptId(0))));
        assert_eq!(attempts.next_to_run(), None, "I-03: never more than there are slots");
        attempts.on_ended(B, AttemptId(0));
        assert_eq!(attempts.next_to_run(), Some((A, AttemptId(1))));
        assert_eq!((attempts.busy(), attempts.queued()), (2, 2));
    }

    #[test]
    fn a_wide_task_waits_until_it_fits() {
        let mut attempts = Attempts::new(2);
        attempts.queue(A, AttemptId(0), 1);
        attempts.queue(A, AttemptId(1), 2);
        assert_eq!(attempts.next_to_run(), Some((A, AttemptId(0))));
        assert_eq!(attempts.next_to_run(), None);
        attempts.on_ended(A, AttemptId(0));
        assert_eq!(attempts.next_to_run(), Some((A, AttemptId(1))));
        assert_eq!(attempts.busy(), 2);
    }

    #[test]
    fn what_runs_keeps_its_slot_when_the_link_goes() {
        let mut attempts = Attempts::new(1);
        attempts.queue(A, AttemptId(0), 1);
        attempts.queue(A, AttemptId(1), 1);
        attempts.next_to_run();
        assert_eq!(attempts.on_link_gone(A).len(), 2);
        assert!(!attempts.is_idle());
        attempts.queue(B, AttemptId(0), 1);
        assert_eq!(attempts.next_to_run(), None);
        attempts.on_ended(A, AttemptId(0));
        assert_eq!(attempts.next_to_run(), Some((B, AttemptId(0))));
    }

    #[test]
    fn an_id_is_taken_once() {
        let mut attempts = Attempts::new(1);
        assert!(attempts.queue(A, AttemptId(3), 1));
        assert!(!attempts.queue(A, AttemptId(3), 1));
        attempts.next_to_run();
        assert!(!attempts.queue(A, AttemptId(3), 1));
    }
}
