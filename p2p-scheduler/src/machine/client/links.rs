//! The life of a link at the client: connected, broken and called back, resumed or given up (L-05, L-06).

use std::time::Duration;

use p2p_proto::ids::SetupId;
use p2p_proto::link::item::Open;
use p2p_proto::link::{LinkError, LinkPath, ToWorker};
use p2p_proto::{VERSION, limits};

use super::standby::STANDBY_AFTER;
use super::workers::Worker;
use super::{ClientMachine, ClientOutput, ClientReport};
use crate::machine::{Now, earliest};
use crate::{ConnectionId, LinkId};

/// A broken link's worker is called at once, and again after this long, doubled each time up to [`CALL_BACK_MAX`].
const CALL_BACK: Duration = Duration::from_secs(1);
/// The longest time between two calls of a broken link's worker.
const CALL_BACK_MAX: Duration = Duration::from_secs(8);

/// What carries a link.
#[derive(Debug)]
pub(super) struct Carrier {
    /// The link's name between the two peers: the counter of its first connection.
    pub(super) number: SetupId,
    /// The counter of its present or last connection.
    setup: SetupId,
    /// Calls for it so far.
    epoch: u32,
    connection: Option<ConnectionId>,
    /// The present connection goes on with it, and the worker has not said yet what it has.
    resuming: bool,
    /// How long the worker waits for it.
    grace: Duration,
    /// When the next connection is to be made ready.
    standby_at: Option<Duration>,
    broken: Option<Broken>,
}

/// A link that has lost its connection, until the worker has said what it has of it.
#[derive(Debug)]
struct Broken {
    since: Duration,
    error: LinkError,
    /// When the worker is to be called again; `None` while a call is under way.
    call_at: Option<Duration>,
    pause: Duration,
    /// Its tasks may start elsewhere.
    elsewhere: bool,
}

impl Carrier {
    fn new(setup: SetupId, connection: ConnectionId, grace: Duration) -> Self {
        let connection = Some(connection);
        Self { number: setup, setup, epoch: 1, connection, resuming: false, grace, standby_at: None, broken: None }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether it was away for so long that its tasks may start elsewhere.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.broken.as_ref().is_some_and(|broken| broken.elsewhere)
    }

    /// Of the next call for it: the higher one wins.
    pub(super) fn next_epoch(&mut self) -> u32 {
        self.epoch = self.epoch.saturating_add(1);
        self.epoch
    }

    /// Whether its worker is to be called now.
    pub(super) fn is_to_be_called(&self, now: Now) -> bool {
        self.waits().is_some_and(|broken| broken.call_at.is_some_and(|at| at <= now.at))
    }

    /// Its worker is called.
    pub(super) fn on_call(&mut self) {
        if let Some(broken) = &mut self.broken {
            broken.call_at = None;
        }
    }

    /// That call came to nothing.
    pub(super) fn on_call_failed(&mut self, now: Now) {
        if let Some(broken) = &mut self.broken {
            broken.call_at = Some(now.at + broken.pause);
            broken.pause = (broken.pause * 2).min(CALL_BACK_MAX);
        }
    }

    /// When something is due for it. A call that is due waits for the board to come up, which wakes the machine by itself.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        if self.broken.is_none() {
            return self.standby_at;
        }
        let broken = self.waits()?;
        let elsewhere = (!broken.elsewhere).then_some(broken.since + broken.elsewhere_after());
        earliest([elsewhere, Some(broken.since + self.grace)])
    }

    /// When its worker is to be called.
    fn call_at(&self) -> Option<Duration> {
        self.waits()?.call_at
    }

    /// It has no connection, and waits for one.
    fn waits(&self) -> Option<&Broken> {
        self.broken.as_ref().filter(|_| self.connection.is_none())
    }
}

impl Broken {
    /// How long its tasks wait for it before they may start elsewhere (L-06).
    fn elsewhere_after(&self) -> Duration {
        match self.error {
            LinkError::Silent => limits::ELSEWHERE_AFTER_SILENCE,
            _ => limits::ELSEWHERE_AFTER,
        }
    }
}

impl super::workers::Workers {
    /// The board is there: broken links' workers are called then at the latest.
    pub(super) fn call_again_at(&mut self, at: Duration) {
        for (_, worker) in self.iter_mut() {
            if let Some(call_at) = worker.carrier.broken.as_mut().and_then(|broken| broken.call_at.as_mut()) {
                *call_at = at.min(*call_at);
            }
        }
    }

