//! How many share the board, and which place in their row is one's own (B-03): when a server comes back, each comes at its own moment.
//!
//! Counted from lines that nobody has checked: whoever forges them changes only when one comes back, by at most [`TURNS_MAX`].
#![warn(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use p2p_proto::board::{Line, Message};
use p2p_proto::ids::ProcessKey;
use p2p_proto::limits;

/// So few need no row: chance keeps them apart (B-05).
const FEW: usize = 8;
/// The time of one place; all of them together take N/10 s (B-03).
const PLACE: Duration = Duration::from_millis(100);
/// Each tenth place, the very first among them, is the host's: nobody can enter before her list is there.
const HOST_EVERY: u32 = 10;
/// The longest row, in turns of [`HOST_EVERY`] places. Who is behind it shares a place.
const TURNS_MAX: u32 = 30;
/// Peers that are remembered.
const CROWD: usize = 1024;

/// Who was heard lately.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    me: Option<ProcessKey>,
    others: BTreeMap<ProcessKey, Instant>,
}

/// One's own moments after a server was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    first: Instant,
    round: Duration,
}

impl Crowd {
    /// A line of somebody else.
    pub(crate) fn heard(&mut self, line: &Line, now: Instant) {
        match line.decode().map(|envelope| envelope.message) {
            Ok(Message::Hello(hello)) => {
                let until = now + Duration::from_secs(hello.ttl_s.into()).min(limits::HELLO_TTL * 2);
                self.others.insert(hello.process, until);
                if self.others.len() > CROWD {
                    self.others.retain(|_, until| *until > now);
                }
                while self.others.len() > CROWD {
                    self.others.pop_last();
                }
            }
            Ok(Message::Bye(bye)) => {
                self.others.remove(&bye.process);
            }
            _ => {}
        }
    }

    /// A line of one's own.
    pub(crate) fn said(&mut self, line: &Line) {
        if let Ok(Message::Hello(hello)) = line.decode().map(|envelope| envelope.message) {
            self.me = Some(hello.process);
        }
    }

    /// When a guest is to come back after a server was lost `now`, unless there are few.
    pub(crate) fn row(&self, now: Instant) -> Option<Row> {
        let count = self.present(now).count() + 1;
        if count <= FEW {
            return None;
        }
        let before = self.present(now).filter(|process| self.me.is_some_and(|me| **process < me)).count();
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let guests_a_turn = HOST_EVERY - 1;
        let turns = small(count).div_ceil(guests_a_turn).min(TURNS_MAX);
        let place = small(before) % (turns * guests_a_turn);
        let first = now + PLACE * (place / guests_a_turn * HOST_EVERY + place % guests_a_turn + 1);
        Some(Row { first, round: turns * HOST_EVERY * PLACE })
    }

    /// When the host is to come back: as [`Crowd::row`], between the guests.
    pub(crate) fn row_of_host(&self, now: Instant) -> Option<Row> {
        let few = self.present(now).count() <= FEW;
        (!few).then_some(Row { first: now, round: HOST_EVERY * PLACE })
    }

    fn present(&self, now: Instant) -> impl Iterator<Item = &ProcessKey> {
        self.others.iter().filter(move |(_, until)| **until > now).map(|(process, _)| process)
    }
}

impl Row {
    /// The next moment that is one's own.
    pub(crate) fn next(&self, now: Instant) -> Duration {
        let mut at = self.first;
        while at < now {
            at += self.round;
        }
        at - now
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // any moment will do to count from
mod tests {
    use p2p_proto::board::Envelope;
    use p2p_proto::board::message::Bye;

    use super::*;

    fn crowd(me: u8, count: u8, now: Instant) -> Crowd {
        let others = (0..count).filter(|number| *number != me);
        let others = others.map(|number| (ProcessKey([number; 32]), now + limits::HELLO_TTL)).collect();
        Crowd { me: Some(ProcessKey([me; 32])), others }
    }

    #[test]
    fn everybody_has_a_moment_of_his_own_and_the_host_one_a_second() {
        let now = Instant::now();
        let mut rows: Vec<Row> = (0..50).map(|me| crowd(me, 50, now).row(now).unwrap()).collect();
        let host = crowd(50, 50, now).row_of_host(now).unwrap();
        rows.push(host);
        assert_eq!(host.next(now), Duration::ZERO, "nobody enters before her");
        // Tried in vain for a while, at the first round and at later ones.
        for late in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(7), Duration::from_secs(30)] {
            let moment = |row: &Row| late + row.next(now + late);
            let mut moments: Vec<Duration> = rows.iter().map(moment).collect();
            moments.sort();
            assert!(moments.windows(2).all(|pair| pair[1] - pair[0] >= PLACE), "{moments:?}");
            assert!(moments[50] - late <= Duration::from_secs(6), "{moments:?}");
            assert!(moment(&host) - late <= Duration::from_secs(1));
        }
    }

    #[test]
    fn few_need_no_row_and_a_flood_of_names_makes_it_no_longer_than_it_may_be() {
        let now = Instant::now();
        assert_eq!(crowd(0, FEW as u8, now).row(now), None);
        assert_eq!(crowd(FEW as u8, FEW as u8, now).row_of_host(now), None);
        let mut flooded = Crowd::default();
        for number in 0..2 * CROWD as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            flooded.others.insert(ProcessKey(key), now + limits::HELLO_TTL);
        }
        flooded.me = Some(ProcessKey([255; 32]));
        let longest = PLACE * HOST_EVERY * TURNS_MAX;
        let row = flooded.row(now).unwrap();
        assert!(row.round == longest && row.next(now) < longest);
        // Those who were not heard for long do not count.
        assert_eq!(flooded.row(now + limits::HELLO_TTL), None);
    }

    #[test]
    fn who_says_goodbye_is_forgotten() {
        let now = Instant::now();
        let mut crowd = crowd(0, 10, now);
        let from = "bob@h:1".parse().unwrap();
        let message = Message::Bye(Bye { process: ProcessKey([1; 32]) });
        crowd.heard(&Line::encode(&Envelope { from, sequence: 1, time: 0, message }).unwrap(), now);
        assert_eq!(crowd.others.len(), 8);
    }
}
