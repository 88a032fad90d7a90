//! What the processes of this machine keep in a cluster's file: each under the lock, beside the others and what commands change there.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use p2p_proto::ids::{ClusterName, Fingerprint, MachineKey, UserName};
use p2p_proto::limits;
use p2p_proto::trust::UnixTime;
use p2p_scheduler::{HostKept, MemberKept, Removal, TrustStore};

use super::{Removed, Trusted, Wish, push, take};
use crate::home::Home;
use crate::trouble::Trouble;

/// What this process knows of a cluster's file.
#[derive(Debug, Default)]
pub struct Session {
    /// The host, as she was last read or written here.
    host: Option<MachineKey>,
    /// It was said that she is another one by now.
    told: bool,
    /// As a host: machines that wait for her approval and are not written yet.
    waiting: BTreeMap<UserName, Vec<MachineKey>>,
}

impl Home {
    /// Drops what was approved of users who are not on the host's list: should they come back, she compares anew.
    pub fn keep_approved(&self, cluster: &ClusterName, listed: &[UserName]) -> Result<(), Trouble> {
        let is_listed = |user: &UserName| user == cluster.owner() || listed.contains(user);
        let stays = |wish: &Wish| !matches!(wish, Wish::Approve(user, _) if !is_listed(user));
        let trusted = self.trusted(cluster)?;
        if trusted.approved.keys().all(is_listed) && trusted.wishes.iter().all(stays) {
            return Ok(());
        }
        self.change(cluster, |trusted| {
            trusted.approved.retain(|user, _| is_listed(user));
            trusted.wishes.retain(stays);
        })
    }

    /// As a host's process begins: nobody waits for her approval yet. Whoever does asks again, so that nothing hangs on this.
    pub fn forget_pending(&self, cluster: &ClusterName) {
        if !self.kept(cluster).pending.is_empty() {
            self.keep(cluster, |trusted| trusted.pending.clear());
        }
    }

    /// Writes who waits for the host's approval, since the last time: anybody can make others wait, and not each of them is worth a write of its own.
    /// Whether there was something to write.
    pub fn write_pending(&self, cluster: &ClusterName) -> bool {
        let waiting = self.sessions().get_mut(cluster).map(|session| std::mem::take(&mut session.waiting));
        let Some(waiting) = waiting.filter(|waiting| !waiting.is_empty()) else { return false };
        self.keep(cluster, |trusted| trusted.pend(waiting));
        true
    }

    /// The machine does not wait any more.
    fn unpend(&self, cluster: &ClusterName, user: &UserName, machine: MachineKey) {
        if let Some(session) = self.sessions().get_mut(cluster) {
            take(&mut session.waiting, user, machine);
        }
    }

    /// The key of the cluster's host, if one is kept.
    pub fn host(&self, cluster: &ClusterName) -> Option<MachineKey> {
        self.kept(cluster).host
    }

    /// Whether it is kept.
    fn keep(&self, cluster: &ClusterName, change: impl FnOnce(&mut Trusted)) -> bool {
        let changed = self.change(cluster, change);
        if let Err(trouble) = &changed {
            log::warn!("{trouble}");
        }
        changed.is_ok()
    }