    /// Nobody can be called now.
    pub(super) fn put_off_calls(&mut self, now: Now) {
        for (_, worker) in self.iter_mut().filter(|(_, worker)| worker.carrier.is_to_be_called(now)) {
            worker.carrier.on_call_failed(now);
        }
    }

    /// When the next broken link's worker is to be called.
    pub(super) fn call_at(&self) -> Option<Duration> {
        self.iter().filter_map(|(_, worker)| worker.carrier.call_at()).min()
    }

    fn carried_by(&self, connection: ConnectionId) -> Option<LinkId> {
        self.iter().find(|(_, worker)| worker.carrier.connection == Some(connection)).map(|(link, _)| link)
    }
}

impl ClientMachine {
    /// A connection is proven by its first record: a new link's, or one that a broken link goes on over.
    pub(super) fn on_connected(
        &mut self,
        now: Now,
        connection: ConnectionId,
        path: LinkPath,
        out: &mut Vec<ClientOutput>,
    ) {
        let Some(call) = self.calls.on_settled(connection) else {
            out.push(ClientOutput::Abandon(connection));
            return;
        };
        let open = Open {
            version: VERSION,
            name: self.me.name.clone(),
            capabilities: Vec::new(),
            slots: 0,
            received: None,
            // The worker must not give up first.
            grace_s: u32::try_from(self.grace.as_millis().div_ceil(1000)).unwrap_or(u32::MAX),
        };
        let Some(link) = call.purpose.link() else {
            let link = self.new_link_id();
            out.push(ClientOutput::Attach { link, connection, open, resumes: false });
            let worker = call.worker.name.clone();
            out.push(ClientOutput::Report(ClientReport::Linked { worker, path: path.clone() }));
            // Whatever was lost with this process before, it lives.
            self.tasks.acquit(call.worker.verified.keys.process);
            let carrier = Carrier::new(call.setup, connection, self.grace);
            self.workers.add(now, link, call.worker, (path, carrier), &self.tasks);
            self.set_expiry(now);
            return;
        };
        match self.workers.get_mut(link) {
            Some(worker) if worker.carrier.setup < call.setup => {
                worker.path = path;
                worker.carrier.setup = call.setup;
                worker.carrier.connection = Some(connection);
                worker.carrier.resuming = true;
                out.push(ClientOutput::Attach { link, connection, open, resumes: true });
            }
            // It is gone, or a later connection was quicker.
            _ => out.push(ClientOutput::Abandon(connection)),
        }
    }

    /// The worker's first word on a connection.
    pub(super) fn on_open(&mut self, now: Now, link: LinkId, open: &Open, out: &mut Vec<ClientOutput>) {
        let grace = self.grace.min(Duration::from_secs(open.grace_s.into()));
        let Some(worker) = self.workers.get_mut(link) else { return };
        if !super::super::speaks(open.version) {
            let fault = p2p_proto::error::ProtoError::Version { theirs: open.version };
            return self.drop_worker(now, link, LinkError::Broken(fault.to_string()), out);
        }
        worker.carrier.grace = grace;
        worker.carrier.standby_at = Some(now.at + STANDBY_AFTER).filter(|_| !grace.is_zero());
        if std::mem::take(&mut worker.carrier.resuming) {
            if open.received.is_none() {
                return self.on_forgotten(now, link, out);
            }
            let (name, path) = (worker.name.clone(), worker.path.clone());
            self.workers.change(link, |worker| worker.carrier.broken = None);
            self.on_attempts_resumed(link);
            out.extend(self.calls.give_up(link).into_iter().map(ClientOutput::Abandon));
            out.push(ClientOutput::Report(ClientReport::Resumed { worker: name, path }));
        }
        self.workers.on_open(link, open.slots.min(limits::SLOTS), &self.tasks);
    }

