//! Calls to workers: from a hello in the directory to a link (L-01).
//!
//! No message 1 leaves before the callee's credentials have verified. The `connect` is sent again byte for byte; a forged `ready` spoils
//! nothing, because the handshake can be made anew from the same entropy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use p2p_proto::board::message::{Connect, Ready, Refuse, RefuseReason};
use p2p_proto::board::{Line, Message};
use p2p_proto::ids::{ProcessKey, SetupId};
use p2p_proto::limits;
use p2p_proto::link::handshake::{Calling, Parties, Session};
use p2p_proto::link::item::Standby;
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::link::{ConnectPlan, Hints, LinkError, ToWorker};

use super::standby::plan;
use super::tasks::ClassId;
use super::workers::Worker;
use super::{BoardState, ClientMachine, ClientOutput, ClientReport, Needs};
use crate::machine::directory::Present;
use crate::machine::speaker::Speaker;
use crate::machine::{Now, earliest};
use crate::{ConnectionId, LinkId};

/// After a failed call or a broken link, the same worker is called again after this long, doubled each time.
const CALL_AGAIN: Duration = Duration::from_secs(1);
/// The longest time between two calls of one worker.
const CALL_AGAIN_MAX: Duration = Duration::from_secs(60);
/// A call that is to bring a link back is given up after this long, whatever it waits for: another one follows.
const CALL_BACK_WITHIN: Duration = Duration::from_secs(10);
/// Answers that one call may get which do not verify, before they are ignored unseen: each costs curve arithmetic.
const FORGED_ANSWERS: u32 = 8;

/// Calls under way, and workers that failed lately.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) under_way: BTreeMap<ConnectionId, UnderWay>,
    failures: HashMap<ProcessKey, Failures>,
    /// The moments in `failures`, the next one first.
    retries: BTreeSet<(Duration, ProcessKey)>,
    /// Nobody else can be called for these until something changes: a hello, a link, the end of a pause. Spares a look at the whole
    /// directory for each task.
    exhausted: Option<BTreeSet<ClassId>>,
    next_setup: u64,
}

#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) worker: Present,
    pub(super) purpose: Purpose,
    /// Its counter, once it has one.
    pub(super) setup: SetupId,
    since: Duration,
    pub(super) stage: Stage,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new link.
    New,
    /// To bring this link back, which has no connection.
    Back(LinkId),
    /// To have the next connection of this link ready (L-05).
    Standby(LinkId),
}

impl Purpose {
    /// The link that is to have the connection; a new one otherwise.
    pub(super) fn link(self) -> Option<LinkId> {
        match self {
            Self::New => None,
            Self::Back(link) | Self::Standby(link) => Some(link),
        }
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Expects this side's own hints.
    Preparing,
    /// `connect` was sent; expects `ready`.
    Calling(Box<Asked>),
    /// Message 1 went by the link itself; expects the answer there.
    Offered(Box<Calling>),
    /// Everything is ready, for the moment when the link breaks.
    Standby(Box<ConnectPlan>),
    /// Expects the connection.
    Connecting,
}

pub(super) struct Asked {
    setup: SetupId,
    parties: Parties,
    payload: Vec<u8>,
    entropy: [u8; 32],
    line: Line,
    since: Duration,
    resent: usize,
    forged: u32,
}

#[derive(Debug)]
struct Failures {
    /// Not before then; `None` once that moment has passed.
    next_at: Option<Duration>,
    pause: Duration,
}

impl Calls {
    pub(super) fn new(first_setup: u64) -> Self {
        Self {
            under_way: BTreeMap::new(),
            failures: HashMap::new(),
            retries: BTreeSet::new(),
            exhausted: None,
            next_setup: first_setup,
        }
    }

    /// Somebody may have come up who can be called.
    pub(super) fn look_again(&mut self) {
        self.exhausted = None;
    }

    /// A call has become a connection or failed.
    pub(super) fn on_settled(&mut self, connection: ConnectionId) -> Option<UnderWay> {
        self.under_way.remove(&connection)
    }