    fn kept(&self, cluster: &ClusterName) -> Trusted {
        self.trusted(cluster).unwrap_or_else(|trouble| {
            log::warn!("{trouble}");
            Trusted::default()
        })
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<ClusterName, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrustStore for Home {
    fn load(&self, cluster: &ClusterName) -> MemberKept {
        let Trusted { host, membership, heard, removed, .. } = self.kept(cluster);
        self.sessions().entry(cluster.clone()).or_default().host = host;
        MemberKept { host, membership, serial: heard, removals: removed }
    }

    fn save(&self, cluster: &ClusterName, kept: &MemberKept) {
        let mut sessions = self.sessions();
        let session = sessions.entry(cluster.clone()).or_default();
        let mut learnt = true;
        if self.keep(cluster, |trusted| learnt = trusted.learn(session.host, kept)) && learnt {
            session.host = kept.host;
        }
        if !learnt && !std::mem::replace(&mut session.told, true) {
            log::warn!(
                "the host of {cluster} was changed by another p2p command since this one began, which does not know that and keeps nothing of what \
                 it hears: restart it"
            );
        }
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
        self.unpend(cluster, user, machine);
        self.keep(cluster, |trusted| {
            trusted.add(user, machine);
            take(&mut trusted.pending, user, machine);
            trusted.unapprove(user, Some(&Fingerprint::from(machine)));
            trusted.serial = trusted.serial.max(serial);
            trusted.until = trusted.until.max(until);
        });
    }

    fn unbind(&self, cluster: &ClusterName, user: &UserName, removal: Removal) {
        self.unpend(cluster, user, removal.machine);
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
        let mut sessions = self.sessions();
        let waiting = &mut sessions.entry(cluster.clone()).or_default().waiting;
        take(waiting, user, machine);
        push(waiting, user, machine);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MachineKey {
        MachineKey([byte; 32])
    }

    fn of(host: u8, serial: u64, removals: &[(u8, u64)]) -> MemberKept {
        let removals = removals.iter().map(|(machine, serial)| (key(*machine), *serial)).collect();
        MemberKept { host: Some(key(host)), membership: None, serial, removals }
    }

    /// Each has its own `Home`, as each process has.
    struct Machine {
        folder: tempfile::TempDir,
        cluster: ClusterName,
    }

    impl Machine {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), cluster: "alice/friends".parse().unwrap() }
        }

        fn process(&self) -> Home {
            let home = Home::open(Some(&self.folder.path().join("p2p"))).unwrap();
            home.load(&self.cluster);
            home
        }

        fn change(&self, change: impl FnOnce(&mut Trusted)) {
            Home::open(Some(&self.folder.path().join("p2p"))).unwrap().change(&self.cluster, change).unwrap();
        }

        fn trusted(&self) -> Trusted {
            Home::open(Some(&self.folder.path().join("p2p"))).unwrap().trusted(&self.cluster).unwrap()
        }
    }

    #[test]
    fn a_process_that_runs_does_not_undo_that_the_host_was_forgotten() {
        let machine = Machine::new();
        let process = machine.process();
        process.save(&machine.cluster, &of(1, 5, &[(9, 4)]));
        assert_eq!(machine.trusted().host, Some(key(1)));
        machine.change(|trusted| assert!(trusted.forget_host()));
        process.save(&machine.cluster, &of(1, 6, &[(9, 4), (8, 6)]));
        let trusted = machine.trusted();
        assert_eq!((trusted.host, trusted.heard, trusted.removed), (None, 0, Vec::new()));
        // It goes on like that after another process has met the next one.
        machine.process().save(&machine.cluster, &of(2, 1, &[]));
        process.save(&machine.cluster, &of(1, 7, &[]));
        assert_eq!(machine.trusted().host, Some(key(2)));
    }

    #[test]
    fn a_process_that_runs_does_not_undo_that_a_host_was_pinned() {
        let machine = Machine::new();
        let (knows, newcomer) = (machine.process(), machine.process());
        knows.save(&machine.cluster, &of(1, 5, &[]));
        machine.change(|trusted| {
            trusted.forget_host();
            trusted.pinned = Some(Fingerprint::from(key(2)));
        });
        for process in [knows, newcomer] {
            process.save(&machine.cluster, &of(1, 6, &[]));
            assert_eq!(machine.trusted().host, None);
        }
        machine.process().save(&machine.cluster, &of(2, 1, &[]));
        assert_eq!(machine.trusted().host, Some(key(2)));
    }

    #[test]
    fn of_two_newcomers_the_first_one_decides_whose_key_is_kept() {
        let machine = Machine::new();
        let (first, second, third) = (machine.process(), machine.process(), machine.process());
        first.save(&machine.cluster, &of(1, 5, &[]));
        second.save(&machine.cluster, &of(2, 9, &[(7, 9)]));
        let trusted = machine.trusted();
        assert_eq!((trusted.host, trusted.heard, trusted.removed), (Some(key(1)), 5, Vec::new()));
        // Who has met the same one is heard.
        third.save(&machine.cluster, &of(1, 6, &[]));
        assert_eq!(machine.trusted().heard, 6);
    }

    #[test]
    fn what_two_processes_have_heard_is_put_together_and_goes_with_its_host() {
        let machine = Machine::new();
        let (one, other) = (machine.process(), machine.process());
        one.save(&machine.cluster, &of(1, 6, &[(7, 6), (8, 2)]));
        other.save(&machine.cluster, &of(1, 5, &[(9, 5), (8, 4)]));
        let trusted = machine.trusted();
        assert_eq!(trusted.heard, 6);
        assert_eq!(trusted.removed, [(key(7), 6), (key(9), 5), (key(8), 4)]);
        // A key that a person has named takes the place of what was kept (--host-key): her counter begins anew.
        machine.process().save(&machine.cluster, &of(2, 1, &[(5, 1)]));
        let trusted = machine.trusted();
        assert_eq!((trusted.host, trusted.heard), (Some(key(2)), 1));
        assert_eq!(trusted.removed, [(key(5), 1)]);
    }

