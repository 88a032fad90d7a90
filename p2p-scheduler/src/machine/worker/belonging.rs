//! Who may be linked, and for how long: what the admission hears, and links that end because of it (T-03).

use std::collections::BTreeSet;

use p2p_proto::board::Message;
use p2p_proto::board::message::Hello;
use p2p_proto::ids::{Role, UserName};
use p2p_proto::limits;
use p2p_proto::link::LinkError;
use p2p_proto::trust::Verified;
use std::time::Duration;

use super::super::admission::{AdmissionEvent, Wanted};
use super::super::side::SideInput;
use super::{WorkerMachine, WorkerOutput, WorkerReport};
use crate::machine::Now;

impl WorkerMachine {
    pub(super) fn on_side(&mut self, now: Now, input: SideInput, out: &mut Vec<WorkerOutput>) {
        let mut wanted = Wanted::default();
        self.admission.on_side(&self.me, now, input, &mut self.speaker, &mut wanted);
        self.on_wanted(now, wanted, out);
    }

    pub(super) fn on_admission(&mut self, now: Now, message: Message, out: &mut Vec<WorkerOutput>) {
        let mut wanted = Wanted::default();
        self.admission.on_message(&self.me, now, message, &mut self.speaker, &mut wanted);
        self.on_wanted(now, wanted, out);
    }

    pub(super) fn on_wanted(&mut self, now: Now, wanted: Wanted, out: &mut Vec<WorkerOutput>) {
        // What must not be said before it is kept goes first.
        if wanted.save {
            out.push(WorkerOutput::Save(self.admission.kept()));
        }
        out.extend(wanted.lines.into_iter().map(WorkerOutput::Publish));
        out.extend(wanted.sides.into_iter().map(WorkerOutput::Side));
        for event in wanted.events {
            match &event {
                AdmissionEvent::Admitted { .. } => self.hello_after(now, Duration::ZERO),
                AdmissionEvent::Restored => {
                    self.hello_after(now, Duration::ZERO);
                    continue;
                }
                AdmissionEvent::Removals => {
                    self.cut(now, out);
                    continue;
                }
                AdmissionEvent::Removed => self.cut_all(now, out),
                _ => {}
            }
            out.push(WorkerOutput::Report(WorkerReport::Admission(event)));
        }
    }

    /// Whom this worker serves from now on.
    pub(super) fn on_allow(&mut self, now: Now, allow: Option<BTreeSet<UserName>>, out: &mut Vec<WorkerOutput>) {
        self.config.allow = allow;
        self.cut(now, out);
    }

    /// A linked client shows what proves it now: its membership was renewed.
    pub(super) fn on_hello(&mut self, now: Now, hello: &Hello) {
        let Some(link) = self.links.of_process(hello.process) else { return };
        if hello.role != Role::Client {
            return;
        }
        let shown = self.admission.verify(&self.me, now, &hello.credentials, hello.role, hello.process);
        let Ok(shown) = shown else { return };
        if let Some(client) = self.links.get_mut(&link)
            && client.verified.keys == shown.keys
            && client.verified.user == shown.user
            && client.verified.until < shown.until
        {
            client.verified = shown;
            self.expire_at = self.links.expire_at(now);
        }
    }

    /// Ends the links and set-ups of all who do not belong here any more.
    pub(super) fn cut(&mut self, now: Now, out: &mut Vec<WorkerOutput>) {
        for (link, verified) in self.links.callers() {
            if let Some(why) = self.why_not(now, &verified) {
                self.drop_link(now, link, LinkError::Untrusted(why), out);
            }
        }
        let under_way = self.answers.half_open.iter();
        let callers: Vec<_> = under_way.map(|(connection, call)| (*connection, call.caller.clone())).collect();
        for (connection, caller) in callers {
            if self.why_not(now, &caller).is_some() {
                self.answers.on_settled(connection);
                out.push(WorkerOutput::Abandon(connection));
            }
        }
        self.expire_at = self.links.expire_at(now);
    }

    fn cut_all(&mut self, now: Now, out: &mut Vec<WorkerOutput>) {
        for link in self.links.ids() {
            let why = "the host has removed this machine".to_owned();
            self.drop_link(now, link, LinkError::Untrusted(why), out);
        }
        out.extend(self.answers.drain().into_iter().map(WorkerOutput::Abandon));
    }

    fn why_not(&self, now: Now, verified: &Verified) -> Option<String> {
        let allowed = self.config.allow.as_ref().is_none_or(|allow| allow.contains(&verified.user));
        let not_allowed = || format!("{} is not one of the users that this worker serves now", verified.user);
        self.admission.voids(now, verified).or_else(|| (!allowed).then(not_allowed))
    }
}

/// When what proves a peer has ended, clocks tolerated.
pub(super) fn ends_at(now: Now, verified: &Verified) -> Duration {
    let last = verified.until.saturating_add(limits::CLOCK_SKEW.as_secs() + 1);
    now.at + Duration::from_secs(last.saturating_sub(now.unix).min(u64::from(u32::MAX)))
}