    /// Gives up the calls that were to bring this link back.
    pub(super) fn give_up(&mut self, link: LinkId) -> Vec<ConnectionId> {
        let given_up = self.under_way.extract_if(.., |_, call| call.purpose.link() == Some(link));
        given_up.map(|(connection, _)| connection).collect()
    }

    /// Whether a call is under way that is to bring this link back.
    pub(super) fn calls_back(&self, link: LinkId) -> bool {
        self.under_way.values().any(|call| call.purpose == Purpose::Back(link))
    }

    /// A call or link to this worker failed: the next one waits.
    pub(super) fn on_broken(&mut self, now: Now, process: ProcessKey) {
        if self.failures.len() >= limits::DIRECTORY_PEERS && !self.failures.contains_key(&process) {
            self.failures.retain(|_, failures| failures.next_at.is_some());
        }
        let failures = self.failures.entry(process).or_insert(Failures { next_at: None, pause: CALL_AGAIN });
        let next_at = now.at + failures.pause;
        if let Some(earlier) = failures.next_at.replace(next_at) {
            self.retries.remove(&(earlier, process));
        }
        failures.pause = (failures.pause * 2).min(CALL_AGAIN_MAX);
        self.retries.insert((next_at, process));
        self.look_again();
    }

    /// It was heard anew, or did its work: the next call need not wait.
    pub(super) fn forget_failures(&mut self, process: ProcessKey) {
        if let Some(Failures { next_at: Some(at), .. }) = self.failures.remove(&process) {
            self.retries.remove(&(at, process));
            self.look_again();
        }
    }

    /// Pauses that are over by now.
    fn on_time(&mut self, now: Now) {
        while let Some(&(at, process)) = self.retries.first().filter(|(at, _)| *at <= now.at) {
            self.retries.remove(&(at, process));
            if let Some(failures) = self.failures.get_mut(&process) {
                failures.next_at = None;
            }
            self.look_again();
        }
    }

    /// All calls under way, which are given up.
    pub(super) fn drain(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.under_way).into_keys().collect()
    }

    /// Calls of workers to which there is no link.
    pub(super) fn len(&self) -> usize {
        self.workers().count()
    }

    /// Workers to which there is no link, and which are called.
    pub(super) fn workers(&self) -> impl Iterator<Item = &Present> {
        self.under_way.values().filter(|call| call.purpose == Purpose::New).map(|call| &call.worker)
    }

    /// Those of [`Self::workers`] that are likely to answer: one that was asked twice in vain may have left without a word.
    fn promising(&self) -> impl Iterator<Item = &Present> {
        let promising = |call: &&UnderWay| !matches!(&call.stage, Stage::Calling(asked) if asked.resent > 0);
        self.under_way.values().filter(|call| call.purpose == Purpose::New).filter(promising).map(|call| &call.worker)
    }

    fn is_calling(&self, process: ProcessKey) -> bool {
        self.under_way.values().any(|call| call.worker.verified.keys.process == process)
    }

    fn has_failed(&self, process: ProcessKey) -> bool {
        self.failures.contains_key(&process)
    }

    fn may_call(&self, process: ProcessKey) -> bool {
        !self.is_calling(process) && self.failures.get(&process).is_none_or(|failures| failures.next_at.is_none())
    }

    /// Sends again what is due. Others may be called beside those who do not answer.
    pub(super) fn on_tick(&mut self, now: Now, speaker: &mut Speaker, lines: &mut Vec<Line>) {
        let mut resent = false;
        for call in self.under_way.values_mut() {
            let Stage::Calling(asked) = &mut call.stage else { continue };
            while asked.next_resend().is_some_and(|at| at <= now.at) {
                asked.resent += 1;
                resent = true;
                speaker.say_until(now, asked.line.clone(), asked.deadline(), lines);
            }
        }
        if resent {
            self.look_again();
        }
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        let resend = self.under_way.values().filter_map(|call| match &call.stage {
            Stage::Calling(asked) => asked.next_resend(),
            _ => None,
        });
        let deadline = self.under_way.values().filter_map(UnderWay::deadline);
        earliest([resend.min(), deadline.min(), self.retries.first().map(|(at, _)| *at)])
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the entropy: the link's secrets come from it.
        f.debug_struct("Asked").field("setup", &self.setup).field("resent", &self.resent).finish_non_exhaustive()
    }
}

