//! The processes of a world: who they are, when they start, sleep and end.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::board::BoardEvent;
use p2p_proto::board::message::Offer;
use p2p_proto::ids::{PeerName, Role, UserName};
use p2p_proto::link::LinkError;
use p2p_proto::trust::{Identity, Membership, MembershipClaims, ProcessSecret};
use p2p_scheduler::machine::Me;
use p2p_scheduler::machine::client::{ClientMachine, ClientReport};
use p2p_scheduler::machine::host::{HostMachine, HostReport};
use p2p_scheduler::machine::worker::{WorkerMachine, WorkerOffer, WorkerReport};
use p2p_scheduler::memory::{Faults, Mangler};
use p2p_scheduler::{HostConfig, HostKept, HostTrust, MemberKept};

use super::{CLUSTER, Happening, Peer, World};

/// From a process's start until its board is up.
const BOARD_UP_AFTER: Duration = Duration::from_millis(200);

/// What a process is.
#[derive(Debug)]
pub enum Machine {
    /// A host.
    Host(Box<HostMachine>),
    /// A worker.
    Worker(Box<WorkerMachine>),
    /// A client.
    Client(Box<ClientMachine>),
    /// Its process has ended.
    Gone,
}

/// A process.
pub(super) struct Place {
    pub(super) machine: Machine,
    pub(super) me: Me,
    pub(super) mangler: Mangler,
    /// Whether its board connection is up.
    pub(super) up: bool,
    /// Who hears whom: those of one group.
    pub(super) group: u8,
    pub(super) asleep_until: Option<Duration>,
    pub(super) skew_s: i64,
    /// When its machine wants to be called: its entry in the world's `wakes`.
    pub(super) wake: Option<Duration>,
    /// It knows of no board that is up.
    pub(super) joining: bool,
    /// Its clock was changed since.
    pub(super) wake_is_old: bool,
    /// Its links are the same, and whole, since then; later than now while a cut may be unnoticed.
    pub(super) steady: Duration,
    /// Of a worker: what it offers.
    pub(super) offer: Option<WorkerOffer>,
    pub(super) draining: bool,
    pub(super) drained: bool,
    pub(super) kept: MemberKept,
    /// Of a host: what she has kept.
    pub(super) roster: HostKept,
    /// Lines that it said.
    pub(super) lines: u64,
    pub(super) worker_reports: Vec<WorkerReport>,
    pub(super) client_reports: Vec<ClientReport>,
    pub(super) host_reports: Vec<HostReport>,
    /// Whose account it uses on the board.
    pub(super) login: UserName,
}

impl Place {
    pub(super) fn label(&self, peer: Peer) -> String {
        let role = match self.me.role {
            Role::Host => "host",
            Role::Worker => "worker",
            Role::Client => "client",
        };
        format!("{role}{peer}:{}", self.me.user)
    }
}

impl World {
    /// A process of `user`, whose machine is the same each time.
    fn me(&mut self, user: &str, role: Role) -> Me {
        let pid = u32::try_from(self.places.len()).unwrap_or(u32::MAX - 1) + 1;
        let fresh = u8::try_from(self.machines.len() % 250).unwrap_or_default() + 1;
        let secret = *self.machines.entry(user.to_owned()).or_insert([fresh; 32]);
        let user: UserName = user.parse().unwrap_or_else(|fault| panic!("{user} is no user: {fault}"));
        let mut process = [7; 32];
        process[..4].copy_from_slice(&pid.to_be_bytes());
        Me {
            cluster: CLUSTER.parse().unwrap_or_else(|fault| unreachable!("{fault}")),
            name: PeerName::new(&user, "box", pid),
            user,
            role,
            identity: Identity::from_secret(&secret),
            secret: ProcessSecret::from_entropy(process),
        }
    }

    /// From now on `user` sits at another machine.
    pub fn new_machine(&mut self, user: &str) {
        let mut fresh = [100; 32];
        fresh[..8].copy_from_slice(&(self.places.len() as u64).to_be_bytes());
        self.machines.insert(user.to_owned(), fresh);
    }

    /// From now on `user` sits at the machine of this key; what that has kept is that `host` has signed it.
    pub fn sit_at(&mut self, user: &str, secret: [u8; 32], host: Peer) -> MemberKept {
        self.machines.insert(user.to_owned(), secret);
        let machine = self.me(user, Role::Worker);
        let (host, from) = (&self.places[host].me, self.now().unix);
        let claims = MembershipClaims {
            host: host.keys().machine,
            user: machine.user.clone(),
            machine: machine.keys().machine,
            serial: 1,
            from,
            until: from + HostConfig::of([]).member_ttl.as_secs(),
        };
        let membership = Membership::sign(&host.identity, &host.cluster, &claims);
        MemberKept { host: Some(claims.host), membership: Some(membership), ..MemberKept::default() }
    }

