//! What a client knows about its cluster, and why its tasks wait, for people.

use std::fmt;
use std::time::Duration;

use p2p_proto::board::BoardError;
use p2p_proto::board::message::DenyReason;
use p2p_proto::ids::{ClusterName, PeerName};
use p2p_proto::limits;
use p2p_proto::link::LinkPath;
use p2p_proto::link::item::CacheUse;

use super::super::admission::Outside;
use super::workers::Worker;
use super::{BoardState, ClientMachine, Needs};
use crate::machine::{Now, Table};

/// A cluster as one client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which cluster.
    pub cluster: ClusterName,
    /// Whether its host was heard lately.
    pub host_present: bool,
    /// Whether there is one who signs who belongs, or everybody signs for himself.
    pub has_host: bool,
    /// Peers on the board, as the host counts them; 1 before she was heard.
    pub peers: u32,
    /// Workers, by name.
    pub workers: Vec<WorkerStatus>,
    /// Tasks of this client that wait.
    pub queued: usize,
    /// Tasks of this client without an outcome.
    pub unfinished: usize,
}

/// A worker as one client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its name.
    pub name: PeerName,
    /// Its slots.
    pub slots: u32,
    /// Slots that run something, of whomever; `None` before it was asked.
    pub busy: Option<u32>,
    /// Tasks that wait there, of whomever.
    pub queued: Option<u32>,
    /// The least round trip measured.
    pub round_trip: Option<Duration>,
    /// Which way the bytes go; `None` while there is no connection.
    pub path: Option<LinkPath>,
    /// It takes no more tasks.
    pub draining: bool,
    /// What it can run, and the words that tasks may ask for.
    pub runtimes: Vec<String>,
    /// See `runtimes`.
    pub labels: Vec<String>,
    /// What it keeps of this user's inputs; `None` where it keeps none, or was not asked.
    pub cache: Option<CacheUse>,
}

/// Why tasks wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The board is being joined.
    Joining,
    /// The board is away.
    BoardDown(String),
    /// The board did not let us in.
    Misrouted(ClusterName, Outside),
    /// The board cannot be used.
    Failed(BoardError),
    /// The host has not signed this machine's key yet.
    Unsigned(ClusterName),
    /// The host and this machine find out by the board whose keys they have.
    Proving(ClusterName),
    /// The host refused.
    Denied(ClusterName, DenyReason),
    /// No worker is here.
    NoWorkers(ClusterName),
    /// The connections to these workers broke, and nobody else offers what waits. They are tried again.
    Away(Vec<PeerName>),
    /// Workers are here, none of which offers this.
    Unoffered(Needs),
    /// Links are being set up.
    Connecting(Vec<PeerName>),
    /// All workers have enough to do.
    Busy {
        /// Slots that this client is linked to.
        slots: u32,
    },
}

impl ClientMachine {
    /// What is known now.
    pub fn status(&self, now: Now) -> Status {
        let linked = self.workers.all().map(|worker| WorkerStatus {
            name: worker.name.clone(),
            slots: worker.slots,
            busy: worker.busy(),
            queued: worker.load.map(|load| load.queued),
            round_trip: worker.round_trip,
            path: (!worker.carrier.is_broken()).then(|| worker.path.clone()),
            draining: worker.draining,
            runtimes: worker.offer.runtimes.clone(),
            labels: worker.offer.labels.clone(),
            cache: worker.load.and_then(|load| load.cache),
        });
        let others =
            self.directory.present(now).filter(|(process, _)| self.workers.of_process(**process).is_none()).map(
                |(_, present)| WorkerStatus {
                    name: present.name.clone(),
                    slots: present.offer.as_ref().map_or(0, |offer| offer.slots),
                    busy: None,
                    queued: None,
                    round_trip: None,
                    path: None,
                    draining: false,
                    runtimes: present.offer.as_ref().map_or_else(Vec::new, |offer| offer.runtimes.clone()),
                    labels: present.offer.as_ref().map_or_else(Vec::new, |offer| offer.labels.clone()),
                    cache: None,
                },
            );
        let mut workers: Vec<_> = linked.chain(others).collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        Status {
            cluster: self.me.cluster.clone(),
            host_present: self.admission.host_present(now, limits::HOST_AWAY),
            has_host: self.admission.has_host(),
            peers: self.speaker.peers(),
            workers,
            queued: self.tasks.queued(),
            unfinished: self.tasks.unfinished(),
        }
    }

