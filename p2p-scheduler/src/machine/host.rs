//! The host: says who belongs to her cluster, and nothing else. No task and no data pass through her.
//!
//! She signs the first machine key that claims a listed name and refuses another one for the same name (T-01).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use p2p_proto::board::message::{Admit, Beat, Claim, Deny, DenyReason};
use p2p_proto::board::{BoardError, BoardEvent, Envelope, Line, Message};
use p2p_proto::ids::{MachineKey, PeerName, ProcessKey, Role, UserName};
use p2p_proto::limits;
use p2p_proto::trust::{Membership, MembershipClaims, Signed, UnixTime};

use super::directory::Directory;
use super::rival::{Rival, Rivals};
use super::speaker::Speaker;
use super::{Me, Now, Table, earliest};

/// Between two beats that somebody's arrival causes, for each peer: arrivals of many at once share one (B-03).
const BEAT_PAUSE_PER_PEER: Duration = Duration::from_millis(50);
/// A membership starts this long before it is signed, so that a clock a little behind accepts it at once.
const BACKDATE_S: UnixTime = 60;

/// What reaches the host machine.
#[derive(Debug)]
pub enum HostInput {
    /// Something happened on the board.
    Board(BoardEvent),
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
    /// Keep this binding of a user to his machine for the next start.
    Bind {
        /// The user.
        user: UserName,
        /// His machine.
        machine: MachineKey,
        /// Her counter after it.
        serial: u64,
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
    /// A peer said that it leaves.
    Left(PeerName),
}

/// The host's machine.
#[derive(Debug)]
pub struct HostMachine {
    me: Me,
    listed: BTreeSet<UserName>,
    bound: BTreeMap<UserName, MachineKey>,
    serial: u64,
    speaker: Speaker,
    /// The last signature for each process.
    signed: HashMap<ProcessKey, (MembershipClaims, Membership)>,
    directory: Directory,
    rivals: Rivals,
    up: bool,
    beat_at: Option<Duration>,
    beaten_at: Option<Duration>,
}

impl HostMachine {
    /// A host for the users in `listed` (she herself need not be), with the bindings and the serial kept from earlier.
    pub fn new(
        me: Me,
        listed: impl IntoIterator<Item = UserName>,
        bound: impl IntoIterator<Item = (UserName, MachineKey)>,
        serial: u64,
    ) -> Self {
        let mut bound: BTreeMap<_, _> = bound.into_iter().collect();
        // Her own name belongs to the machine that hosts.
        bound.insert(me.user.clone(), me.identity.machine_key());
        let mut listed: BTreeSet<_> = listed.into_iter().collect();
        listed.insert(me.user.clone());
        let speaker = Speaker::new(me.name.clone());
        let directory = Directory::default();
        let signed = HashMap::new();
        let rivals = Rivals::default();
        Self {
            me,
            listed,
            bound,
            serial,
            speaker,
            signed,
            directory,
            rivals,
            up: false,
            beat_at: None,
            beaten_at: None,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Now, input: HostInput, out: &mut Vec<HostOutput>) {
        let mut lines = Vec::new();
        match input {
            HostInput::Board(event) => self.on_board(now, event, &mut lines, out),
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
            self.speaker.say(now, Message::Beat(beat), &mut lines);
            self.beaten_at = Some(now.at);
            self.beat_at = Some(now.at + limits::BEAT_INTERVAL);
        }
        self.speaker.on_tick(now, &mut lines);
        out.extend(lines.into_iter().map(HostOutput::Publish));
    }

    /// When to call with a tick.
    pub fn wake_at(&self) -> Option<Duration> {
        earliest([self.beat_at.filter(|_| self.up), self.speaker.wake_at()])
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
            Message::Hello(hello) => {
                let host = self.me.identity.machine_key();
                let known = self.directory.on_hello(now, &self.me.cluster, host, envelope.from, hello);
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
        let process = claim.keys.process;
        match self.judge(now, &name, &claim) {
            Ok(()) => {
                if let Some(membership) = self.signed_lately(now, &claim) {
                    // Asked again, or heard again: anybody can repeat a line. The same answer costs no signature and no bookkeeping.
                    self.speaker.say_if_quiet(now, Message::Admit(Admit { process, membership }), lines);
                    return;
                }
                let first_time = self.bound.insert(claim.user.clone(), claim.keys.machine).is_none();
                self.serial += 1;
                let claims = MembershipClaims {
                    host: self.me.identity.machine_key(),
                    user: claim.user.clone(),
                    machine: claim.keys.machine,
                    serial: self.serial,
                    from: now.unix.saturating_sub(BACKDATE_S),
                    until: now.unix + limits::MEMBERSHIP_TTL.as_secs(),
                };
                let membership = Membership::sign(&self.me.identity, &self.me.cluster, &claims);
                if self.signed.len() >= limits::DIRECTORY_PEERS {
                    self.signed.clear();
                }
                self.signed.insert(process, (claims, membership.clone()));
                self.speaker.say(now, Message::Admit(Admit { process, membership }), lines);
                let (user, machine, serial) = (claim.user, claim.keys.machine, self.serial);
                out.push(HostOutput::Bind { user, machine, serial });
                out.push(HostOutput::Report(HostReport::Admitted { name, role: claim.role, first_time }));
                self.beat_soon(now);
            }
            Err(why) => {
                // Anybody can claim: what is refused must not take the board's share from what members wait for.
                if self.speaker.say_if_quiet(now, Message::Deny(Deny { process, why }), lines) {
                    out.push(HostOutput::Report(HostReport::Refused { name, why }));
                }
            }
        }
    }

    /// What was signed for the same process and machine, while less than a quarter of its life has passed.
    fn signed_lately(&self, now: Now, claim: &Claim) -> Option<Membership> {
        let (claims, membership) = self.signed.get(&claim.keys.process)?;
        let same = claims.machine == claim.keys.machine && claims.user == claim.user;
        let left = claims.until.saturating_sub(now.unix);
        let ttl = limits::MEMBERSHIP_TTL.as_secs();
        // More than a whole life is left of what was signed while her clock was wrong: nobody may believe it for a long time.
        let fresh = left > ttl / 4 * 3 && left <= ttl;
        (same && fresh).then(|| membership.clone())
    }

    fn judge(&self, now: Now, name: &PeerName, claim: &Claim) -> Result<(), DenyReason> {
        let keys = claim.keys;
        let certified =
            claim.certificate.verify(&self.me.cluster, keys.machine, claim.role, keys.process, now.unix).is_ok();
        if !certified || name.user() != claim.user.as_str() {
            return Err(DenyReason::BadCertificate);
        }
        if !self.listed.contains(&claim.user) {
            return Err(DenyReason::NotListed);
        }
        match self.bound.get(&claim.user) {
            Some(machine) if *machine != keys.machine => Err(DenyReason::OtherKey),
            _ => Ok(()),
        }
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
        let peers = self.peers(now);
        let host = self.me.identity.machine_key();
        let (since, rival, removals) = (self.rivals.since(now), self.rivals.take_named(), Vec::new());
        let beat = Beat { host, peers, serial: self.serial, removals, time: now.unix, since, rival, leaving };
        beat.sign(&self.me.identity, &self.me.cluster)
    }

    /// Peers on the board, herself included.
    fn peers(&self, now: Now) -> u32 {
        1 + u32::try_from(self.directory.present(now).count()).unwrap_or(u32::MAX - 1)
    }
}