impl Asked {
    fn next_resend(&self) -> Option<Duration> {
        limits::CONNECT_RESENDS.get(self.resent).map(|after| self.since + *after)
    }

    fn deadline(&self) -> Duration {
        self.since + limits::SETUP_TIMEOUT / 2
    }
}

impl UnderWay {
    /// When nobody will answer any more.
    fn deadline(&self) -> Option<Duration> {
        match &self.stage {
            _ if matches!(self.purpose, Purpose::Back(_)) => Some(self.since + CALL_BACK_WITHIN),
            Stage::Calling(asked) => Some(asked.deadline()),
            _ => None,
        }
    }
}

impl ClientMachine {
    /// Calls workers until the slots suffice for the tasks, at most [`limits::CLIENT_LINKS`] (B-03).
    pub(super) fn call_workers(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        self.give_up_calls(now, out);
        self.calls.on_time(now);
        if self.board != BoardState::Up {
            return;
        }
        if !self.admission.is_member(now) {
            return self.workers.put_off_calls(now);
        }
        self.call_back(now, out);
        self.make_room(now, out);
        while self.workers.len() + self.calls.len() < limits::CLIENT_LINKS {
            let lacking = if self.lacks_slots() { self.lacking() } else { BTreeSet::new() };
            let crowded_out: BTreeSet<ClassId> = self.crowded_out().difference(&lacking).copied().collect();
            let all = &lacking | &crowded_out;
            if !self.surveying && all.is_empty()
                || self.calls.exhausted.as_ref().is_some_and(|exhausted| all.is_subset(exhausted))
            {
                return;
            }
            let Some(worker) = self.next_to_call(now, &lacking, &crowded_out) else {
                self.calls.exhausted = Some(all);
                return;
            };
            self.call(now, worker, Purpose::New, out);
        }
    }

    /// Where all places are taken, frees one for a worker who could run what nobody linked can: whoever has least to do gets nothing more, and is
    /// left once that is done.
    fn make_room(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        if self.workers.len() + self.calls.len() < limits::CLIENT_LINKS
            || self.workers.all().any(|worker| worker.draining)
        {
            return;
        }
        let unserved: BTreeSet<ClassId> = self.workers.unserved(&self.tasks).collect();
        if unserved.is_empty() || self.calls.exhausted.as_ref().is_some_and(|exhausted| unserved.is_subset(exhausted)) {
            return;
        }
        if self.next_to_call(now, &unserved, &BTreeSet::new()).is_none() {
            self.calls.exhausted = Some(unserved);
            return;
        }
        let idlest = self.workers.iter().filter(|(_, worker)| !worker.carrier.is_broken());
        if let Some((link, _)) = idlest.min_by_key(|(_, worker)| worker.attempts.len()) {
            self.workers.on_draining(link, &self.tasks);
            self.leave_if_drained(link, out);
        }
    }

    /// Begins a set-up.
    pub(super) fn call(&mut self, now: Now, worker: Present, purpose: Purpose, out: &mut Vec<ClientOutput>) {
        let connection = self.new_connection_id();
        let call = UnderWay { worker, purpose, setup: SetupId(0), since: now.at, stage: Stage::Preparing };
        self.calls.under_way.insert(connection, call);
        out.push(ClientOutput::Prepare(connection));
    }

    /// Calls workers whose links have no connection (L-05).
    fn call_back(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        let due = self.workers.iter().filter(|(_, worker)| worker.carrier.is_to_be_called(now));
        let due: Vec<_> = due.map(|(link, worker)| (link, worker.present.clone())).collect();
        for (link, worker) in due {
            if let Some(worker) = self.workers.get_mut(link) {
                worker.carrier.on_call();
            }
            if !self.calls.calls_back(link) {
                self.call(now, worker, Purpose::Back(link), out);
            }
        }
    }

