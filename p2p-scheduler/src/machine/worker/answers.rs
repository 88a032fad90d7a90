//! Set-ups that a client began: from its `connect` to a link (L-01).
//!
//! Nothing of a caller's is believed before its handshake opens, and nothing is told before its credentials verify. A repeat of a
//! half-open set-up is answered with the same bytes; an older one is ignored.

use std::collections::{BTreeMap, HashMap};

use p2p_proto::board::message::{Connect, Ready, Refuse, RefuseReason};
use p2p_proto::board::{Line, Message};
use p2p_proto::error::Blame;
use p2p_proto::ids::{PeerKeys, ProcessKey, Role, SetupId, UserName};
use p2p_proto::limits;
use p2p_proto::link::handshake::{Called, Parties};
use p2p_proto::link::item::Standby;
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::link::{ConnectPlan, Hints, LinkError, ToClient, TransitKey};
use p2p_proto::trust::Verified;

use super::{WorkerMachine, WorkerOutput, WorkerReport};
use crate::machine::Now;
use crate::machine::bucket::{Bucket, Flow};
use crate::{ConnectionId, LinkId};

/// Callers whose last counter is remembered.
const REMEMBERED_CALLERS: usize = 10_000;
/// Handshakes that may be opened at once before [`OPENS_PER_S`] applies: each costs this machine two curve multiplications.
const OPENS_BURST: u32 = 128;
/// Handshakes of whomever that are opened in a second; more are ignored, and their callers ask again.
const OPENS_PER_S: u32 = 50;
/// Set-ups of one member that are answered at once before [`MEMBER_PER_S`] applies: each may make this machine dial
/// [`limits::HINTS`] addresses of the member's choice (L-07).
const MEMBER_BURST: u32 = 64;
/// Set-ups of one member that are answered in a second; more are ignored, and he asks again.
const MEMBER_PER_S: u32 = 10;

/// Half-open set-ups, and the last counter of each caller.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) half_open: BTreeMap<ConnectionId, HalfOpen>,
    counters: HashMap<ProcessKey, SetupId>,
    opens: Bucket,
    /// Of members only, so there are no more than the host has signed.
    members: HashMap<UserName, Bucket>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            half_open: BTreeMap::new(),
            counters: HashMap::new(),
            opens: Bucket::full(OPENS_BURST),
            members: HashMap::new(),
        }
    }
}

#[derive(Debug)]
pub(super) struct HalfOpen {
    pub(super) caller: Verified,
    pub(super) setup: SetupId,
    /// Which of the caller's links the connection is for.
    pub(super) number: SetupId,
    /// It was asked for by this link, as its next connection, and not on the board.
    pub(super) standby: Option<LinkId>,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Opened and believed; expects this side's own hints.
    Preparing { called: Box<Called>, theirs: Hints },
    /// Answered; expects the connection. A repeat gets this line again.
    Connecting { ready: Option<Line> },
    /// Answered by the link itself, which does not need it yet.
    Standby(Box<ConnectPlan>),
}

impl Answers {
    /// A set-up has become a connection or failed.
    pub(super) fn on_settled(&mut self, connection: ConnectionId) -> Option<HalfOpen> {
        self.half_open.remove(&connection)
    }

    /// All set-ups under way, which are given up.
    pub(super) fn drain(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.half_open).into_keys().collect()
    }

    /// Set-ups under way, but for those of links that are here.
    pub(super) fn len(&self) -> usize {
        self.half_open.values().filter(|half_open| half_open.standby.is_none()).count()
    }

    /// Whether this caller may still use this counter: they only go up.
    pub(super) fn is_news(&self, caller: ProcessKey, setup: SetupId) -> bool {
        self.counters.get(&caller).is_none_or(|last| *last < setup)
    }

    pub(super) fn may_open(&mut self, now: Now) -> bool {
        self.opens.fill(now.at, Flow::per_s(OPENS_PER_S, OPENS_BURST));
        self.opens.take()
    }

    /// Whether one more set-up of this member is answered (L-07).
    pub(super) fn may_dial(&mut self, now: Now, member: &UserName) -> bool {
        let bucket = self.members.entry(member.clone()).or_insert_with(|| Bucket::full(MEMBER_BURST));
        bucket.fill(now.at, Flow::per_s(MEMBER_PER_S, MEMBER_BURST));
        bucket.take()
    }

    pub(super) fn remember(&mut self, caller: ProcessKey, setup: SetupId) {
        if self.counters.len() >= REMEMBERED_CALLERS && !self.counters.contains_key(&caller) {
            // Certificates end after a day; forgetting all at once is rare, and costs one handshake for a replay.
            self.counters.clear();
        }
        self.counters.insert(caller, setup);
    }
}

