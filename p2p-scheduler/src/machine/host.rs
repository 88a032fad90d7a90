//! The host: says who belongs to her cluster, and nothing else. No task and no data pass through her.
//!
//! She signs a machine's key for a listed user once the board has shown her that it is there by his login, or once she has approved it herself
//! (T-02). Whom she takes off her list is named in her beats, so that all others let go of him (T-03).

mod proofs;
mod roster;
mod turns;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use p2p_proto::board::message::{Admit, Beat, Claim, Deny, DenyReason, Prove, Summon};
use p2p_proto::board::{BoardError, BoardEvent, Envelope, Line, Message, Sighting};
use p2p_proto::error::ProtoError;
use p2p_proto::ids::{Fingerprint, MachineKey, PeerName, ProcessKey, Role, UserName};
use p2p_proto::limits;
use p2p_proto::trust::{Membership, MembershipClaims, Signed, UnixTime};

use self::proofs::{Claimed, Proofs};
use self::roster::Roster;
pub use self::roster::{HostKept, Removal};
use super::directory::Directory;
use super::rival::{Rival, Rivals};
use super::side::{SideInput, SideOutput};
use super::speaker::Speaker;
use super::{Me, Now, Table, earliest};

/// Between two beats that somebody's arrival causes, for each peer: arrivals of many at once share one (B-03).
const BEAT_PAUSE_PER_PEER: Duration = Duration::from_millis(50);
/// A membership starts this long before it is signed, so that a clock a little behind accepts it at once.
const BACKDATE_S: UnixTime = 60;

/// How a host finds out whose a claimed key is (T-02).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdmitBy {
    /// By the board's own login, seen in a side topic. Where the board cannot tell, by hand.
    #[default]
    Login,
    /// She compares fingerprints with the user and says so.
    Hand,
}

/// How a host hosts.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Who may belong besides herself.
    pub users: Vec<UserName>,
    /// How they get in.
    pub admit: AdmitBy,
    /// How long a signature of hers is good.
    pub member_ttl: Duration,
}

impl HostConfig {
    /// For these users, and otherwise as usual.
    pub fn of(users: impl IntoIterator<Item = UserName>) -> Self {
        Self { users: users.into_iter().collect(), admit: AdmitBy::default(), member_ttl: limits::MEMBERSHIP_TTL }
    }
}

/// What reaches the host machine.
#[derive(Debug)]
pub enum HostInput {
    /// Something happened on the board.
    Board(BoardEvent),
    /// Something happened in a side topic.
    Side(SideInput),
    /// Her list is now this one, herself left out. Who is no longer on it is removed.
    Users(Vec<UserName>),
    /// She has compared the fingerprint: this machine is his.
    Approve(UserName, Fingerprint),
    /// These machines of a user, or all of them, are not his any more.
    Forget(UserName, Option<Fingerprint>),
    /// The moment of `wake_at`.
    Tick,
    /// She goes away.
    Leave,
}

/// What the host machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostOutput {
    /// Say this on the board.
    Publish(Line),
    /// Do this in a side topic.
    Side(SideOutput),
    /// Keep for the next start that this machine is the user's.
    Bind {
        /// The user.
        user: UserName,
        /// His machine.
        machine: MachineKey,
        /// Her counter after it.
        serial: u64,
        /// Until when her signature is good.
        until: UnixTime,
    },
    /// Keep for the next start that it is not. Its serial is her counter.
    Unbind {
        /// Whose it was.
        user: UserName,
        /// Which, and until when it is named.
        removal: Removal,
    },
    /// Show her this claim until she has decided: `Approve` lets it in.
    Pending {
        /// Who he says he is.
        user: UserName,
        /// His machine.
        machine: MachineKey,
    },
    /// Tell a person.
    Report(HostReport),
}