    /// What it holds of others, and may hold at most (I-07).
    pub fn tables(&self) -> [Table; 4] {
        let links =
            Table { what: "links and calls", holds: self.workers.len() + self.calls.len(), most: limits::CLIENT_LINKS };
        let tasks = Table { what: "tasks", holds: self.tasks.unfinished(), most: limits::CLIENT_TASKS };
        [self.speaker.table(), self.directory.table(), links, tasks]
    }

    /// Why tasks wait, if any do.
    pub fn waiting(&self, now: Now) -> Option<Waiting> {
        let mut waiting = self.tasks.waiting().peekable();
        if waiting.peek().is_none() && (!self.surveying || self.workers.len() > 0) {
            return None;
        }
        let unserved = waiting.find(|class| self.workers.slots_for(std::iter::once(*class)) == 0);
        if unserved.is_none() && self.tasks.queued() > 0 {
            return Some(Waiting::Busy { slots: self.workers.slots_for(self.tasks.waiting()) });
        }
        Some(self.unserved(now, unserved.map(|class| self.tasks.needs(class))))
    }

    /// Why a task with these needs would wait if it were submitted now; `None` if it would start at once, as far as is known. Others may
    /// be quicker.
    pub fn prospect(&self, now: Now, needs: &Needs) -> Option<Waiting> {
        let fitting = || self.workers.all().filter(|worker| worker.could_run(needs));
        let free = |worker: &Worker| {
            let (busy, queued) = worker.load.map_or((0, 0), |load| (load.busy, load.queued));
            queued == 0 && worker.slots.saturating_sub(busy) >= needs.cpus
        };
        match fitting().map(|worker| worker.slots).fold(0, u32::saturating_add) {
            0 => Some(self.unserved(now, Some(needs))),
            _ if fitting().any(free) => None,
            slots => Some(Waiting::Busy { slots }),
        }
    }