    /// A call came to nothing. Says so, unless it was to bring a link back: that goes on until its grace is over.
    pub(super) fn on_call_failed(&mut self, now: Now, call: UnderWay, why: String, out: &mut Vec<ClientOutput>) {
        match call.purpose {
            Purpose::New => {
                self.calls.on_broken(now, call.worker.verified.keys.process);
                out.push(ClientOutput::Report(ClientReport::CallFailed { worker: call.worker.name, why }));
            }
            Purpose::Back(link) => {
                if let Some(worker) = self.workers.get_mut(link) {
                    worker.carrier.on_call_failed(now);
                }
            }
            Purpose::Standby(_) => {}
        }
    }

    /// Ends a set-up that this side cannot go on with.
    fn abandon(&mut self, now: Now, connection: ConnectionId, error: LinkError, out: &mut Vec<ClientOutput>) {
        out.push(ClientOutput::Abandon(connection));
        self.on_disconnected(now, connection, error, out);
    }

    /// Whether more slots, of whomever, would let more of the waiting tasks run.
    pub(super) fn lacks_slots(&mut self) -> bool {
        if self.surveying {
            return true;
        }
        let waiting = || self.tasks.waiting();
        let needed = waiting().map(|class| self.tasks.slots_needed(class)).fold(0, u32::saturating_add);
        needed > self.room_for(waiting())
            || waiting().any(|class| self.lacks_slots_for(class))
            || !self.stuck().is_empty()
    }

    /// Classes of what waits at workers that have more than they can run, while nobody who is linked or called could start it.
    fn stuck(&mut self) -> BTreeSet<ClassId> {
        // What waits here brings new workers by itself.
        if self.workers.queued_here(&self.tasks) > 0 {
            return BTreeSet::new();
        }
        let mut stuck = self.workers.stuck(&self.tasks);
        stuck.retain(|class| self.room_for(std::iter::once(*class)) == 0);
        stuck
    }

    /// Classes of what waits, here or at workers, because others fill the slots that there are for it.
    fn crowded_out(&self) -> BTreeSet<ClassId> {
        if !self.workers.all().any(Worker::is_filled_by_others) {
            return BTreeSet::new();
        }
        let mut crowded_out = self.workers.stuck(&self.tasks);
        crowded_out.extend(self.tasks.waiting());
        crowded_out.retain(|class| {
            self.workers.room_for(std::iter::once(*class), &self.tasks) > 0
                && self.workers.room_beside_others(*class, &self.tasks) == 0
                && self.room_called(std::iter::once(*class)) == 0
        });
        crowded_out
    }

    fn lacks_slots_for(&self, class: ClassId) -> bool {
        self.tasks.slots_needed(class) > self.room_for(std::iter::once(class))
    }

    /// Slots that these could still fill: of linked workers, and of called ones that are likely to answer.
    fn room_for(&self, classes: impl Iterator<Item = ClassId> + Clone) -> u32 {
        let calling = self.room_called(classes.clone());
        self.workers.room_for(classes, &self.tasks).saturating_add(calling)
    }

    /// Slots of workers that are called and likely to answer.
    fn room_called(&self, classes: impl Iterator<Item = ClassId> + Clone) -> u32 {
        let fits = |call: &&Present| classes.clone().any(|class| call.could_run(self.tasks.needs(class)));
        self.calls.promising().filter(fits).map(Present::slots).fold(0, u32::saturating_add)
    }

    /// Classes that more slots would serve: those that have too few, and those that have enough only in slots for which these compete; all that
    /// wait, if each has enough but not all of them together.
    fn lacking(&mut self) -> BTreeSet<ClassId> {
        let stuck = self.stuck();
        let lacking: BTreeSet<_> = self.tasks.waiting().filter(|class| self.lacks_slots_for(*class)).collect();
        if lacking.is_empty() {
            return if stuck.is_empty() { self.tasks.waiting().collect() } else { stuck };
        }
        let contested = self.room_for(lacking.iter().copied());
        let crowded = self.tasks.waiting().filter(|class| {
            let with_it = self.room_for(lacking.iter().copied().chain(std::iter::once(*class)));
            self.tasks.slots_needed(*class) > with_it.saturating_sub(contested)
        });
        crowded.chain(lacking.iter().copied()).chain(stuck).collect()
    }