/// What a host is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostReport {
    /// The board is up: the cluster is open.
    Open,
    /// The board is away; it is tried again.
    BoardDown {
        /// Why.
        reason: String,
        /// After how long.
        retry_in: Duration,
    },
    /// Something on the board that she should know.
    Warning(String),
    /// The board cannot be used without her help.
    Failed(BoardError),
    /// A member's process was admitted.
    Admitted {
        /// Its name.
        name: PeerName,
        /// Its role.
        role: Role,
        /// Whether its machine was bound to the user just now.
        first_time: bool,
    },
    /// Somebody asked and was refused.
    Refused {
        /// Who he says he is.
        name: PeerName,
        /// Why.
        why: DenyReason,
    },
    /// A key waits for her approval.
    Asked {
        /// Who he says he is.
        name: PeerName,
        /// His machine's key.
        machine: MachineKey,
        /// Why she is asked although the board should know; none where she wanted it so.
        why: Option<String>,
    },
    /// In the side topic of a claimed key was not who should be there: somebody tries to get in under a false name.
    Intruder {
        /// What was claimed.
        name: PeerName,
        /// Which key.
        machine: MachineKey,
        /// What the board showed.
        seen: String,
    },
    /// A machine was removed; links to it end as soon as this is heard.
    Removed {
        /// Whose.
        user: UserName,
        /// Which.
        machine: MachineKey,
    },
    /// A peer said that it leaves.
    Left(PeerName),
}

/// The host's machine.
#[derive(Debug)]
pub struct HostMachine {
    me: Me,
    listed: BTreeSet<UserName>,
    admit: AdmitBy,
    member_ttl: Duration,
    roster: Roster,
    /// What she did with her roster before it was looked through for this start.
    settled: bool,
    proofs: Proofs,
    approved: BTreeSet<(UserName, Fingerprint)>,
    /// Claims that wait for her word.
    pending: BTreeMap<UserName, VecDeque<Claimed>>,
    speaker: Speaker,
    /// The last signature for each machine of a user.
    signed: HashMap<(UserName, MachineKey), Signature>,
    directory: Directory,
    rivals: Rivals,
    up: bool,
    beat_at: Option<Duration>,
    beaten_at: Option<Duration>,
}

/// What was signed for a machine, and for whom it was said.
#[derive(Debug)]
struct Signature {
    claims: MembershipClaims,
    membership: Membership,
    /// The latest processes that were told, at most [`limits::PROCESSES_PER_MACHINE`].
    told: VecDeque<ProcessKey>,
}

