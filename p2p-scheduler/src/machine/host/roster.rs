//! Who belongs, as the host keeps it: machines by user, removals, and the counter that orders both (T-03).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    removals: VecDeque<Removal>,
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
        Self { members, removals: kept.removals.into(), serial: kept.serial, until: kept.until, digest: None }
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
        self.removals.retain(|other| other.machine != machine);
        self.removals.push_front(removal);
        self.removals.truncate(limits::REMOVALS_KEPT);
        removal
    }

    /// What the next beat says: the latest ones, or where there are more, all in turn.
    pub(super) fn removals(&mut self, now: UnixTime) -> Vec<(MachineKey, u64)> {
        self.removals.retain(|removal| removal.until >= now);
        let said: Vec<_> =
            self.removals.iter().take(limits::REMOVALS).map(|removal| (removal.machine, removal.serial)).collect();
        if self.removals.len() > limits::REMOVALS {
            self.removals.rotate_left(limits::REMOVALS);
        }
        said
    }

    pub(super) fn digest(&mut self) -> [u8; 32] {
        let members = &self.members;
        let pairs = || members.iter().flat_map(|(user, machines)| machines.iter().map(move |machine| (user, machine)));
        *self.digest.get_or_insert_with(|| Beat::digest(pairs()))
    }
}
