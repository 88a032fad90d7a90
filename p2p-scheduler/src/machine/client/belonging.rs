//! Who may be linked, and for how long: what the admission hears, and links that end because of it (T-03).

use std::time::Duration;

use p2p_proto::board::Message;
use p2p_proto::ids::ProcessKey;
use p2p_proto::limits;
use p2p_proto::link::LinkError;

use super::super::admission::{AdmissionEvent, Wanted};
use super::super::side::SideInput;
use super::{ClientMachine, ClientOutput, ClientReport};
use crate::machine::Now;

impl ClientMachine {
    pub(super) fn on_side(&mut self, now: Now, input: SideInput, out: &mut Vec<ClientOutput>) {
        let mut wanted = Wanted::default();
        self.admission.on_side(&self.me, now, input, &mut self.speaker, &mut wanted);
        self.on_wanted(now, wanted, out);
    }

    pub(super) fn on_admission(&mut self, now: Now, message: Message, out: &mut Vec<ClientOutput>) {
        let mut wanted = Wanted::default();
        self.admission.on_message(&self.me, now, message, &mut self.speaker, &mut wanted);
        self.on_wanted(now, wanted, out);
    }

    pub(super) fn on_wanted(&mut self, now: Now, wanted: Wanted, out: &mut Vec<ClientOutput>) {
        // What must not be said before it is kept goes first.
        if wanted.save {
            out.push(ClientOutput::Save(self.admission.kept()));
        }
        out.extend(wanted.lines.into_iter().map(ClientOutput::Publish));
        out.extend(wanted.sides.into_iter().map(ClientOutput::Side));
        for event in wanted.events {
            match &event {
                AdmissionEvent::Admitted { .. } => self.belongs(now),
                AdmissionEvent::Restored => {
                    self.belongs(now);
                    continue;
                }
                AdmissionEvent::Removals => {
                    self.cut(now, out);
                    continue;
                }
                AdmissionEvent::Removed => self.cut_all(now, out),
                _ => {}
            }
            out.push(ClientOutput::Report(ClientReport::Admission(event)));
        }
    }

    fn belongs(&mut self, now: Now) {
        self.hello_at = Some(now.at);
        self.calls.look_again();
        self.seek_soon(now);
    }

    /// A linked worker shows what proves it now: its membership was renewed. It was verified for the directory.
    pub(super) fn on_shown(&mut self, now: Now, process: ProcessKey) {
        let Some(present) = self.directory.get(process) else { return };
        let shown = present.verified.clone();
        let linked = self.workers.iter_mut().find(|(_, worker)| worker.process == process);
        if let Some((_, worker)) = linked
            && worker.present.verified.keys == shown.keys
            && worker.present.verified.until < shown.until
        {
            worker.present.verified = shown;
            self.set_expiry(now);
        }
    }

    /// Ends the links and calls of all who do not belong here any more.
    pub(super) fn cut(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        let admission = &self.admission;
        let gone = self.workers.iter().filter_map(|(link, worker)| {
            let why = admission.voids(now, &worker.present.verified)?;
            Some((link, why))
        });
        for (link, why) in gone.collect::<Vec<_>>() {
            self.drop_worker(now, link, LinkError::Untrusted(why), out);
        }
        let admission = &self.admission;
        let calls = self.calls.under_way.iter();
        let called = calls.filter(|(_, call)| admission.voids(now, &call.worker.verified).is_some());
        for connection in called.map(|(connection, _)| *connection).collect::<Vec<_>>() {
            self.calls.on_settled(connection);
            out.push(ClientOutput::Abandon(connection));
        }
        let admission = &self.admission;
        self.directory.retain(|present| admission.voids(now, &present.verified).is_none());
        self.calls.look_again();
        self.set_expiry(now);
    }

    fn cut_all(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        for link in self.workers.ids() {
            let why = "the host has removed this machine".to_owned();
            self.drop_worker(now, link, LinkError::Untrusted(why), out);
        }
        out.extend(self.calls.drain().into_iter().map(ClientOutput::Abandon));
    }

    /// When the first of the linked workers has to have shown a newer membership.
    pub(super) fn set_expiry(&mut self, now: Now) {
        let until = self.workers.all().map(|worker| worker.present.verified.until).min();
        self.expire_at = until.map(|until| {
            let last = until.saturating_add(limits::CLOCK_SKEW.as_secs() + 1);
            now.at + Duration::from_secs(last.saturating_sub(now.unix).min(u64::from(u32::MAX)))
        });
    }
}
