//! How many tasks a client may send ahead (S-01, S-02).
//!
//! A client may hold as many attempts and credits on a worker as there are slots, and so many more that the next one is always here
//! when a slot frees: what runs through the slots in two round trips. Long tasks need none of that, short ones hundreds. Credits for free
//! slots lie ready with a client whose tasks are short, whether it asked or not.
//!
//! Each client has credits of its own, so nobody's are taken up by somebody else. Where users compete, each may have as many more waiting as
//! there are slots: whose turn it is can be decided only among those for whom something waits when slots free (I-06).

use p2p_proto::limits;
use p2p_proto::link::item::Want;

/// Added to the round trip, microseconds: what runs in this time is granted and submitted in one piece, not one by one.
const GATHER_US: u64 = 5_000;
/// Taken for the round trip before the client has measured it, microseconds.
const UNKNOWN_ROUND_TRIP_US: u64 = 1_000;
/// Below this many tasks in flight little of a task's time is saved, and a task that waits here could run elsewhere.
const WORTHWHILE: f64 = 0.25;
/// Weight of the newest run time in the mean, as a fraction of 1.
const NEWEST: f64 = 0.2;

/// One client's demand, and what it was granted.
#[derive(Debug, Default)]
pub(super) struct Demand {
    want: Want,
    credits: u32,
    mean_ran_us: Option<f64>,
}

impl Demand {
    pub(super) fn on_want(&mut self, want: Want) {
        self.want = want;
    }

    /// The client used a credit. Returns whether it had one.
    pub(super) fn on_submit(&mut self) -> bool {
        let had = self.credits > 0;
        self.credits = self.credits.saturating_sub(1);
        self.want.tasks = self.want.tasks.saturating_sub(1);
        had
    }

    /// One of its attempts ran for so long.
    pub(super) fn on_ran(&mut self, ran_us: u64) {
        let ran = ran_us as f64;
        self.mean_ran_us = Some(self.mean_ran_us.map_or(ran, |mean| mean + NEWEST * (ran - mean)));
    }

    /// Credits to grant now, if any, to a client that holds `held` attempts on `slots` slots; `contended` where other users compete for them.
    pub(super) fn grant(&mut self, slots: u32, held: u32, contended: bool) -> Option<u32> {
        let prefetch = self.prefetch(slots);
        let target = slots.saturating_add(if contended { prefetch.max(slots) } else { prefetch });
        let room = target.saturating_sub(held).saturating_sub(self.credits);
        // Who calls short tasks one at a time would wait for a round trip of asking before each: credits for what is free lie ready.
        let ready = if prefetch > 0 { slots.saturating_sub(held) } else { 0 };
        let wanted = self.want.tasks.max(ready).saturating_sub(self.credits);
        let grant = room.min(wanted);
        // Many small grants would be a message per task: wait for a quarter, unless a slot could idle meanwhile.
        let enough = grant >= (target / 4).max(1) || held + self.credits < slots || grant == wanted;
        if grant == 0 || !enough {
            return None;
        }
        self.credits += grant;
        Some(grant)
    }

    /// Tasks beyond the slots that keep them busy.
    fn prefetch(&self, slots: u32) -> u32 {
        let Some(mean_us) = self.mean_ran_us else { return 0 };
        let round_trip_us = match self.want.round_trip_us {
            0 => UNKNOWN_ROUND_TRIP_US,
            measured => u64::from(measured),
        };
        let ahead_us = (2 * round_trip_us + GATHER_US) as f64;
        let ahead = f64::from(slots) * ahead_us / mean_us.max(1.0);
        if ahead < WORTHWHILE { 0 } else { (ahead.ceil() as u32).min(limits::PREFETCH) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns: slots, mean run time, round trip, attempts held, tasks wanted; then: credits granted if nobody else is there.
    #[test]
    fn grants_follow_length_and_distance() {
        let table = [
            // Nothing is known yet: the slots, no more.
            (2, None, 0, 0, 100, Some(2)),
            (2, None, 0, 2, 100, None),
            // No demand, no credit.
            (2, None, 0, 0, 0, None),
            (2, None, 0, 0, 1, Some(1)),
            // Ten seconds each, nearby: nothing to hide.
            (2, Some(10_000_000), 300, 2, 100, None),
            // Fifty milliseconds each, nearby: too little to gain.
            (2, Some(50_000), 300, 2, 100, None),
            // Ten milliseconds each, nearby: two ahead, one for each slot.
            (2, Some(10_000), 300, 2, 100, Some(2)),
            // Ten milliseconds each, 150 ms away: 2 slots x 305 ms / 10 ms.
            (2, Some(10_000), 150_000, 2, 1000, Some(61)),
            // No-ops: as far ahead as is allowed.
            (2, Some(1), 300, 0, 10_000, Some(1026)),
            // Short ones that come one at a time: the next one need not ask for a free slot.
            (2, Some(100), 300, 0, 0, Some(2)),
            (2, Some(100), 300, 1, 0, Some(1)),
            (2, Some(100), 300, 2, 0, None),
            (2, Some(10_000_000), 300, 0, 0, None),
        ];
        for (slots, mean, round_trip_us, held, tasks, expected) in table {
            let mut demand = Demand::default();
            demand.on_want(Want { tasks, round_trip_us });
            if let Some(mean) = mean {
                demand.on_ran(mean);
            }
            assert_eq!(
                demand.grant(slots, held, false),
                expected,
                "slots {slots}, mean {mean:?}, held {held}, want {tasks}"
            );
        }
    }

    #[test]
    fn a_task_without_credit_is_noticed() {
        let mut demand = Demand::default();
        assert!(!demand.on_submit());
        demand.on_want(Want { tasks: 1, round_trip_us: 0 });
        assert_eq!(demand.grant(1, 0, false), Some(1));
        assert!(demand.on_submit());
        assert!(!demand.on_submit());
    }

    /// Columns: slots, attempts held, whether others compete; then: credits granted to who wants many.
    #[test]
    fn who_competes_has_something_waiting_when_slots_free() {
        let table = [
            (1, 0, false, Some(1)),
            (1, 1, false, None),
            (1, 0, true, Some(2)),
            (1, 1, true, Some(1)),
            (1, 2, true, None),
            (4, 4, false, None),
            (4, 4, true, Some(4)),
            // Not one message for each.
            (4, 7, true, None),
        ];
        for (slots, held, contended, expected) in table {
            let mut demand = Demand::default();
            demand.on_want(Want { tasks: 100, round_trip_us: 300 });
            demand.on_ran(10_000_000);
            assert_eq!(demand.grant(slots, held, contended), expected, "slots {slots}, held {held}, {contended}");
        }
    }
}
