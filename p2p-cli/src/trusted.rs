//! What is kept of one cluster, and wishes: what a command wants of the host's own process, which looks for them.

use std::collections::BTreeMap;

use p2p_proto::ids::{ClusterName, Fingerprint, MachineKey, UserName};
use p2p_proto::limits;
use p2p_proto::trust::{Membership, UnixTime};
use p2p_scheduler::{HostKept, MemberKept, Removal, TrustStore};
use serde::{Deserialize, Serialize};

use crate::home::Home;
use crate::trouble::{Code, Trouble};

/// Wishes that wait for the host.
const WISHES: usize = 1024;

/// What is trusted in one cluster.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Trusted {
    /// The host's key, as a person has named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Fingerprint>,
    /// The host's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<MachineKey>,
    /// This machine's membership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    /// The host's counter, as last heard with a removal.
    #[serde(default)]
    pub heard: u64,
    /// Machines that she has removed, as heard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<(MachineKey, u64)>,
    /// As a host: whose machines belong.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
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
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pending: BTreeMap<UserName, Vec<MachineKey>>,
    /// As a host: what a command wants of her process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wishes: Vec<Wish>,
    /// As a host of 0.1: one machine of each user.
    #[serde(default, skip_serializing)]
    bindings: BTreeMap<UserName, MachineKey>,
}

/// A machine that was removed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Removed {
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
        (self.membership, self.heard, self.removed) = (None, 0, Vec::new());
        known
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

fn take(of: &mut BTreeMap<UserName, Vec<MachineKey>>, user: &UserName, machine: MachineKey) {
    if let Some(machines) = of.get_mut(user) {
        machines.retain(|other| *other != machine);
        if machines.is_empty() {
            of.remove(user);
        }
    }
}

impl Home {
    /// Takes the wishes that were left for the host's process.
    pub fn take_wishes(&self, cluster: &ClusterName) -> Result<Vec<Wish>, Trouble> {
        if self.trusted(cluster)?.wishes.is_empty() {
            return Ok(Vec::new());
        }
        let mut wishes = Vec::new();
        self.change(cluster, |trusted| wishes = std::mem::take(&mut trusted.wishes))?;
        Ok(wishes)
    }

    /// As a host's process ends up or begins anew: nobody waits for her approval.
    pub fn forget_pending(&self, cluster: &ClusterName) -> Result<(), Trouble> {
        if self.trusted(cluster)?.pending.is_empty() {
            return Ok(());
        }
        self.change(cluster, |trusted| trusted.pending.clear())
    }

    fn keep(&self, cluster: &ClusterName, change: impl FnOnce(&mut Trusted)) {
        if let Err(trouble) = self.change(cluster, change) {
            log::warn!("{trouble}");
        }
    }

    fn kept(&self, cluster: &ClusterName) -> Trusted {
        self.trusted(cluster).unwrap_or_else(|trouble| {
            log::warn!("{trouble}");
            Trusted::default()
        })
    }
}

impl TrustStore for Home {
    fn load(&self, cluster: &ClusterName) -> MemberKept {
        let Trusted { host, membership, heard, removed, .. } = self.kept(cluster);
        MemberKept { host, membership, serial: heard, removals: removed }
    }

    fn save(&self, cluster: &ClusterName, kept: &MemberKept) {
        self.keep(cluster, |trusted| {
            trusted.host = kept.host;
            trusted.membership.clone_from(&kept.membership);
            // Two processes of one machine may have heard different beats.
            if kept.serial >= trusted.heard {
                trusted.heard = kept.serial;
                trusted.removed.clone_from(&kept.removals);
            }
        });
    }

    fn load_roster(&self, cluster: &ClusterName) -> HostKept {
        let trusted = self.kept(cluster);
        let removals = trusted.removals();
        let machines = trusted
            .members
            .into_iter()
            .flat_map(|(user, machines)| machines.into_iter().map(move |machine| (user.clone(), machine)));
        HostKept { members: machines.collect(), removals, serial: trusted.serial, until: trusted.until }
    }

    fn bind(&self, cluster: &ClusterName, user: &UserName, machine: MachineKey, serial: u64, until: UnixTime) {
        self.keep(cluster, |trusted| {
            trusted.add(user, machine);
            take(&mut trusted.pending, user, machine);
            trusted.unapprove(user, Some(&Fingerprint::from(machine)));
            trusted.serial = trusted.serial.max(serial);
            trusted.until = trusted.until.max(until);
        });
    }

    fn unbind(&self, cluster: &ClusterName, user: &UserName, removal: Removal) {
        self.keep(cluster, |trusted| {
            let Removal { machine, serial, until } = removal;
            trusted.remove(user, machine);
            take(&mut trusted.pending, user, machine);
            trusted.removals.retain(|other| other.machine != machine);
            trusted.removals.insert(0, Removed { machine, serial, until });
            trusted.removals.truncate(limits::REMOVALS_KEPT);
            trusted.serial = trusted.serial.max(serial);
        });
    }

    fn pend(&self, cluster: &ClusterName, user: &UserName, machine: MachineKey) {
        self.keep(cluster, |trusted| {
            take(&mut trusted.pending, user, machine);
            let machines = trusted.pending.entry(user.clone()).or_default();
            machines.push(machine);
            let many = machines.len().saturating_sub(limits::CLAIMS_WAITING);
            machines.drain(..many);
        });
    }
}