    /// The worker to call next: of those that could run one of `lacking`, or said that they have slots free for one of `crowded_out`, one that could
    /// run what nobody who is linked can; of these one that did not fail lately, if there is any; of these the one that said it has most
    /// room; among equals, any order that is the same in every run.
    fn next_to_call(&self, now: Now, lacking: &BTreeSet<ClassId>, crowded_out: &BTreeSet<ClassId>) -> Option<Present> {
        let unserved = lacking.iter().filter(|class| self.workers.is_unserved(**class));
        let unserved: Vec<&Needs> = unserved.map(|class| self.tasks.needs(*class)).collect();
        let lacking: Vec<&Needs> = lacking.iter().map(|class| self.tasks.needs(*class)).collect();
        let crowded_out: Vec<&Needs> = crowded_out.iter().map(|class| self.tasks.needs(*class)).collect();
        let free = |present: &Present| present.offer.as_ref().map_or(0, |offer| offer.free);
        let useful = |present: &Present| {
            self.surveying
                || lacking.iter().any(|needs| present.could_run(needs))
                || crowded_out.iter().any(|needs| present.could_run(needs) && free(present) >= needs.cpus.max(1))
        };
        self.directory
            .present(now)
            .filter(|(process, present)| {
                useful(present) && self.calls.may_call(**process) && self.workers.of_process(**process).is_none()
            })
            .min_by_key(|(process, present)| {
                let serves = unserved.iter().any(|needs| present.could_run(needs));
                (!serves, self.calls.has_failed(**process), std::cmp::Reverse(free(present)), present.verified.keys)
            })
            .map(|(_, present)| present.clone())
    }

    pub(super) fn on_prepared(
        &mut self,
        now: Now,
        connection: ConnectionId,
        hints: Result<Hints, LinkError>,
        out: &mut Vec<ClientOutput>,
    ) {
        let hints = match hints {
            Ok(hints) => hints,
            Err(error) => return self.abandon(now, connection, error, out),
        };
        let entropy = self.entropy();
        let Some(credentials) = self.admission.credentials(&self.me, now).cloned() else {
            let error = LinkError::Misuse("this process is no member any more".to_owned());
            return self.abandon(now, connection, error, out);
        };
        let Some(call) = self.calls.under_way.get(&connection) else {
            out.push(ClientOutput::Abandon(connection));
            return;
        };
        let (callee, purpose) = (call.worker.verified.keys, call.purpose);
        let carrier = purpose.link().and_then(|link| self.workers.get_mut(link)).map(|worker| &mut worker.carrier);
        let parties = Parties { cluster: self.me.cluster.clone(), caller: self.me.keys(), callee };
        self.calls.next_setup += 1;
        let setup = SetupId(self.calls.next_setup);
        let (link, epoch) = carrier.map_or((setup, 1), |carrier| (carrier.number, carrier.next_epoch()));
        let payload = Call { credentials, epoch, link, setup, hints }.to_cbor();
        let started = Calling::start(&parties, &self.me.secret, &payload, entropy);
        let (calling, noise) = match started {
            Ok(started) => started,
            Err(fault) => return self.abandon(now, connection, LinkError::Misuse(fault.to_string()), out),
        };
        if let Some(call) = self.calls.under_way.get_mut(&connection) {
            call.setup = setup;
            if let Purpose::Standby(link) = purpose {
                call.stage = Stage::Offered(Box::new(calling));
                out.push(ClientOutput::Send(link, ToWorker::Standby(Standby { setup, noise })));
                return;
            }
        }
        let connect = Connect { caller: parties.caller, callee, setup, version: p2p_proto::VERSION, noise };
        let line = self.speaker.line(now, Message::Connect(connect));
        let asked = Asked { setup, parties, payload, entropy, line: line.clone(), since: now.at, resent: 0, forged: 0 };
        let until = asked.deadline();
        if let Some(call) = self.calls.under_way.get_mut(&connection) {
            call.stage = Stage::Calling(Box::new(asked));
        }
        let mut lines = Vec::new();
        self.speaker.say_until(now, line, until, &mut lines);
        out.extend(lines.into_iter().map(ClientOutput::Publish));
    }

