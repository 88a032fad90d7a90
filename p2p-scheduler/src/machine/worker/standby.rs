//! The next connection of a link, asked for by the link itself while the present one lives (L-05).

use p2p_proto::link::item::Standby;

use super::answers::{HalfOpen, Stage};
use super::{WorkerMachine, WorkerOutput};
use crate::machine::Now;
use crate::{ConnectionId, LinkId};

impl WorkerMachine {
    /// The client's half has come. It is judged as a call on the board is; one that does not hold is ignored, for the link has done nothing wrong
    /// that matters to it.
    pub(super) fn on_standby(&mut self, now: Now, link: LinkId, standby: &Standby, out: &mut Vec<WorkerOutput>) {
        let Some(client) = self.links.get_mut(&link) else { return };
        let (keys, number, user) = (client.verified.keys, client.number, client.verified.user.clone());
        if !self.answers.is_news(keys.process, standby.setup) || !self.answers.may_open(now) {
            return;
        }
        let Ok((called, call, caller)) = self.open(now, keys, standby.setup, &standby.noise) else { return };
        if call.link != number || caller.user != user || !self.answers.may_dial(now, &user) {
            return;
        }
        self.answers.remember(keys.process, standby.setup);
        self.give_up_standby(link, out);
        let connection = self.new_connection_id();
        let stage = Stage::Preparing { called: Box::new(called), theirs: call.hints };
        let half_open = HalfOpen { caller, setup: standby.setup, number, standby: Some(link), stage };
        self.answers.half_open.insert(connection, half_open);
        out.push(WorkerOutput::Prepare(connection));
    }

    /// The link has broken: connects by what is ready. What is not will never be: the client has not heard of it.
    pub(super) fn use_standby(&mut self, link: LinkId, out: &mut Vec<WorkerOutput>) {
        let Some(connection) = self.standby_of(link) else { return };
        let Some(half_open) = self.answers.half_open.get_mut(&connection) else { return };
        match std::mem::replace(&mut half_open.stage, Stage::Connecting { ready: None }) {
            Stage::Standby(plan) => out.push(WorkerOutput::Connect(connection, plan)),
            _ => self.give_up_standby(link, out),
        }
    }

    /// It is not needed any more.
    pub(super) fn give_up_standby(&mut self, link: LinkId, out: &mut Vec<WorkerOutput>) {
        if let Some(connection) = self.standby_of(link) {
            self.answers.on_settled(connection);
            out.push(WorkerOutput::Abandon(connection));
        }
    }

    fn standby_of(&self, link: LinkId) -> Option<ConnectionId> {
        let mut half_open = self.answers.half_open.iter();
        half_open.find(|(_, half_open)| half_open.standby == Some(link)).map(|(connection, _)| *connection)
    }
}