    pub(super) fn on_disconnected(
        &mut self,
        now: Now,
        connection: ConnectionId,
        error: LinkError,
        out: &mut Vec<ClientOutput>,
    ) {
        if let Some(call) = self.calls.on_settled(connection) {
            return self.on_call_failed(now, call, format!("no connection came about: {error}"), out);
        }
        let Some(link) = self.workers.carried_by(connection) else { return };
        let Some(worker) = self.workers.get_mut(link) else { return };
        worker.carrier.connection = None;
        worker.carrier.resuming = false;
        // One without work is worth no calls: the next task brings a new one.
        if !error.may_resume() || worker.carrier.grace.is_zero() || !worker.is_busy() {
            return self.drop_worker(now, link, error, out);
        }
        if worker.carrier.is_broken() {
            worker.carrier.on_call_failed(now);
            return;
        }
        let (name, tasks) = (worker.name.clone(), worker.attempts.len());
        let broken =
            Broken { since: now.at, error: error.clone(), call_at: Some(now.at), pause: CALL_BACK, elsewhere: false };
        self.workers.change(link, |worker| worker.carrier.broken = Some(broken));
        self.use_standby(link, out);
        out.push(ClientOutput::Report(ClientReport::Broken { worker: name, error, tasks }));
        self.on_attempts_broken(link, out);
    }

    /// What is due for links, with a connection or without.
    pub(super) fn on_links_due(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        let is_due = |worker: &Worker| worker.carrier.wake_at().is_some_and(|at| at <= now.at);
        let due: Vec<LinkId> = self.workers.iter().filter(|(_, worker)| is_due(worker)).map(|(link, _)| link).collect();
        for link in due {
            let Some(worker) = self.workers.get_mut(link) else { continue };
            let carrier = &mut worker.carrier;
            let Some(broken) = &mut carrier.broken else {
                carrier.standby_at = None;
                self.offer_standby(now, link, out);
                continue;
            };
            if broken.since + carrier.grace <= now.at {
                let error = broken.error.clone();
                self.drop_worker(now, link, error, out);
            } else {
                broken.elsewhere = true;
                let worker = worker.name.clone();
                self.workers.tell_again();
                let tasks = self.start_elsewhere(link);
                self.calls.look_again();
                if tasks > 0 {
                    out.push(ClientOutput::Report(ClientReport::Elsewhere { worker, tasks }));
                    self.seek_soon(now);
                }
            }
        }
    }

    /// A link is gone, and so are its tasks: they start elsewhere, if they may (S-04).
    pub(super) fn drop_worker(&mut self, now: Now, link: LinkId, error: LinkError, out: &mut Vec<ClientOutput>) {
        let lives = matches!(error, LinkError::Closed | LinkError::Untrusted(_));
        self.end_link(now, link, error, lives, out);
    }

    /// The worker has given the link up, and its attempts with it; its process lives, so none of them counts as lost.
    fn on_forgotten(&mut self, now: Now, link: LinkId, out: &mut Vec<ClientOutput>) {
        let error = LinkError::Lost("it had given the link up".to_owned());
        self.end_link(now, link, error, true, out);
    }

    fn end_link(&mut self, now: Now, link: LinkId, error: LinkError, process_lives: bool, out: &mut Vec<ClientOutput>) {
        let Some(worker) = self.workers.get(link) else { return };
        let (name, process, had_tasks) = (worker.name.clone(), worker.process, !worker.attempts.is_empty());
        let again = self.lose_attempts(link, &error, process_lives, out);
        // Its hello may be as old as its death: it is called again only when tasks wait, and later each time.
        self.calls.on_broken(now, process);
        if had_tasks || !matches!(error, LinkError::Closed) {
            out.push(ClientOutput::Report(ClientReport::Unlinked { worker: name, error, again }));
        }
        if self.tasks.queued() > 0 {
            self.seek_soon(now);
        }
    }

    /// A worker that leaves waits until its clients have what it owes them: one that has says so.
    pub(super) fn leave_if_drained(&mut self, link: LinkId, out: &mut Vec<ClientOutput>) {
        if self.workers.get(link).is_some_and(|worker| worker.draining && worker.attempts.is_empty()) {
            out.push(ClientOutput::Send(link, ToWorker::Bye));
            self.forget_link(link, out);
        }
    }

    /// Ends a link and the calls that were to bring it back.
    pub(super) fn forget_link(&mut self, link: LinkId, out: &mut Vec<ClientOutput>) -> Option<Worker> {
        let worker = self.workers.remove(link)?;
        out.push(ClientOutput::Close(link));
        out.extend(self.calls.give_up(link).into_iter().map(ClientOutput::Abandon));
        Some(worker)
    }
}