    fn place(&mut self, machine: Machine, me: Me, offer: Option<WorkerOffer>, skew_s: i64) -> Peer {
        let (peer, login) = (self.places.len(), me.user.clone());
        self.places.push(Place {
            login,
            machine,
            me,
            mangler: Mangler::new(Faults::default(), 0),
            up: !self.board.is_closed(),
            group: 0,
            asleep_until: None,
            skew_s,
            wake: None,
            joining: true,
            wake_is_old: false,
            steady: self.at,
            offer,
            draining: false,
            drained: false,
            kept: MemberKept::default(),
            roster: HostKept::default(),
            lines: 0,
            worker_reports: Vec::new(),
            client_reports: Vec::new(),
            host_reports: Vec::new(),
        });
        self.shelter(peer);
        self.on_population(true);
        self.note(peer, || "starts".to_owned());
        if !self.board.is_closed() {
            self.later(BOARD_UP_AFTER, Happening::Board(peer, BoardEvent::Up));
        }
        peer
    }

    /// A host who lists these users.
    pub fn host(&mut self, listed: &[&str]) -> Peer {
        self.host_with(listed, HostKept::default())
    }

    /// The same with what an earlier start of hers has kept.
    pub fn host_with(&mut self, listed: &[&str], kept: HostKept) -> Peer {
        let users = listed.iter().map(|user| user.parse().unwrap_or_else(|fault| panic!("{user} is no user: {fault}")));
        self.host_as(HostConfig::of(users), kept)
    }

    /// The same, as she wants it.
    pub fn host_as(&mut self, config: HostConfig, kept: HostKept) -> Peer {
        let me = self.me("alice", Role::Host);
        let machine = HostMachine::new(me.clone(), config, kept.clone());
        let peer = self.place(Machine::Host(Box::new(machine)), me, None, 0);
        self.places[peer].roster = kept;
        peer
    }

    /// The board knows this process as another user than it says.
    pub fn log_in_as(&mut self, peer: Peer, user: &str) {
        self.places[peer].login = user.parse().unwrap_or_else(|fault| panic!("{user} is no user: {fault}"));
    }

    /// What a host has kept for her next start.
    pub fn roster(&self, host: Peer) -> HostKept {
        self.places[host].roster.clone()
    }

    /// A worker with so many slots for the runtime `r`.
    pub fn worker(&mut self, user: &str, slots: u32) -> Peer {
        self.worker_with(user, offer(slots, &["r"]), None)
    }

    /// A worker that starts with what the process `before` has kept.
    pub fn worker_with(&mut self, user: &str, offer: WorkerOffer, before: Option<Peer>) -> Peer {
        self.worker_trusting(user, offer, before, HostTrust::Login)
    }

    /// The same, of a machine that finds out in this way who the host is.
    pub fn worker_trusting(&mut self, user: &str, offer: WorkerOffer, before: Option<Peer>, trust: HostTrust) -> Peer {
        let kept = before.map_or_else(MemberKept::default, |before| self.places[before].kept.clone());
        let skew_s = before.map_or(0, |before| self.places[before].skew_s);
        self.worker_keeping(user, offer, kept, skew_s, trust)
    }

    /// A worker that starts with this.
    pub fn worker_keeping(
        &mut self,
        user: &str,
        offer: WorkerOffer,
        kept: MemberKept,
        skew_s: i64,
        trust: HostTrust,
    ) -> Peer {
        let me = self.me(user, Role::Worker);
        let seed = self.dice.bytes();
        let mut now = self.now();
        now.unix = now.unix.saturating_add_signed(skew_s);
        let machine = WorkerMachine::new(me.clone(), offer.clone(), now, trust, kept.clone(), seed);
        let peer = self.place(Machine::Worker(Box::new(machine)), me, Some(offer), skew_s);
        self.places[peer].kept = kept;
        peer
    }

    /// A client.
    pub fn client(&mut self, user: &str) -> Peer {
        self.client_with(user, None)
    }

