//! The next connection of a link, made ready while the present one lives: both sides know how to connect before it breaks, so that a link
//! comes back at once and without a board (L-05).

use std::time::Duration;

use p2p_proto::ids::Role;
use p2p_proto::link::item::Standby;
use p2p_proto::link::setup::Answer;
use p2p_proto::link::{ConnectPlan, Session};

use super::calls::{Purpose, Stage};
use super::{ClientMachine, ClientOutput};
use crate::LinkId;
use crate::machine::Now;

/// A connection that has held for this long gets a successor: many links do not live longer, and need none.
pub(super) const STANDBY_AFTER: Duration = Duration::from_secs(1);

impl ClientMachine {
    /// Begins the set-up of a link's next connection.
    pub(super) fn offer_standby(&mut self, now: Now, link: LinkId, out: &mut Vec<ClientOutput>) {
        let Some(worker) = self.workers.get(link).map(|worker| worker.present.clone()) else { return };
        if self.admission.is_member(now) {
            self.call(now, worker, Purpose::Standby(link), out);
        }
    }

    /// The worker's half has come.
    pub(super) fn on_standby(&mut self, link: LinkId, standby: &Standby, out: &mut Vec<ClientOutput>) {
        let mut calls = self.calls.under_way.iter_mut();
        let offered = calls.find(|(_, call)| {
            call.purpose == Purpose::Standby(link)
                && call.setup == standby.setup
                && matches!(call.stage, Stage::Offered(_))
        });
        // One of an earlier connection: it was given up with that.
        let Some((connection, call)) = offered else { return };
        let connection = *connection;
        let Stage::Offered(calling) = std::mem::replace(&mut call.stage, Stage::Preparing) else { return };
        let finished = calling.finish(&standby.noise).and_then(|(session, answer)| {
            let answer = Answer::from_cbor(&answer)?;
            Ok(plan(session, answer, true))
        });
        match finished {
            Ok(plan) => call.stage = Stage::Standby(Box::new(plan)),
            Err(_) => {
                self.calls.on_settled(connection);
                out.push(ClientOutput::Abandon(connection));
            }
        }
    }

    /// The link has broken: connects by what is ready. What is not will never be, for its answer is lost with the connection.
    pub(super) fn use_standby(&mut self, link: LinkId, out: &mut Vec<ClientOutput>) {
        let mut given_up = Vec::new();
        for (connection, call) in &mut self.calls.under_way {
            if call.purpose != Purpose::Standby(link) {
                continue;
            }
            match std::mem::replace(&mut call.stage, Stage::Connecting) {
                Stage::Standby(plan) => out.push(ClientOutput::Connect(*connection, plan)),
                _ => given_up.push(*connection),
            }
        }
        for connection in given_up {
            self.calls.on_settled(connection);
            out.push(ClientOutput::Abandon(connection));
        }
    }
}

/// How to connect after an answer.
pub(super) fn plan(session: Session, answer: Answer, patient: bool) -> ConnectPlan {
    let Answer { hints, transit_key } = answer;
    ConnectPlan { role: Role::Client, transit_key, theirs: hints, session, patient }
}