    pub(super) fn on_ready(&mut self, ready: Ready, out: &mut Vec<ClientOutput>) {
        if ready.caller != self.process() {
            return;
        }
        let Some((connection, asked)) = self.asked(ready.callee, ready.setup) else { return };
        if asked.forged >= FORGED_ANSWERS {
            return;
        }
        asked.forged += 1;
        let (parties, payload, entropy) = (asked.parties.clone(), asked.payload.clone(), asked.entropy);
        let finished = Calling::start(&parties, &self.me.secret, &payload, entropy)
            .and_then(|(calling, _)| calling.finish(&ready.noise))
            .and_then(|(session, answer)| Ok((session, Answer::from_cbor(&answer)?)));
        // Whoever sent it, it is no answer to this call: the right one may still come.
        let Ok((session, answer)) = finished else { return };
        self.connect(connection, session, answer, out);
    }

    fn connect(&mut self, connection: ConnectionId, session: Session, answer: Answer, out: &mut Vec<ClientOutput>) {
        if let Some(call) = self.calls.under_way.get_mut(&connection) {
            call.stage = Stage::Connecting;
        }
        let plan = plan(session, answer, false);
        out.push(ClientOutput::Connect(connection, Box::new(plan)));
    }

    pub(super) fn on_refuse(&mut self, now: Now, refuse: &Refuse, out: &mut Vec<ClientOutput>) {
        if refuse.caller != self.process() {
            return;
        }
        let Some((connection, _)) = self.asked(refuse.callee, refuse.setup) else { return };
        let Some(call) = self.calls.on_settled(connection) else { return };
        out.push(ClientOutput::Abandon(connection));
        self.on_call_failed(now, call, words(refuse), out);
    }

    /// The call that expects an answer from `callee` to `setup`.
    fn asked(&mut self, callee: ProcessKey, setup: SetupId) -> Option<(ConnectionId, &mut Asked)> {
        self.calls.under_way.iter_mut().find_map(|(connection, call)| match &mut call.stage {
            Stage::Calling(asked) if asked.setup == setup && asked.parties.callee.process == callee => {
                Some((*connection, asked.as_mut()))
            }
            _ => None,
        })
    }

    /// Nobody answered: the worker is gone, or the board lost every line.
    fn give_up_calls(&mut self, now: Now, out: &mut Vec<ClientOutput>) {
        let is_over = |call: &UnderWay| call.deadline().is_some_and(|at| at <= now.at);
        let silent: Vec<_> = self.calls.under_way.extract_if(.., |_, call| is_over(call)).collect();
        for (connection, call) in silent {
            if call.purpose == Purpose::New {
                self.directory.remove(call.worker.verified.keys.process);
            }
            out.push(ClientOutput::Abandon(connection));
            let why = "it did not answer; it may have left without a word".to_owned();
            self.on_call_failed(now, call, why, out);
        }
    }
}

impl Present {
    fn slots(&self) -> u32 {
        self.offer.as_ref().map_or(0, |offer| offer.slots)
    }

    /// Whether what it offers suffices, as far as it said.
    pub(super) fn could_run(&self, needs: &Needs) -> bool {
        self.offer.as_ref().is_some_and(|offer| needs.fit(offer.slots, offer))
    }
}

fn words(refuse: &Refuse) -> String {
    let what = match refuse.why {
        RefuseReason::Version => {
            return format!("it refused: {}", p2p_proto::error::ProtoError::Version { theirs: refuse.version });
        }
        RefuseReason::Untrusted => {
            "the host's signature for this machine does not hold there; ask the host whether she has a new key"
        }
        RefuseReason::Handshake => "the handshake did not verify there; it may have restarted",
        RefuseReason::NotAllowed => "its owner serves only some users (--allow); ask to be one of them",
        RefuseReason::Busy => "it has too many links; it will be asked again",
        RefuseReason::Draining => "it is leaving",
        RefuseReason::Other => "it gave a reason that this version does not know",
    };
    format!("it refused: {what}")
}
