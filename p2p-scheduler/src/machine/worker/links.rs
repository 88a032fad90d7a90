//! The links of a worker: which connection carries each, and how long one without a connection is kept (L-05, L-06).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use p2p_proto::ids::{ProcessKey, SetupId, UserName};
use p2p_proto::link::item::Open;
use p2p_proto::link::{LinkError, LinkPath, ToClient};
use p2p_proto::trust::Verified;
use p2p_proto::{VERSION, limits};

use super::answers::HalfOpen;
use super::belonging::ends_at;
use super::credit::Demand;
use super::{WorkerMachine, WorkerOutput, WorkerReport};
use crate::machine::Now;
use crate::{ConnectionId, LinkId};

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<LinkId, ClientLink>,
}

/// One client's link.
#[derive(Debug)]
pub(super) struct ClientLink {
    pub(super) verified: Verified,
    pub(super) demand: Demand,
    /// It was given work: what became of it may still be under way.
    pub(super) has_submitted: bool,
    /// The client's name for it: the counter of its first connection.
    pub(super) number: SetupId,
    /// The counter of its present or last connection.
    setup: SetupId,
    connection: Option<ConnectionId>,
    /// The present connection goes on with it, and the client has not said yet what he has.
    resuming: Option<LinkPath>,
    /// Since when and why it has no connection.
    broken: Option<(Duration, LinkError)>,
    grace: Duration,
}

impl Links {
    pub(super) fn get_mut(&mut self, link: &LinkId) -> Option<&mut ClientLink> {
        self.links.get_mut(link)
    }

    pub(super) fn ids(&self) -> Vec<LinkId> {
        self.links.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Those of a range that have a connection.
    pub(super) fn connected(
        &mut self,
        range: RangeInclusive<LinkId>,
    ) -> impl Iterator<Item = (&LinkId, &mut ClientLink)> {
        self.links.range_mut(range).filter(|(_, link)| link.broken.is_none())
    }

    /// Whether this caller's link of this number is here.
    pub(super) fn resumes(&self, caller: &Verified, number: SetupId) -> bool {
        self.links.values().any(|link| link.verified.keys == caller.keys && link.number == number)
    }

    /// Whether somebody may not have heard yet what became of his work, or that he should send none: a client says goodbye to a worker that
    /// leaves once he has everything.
    pub(super) fn owes_results(&self) -> bool {
        self.links.values().any(|link| link.has_submitted || link.broken.is_none())
    }

    /// Whether one of those has no connection now, and may come back.
    pub(super) fn owes_who_is_away(&self) -> bool {
        self.links.values().any(|link| link.has_submitted && link.broken.is_some())
    }

    /// Links of one member.
    pub(super) fn of_member(&self, user: &UserName) -> usize {
        self.links.values().filter(|link| link.verified.user == *user).count()
    }

    /// When the next grace ends.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.links.values().filter_map(ClientLink::ends_at).min()
    }

    /// The link of this process, whosever it says that it is.
    pub(super) fn of_process(&self, process: ProcessKey) -> Option<LinkId> {
        self.links.iter().find(|(_, link)| link.verified.keys.process == process).map(|(id, _)| *id)
    }

    /// Whose each link is.
    pub(super) fn callers(&self) -> Vec<(LinkId, Verified)> {
        self.links.iter().map(|(id, link)| (*id, link.verified.clone())).collect()
    }

    /// When the first of them has to have shown a newer membership.
    pub(super) fn expire_at(&self, now: Now) -> Option<Duration> {
        self.links.values().map(|link| ends_at(now, &link.verified)).min()
    }

    /// The link of this process; there is never more than one.
    fn of_caller(&self, caller: &Verified) -> Option<LinkId> {
        self.links.iter().find(|(_, link)| link.verified.keys == caller.keys).map(|(id, _)| *id)
    }

    fn carried_by(&self, connection: ConnectionId) -> Option<LinkId> {
        self.links.iter().find(|(_, link)| link.connection == Some(connection)).map(|(id, _)| *id)
    }
}

impl ClientLink {
    fn ends_at(&self) -> Option<Duration> {
        self.broken.as_ref().filter(|_| self.connection.is_none()).map(|(since, _)| *since + self.grace)
    }
}