    /// Why no linked worker takes such a task.
    fn unserved(&self, now: Now, needs: Option<&Needs>) -> Waiting {
        let cluster = || self.me.cluster.clone();
        match &self.board {
            BoardState::Joining => return Waiting::Joining,
            BoardState::Down(reason) => return Waiting::BoardDown(reason.clone()),
            BoardState::Misrouted => return Waiting::Misrouted(cluster(), self.admission.outside(&self.me)),
            BoardState::Failed(error) => return Waiting::Failed(error.clone()),
            BoardState::Up => {}
        }
        let mut present = self.directory.present(now).peekable();
        if let Some(why) = self.admission.denied(now) {
            Waiting::Denied(cluster(), why)
        } else if self.admission.is_proving() {
            Waiting::Proving(cluster())
        } else if !self.admission.is_member(now) {
            Waiting::Unsigned(cluster())
        } else if self.calls.len() > 0 {
            Waiting::Connecting(self.calls.workers().map(|worker| worker.name.clone()).collect())
        } else if present.peek().is_none() {
            Waiting::NoWorkers(cluster())
        } else if let Some(needs) = needs {
            // One that is linked and does not fit has said what it is: only others could still be asked.
            let offered =
                present.any(|(process, peer)| peer.could_run(needs) && self.workers.of_process(*process).is_none());
            let away = self
                .workers
                .all()
                .filter(|worker| worker.carrier.is_broken() && needs.fit(worker.slots, &worker.offer));
            let away: Vec<PeerName> = away.map(|worker| worker.name.clone()).collect();
            match (offered, away.is_empty()) {
                (true, _) => Waiting::Connecting(Vec::new()),
                (false, false) => Waiting::Away(away),
                (false, true) => Waiting::Unoffered(needs.clone()),
            }
        } else {
            Waiting::Connecting(Vec::new())
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joining => write!(f, "joining the board"),
            Self::BoardDown(reason) => write!(f, "the board is away ({reason}); it is tried again"),
            Self::Misrouted(cluster, Outside::Owner) => {
                write!(
                    f,
                    "nobody hosts your cluster {cluster} now; run: p2p host --cluster {cluster} --users FRIEND,..."
                )
            }
            Self::Misrouted(cluster, Outside::Known) => write!(
                f,
                "the board does not let you into {cluster} any more: {}'s host is away now, or you were taken off her list; ask her",
                cluster.owner()
            ),
            Self::Misrouted(cluster, Outside::Unknown) => write!(
                f,
                "the board does not let you into {cluster}: you are not on its list, {} is not hosting it now, or the name is wrong; \
                 ask {} to run: p2p host --cluster {cluster} --users YOU",
                cluster.owner(),
                cluster.owner()
            ),
            Self::Failed(error) => write!(f, "{error}"),
            Self::Unsigned(cluster) => write!(
                f,
                "{} has not signed this machine's key: the host is away; ask {} to run: p2p host --cluster {cluster}",
                cluster.owner(),
                cluster.owner()
            ),
            Self::Proving(cluster) => write!(
                f,
                "the host of {cluster} and this machine look on the board whose keys they have, which takes some seconds"
            ),
            Self::Denied(cluster, why) => match why {
                DenyReason::NotListed => write!(
                    f,
                    "you are not on the list of {cluster}; ask {} to host it with your name in --users",
                    cluster.owner()
                ),
                DenyReason::OtherKey => write!(
                    f,
                    "{} knows you by the key of another machine and does not take a second one; \
                     ask her to run: p2p trust forget YOUR-NAME --cluster {cluster}",
                    cluster.owner()
                ),
                DenyReason::AwaitsApproval => write!(
                    f,
                    "{} has to approve this machine's key; tell her its fingerprint (p2p id), and she runs: p2p approve YOUR-NAME KEY \
                     --cluster {cluster}",
                    cluster.owner()
                ),
                DenyReason::Unproven => write!(
                    f,
                    "the board did not show the host of {cluster} that this machine's key is yours: somebody else was where it should have been, \
                     or it did not get there in time; it is tried again. If that goes on, tell {} its fingerprint (p2p id), and she runs: p2p \
                     approve YOUR-NAME KEY --cluster {cluster}",
                    cluster.owner()
                ),
                DenyReason::TooManyMachines => write!(
                    f,
                    "{} has as many machines of yours on her roster as she takes; ask her to run: p2p trust forget YOUR-NAME KEY --cluster \
                     {cluster}",
                    cluster.owner()
                ),
                DenyReason::BadCertificate => write!(
                    f,
                    "the host of {cluster} could not verify this machine's certificate; is one of the two clocks wrong?"
                ),
                DenyReason::Other => {
                    write!(f, "the host of {cluster} refused for a reason that this version does not know")
                }
            },
            Self::NoWorkers(cluster) => {
                write!(f, "no worker is in {cluster} now; a friend adds one with: p2p worker --cluster {cluster}")
            }
            Self::Away(workers) => {
                let names: Vec<String> = workers.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "the connection to {} broke; it is tried again, and any other worker will do",
                    names.join(", ")
                )
            }
            Self::Unoffered(needs) => write!(f, "no worker here offers {needs}"),
            Self::Connecting(workers) if workers.is_empty() => {
                write!(f, "a worker could not be reached; it is tried again")
            }
            Self::Connecting(workers) => {
                let names: Vec<String> = workers.iter().map(ToString::to_string).collect();
                write!(f, "connecting to {}", names.join(", "))
            }
            Self::Busy { slots } => write!(f, "all {slots} slots are busy"),
        }
    }
}
