//! How often a host is told that machines want in: whoever floods her with claims in a friend's name must not bury what else she is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use p2p_proto::limits;

/// In this time she is told of as many machines of one user as can wait, and of the others by one line.
const PERIOD: Duration = Duration::from_secs(60);

/// What she was told lately, by the user in whose name it was asked; only those on her list are asked for.
#[derive(Debug, Default)]
pub struct Asked(BTreeMap<String, Told>);

#[derive(Debug)]
struct Told {
    since: Instant,
    machines: usize,
}

/// What she is told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Of this machine.
    Machine,
    /// That there are more.
    More,
    Nothing,
}

impl Asked {
    /// A machine asks in this user's name.
    pub fn on_asked(&mut self, now: Instant, user: &str) -> Notice {
        self.0.retain(|_, told| now.duration_since(told.since) < PERIOD);
        let told = self.0.entry(user.to_owned()).or_insert(Told { since: now, machines: 0 });
        told.machines = told.machines.saturating_add(1);
        match told.machines.checked_sub(limits::CLAIMS_WAITING) {
            None | Some(0) => Notice::Machine,
            Some(1) => Notice::More,
            Some(_) => Notice::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_in_one_name_is_told_by_one_line_a_minute() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        for minute in 0..3 {
            let now = start + PERIOD * minute;
            let told: Vec<Notice> = (0..1000).map(|_| asked.on_asked(now, "bob")).collect();
            let count = |notice| told.iter().filter(|told| **told == notice).count();
            assert_eq!((count(Notice::Machine), count(Notice::More)), (limits::CLAIMS_WAITING, 1));
            assert_eq!(asked.on_asked(now, "carol"), Notice::Machine);
        }
    }
}