    #[test]
    fn so_many_removals_are_kept_and_no_more() {
        let mut trusted = Trusted::default();
        let most = u64::try_from(limits::REMOVALS_KEPT).unwrap();
        let machine = |number: u64| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            MachineKey(key)
        };
        let removals = (1..=most + 5).map(|serial| (machine(serial), serial)).collect();
        assert!(trusted.learn(None, &MemberKept { removals, ..of(1, most, &[]) }));
        assert_eq!(trusted.removed.len(), limits::REMOVALS_KEPT);
        assert_eq!(trusted.removed.last(), Some(&(machine(6), 6)));
    }

    fn numbered(number: u32) -> MachineKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        MachineKey(key)
    }

    #[test]
    fn who_waits_is_written_together_and_bounded() {
        let machine = Machine::new();
        let host = machine.process();
        let users: Vec<UserName> = (0..100).map(|number| format!("user{number:02}").parse().unwrap()).collect();
        for (at, user) in (0..).zip(&users) {
            for number in 0..20 {
                host.pend(&machine.cluster, user, numbered(at * 100 + number));
            }
        }
        let bob: UserName = "bob".parse().unwrap();
        host.pend(&machine.cluster, &bob, key(1));
        host.pend(&machine.cluster, &bob, key(2));
        host.bind(&machine.cluster, &bob, key(2), 1, 9);
        assert!(machine.trusted().pending.is_empty(), "nothing was written yet");
        host.write_pending(&machine.cluster);
        let pending = machine.trusted().pending;
        assert_eq!(pending.values().map(Vec::len).sum::<usize>(), super::super::WAITING);
        // One who floods for others takes nothing from whom it is few.
        assert_eq!(pending[&bob], [key(1)]);
        assert_eq!(pending[&users[0]].last(), Some(&numbered(19)));
        assert!(pending.values().all(|machines| machines.len() <= limits::CLAIMS_WAITING));
        let size = std::fs::metadata(machine.folder.path().join("p2p/clusters/alice+friends.json")).unwrap().len();
        assert!(size < 128 * 1024, "{size} bytes");
    }

    #[test]
    fn a_file_of_an_older_version_with_a_flood_of_waiting_machines_keeps_no_host_from_starting() {
        let machine = Machine::new();
        let host = machine.process();
        let pending: serde_json::Map<_, _> = (0..1000)
            .map(|number| (format!("user{number}"), serde_json::json!(vec![vec![7; 32]; limits::CLAIMS_WAITING])))
            .collect();
        let file = serde_json::json!({ "pending": pending, "approved": { "bob": [Fingerprint::from(key(1))] } });
        let text = serde_json::to_vec_pretty(&file).unwrap();
        assert!(text.len() > 4 * 1024 * 1024);
        std::fs::write(machine.folder.path().join("p2p/clusters/alice+friends.json"), text).unwrap();
        host.forget_pending(&machine.cluster);
        let trusted = machine.trusted();
        assert!(trusted.pending.is_empty());
        assert_eq!(trusted.approved.len(), 1);
    }

    #[test]
    fn what_was_approved_goes_with_its_user_off_the_list() {
        let machine = Machine::new();
        let host = machine.process();
        let user = |name: &str| -> UserName { name.parse().unwrap() };
        machine.change(|trusted| {
            for name in ["alice", "bob", "carol"] {
                trusted.approve(&user(name), Fingerprint::from(key(1))).unwrap();
            }
            trusted.wish(Wish::Forget(user("carol"), None)).unwrap();
        });
        host.keep_approved(&machine.cluster, &[user("bob")]).unwrap();
        let trusted = machine.trusted();
        assert_eq!(trusted.approved.keys().map(UserName::as_str).collect::<Vec<_>>(), ["alice", "bob"]);
        let approve = |name| Wish::Approve(user(name), Fingerprint::from(key(1)));
        assert_eq!(trusted.wishes, [approve("alice"), approve("bob"), Wish::Forget(user("carol"), None)]);
    }
}
