//! Which machines the host has removed, as far as heard (T-03).

use std::collections::BTreeMap;

use p2p_proto::board::message::Beat;
use p2p_proto::ids::MachineKey;
use p2p_proto::limits;
use p2p_proto::trust::Verified;

/// Removals by machine, at most [`limits::REMOVALS_KEPT`], the latest ones.
#[derive(Debug, Default)]
pub(super) struct Removed {
    removals: BTreeMap<MachineKey, u64>,
    /// The highest counter of the host's that was heard, and what her roster was then.
    serial: u64,
    roster: Option<[u8; 32]>,
}

/// What a beat brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is older than what is known: nothing in it counts.
    Old,
    /// Nothing that cuts anybody off.
    Nothing,
    /// Another roster under a counter that was heard before: somebody has been told something else.
    Forked,
    /// Somebody was removed.
    Removals,
}

impl Removed {
    pub(super) fn new(serial: u64, removals: Vec<(MachineKey, u64)>) -> Self {
        Self { removals: removals.into_iter().take(limits::REMOVALS_KEPT).collect(), serial, roster: None }
    }

    pub(super) fn on_beat(&mut self, beat: &Beat) -> News {
        if beat.serial < self.serial {
            return News::Old;
        }
        let same = beat.serial == self.serial;
        let forked = same && self.roster.is_some_and(|roster| beat.roster.is_some_and(|other| other != roster));
        if !same || self.roster.is_none() {
            (self.serial, self.roster) = (beat.serial, beat.roster);
        }
        let mut news = false;
        for (machine, serial) in &beat.removals {
            let known = self.removals.entry(*machine).or_default();
            if *known < *serial {
                *known = *serial;
                news = true;
            }
        }
        while self.removals.len() > limits::REMOVALS_KEPT {
            let oldest = self.removals.iter().min_by_key(|(_, serial)| **serial).map(|(machine, _)| *machine);
            self.removals.retain(|machine, _| Some(*machine) != oldest);
        }
        match (news, forked) {
            (true, _) => News::Removals,
            (false, true) => News::Forked,
            (false, false) => News::Nothing,
        }
    }

    /// Whether a signature with this counter is void.
    pub(super) fn voids(&self, machine: MachineKey, serial: u64) -> bool {
        self.removals.get(&machine).is_some_and(|removal| serial <= *removal)
    }

    pub(super) fn has(&self, verified: &Verified) -> bool {
        self.voids(verified.keys.machine, verified.serial)
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn all(&self) -> Vec<(MachineKey, u64)> {
        self.removals.iter().map(|(machine, serial)| (*machine, *serial)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(serial: u64, removals: &[(u8, u64)], roster: u8) -> Beat {
        let removals = removals.iter().map(|(machine, serial)| (MachineKey([*machine; 32]), *serial)).collect();
        let host = MachineKey([0; 32]);
        Beat {
            host,
            peers: 1,
            serial,
            removals,
            roster: Some([roster; 32]),
            time: 0,
            since: 0,
            rival: None,
            leaving: false,
        }
    }

    #[test]
    fn a_counter_never_goes_backwards_and_what_was_removed_stays_so() {
        let mut removed = Removed::default();
        assert_eq!(removed.on_beat(&beat(7, &[(1, 6)], 1)), News::Removals);
        assert_eq!(removed.on_beat(&beat(6, &[(2, 6)], 1)), News::Old);
        assert_eq!(removed.on_beat(&beat(7, &[], 1)), News::Nothing);
        assert_eq!(removed.on_beat(&beat(7, &[], 2)), News::Forked);
        let (one, two) = (MachineKey([1; 32]), MachineKey([2; 32]));
        // Admitted anew, it has a higher number.
        assert!(removed.voids(one, 5) && removed.voids(one, 6) && !removed.voids(one, 7) && !removed.voids(two, 1));
    }

    #[test]
    fn only_the_latest_removals_are_kept() {
        let mut removed = Removed::default();
        let most = u64::try_from(limits::REMOVALS_KEPT).unwrap();
        for serial in 1..=most + 10 {
            let mut beat = beat(serial, &[(0, serial)], 0);
            beat.removals[0].0.0[..8].copy_from_slice(&serial.to_be_bytes());
            removed.on_beat(&beat);
        }
        assert_eq!(removed.all().len(), limits::REMOVALS_KEPT);
        assert!(removed.all().iter().all(|(_, serial)| *serial > 10));
    }
}