impl WorkerMachine {
    pub(super) fn on_connect(&mut self, now: Now, connect: Connect, out: &mut Vec<WorkerOutput>) {
        let caller = connect.caller.process;
        if let Some(again) = self
            .answers
            .half_open
            .values()
            .find(|half_open| half_open.caller.keys == connect.caller && half_open.setup == connect.setup)
        {
            if let Stage::Connecting { ready: Some(ready) } = &again.stage {
                let line = ready.clone();
                self.publish(now, line, out);
            }
            return;
        }
        if !self.answers.is_news(caller, connect.setup) {
            return;
        }
        if !super::super::speaks(connect.version) {
            return self.refuse(now, &connect, RefuseReason::Version, out);
        }
        if !self.answers.may_open(now) {
            return;
        }
        match self.open(now, connect.caller, connect.setup, &connect.noise) {
            Ok((called, call, verified)) => self.on_call(now, &connect, called, call, verified, out),
            Err(why) => self.refuse(now, &connect, why, out),
        }
    }

    /// Opens message 1 and believes its caller, or says why not.
    pub(super) fn open(
        &mut self,
        now: Now,
        caller: PeerKeys,
        setup: SetupId,
        noise: &[u8],
    ) -> Result<(Called, Call, Verified), RefuseReason> {
        let entropy = self.entropy();
        let parties = Parties { cluster: self.me.cluster.clone(), caller, callee: self.me.keys() };
        let (called, payload) =
            Called::open(&parties, &self.me.secret, noise, entropy).map_err(|_| RefuseReason::Handshake)?;
        let call = Call::from_cbor(&payload).map_err(|_| RefuseReason::Handshake)?;
        // Sealed inside is the counter that was meant: a replay under a higher one would shut the caller out.
        if call.setup != setup {
            return Err(RefuseReason::Handshake);
        }
        let process = caller.process;
        let verified =
            self.admission.verify(&self.me, now, &call.credentials, Role::Client, process).map_err(|fault| {
                if fault.blame() == Blame::Trust { RefuseReason::Untrusted } else { RefuseReason::Handshake }
            })?;
        if verified.keys != caller {
            return Err(RefuseReason::Untrusted);
        }
        Ok((called, call, verified))
    }

    fn on_call(
        &mut self,
        now: Now,
        connect: &Connect,
        called: Called,
        call: Call,
        verified: Verified,
        out: &mut Vec<WorkerOutput>,
    ) {
        if self.config.allow.as_ref().is_some_and(|allow| !allow.contains(&verified.user)) {
            return self.refuse_member(now, connect, RefuseReason::NotAllowed, out);
        }
        if !self.answers.may_dial(now, &verified.user) {
            return;
        }
        // Who comes back to his link takes no more room than he had.
        let resumes = self.links.resumes(&verified, call.link);
        if self.draining && !resumes {
            return self.refuse_member(now, connect, RefuseReason::Draining, out);
        }
        let half_open = &self.answers.half_open;
        let asked = half_open.values().filter(|half_open| half_open.standby.is_none());
        let of_member = asked.filter(|half_open| half_open.caller.user == verified.user).count();
        if self.answers.len() >= limits::HALF_OPEN
            || of_member >= limits::HALF_OPEN_PER_MEMBER
            || !(resumes
                || (self.has_room()
                    && of_member + self.links.of_member(&verified.user) < limits::WORKER_LINKS_PER_MEMBER))
        {
            return self.refuse_member(now, connect, RefuseReason::Busy, out);
        }
        self.answers.remember(verified.keys.process, connect.setup);
        let connection = self.new_connection_id();
        let stage = Stage::Preparing { called: Box::new(called), theirs: call.hints };
        let half_open = HalfOpen { caller: verified, setup: connect.setup, number: call.link, standby: None, stage };
        self.answers.half_open.insert(connection, half_open);
        out.push(WorkerOutput::Prepare(connection));
    }