    /// A client that starts with what the process `before` has kept.
    pub fn client_with(&mut self, user: &str, before: Option<Peer>) -> Peer {
        let kept = before.map_or_else(MemberKept::default, |before| self.places[before].kept.clone());
        let skew_s = before.map_or(0, |before| self.places[before].skew_s);
        self.client_keeping(user, kept, skew_s)
    }

    /// A client that starts with this.
    pub fn client_keeping(&mut self, user: &str, kept: MemberKept, skew_s: i64) -> Peer {
        self.client_trusting(user, kept, skew_s, HostTrust::Login)
    }

    /// The same, of a machine that finds out in this way who the host is.
    pub fn client_trusting(&mut self, user: &str, kept: MemberKept, skew_s: i64, trust: HostTrust) -> Peer {
        let me = self.me(user, Role::Client);
        let seed = self.dice.bytes();
        let mut now = self.now();
        now.unix = now.unix.saturating_add_signed(skew_s);
        let machine = ClientMachine::new(me.clone(), now, trust, kept.clone(), seed);
        let peer = self.place(Machine::Client(Box::new(machine)), me, None, skew_s);
        self.places[peer].kept = kept;
        peer
    }

    /// Whether its process runs.
    pub fn is_alive(&self, peer: Peer) -> bool {
        !matches!(self.places[peer].machine, Machine::Gone)
    }

    /// All processes that run.
    pub fn alive(&self) -> Vec<Peer> {
        (0..self.places.len()).filter(|peer| self.is_alive(*peer)).collect()
    }

    /// Its calendar goes wrong by so much.
    pub fn set_skew(&mut self, peer: Peer, skew_s: i64) {
        self.note(peer, || format!("clock is {skew_s} s off"));
        self.places[peer].skew_s = skew_s;
        self.places[peer].wake_is_old = true;
        self.owes_nothing(peer);
    }

    /// The process ends without a word; its links break, and the others notice at once.
    pub fn kill(&mut self, peer: Peer) {
        self.note(peer, || "is killed".to_owned());
        self.cut(peer);
        self.end_process(peer);
    }

    /// Its machine loses power: nobody notices before the silence is too long.
    pub fn power_off(&mut self, peer: Peer) {
        self.note(peer, || "loses power".to_owned());
        self.cut_unnoticed(peer);
        self.end_process(peer);
    }

    /// Takes a machine out: its process is gone.
    pub(crate) fn take_machine(&mut self, peer: Peer) -> Machine {
        let machine = std::mem::replace(&mut self.places[peer].machine, Machine::Gone);
        self.end_process(peer);
        machine
    }

    fn end_process(&mut self, peer: Peer) {
        self.places[peer].machine = Machine::Gone;
        self.places[peer].asleep_until = None;
        self.on_population(false);
        self.owes_nothing(peer);
        self.rewake(peer);
        self.forget_connections(peer);
        self.forget_links(peer);
        self.forget_sides(peer);
        self.ledger.on_client_gone(peer);
        let (waited, ran) = self.executor.on_gone(peer);
        waited.into_iter().for_each(|task| self.ledger.on_unstaged(task));
        ran.into_iter().for_each(|task| self.ledger.on_run_over(task));
        self.on_left();
    }

    /// Its machine sleeps: time passes, it hears nothing, and then everything at once. Links that were silent for too long break.
    pub fn sleep(&mut self, peer: Peer, time: Duration) {
        if !self.is_alive(peer) {
            return;
        }
        self.note(peer, || format!("sleeps for {time:?}"));
        let until = self.places[peer].asleep_until.unwrap_or_default().max(self.at + time);
        self.places[peer].asleep_until = Some(until);
        self.rewake(peer);
        if time > p2p_proto::limits::LINK_SILENCE {
            self.cut_with(peer, |own| {
                if own {
                    Some((time, LinkError::Silent))
                } else {
                    Some((p2p_proto::limits::LINK_SILENCE, LinkError::Silent))
                }
            });
        }
    }

    /// Who has slept for long enough by now is awake.
    pub(super) fn wake_sleeper(&mut self, peer: Peer) {
        if self.places[peer].asleep_until.is_some_and(|until| until <= self.at) {
            self.note(peer, || "wakes up".to_owned());
            self.places[peer].asleep_until = None;
        }
    }
}

/// A worker with so many slots for these runtimes.
pub fn offer(slots: u32, runtimes: &[&str]) -> WorkerOffer {
    let runtimes = runtimes.iter().map(|runtime| (*runtime).to_owned()).collect();
    WorkerOffer { offer: Offer { slots, runtimes, ..Offer::default() }, allow: None, weights: BTreeMap::new() }
}