impl WorkerMachine {
    /// A connection is proven by its first record. Only now does it carry a link, or a new link replace an old one (L-02).
    pub(super) fn on_connected(
        &mut self,
        now: Now,
        connection: ConnectionId,
        path: LinkPath,
        out: &mut Vec<WorkerOutput>,
    ) {
        let Some(HalfOpen { caller, setup, number, .. }) = self.answers.on_settled(connection) else {
            out.push(WorkerOutput::Abandon(connection));
            return;
        };
        let open = Open {
            version: VERSION,
            name: self.me.name.clone(),
            capabilities: Vec::new(),
            slots: self.config.offer.slots,
            received: None,
            grace_s: u32::try_from(limits::GRACE_MAX.as_secs()).unwrap_or(u32::MAX),
        };
        let known = self.links.of_caller(&caller);
        if let Some(link) = known
            && let Some(old) = self.links.get_mut(&link)
        {
            if old.setup > setup {
                // Two were under way: the later one is here already.
                out.push(WorkerOutput::Abandon(connection));
                return;
            }
            if old.number == number {
                old.verified = caller;
                old.setup = setup;
                old.connection = Some(connection);
                old.resuming = Some(path);
                out.push(WorkerOutput::Attach { link, connection, open, resumes: true });
                self.expire_at = self.links.expire_at(now);
                return;
            }
            self.drop_link(now, link, LinkError::Lost("it was replaced by a newer one".to_owned()), out);
        }
        let link = self.new_link_id();
        out.push(WorkerOutput::Attach { link, connection, open, resumes: false });
        if self.draining {
            out.push(WorkerOutput::Send(link, ToClient::Draining));
        }
        out.push(WorkerOutput::Report(WorkerReport::Linked { user: caller.user.clone(), path }));
        let client = ClientLink {
            verified: caller,
            demand: Demand::default(),
            has_submitted: false,
            number,
            setup,
            connection: Some(connection),
            resuming: None,
            broken: None,
            grace: limits::GRACE,
        };
        self.links.links.insert(link, client);
        self.expire_at = self.links.expire_at(now);
    }

    /// The client's first word on a connection.
    pub(super) fn on_open(&mut self, now: Now, link: LinkId, open: &Open, out: &mut Vec<WorkerOutput>) {
        let Some(client) = self.links.get_mut(&link) else { return };
        if !super::super::speaks(open.version) {
            let fault = p2p_proto::error::ProtoError::Version { theirs: open.version };
            return self.drop_link(now, link, LinkError::Broken(fault.to_string()), out);
        }
        client.grace = Duration::from_secs(open.grace_s.into()).min(limits::GRACE_MAX);
        let Some(path) = client.resuming.take() else { return };
        if open.received.is_none() {
            let fault = "it does not say how far the link came that it goes on with";
            return self.drop_link(now, link, LinkError::Broken(fault.to_owned()), out);
        }
        client.broken = None;
        out.push(WorkerOutput::Report(WorkerReport::Resumed { user: client.verified.user.clone(), path }));
        // It was for the connection before.
        self.give_up_standby(link, out);
    }

    pub(super) fn on_disconnected(
        &mut self,
        now: Now,
        connection: ConnectionId,
        error: LinkError,
        out: &mut Vec<WorkerOutput>,
    ) {
        if let Some(half_open) = self.answers.on_settled(connection) {
            if self.links.resumes(&half_open.caller, half_open.number) {
                // It goes on in another way, or the client calls again.
                return;
            }
            let why = format!("a link with {} did not come about: {error}", half_open.caller.user);
            out.push(WorkerOutput::Report(WorkerReport::Refused { why }));
            return;
        }
        let Some(link) = self.links.carried_by(connection) else { return };
        let Some(client) = self.links.get_mut(&link) else { return };
        client.connection = None;
        client.resuming = None;
        if !error.may_resume() || client.grace.is_zero() {
            self.drop_link(now, link, error, out);
            self.hello_within(now, self.speaker.hello_ttl() / 4);
        } else if client.broken.is_none() {
            client.broken = Some((now.at, error.clone()));
            out.push(WorkerOutput::Report(WorkerReport::Broken { user: client.verified.user.clone(), error }));
            self.use_standby(link, out);
        }
    }

    /// Gives up links whose grace is over: what they have here is killed and forgotten (L-06).
    pub(super) fn end_graces(&mut self, now: Now, out: &mut Vec<WorkerOutput>) {
        if self.links.wake_at().is_none_or(|next| next > now.at) {
            return;
        }
        for link in self.links.ids() {
            let Some(client) = self.links.get_mut(&link) else { continue };
            if client.ends_at().is_some_and(|at| at <= now.at)
                && let Some((_, error)) = client.broken.take()
            {
                self.drop_link(now, link, error, out);
                self.hello_within(now, self.speaker.hello_ttl() / 4);
            }
        }
    }

    /// Ends a link and all that it has here.
    pub(super) fn drop_link(&mut self, now: Now, link: LinkId, error: LinkError, out: &mut Vec<WorkerOutput>) {
        let Some(gone) = self.links.links.remove(&link) else { return };
        out.push(WorkerOutput::Close(link));
        self.give_up_standby(link, out);
        for attempt in self.attempts.on_link_gone(now.at, link) {
            out.push(WorkerOutput::Kill(link, attempt));
        }
        out.push(WorkerOutput::Report(WorkerReport::Unlinked { user: gone.verified.user, error }));
    }
}