impl HostMachine {
    /// A host, with what an earlier start has kept.
    pub fn new(me: Me, config: HostConfig, kept: HostKept) -> Self {
        let mut roster = Roster::new(kept);
        roster.add(&me.user, me.identity.machine_key());
        let mut listed: BTreeSet<_> = config.users.into_iter().collect();
        listed.insert(me.user.clone());
        Self {
            speaker: Speaker::new(me.name.clone()),
            me,
            listed,
            admit: config.admit,
            member_ttl: config.member_ttl,
            roster,
            settled: false,
            proofs: Proofs::default(),
            approved: BTreeSet::new(),
            pending: BTreeMap::new(),
            signed: HashMap::new(),
            directory: Directory::default(),
            rivals: Rivals::default(),
            up: false,
            beat_at: None,
            beaten_at: None,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Now, input: HostInput, out: &mut Vec<HostOutput>) {
        let mut lines = Vec::new();
        if !std::mem::replace(&mut self.settled, true) {
            self.roster.catch_up(now.unix);
            self.remove_unlisted(now, out);
        }
        match input {
            HostInput::Board(event) => self.on_board(now, event, &mut lines, out),
            HostInput::Side(input) => self.on_side(now, input, &mut lines, out),
            HostInput::Users(users) => {
                self.listed = users.into_iter().collect();
                self.listed.insert(self.me.user.clone());
                self.remove_unlisted(now, out);
            }
            HostInput::Approve(user, key) => self.on_approve(now, user, key, &mut lines, out),
            HostInput::Forget(user, key) => self.on_forget(now, &user, key.as_ref(), out),
            HostInput::Tick => {}
            HostInput::Leave => {
                let beat = self.beat(now, true);
                // Past the bucket: it is the last line.
                lines.push(self.speaker.line(now, Message::Beat(beat)));
                self.up = false;
                self.beat_at = None;
            }
        }
        if self.up && self.beat_at.is_some_and(|at| at <= now.at) {
            let beat = self.beat(now, false);
            self.rivals.said(&beat);
            self.speaker.say_first(now, Message::Beat(beat), &mut lines);
            self.beaten_at = Some(now.at);
            self.beat_at = Some(now.at + limits::BEAT_INTERVAL);
            if self.roster.has_unsaid() {
                self.beat_soon(now);
            }
        }
        let mut sides = Vec::new();
        for Claimed { claim, .. } in self.proofs.on_tick(now, &self.me, &mut sides) {
            let deny = Deny { process: claim.keys.process, why: DenyReason::Unproven };
            self.speaker.say_if_quiet(now, Message::Deny(deny), &mut lines);
        }
        out.extend(sides.into_iter().map(HostOutput::Side));
        self.speaker.on_tick(now, &mut lines);
        out.extend(lines.into_iter().map(HostOutput::Publish));
    }

    /// When to call with a tick.
    pub fn wake_at(&self) -> Option<Duration> {
        earliest([self.beat_at.filter(|_| self.up), self.speaker.wake_at(), self.proofs.wake_at()])
    }

    /// What she holds of others, and may hold at most (I-07).
    pub fn tables(&self) -> [Table; 3] {
        let signed = Table { what: "signatures", holds: self.signed.len(), most: limits::DIRECTORY_PEERS };
        [self.speaker.table(), self.directory.table(), signed]
    }

    fn on_board(&mut self, now: Now, event: BoardEvent, lines: &mut Vec<Line>, out: &mut Vec<HostOutput>) {
        match event {
            BoardEvent::Up => {
                self.up = true;
                self.beat_at = Some(now.at);
                out.push(HostOutput::Report(HostReport::Open));
            }
            BoardEvent::Line(line) => {
                if let Ok(envelope) = line.decode() {
                    self.on_message(now, envelope, lines, out);
                }
            }
            BoardEvent::Lagged(_) => {}
            BoardEvent::Down { reason, retry_in } => {
                self.up = false;
                out.push(HostOutput::Report(HostReport::BoardDown { reason, retry_in }));
            }
            BoardEvent::Misrouted { retry_in } => {
                self.up = false;
                let reason = "the board gave out a topic of one's own; only the owner can host a cluster".to_owned();
                out.push(HostOutput::Report(HostReport::BoardDown { reason, retry_in }));
            }
            BoardEvent::Warning(text) => out.push(HostOutput::Report(HostReport::Warning(text))),
            BoardEvent::Failed(error) => {
                self.up = false;
                out.push(HostOutput::Report(HostReport::Failed(error)));
            }
        }
    }

    fn on_message(&mut self, now: Now, envelope: Envelope, lines: &mut Vec<Line>, out: &mut Vec<HostOutput>) {
        match envelope.message {
            Message::Claim(claim) => self.on_claim(now, envelope.from, claim, lines, out),
            Message::Summon(summon) => self.on_summon(now, summon, out),
            Message::Hello(hello) => {
                let process = hello.process;
                let host = self.me.identity.machine_key();
                let (cluster, roster) = (&self.me.cluster, &self.roster);
                let known = self.directory.on_hello(now, envelope.from, hello, |hello| {
                    let verified = hello.credentials.verify(cluster, host, hello.role, hello.process, now.unix)?;
                    let belongs = roster.has(&verified.user, verified.keys.machine);
                    let stranger = || ProtoError::Untrusted(format!("this machine of {} was removed", verified.user));
                    belongs.then_some(verified.clone()).ok_or_else(stranger)
                });
                if known.is_ok() {
                    let mut sides = Vec::new();
                    if let Some(peer) = self.directory.get(process) {
                        self.proofs.on_hello(&self.me, &peer.verified.user, process, &mut sides);
                    }
                    out.extend(sides.into_iter().map(HostOutput::Side));
                }
                if known == Ok(true) {
                    self.beat_soon(now);
                }
            }
            Message::Seek(_) => self.beat_soon(now),
            Message::Bye(bye) => self.on_bye(now, bye.process, out),
            Message::Beat(beat) => self.on_foreign_beat(now, &envelope.from, &beat, out),
            _ => {}
        }
    }

    fn on_claim(&mut self, now: Now, name: PeerName, claim: Claim, lines: &mut Vec<Line>, out: &mut Vec<HostOutput>) {
        let (process, machine) = (claim.keys.process, claim.keys.machine);
        if let Err(why) = self.judge(now, &name, &claim) {
            return self.deny(now, name, process, why, lines, out);
        }
        let approved = (claim.user.clone(), Fingerprint::from(machine));
        if self.roster.has(&claim.user, machine) || self.approved.remove(&approved) {
            return self.sign(now, name, claim, lines, out);
        }
        if self.roster.is_full(&claim.user) {
            return self.deny(now, name, process, DenyReason::TooManyMachines, lines, out);
        }
        let claimed = Claimed { name, claim };
        match self.admit {
            AdmitBy::Hand => self.ask(now, claimed, None, lines, out),
            AdmitBy::Login => {
                let mut sides = Vec::new();
                if self.proofs.on_claim(now, &self.me, claimed, &mut sides) {
                    let prove = Prove { process, host: self.me.identity.machine_key() };
                    self.speaker.say_if_quiet(now, Message::Prove(prove), lines);
                }
                out.extend(sides.into_iter().map(HostOutput::Side));
            }
        }
    }

    fn on_side(&mut self, now: Now, input: SideInput, lines: &mut Vec<Line>, out: &mut Vec<HostOutput>) {
        let (topic, look, sighting) = match input {
            SideInput::Opened { topic, look } => {
                if let Some(claimed) = self.proofs.on_opened(&topic, look) {
                    let process = claimed.claim.keys.process;
                    let prove = Prove { process, host: self.me.identity.machine_key() };
                    self.speaker.say(now, Message::Prove(prove), lines);
                }
                return;
            }
            SideInput::Seen { topic, look, sighting } => (topic, look, sighting),
        };
        let mut sides = Vec::new();
        let claimed = self.proofs.on_seen(&topic, look, &mut sides);
        out.extend(sides.into_iter().map(HostOutput::Side));
        // He may have been taken off the list meanwhile.
        let Some(claimed) = claimed.filter(|claimed| self.listed.contains(&claimed.claim.user)) else { return };
        let seen = match sighting {
            Sighting::Guest if self.roster.is_full(&claimed.claim.user) => return,
            Sighting::Guest => {
                let others = self.proofs.on_proved(&claimed.claim.user, claimed.claim.keys.machine);
                for Claimed { name, claim } in std::iter::once(claimed).chain(others) {
                    self.sign(now, name, claim, lines, out);
                }
                return;
            }
            Sighting::Unavailable(why) => return self.ask(now, claimed, Some(why), lines, out),
            Sighting::Others(names) => names.join(", "),
            Sighting::Odd(why) => why,
        };
        let Claimed { name, claim } = claimed;
        let deny = Deny { process: claim.keys.process, why: DenyReason::Unproven };
        self.speaker.say_if_quiet(now, Message::Deny(deny), lines);
        out.push(HostOutput::Report(HostReport::Intruder { name, machine: claim.keys.machine, seen }));
    }

    /// A guest wants to see whose login is behind her key.
    fn on_summon(&mut self, now: Now, summon: Summon, out: &mut Vec<HostOutput>) {
        if summon.host == self.me.identity.machine_key() && self.listed.contains(&summon.user) {
            let mut sides = Vec::new();
            self.proofs.on_summon(now, &self.me, summon.user, summon.process, &mut sides);
            out.extend(sides.into_iter().map(HostOutput::Side));
        }
    }

    /// Lets a claim wait for her own word.
    fn ask(
        &mut self,
        now: Now,
        claimed: Claimed,
        why: Option<String>,
        lines: &mut Vec<Line>,
        out: &mut Vec<HostOutput>,
    ) {
        let (process, machine) = (claimed.claim.keys.process, claimed.claim.keys.machine);
        let queue = self.pending.entry(claimed.claim.user.clone()).or_default();
        let known = queue.iter().any(|other| other.claim.keys.machine == machine);
        queue.retain(|other| other.claim.keys.machine != machine);
        if queue.len() >= limits::CLAIMS_WAITING {
            queue.pop_front();
        }
        let (name, user) = (claimed.name.clone(), claimed.claim.user.clone());
        queue.push_back(claimed);
        if !known {
            out.push(HostOutput::Pending { user, machine });
            out.push(HostOutput::Report(HostReport::Asked { name, machine, why }));
        }
        let deny = Deny { process, why: DenyReason::AwaitsApproval };
        self.speaker.say_if_quiet(now, Message::Deny(deny), lines);
    }

    fn on_approve(
        &mut self,
        now: Now,
        user: UserName,
        key: Fingerprint,
        lines: &mut Vec<Line>,
        out: &mut Vec<HostOutput>,
    ) {
        let queue = self.pending.get_mut(&user);
        let claimed = queue.and_then(|queue| {
            let at = queue.iter().position(|claimed| key.fits(claimed.claim.keys.machine))?;
            queue.remove(at)
        });
        match claimed.filter(|_| self.listed.contains(&user)) {
            Some(Claimed { name, claim }) => self.sign(now, name, claim, lines, out),
            // It has not been claimed yet.
            None if self.approved.len() < limits::DIRECTORY_PEERS => {
                self.approved.insert((user, key));
            }
            None => {}
        }
    }

    fn on_forget(&mut self, now: Now, user: &UserName, key: Option<&Fingerprint>, out: &mut Vec<HostOutput>) {
        for machine in self.roster.machines(user) {
            if key.is_none_or(|key| key.fits(machine)) && machine != self.me.identity.machine_key() {
                self.remove(now, user, machine, out);
            }
        }
        self.approved.retain(|(other, approved)| other != user || key.is_some_and(|key| key != approved));
    }

    /// Takes off the roster who is not on the list.
    fn remove_unlisted(&mut self, now: Now, out: &mut Vec<HostOutput>) {
        let gone: Vec<UserName> = self.roster.users().filter(|user| !self.listed.contains(*user)).cloned().collect();
        for user in gone {
            for machine in self.roster.machines(&user) {
                self.remove(now, &user, machine, out);
            }
        }
        let listed = &self.listed;
        self.pending.retain(|user, _| listed.contains(user));
        self.approved.retain(|(user, _)| listed.contains(user));
        let mut sides = Vec::new();
        for user in self.proofs.users() {
            if !self.listed.contains(&user) {
                self.proofs.forget(&self.me, &user, &mut sides);
            }
        }
        out.extend(sides.into_iter().map(HostOutput::Side));
    }

    fn remove(&mut self, now: Now, user: &UserName, machine: MachineKey, out: &mut Vec<HostOutput>) {
        let removal = self.roster.remove(user, machine, now.unix);
        self.signed.retain(|(_, other), _| *other != machine);
        self.directory.retain(|peer| peer.verified.keys.machine != machine);
        out.push(HostOutput::Unbind { user: user.clone(), removal });
        out.push(HostOutput::Report(HostReport::Removed { user: user.clone(), machine }));
        // Now, whatever was said just before: the others wait for this.
        self.beat_at = Some(now.at);
    }

    /// Signs a claim, anew or as lately.
    fn sign(&mut self, now: Now, name: PeerName, claim: Claim, lines: &mut Vec<Line>, out: &mut Vec<HostOutput>) {
        let (process, machine) = (claim.keys.process, claim.keys.machine);
        if self.signed_lately(now, &claim) {
            return self.say_again(now, name, &claim, lines, out);
        }
        let first_time = self.roster.add(&claim.user, machine);
        let until = now.unix + self.member_ttl.as_secs();
        let serial = self.roster.count(until);
        let claims = MembershipClaims {
            host: self.me.identity.machine_key(),
            user: claim.user.clone(),
            machine,
            serial,
            from: now.unix.saturating_sub(BACKDATE_S),
            until,
        };
        let membership = Membership::sign(&self.me.identity, &self.me.cluster, &claims);
        if self.signed.len() >= limits::DIRECTORY_PEERS {
            self.signed.clear();
        }
        let signature = Signature { claims, membership: membership.clone(), told: VecDeque::from([process]) };
        self.signed.insert((claim.user.clone(), machine), signature);
        self.speaker.say(now, Message::Admit(Admit { process, membership }), lines);
        out.push(HostOutput::Bind { user: claim.user, machine, serial, until });
        out.push(HostOutput::Report(HostReport::Admitted { name, role: claim.role, first_time }));
        self.beat_soon(now);
    }

    /// Asked again, or by another process of the machine: anybody can repeat a line, and a member has as many processes as he likes. The same
    /// answer costs no signature and no bookkeeping, and the first few processes of a machine get it for sure.
    fn say_again(&mut self, now: Now, name: PeerName, claim: &Claim, lines: &mut Vec<Line>, out: &mut Vec<HostOutput>) {
        let process = claim.keys.process;
        let Some(signature) = self.signed.get_mut(&(claim.user.clone(), claim.keys.machine)) else { return };
        let admit = Message::Admit(Admit { process, membership: signature.membership.clone() });
        if signature.told.contains(&process) {
            self.speaker.say_if_quiet(now, admit, lines);
            return;
        }
        if signature.told.len() < limits::PROCESSES_PER_MACHINE {
            self.speaker.say(now, admit, lines);
        } else if self.speaker.say_if_quiet(now, admit, lines) {
            signature.told.pop_front();
        } else {
            return;
        }
        signature.told.push_back(process);
        out.push(HostOutput::Report(HostReport::Admitted { name, role: claim.role, first_time: false }));
    }

    fn deny(
        &mut self,
        now: Now,
        name: PeerName,
        process: ProcessKey,
        why: DenyReason,
        lines: &mut Vec<Line>,
        out: &mut Vec<HostOutput>,
    ) {
        // Anybody can claim: what is refused must not take the board's share from what members wait for.
        if self.speaker.say_if_quiet(now, Message::Deny(Deny { process, why }), lines) {
            out.push(HostOutput::Report(HostReport::Refused { name, why }));
        }
    }

    /// Whether the same machine was signed, and less than a quarter of that signature's life has passed.
    fn signed_lately(&self, now: Now, claim: &Claim) -> bool {
        let signature = self.signed.get(&(claim.user.clone(), claim.keys.machine));
        let left = signature.map_or(0, |signature| signature.claims.until.saturating_sub(now.unix));
        let ttl = self.member_ttl.as_secs();
        // More than a whole life is left of what was signed while her clock was wrong: nobody may believe it for a long time.
        left > ttl / 4 * 3 && left <= ttl
    }

    fn judge(&self, now: Now, name: &PeerName, claim: &Claim) -> Result<(), DenyReason> {
        let keys = claim.keys;
        let certified =
            claim.certificate.verify(&self.me.cluster, keys.machine, claim.role, keys.process, now.unix).is_ok();
        if !certified || name.user() != claim.user.as_str() {
            return Err(DenyReason::BadCertificate);
        }
        if self.listed.contains(&claim.user) { Ok(()) } else { Err(DenyReason::NotListed) }
    }

    fn on_bye(&mut self, now: Now, process: ProcessKey, out: &mut Vec<HostOutput>) {
        if let Some(peer) = self.directory.remove(process) {
            out.push(HostOutput::Report(HostReport::Left(peer.name)));
            self.beat_soon(now);
        }
    }

    /// Two hosts would undo each other's lists: the second one goes.
    fn on_foreign_beat(&mut self, now: Now, from: &PeerName, beat: &Signed, out: &mut Vec<HostOutput>) {
        let cluster = &self.me.cluster;
        match self.rivals.on_beat(&self.me, from, beat) {
            None => {}
            Some(Rival::Newcomer { first }) => {
                if first {
                    out.push(HostOutput::Report(HostReport::Warning(format!(
                        "{from} began to host {cluster}, too; it is told that you host it here"
                    ))));
                }
                self.beat_soon(now);
            }
            Some(Rival::Elder) => {
                self.up = false;
                let words = format!(
                    "{cluster} is hosted already, by {from} on this machine: end that one first, or leave it as it is"
                );
                out.push(HostOutput::Report(HostReport::Failed(BoardError::Refused(words))));
            }
            Some(Rival::Stranger) => out.push(HostOutput::Report(HostReport::Warning(format!(
                "{from} says that it hosts {cluster}, with another machine's key. If it is another machine of yours, host on one of them \
                 only; else somebody pretends to be you: your friends' machines stay with the key that they know"
            )))),
        }
    }

    /// A beat at once, or as soon as the last one is long enough ago.
    fn beat_soon(&mut self, now: Now) {
        let pause = (BEAT_PAUSE_PER_PEER * self.peers(now)).min(limits::BEAT_INTERVAL);
        let soonest = self.beaten_at.map_or(now.at, |at| now.at.max(at + pause));
        self.beat_at = Some(self.beat_at.map_or(soonest, |at| at.min(soonest)));
    }

    fn beat(&mut self, now: Now, leaving: bool) -> Signed {
        let beat = Beat {
            host: self.me.identity.machine_key(),
            peers: self.peers(now),
            serial: self.roster.serial(),
            removals: self.roster.removals(now.unix),
            roster: Some(self.roster.digest()),
            time: now.unix,
            since: self.rivals.since(now),
            rival: self.rivals.take_named(),
            leaving,
        };
        beat.sign(&self.me.identity, &self.me.cluster)
    }

    /// Peers on the board, herself included, of each machine [`limits::PROCESSES_PER_MACHINE`] at most.
    fn peers(&self, now: Now) -> u32 {
        // A machine signs as many processes as it likes, and anybody can say again what was said by those that have ended.
        let mut of_machine: HashMap<MachineKey, usize> = HashMap::new();
        for (_, peer) in self.directory.present(now) {
            *of_machine.entry(peer.verified.keys.machine).or_default() += 1;
        }
        let counted: usize = of_machine.values().map(|count| (*count).min(limits::PROCESSES_PER_MACHINE)).sum();
        1 + u32::try_from(counted).unwrap_or(u32::MAX - 1)
    }
}