    pub(super) fn on_prepared(
        &mut self,
        now: Now,
        connection: ConnectionId,
        hints: Result<Hints, LinkError>,
        out: &mut Vec<WorkerOutput>,
    ) {
        let entropy = self.entropy();
        let process = self.process();
        let Some(half_open) = self.answers.half_open.remove(&connection) else {
            out.push(WorkerOutput::Abandon(connection));
            return;
        };
        let HalfOpen { caller, setup, number, standby, stage: Stage::Preparing { called, theirs } } = half_open else {
            return;
        };
        let answered = hints.map_err(|fault| fault.to_string()).and_then(|hints| {
            let answer = Answer { hints, transit_key: TransitKey(entropy) };
            let (session, noise) = called.answer(&answer.to_cbor()).map_err(|fault| fault.to_string())?;
            Ok((session, noise, answer.transit_key))
        });
        let (session, noise, transit_key) = match answered {
            Ok(answered) => answered,
            Err(why) => {
                out.push(WorkerOutput::Abandon(connection));
                let why = format!("a link with {} cannot be set up: {why}", caller.user);
                out.push(WorkerOutput::Report(WorkerReport::Refused { why }));
                return;
            }
        };
        let plan = ConnectPlan { role: Role::Worker, transit_key, theirs, session, patient: standby.is_some() };
        if let Some(link) = standby {
            out.push(WorkerOutput::Send(link, ToClient::Standby(Standby { setup, noise })));
            let stage = Stage::Standby(Box::new(plan));
            self.answers.half_open.insert(connection, HalfOpen { caller, setup, number, standby, stage });
            return;
        }
        let ready = Ready { caller: caller.keys.process, callee: process, setup, noise };
        let line = self.speaker.line(now, Message::Ready(ready));
        self.publish(now, line.clone(), out);
        out.push(WorkerOutput::Connect(connection, Box::new(plan)));
        let half_open = HalfOpen { caller, setup, number, standby, stage: Stage::Connecting { ready: Some(line) } };
        self.answers.half_open.insert(connection, half_open);
    }

    fn publish(&mut self, now: Now, line: Line, out: &mut Vec<WorkerOutput>) {
        let mut lines = Vec::new();
        // Later its caller has given up.
        self.speaker.say_until(now, line, now.at + limits::SETUP_TIMEOUT / 2, &mut lines);
        out.extend(lines.into_iter().map(WorkerOutput::Publish));
    }

    /// Refuses a call that may be anybody's: strangers must not take the board's share from what members wait for.
    fn refuse(&mut self, now: Now, connect: &Connect, why: RefuseReason, out: &mut Vec<WorkerOutput>) {
        if self.speaker.is_quiet(now) {
            self.refuse_member(now, connect, why, out);
        }
    }

    /// Refuses a call whose caller has proven himself.
    fn refuse_member(&mut self, now: Now, connect: &Connect, why: RefuseReason, out: &mut Vec<WorkerOutput>) {
        let refuse = Refuse {
            caller: connect.caller.process,
            callee: self.process(),
            setup: connect.setup,
            why,
            version: p2p_proto::VERSION,
        };
        let line = self.speaker.line(now, Message::Refuse(refuse));
        self.publish(now, line, out);
        let why = format!("a caller with the key {:?} was refused: {}", connect.caller.machine, words(why));
        out.push(WorkerOutput::Report(WorkerReport::Refused { why }));
    }
}

/// The worker's owner reads this.
fn words(why: RefuseReason) -> &'static str {
    match why {
        RefuseReason::Version => "it speaks a protocol version that this program does not",
        RefuseReason::Untrusted => "the host has not signed it, or its signature has ended",
        RefuseReason::Handshake => "its handshake does not verify",
        RefuseReason::NotAllowed => "it is not one of the users that --allow names",
        RefuseReason::Busy => "too many links are open or being set up",
        RefuseReason::Draining => "this worker is leaving",
        RefuseReason::Other => "for another reason",
    }
}
