//! The host's driver.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_std::channel::{Receiver, Sender, bounded};
use futures::future::AbortHandle;

use p2p_proto::board::{Board, BoardEvent};
use p2p_proto::ids::{Fingerprint, Role, UserName};

use super::connections::spawn;
use super::{Clock, Member, REPORTS, Sides, Timer, TrustStore, lock};
use crate::machine::host::{HostConfig, HostInput, HostMachine, HostOutput, HostReport};

/// A host of a cluster: says who belongs to it. Dropping it leaves without a word; [`Host::leave`] says so first.
pub struct Host {
    inner: Arc<HostInner>,
    reports: Receiver<HostReport>,
    background: [AbortHandle; 2],
}

impl Host {
    /// Opens `member`'s own cluster as `config` says, on `board`, whose topic must carry the same list.
    ///
    /// # Errors
    /// When the system has no randomness, or the cluster is somebody else's.
    pub fn open(
        member: &Member,
        config: HostConfig,
        board: Arc<dyn Board>,
        store: Arc<dyn TrustStore>,
    ) -> std::io::Result<Self> {
        if member.cluster.owner() != &member.user {
            let owner = member.cluster.owner();
            return Err(std::io::Error::other(format!("only {owner} can host {}", member.cluster)));
        }
        let me = member.me(Role::Host).map_err(std::io::Error::other)?;
        let kept = store.load_roster(&member.cluster);
        let (reports, read_reports) = bounded(REPORTS);
        let inner = Arc::new(HostInner {
            machine: Mutex::new(HostMachine::new(me, config, kept)),
            member: member.clone(),
            clock: Clock::start(),
            timer: Timer::new(),
            sides: Sides::new(board.witness()),
            board,
            store,
            reports,
        });
        let background = [spawn(Arc::clone(&inner).follow_board()), spawn(Arc::clone(&inner).follow_timer())];
        Ok(Self { inner, reports: read_reports, background })
    }

    /// The next report for her. Reports that nobody reads in time are dropped. Cancel-safe.
    pub async fn report(&self) -> Option<HostReport> {
        self.reports.recv().await.ok()
    }

    /// Her list is now this one. Who is no longer on it is removed, and those who hear it end their links to him (T-03).
    pub fn set_users(&self, users: Vec<UserName>) {
        self.inner.drive(HostInput::Users(users));
    }

    /// She has compared the fingerprint: this machine is the user's (T-02).
    pub fn approve(&self, user: UserName, key: Fingerprint) {
        self.inner.drive(HostInput::Approve(user, key));
    }

    /// This machine of the user's, or all of them, are to be removed (T-03). They may prove themselves anew while he is listed.
    pub fn forget(&self, user: UserName, key: Option<Fingerprint>) {
        self.inner.drive(HostInput::Forget(user, key));
    }

    /// Says that she goes away, and leaves the board.
    pub async fn leave(self) {
        self.inner.drive(HostInput::Leave);
        self.inner.board.close().await;
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.inner.member.cluster)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for task in &self.background {
            task.abort();
        }
    }
}

struct HostInner {
    machine: Mutex<HostMachine>,
    member: Member,
    clock: Clock,
    timer: Timer,
    sides: Sides,
    board: Arc<dyn Board>,
    store: Arc<dyn TrustStore>,
    reports: Sender<HostReport>,
}

impl HostInner {
    fn drive(self: &Arc<Self>, input: HostInput) {
        let mut machine = lock(&self.machine);
        let mut outbox = Vec::new();
        machine.handle(self.clock.now(), input, &mut outbox);
        for output in outbox {
            match output {
                HostOutput::Publish(line) => {
                    if let Err(fault) = self.board.publish(line) {
                        // Lines are repeated until they are answered.
                        log::debug!("a board line was dropped: {fault}");
                    }
                }
                HostOutput::Bind { user, machine, serial, until } => {
                    self.store.bind(&self.member.cluster, &user, machine, serial, until);
                }
                HostOutput::Unbind { user, removal } => self.store.unbind(&self.member.cluster, &user, removal),
                HostOutput::Pending { user, machine } => self.store.pend(&self.member.cluster, &user, machine),
                HostOutput::Side(output) => {
                    let inner = Arc::downgrade(self);
                    self.sides.perform(output, move |input| {
                        if let Some(inner) = inner.upgrade() {
                            inner.drive(HostInput::Side(input));
                        }
                    });
                }
                HostOutput::Report(report) => {
                    // Full: nobody reads, and reports are for people.
                    let _ = self.reports.try_send(report);
                }
            }
        }
        self.timer.set(machine.wake_at());
    }

    async fn follow_board(self: Arc<Self>) {
        loop {
            let event = self.board.next().await;
            let last = matches!(event, BoardEvent::Failed(_));
            self.drive(HostInput::Board(event));
            if last {
                return;
            }
        }
    }

    async fn follow_timer(self: Arc<Self>) {
        loop {
            self.timer.tick(&self.clock).await;
            self.drive(HostInput::Tick);
        }
    }
}
