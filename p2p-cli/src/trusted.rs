//! What is kept of one cluster, and wishes: what a command wants of the host's own process, which looks for them.

mod store;
mod text;

use std::collections::BTreeMap;

use p2p_proto::ids::{Fingerprint, MachineKey, UserName};
use p2p_proto::limits;
use p2p_proto::trust::{Membership, UnixTime};
use p2p_scheduler::{MemberKept, Removal};
use serde::{Deserialize, Serialize};

pub use self::store::Session;
use crate::trouble::{Code, Trouble};

/// Wishes that wait for the host.
const WISHES: usize = 1024;
/// Machines of all users together that wait for her approval.
const WAITING: usize = 1024;

/// What is trusted in one cluster.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Trusted {
    /// The host's key, as a person has named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Fingerprint>,
    /// The host's key.
    #[serde(default, with = "text", skip_serializing_if = "Option::is_none")]
    pub host: Option<MachineKey>,
    /// This machine's membership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    /// The host's counter, as last heard with a removal.
    #[serde(default)]
    pub heard: u64,
    /// Machines that she has removed, as heard.
    #[serde(default, with = "text", skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<(MachineKey, u64)>,
    /// As a host: whose machines belong.
    #[serde(default, with = "text", skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<UserName, Vec<MachineKey>>,
    /// As a host: what was removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removals: Vec<Removed>,
    /// As a host: the counter of signatures and removals.
    #[serde(default)]
    pub serial: u64,
    /// As a host: when the last of her signatures ends.
    #[serde(default)]
    pub until: UnixTime,
    /// As a host: machines that she has approved and that have not come yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub approved: BTreeMap<UserName, Vec<Fingerprint>>,
    /// As a host: machines that wait for her approval.
    #[serde(default, with = "text", skip_serializing_if = "BTreeMap::is_empty")]
    pub pending: BTreeMap<UserName, Vec<MachineKey>>,
    /// As a host: what a command wants of her process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wishes: Vec<Wish>,
    /// As a host of 0.1: one machine of each user.
    #[serde(default, with = "text", skip_serializing)]
    bindings: BTreeMap<UserName, MachineKey>,
}

/// A machine that was removed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Removed {
    #[serde(with = "text")]
    machine: MachineKey,
    serial: u64,
    until: UnixTime,
}

/// What a command wants of the host's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// This machine is the user's.
    Approve(UserName, Fingerprint),
    /// This machine of the user's, or all of them, are not.
    Forget(UserName, Option<Fingerprint>),
}

impl Trusted {
    /// Brings what an older version has kept into the present form.
    pub fn renew(&mut self) {
        for (user, machine) in std::mem::take(&mut self.bindings) {
            self.add(&user, machine);
        }
    }

    /// As a member: forgets the host, and all that hangs on her key. Whether there was one.
    pub fn forget_host(&mut self) -> bool {
        let known = self.pinned.take().is_some() | self.host.take().is_some();
        self.forget_heard();
        known
    }

    /// As a member: takes what a process of this machine has learnt. `known` is the host as that process has read or written her last: where she is another
    /// one by now, a person or a quicker process has decided that, and it stays. Whether it was taken.
    pub fn learn(&mut self, known: Option<MachineKey>, kept: &MemberKept) -> bool {
        let Some(host) = kept.host else { return true };
        let same = self.host == Some(host);
        if !same && self.host != known || self.pinned.as_ref().is_some_and(|pinned| !pinned.fits(host)) {
            return false;
        }
        if !same {
            self.forget_heard();
        }
        self.host = Some(host);
        self.membership.clone_from(&kept.membership);
        // Two processes of one machine may have heard different beats.
        self.heard = self.heard.max(kept.serial);
        for (machine, serial) in &kept.removals {
            match self.removed.iter_mut().find(|(other, _)| other == machine) {
                Some((_, known)) => *known = (*known).max(*serial),
                None => self.removed.push((*machine, *serial)),
            }
        }
        self.removed.sort_unstable_by_key(|(machine, serial)| (std::cmp::Reverse(*serial), *machine));
        self.removed.truncate(limits::REMOVALS_KEPT);
        true
    }

    /// What was heard of one host says nothing about another: each has a counter of her own.
    fn forget_heard(&mut self) {
        (self.membership, self.heard, self.removed) = (None, 0, Vec::new());
    }

    /// Leaves a wish for the host's process.
    pub fn wish(&mut self, wish: Wish) -> Result<(), Trouble> {
        if self.wishes.len() >= WISHES {
            let words = "too much waits for the host's process already; start it: p2p host";
            return Err(Trouble::new(Code::Unavailable, words));
        }
        self.wishes.push(wish);
        Ok(())
    }

    /// Keeps that a machine is approved, for the host's process and for its next start.
    pub fn approve(&mut self, user: &UserName, key: Fingerprint) -> Result<(), Trouble> {
        self.wish(Wish::Approve(user.clone(), key.clone()))?;
        let approved = self.approved.entry(user.clone()).or_default();
        approved.retain(|other| *other != key);
        approved.push(key);
        let many = approved.len().saturating_sub(limits::MACHINES_PER_USER);
        approved.drain(..many);
        Ok(())
    }

    /// Takes that back.
    pub fn unapprove(&mut self, user: &UserName, key: Option<&Fingerprint>) {
        if let Some(approved) = self.approved.get_mut(user) {
            approved.retain(|other| key.is_some_and(|key| key != other));
            if approved.is_empty() {
                self.approved.remove(user);
            }
        }
    }

    /// Machines that wait for the host's word. Of too many, those go that have waited longest in the name for which most do.
    fn pend(&mut self, waiting: BTreeMap<UserName, Vec<MachineKey>>) {
        for (user, machines) in waiting {
            for machine in machines {
                take(&mut self.pending, &user, machine);
                push(&mut self.pending, &user, machine);
            }
        }
        let mut count: usize = self.pending.values().map(Vec::len).sum();
        while count > WAITING
            && let Some(most) = self.pending.values_mut().max_by_key(|machines| machines.len())
        {
            most.remove(0);
            count -= 1;
        }
    }

    fn add(&mut self, user: &UserName, machine: MachineKey) {
        let machines = self.members.entry(user.clone()).or_default();
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }

    fn remove(&mut self, user: &UserName, machine: MachineKey) {
        take(&mut self.members, user, machine);
    }

    fn removals(&self) -> Vec<Removal> {
        let removal =
            |removed: &Removed| Removal { machine: removed.machine, serial: removed.serial, until: removed.until };
        self.removals.iter().map(removal).collect()
    }
}

/// The latest machines that wait in one name.
fn push(waiting: &mut BTreeMap<UserName, Vec<MachineKey>>, user: &UserName, machine: MachineKey) {
    let machines = waiting.entry(user.clone()).or_default();
    machines.push(machine);
    let many = machines.len().saturating_sub(limits::CLAIMS_WAITING);
    machines.drain(..many);
}

fn take(of: &mut BTreeMap<UserName, Vec<MachineKey>>, user: &UserName, machine: MachineKey) {
    if let Some(machines) = of.get_mut(user) {
        machines.retain(|other| *other != machine);
        if machines.is_empty() {
            of.remove(user);
        }
    }
}
