//! Who belongs, as the host keeps it: machines by user, removals, and the counter that orders both (T-03).

use std::collections::{BTreeMap, BTreeSet};

use p2p_proto::board::message::Beat;
use p2p_proto::ids::{MachineKey, UserName};
use p2p_proto::limits;
use p2p_proto::trust::UnixTime;

/// A machine that was taken off the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Which.
    pub machine: MachineKey,
    /// The counter of its removal: signatures up to it are void.
    pub serial: u64,
    /// When the last of them has ended by itself.
    pub until: UnixTime,
}

/// What a host keeps from one start to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostKept {
    /// Who belongs.
    pub members: Vec<(UserName, MachineKey)>,
    /// Who was removed.
    pub removals: Vec<Removal>,
    /// The counter.
    pub serial: u64,
    /// When the last signature ends.
    pub until: UnixTime,
}

#[derive(Debug)]
pub(super) struct Roster {
    members: BTreeMap<UserName, BTreeSet<MachineKey>>,
    /// By serial: the latest ones are the last.
    removals: BTreeMap<u64, Removal>,
    /// Serials of those that no beat of this start has named yet.
    unsaid: BTreeSet<u64>,
    /// The turn is at those below it.
    turn: u64,
    serial: u64,
    until: UnixTime,
    digest: Option<[u8; 32]>,
}

impl Roster {
    pub(super) fn new(kept: HostKept) -> Self {
        let mut members: BTreeMap<UserName, BTreeSet<MachineKey>> = BTreeMap::new();
        for (user, machine) in kept.members {
            members.entry(user).or_default().insert(machine);
        }
        let removals = kept.removals.into_iter().map(|removal| (removal.serial, removal)).collect();
        let mut roster = Self {
            members,
            removals,
            unsaid: BTreeSet::new(),
            turn: 0,
            serial: kept.serial,
            until: kept.until,
            digest: None,
        };
        roster.keep_latest();
        // Whoever ended her last start may have done so before she could name them.
        roster.unsaid = roster.removals.keys().copied().collect();
        roster
    }

    /// A counter that was put back by a copy of an old folder is put right by the calendar: it never goes backwards.
    pub(super) fn catch_up(&mut self, now: UnixTime) {
        self.serial = self.serial.max(now);
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// The next number, for a signature that is good until then.
    pub(super) fn count(&mut self, until: UnixTime) -> u64 {
        self.until = self.until.max(until);
        self.serial += 1;
        self.serial
    }

    pub(super) fn has(&self, user: &UserName, machine: MachineKey) -> bool {
        self.members.get(user).is_some_and(|machines| machines.contains(&machine))
    }

    pub(super) fn is_full(&self, user: &UserName) -> bool {
        self.members.get(user).is_some_and(|machines| machines.len() >= limits::MACHINES_PER_USER)
    }

    /// Whether it was not there yet.
    pub(super) fn add(&mut self, user: &UserName, machine: MachineKey) -> bool {
        self.digest = None;
        self.members.entry(user.clone()).or_default().insert(machine)
    }

    pub(super) fn users(&self) -> impl Iterator<Item = &UserName> {
        self.members.keys()
    }

    pub(super) fn machines(&self, user: &UserName) -> Vec<MachineKey> {
        self.members.get(user).into_iter().flatten().copied().collect()
    }

    /// Takes a machine off, whether or not it was on. It is named until no signature can hold any more.
    pub(super) fn remove(&mut self, user: &UserName, machine: MachineKey, now: UnixTime) -> Removal {
        if let Some(machines) = self.members.get_mut(user) {
            machines.remove(&machine);
            if machines.is_empty() {
                self.members.remove(user);
            }
        }
        self.digest = None;
        let until = self.until.max(now).saturating_add(limits::CLOCK_SKEW.as_secs());
        let removal = Removal { machine, serial: self.count(0), until };
        self.removals.retain(|_, other| other.machine != machine);
        self.removals.insert(removal.serial, removal);
        self.unsaid.insert(removal.serial);
        self.keep_latest();
        removal
    }

    fn keep_latest(&mut self) {
        while self.removals.len() > limits::REMOVALS_KEPT {
            self.removals.pop_first();
        }
        let removals = &self.removals;
        self.unsaid.retain(|serial| removals.contains_key(serial));
    }

    /// What the next beat says: those that no beat has named yet, the latest first, and then all in turn.
    pub(super) fn removals(&mut self, now: UnixTime) -> Vec<(MachineKey, u64)> {
        self.removals.retain(|_, removal| removal.until >= now);
        self.keep_latest();
        let mut said: Vec<u64> = self.unsaid.iter().rev().take(limits::REMOVALS).copied().collect();
        for serial in &said {
            self.unsaid.remove(serial);
        }
        let turns = self.removals.range(..self.turn).rev().chain(self.removals.range(self.turn..).rev());
        for (serial, _) in turns {
            if said.len() >= limits::REMOVALS {
                break;
            }
            if !said.contains(serial) {
                said.push(*serial);
                self.turn = *serial;
            }
        }
        said.iter()
            .filter_map(|serial| self.removals.get(serial))
            .map(|removal| (removal.machine, removal.serial))
            .collect()
    }

    /// Whether there are some that no beat has named yet.
    pub(super) fn has_unsaid(&self) -> bool {
        !self.unsaid.is_empty()
    }

    pub(super) fn digest(&mut self) -> [u8; 32] {
        let members = &self.members;
        let pairs = || members.iter().flat_map(|(user, machines)| machines.iter().map(move |machine| (user, machine)));
        *self.digest.get_or_insert_with(|| Beat::digest(pairs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(number: usize) -> MachineKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        MachineKey(key)
    }

    fn removed(count: usize) -> Roster {
        let mut roster = Roster::new(HostKept::default());
        for number in 0..count {
            roster.remove(&"bob".parse().unwrap(), machine(number), 1000);
        }
        roster
    }

    #[test]
    fn all_removals_are_named_before_any_is_named_again_and_then_in_turn() {
        let mut roster = removed(2 * limits::REMOVALS + 10);
        let mut named = BTreeSet::new();
        for beats in 1..=3 {
            assert!(roster.has_unsaid());
            let said = roster.removals(1000);
            assert_eq!(said.len(), limits::REMOVALS);
            named.extend(said);
            assert_eq!(named.len(), (beats * limits::REMOVALS).min(2 * limits::REMOVALS + 10));
        }
        assert!(!roster.has_unsaid());
        let again: BTreeSet<_> = (0..3).flat_map(|_| roster.removals(1000)).collect();
        assert_eq!(again, named, "some are named no more");
        // A new one is in the very next beat.
        roster.remove(&"bob".parse().unwrap(), machine(5000), 1000);
        assert_eq!(roster.removals(1000)[0].0, machine(5000));
    }

    #[test]
    fn the_oldest_removal_makes_room_whatever_was_said_last() {
        let mut roster = removed(limits::REMOVALS_KEPT);
        for _ in 0..5 {
            roster.removals(1000);
        }
        let late = roster.remove(&"bob".parse().unwrap(), machine(5000), 1000);
        let serials: Vec<u64> = roster.removals.keys().copied().collect();
        assert_eq!(serials, (late.serial + 1 - limits::REMOVALS_KEPT as u64..=late.serial).collect::<Vec<_>>());
    }
}
