//! How a worker or a client gets its membership and keeps it: it claims, shows itself where the host looks for it, she signs, both remember (T-01
//! to T-03).
//!
//! The host's key is believed once the board has shown that it is there by the owner's login, or by its fingerprint where a person has named that.
//! Afterwards only that key counts; whoever signs with another one is reported and ignored.

mod hosts;
mod removed;

use std::collections::BTreeSet;
use std::time::Duration;

use p2p_proto::board::message::{Admit, Beat, Claim, Deny, DenyReason, Prove};
use p2p_proto::board::{Line, Message, Sighting};
use p2p_proto::error::ProtoError;
use p2p_proto::ids::{Fingerprint, MachineKey, ProcessKey, Role};
use p2p_proto::limits;
use p2p_proto::trust::{Credentials, Membership, MembershipClaims, Signed, UnixTime, Verified};

use self::hosts::Hosts;
use self::removed::{News, Removed};
use super::side::{SideInput, SideOutput};
use super::speaker::Speaker;
use super::{Me, Now, earliest};

/// A claim is repeated after this long, doubled each time up to [`CLAIM_AGAIN_MAX`]: lines get lost.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);
/// The longest time between two claims.
const CLAIM_AGAIN_MAX: Duration = Duration::from_secs(30);
/// Told again to show itself, it enters anew after this long: it may have been called before the topic was there, by a stranger. Doubled each
/// time up to [`ATTEND_AGAIN_MAX`] until it claims again: a stranger who goes on calling must not keep it from staying.
const ATTEND_AGAIN: Duration = Duration::from_secs(2);
/// The longest time until it enters anew: the host looks for as long.
const ATTEND_AGAIN_MAX: Duration = limits::SIDE_TOPIC_TIME;

/// Whose word about the host's key is believed, where none is known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostTrust {
    /// The board's: by whose login she is there (T-02).
    #[default]
    Login,
    /// A person's, who has named its fingerprint. Another key that was kept does not count.
    Named(Fingerprint),
    /// The first key that signs: for boards that cannot tell, where everybody is trusted.
    FirstSight,
    /// Nobody's: there is no host. Each machine signs for itself, and believes all others who do; whoever gets onto the topic belongs.
    NoHost,
}

/// What a member keeps from one start to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberKept {
    /// The host's key.
    pub host: Option<MachineKey>,
    /// Her word.
    pub membership: Option<Membership>,
    /// Her counter, as last heard together with a removal.
    pub serial: u64,
    /// Machines that she has removed, with its value then.
    pub removals: Vec<(MachineKey, u64)>,
}

/// What an admission tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmissionEvent {
    /// The host signed.
    Admitted {
        /// The host's key, from now on the only one.
        host: MachineKey,
        /// Her word.
        membership: Membership,
        /// Whether the host's key was not known before.
        first_sight: bool,
    },
    /// What this peer holds may have seemed to be over, because of its clock; it is not.
    Restored,
    /// The host (or somebody in her name: it is not signed) said no.
    Denied(DenyReason),
    /// Somebody signs as host with a key that is not the one that counts.
    OtherHost {
        /// The key that counts.
        pinned: Fingerprint,
        /// The key that was seen.
        seen: MachineKey,
    },
    /// Somebody poses as the host: in the side topic of that key was somebody else.
    Imposter {
        /// The key.
        key: MachineKey,
        /// What the board showed.
        seen: String,
    },
    /// The board cannot tell whose key that is: a person has to.
    Unchecked {
        /// The key.
        key: MachineKey,
        /// Why it cannot.
        why: String,
    },
    /// A fresh beat was heard under this key, while no host's key is known yet: somebody hosts already, or says so. Told once of each key, and of
    /// [`limits::HOSTS_WAITING`] keys at most.
    HostHeard {
        /// The key.
        key: MachineKey,
    },
    /// The host has removed this machine.
    Removed,
    /// The host has removed others: whoever is linked to them lets go.
    Removals,
    /// Two rosters under one number: the host, or who has her key, tells different members different things.
    Forked,
    /// The host was not heard for [`limits::HOST_AWAY`], or said that she leaves.
    HostAway,
    /// She is back.
    HostBack,
    /// She is away, and this machine's membership should have been renewed by now.
    Ending {
        /// When it ends.
        until: UnixTime,
    },
    /// Her clock and this one's differ by more than is tolerated.
    ClockOff {
        /// By so much, seconds.
        seconds: u64,
    },
}

/// What a peer whom the board does not let in can say about that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// It is the owner's: nobody hosts now.
    Owner,
    /// It was inside, now or at an earlier start: the host is away, or has taken the user off her list.
    Known,
    /// It never was: it may be any of these, or the name is wrong.
    Unknown,
}

/// What an admission wants done.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Lines for the board.
    pub lines: Vec<Line>,
    /// What is to be done in side topics.
    pub sides: Vec<SideOutput>,
    /// What happened.
    pub events: Vec<AdmissionEvent>,
    /// [`Admission::kept`] has changed.
    pub save: bool,
}

/// The state of one peer's membership.
#[derive(Debug)]
pub struct Admission {
    trust: HostTrust,
    host: Option<MachineKey>,
    held: Option<Held>,
    removed: Removed,
    hosts: Hosts,
    host_heard_at: Option<Duration>,
    /// When she counts as away, unless she is heard.
    away_at: Option<Duration>,
    away: bool,
    warned: bool,
    /// The calendar time of her latest beat.
    last_beat: u64,
    denied: Option<DenyReason>,
    told: Told,
    claim_at: Option<Duration>,
    claimed_at: Option<Duration>,
    claim_again: Duration,
    /// Since when it shows itself in the side topic of its key.
    attending: Option<Duration>,
    /// What is held did not hold when that was last looked at: a clock is wrong, or it has ended.
    lapsed: bool,
    /// When it may enter anew, and after how long the time after that.
    attend_at: Duration,
    attend_again: Duration,
}

/// What is told once.
#[derive(Debug, Default)]
struct Told {
    other_host: bool,
    forked: bool,
    clock: bool,
    unchecked: bool,
    imposters: usize,
    heard: BTreeSet<MachineKey>,
}

#[derive(Debug)]
struct Held {
    credentials: Credentials,
    claims: MembershipClaims,
    /// The process certificate is made anew before it ends.
    certificate_renew_unix: u64,
}

impl Admission {
    /// With what an earlier start has kept; a membership that does not verify any more is dropped.
    pub fn new(me: &Me, now: Now, trust: HostTrust, kept: MemberKept) -> Self {
        let fits = |host: &MachineKey| !matches!(&trust, HostTrust::Named(named) if !named.fits(*host));
        // Where there is no host, what one signed counts for nothing.
        let kept = if trust == HostTrust::NoHost { MemberKept::default() } else { kept };
        let host = kept.host.filter(fits);
        let removed = if host.is_some() { Removed::new(kept.serial, kept.removals) } else { Removed::default() };
        let held = host.zip(kept.membership).and_then(|(host, membership)| {
            let claims = membership.verify(&me.cluster, host, now.unix).ok()?;
            let mine = claims.user == me.user && claims.machine == me.identity.machine_key();
            (mine && !removed.voids(claims.machine, claims.serial)).then(|| Held::new(me, now, membership, claims))
        });
        let held = if trust == HostTrust::NoHost { Some(Held::own(me, now)) } else { held };
        Self {
            trust,
            host,
            held,
            removed,
            hosts: Hosts::default(),
            host_heard_at: None,
            away_at: None,
            away: false,
            warned: false,
            last_beat: 0,
            denied: None,
            told: Told::default(),
            claim_at: None,
            claimed_at: None,
            claim_again: CLAIM_AGAIN,
            attending: None,
            lapsed: false,
            attend_at: Duration::ZERO,
            attend_again: ATTEND_AGAIN,
        }
    }

    /// What to keep for the next start.
    pub fn kept(&self) -> MemberKept {
        let membership = self.held.as_ref().map(|held| held.credentials.membership.clone());
        MemberKept { host: self.host, membership, serial: self.removed.serial(), removals: self.removed.all() }
    }

    /// Believes a peer, or says why not: the host must have signed its machine and not removed it since, and its machine must have signed the process.
    /// Where there is no host, the machine must have signed for itself.
    ///
    /// # Errors
    /// [`ProtoError::Untrusted`] with what does not hold.
    pub fn verify(
        &self,
        me: &Me,
        now: Now,
        credentials: &Credentials,
        role: Role,
        process: ProcessKey,
    ) -> Result<Verified, ProtoError> {
        let host = match self.trust {
            HostTrust::NoHost => credentials.membership.verify_first_sight(&me.cluster, now.unix)?.machine,
            _ => self.host.ok_or_else(|| ProtoError::Untrusted("the host's key is not known yet".to_owned()))?,
        };
        let verified = credentials.verify(&me.cluster, host, role, process, now.unix)?;
        if self.removed.has(&verified) {
            return Err(ProtoError::Untrusted(format!("the host has removed this machine of {}", verified.user)));
        }
        Ok(verified)
    }

    /// Why a peer that was believed is not to be believed any more, in words.
    pub fn voids(&self, now: Now, verified: &Verified) -> Option<String> {
        if self.removed.has(verified) {
            return Some(format!("the host has removed this machine of {}", verified.user));
        }
        let over = now.unix > verified.until.saturating_add(limits::CLOCK_SKEW.as_secs());
        over.then(|| format!("the membership of {} has ended, and he did not show a newer one", verified.user))
    }

    /// What proves this process now, if it is a member.
    pub fn credentials(&mut self, me: &Me, now: Now) -> Option<&Credentials> {
        let held = self.held.as_mut().filter(|held| held.holds(now))?;
        // More than half of its life until then: the clock was ahead when it was made, and nobody else believes it before that time comes.
        let half = p2p_proto::limits::PROCESS_TTL.as_secs() / 2;
        if now.unix >= held.certificate_renew_unix || held.certificate_renew_unix > now.unix + half {
            *held = Held::new(me, now, held.credentials.membership.clone(), held.claims.clone());
        }
        Some(&held.credentials)
    }

    /// Whether a membership holds now.
    pub fn is_member(&self, now: Now) -> bool {
        self.held.as_ref().is_some_and(|held| held.holds(now))
    }

    /// Whether the host was heard within `within`.
    pub fn host_present(&self, now: Now, within: Duration) -> bool {
        self.host_heard_at.is_some_and(|at| now.at.saturating_sub(at) <= within)
    }

    /// Whether it is under way that the two show each other who they are.
    pub fn is_proving(&self) -> bool {
        self.held.is_none() && (self.attending.is_some() || self.hosts.is_busy())
    }

    /// The last refusal, if no membership holds.
    pub fn denied(&self, now: Now) -> Option<DenyReason> {
        if self.is_member(now) { None } else { self.denied }
    }

    /// What this peer knows of a cluster that the board does not let it into. The board gives no reason: whoever may not enter sees the same as
    /// who comes while nobody hosts.
    pub fn outside(&self, me: &Me) -> Outside {
        match self.host {
            _ if me.user == *me.cluster.owner() => Outside::Owner,
            Some(_) => Outside::Known,
            None => Outside::Unknown,
        }
    }

    /// Whether somebody signs who belongs.
    pub fn has_host(&self) -> bool {
        self.trust != HostTrust::NoHost
    }

    /// Whether the host counts as away.
    pub fn host_away(&self) -> bool {
        self.away
    }

    /// The board is up: claims when there is nothing to show, or it ends soon.
    pub fn on_up(&mut self, me: &Me, now: Now, speaker: &mut Speaker, wanted: &mut Wanted) {
        self.claim_again = CLAIM_AGAIN;
        self.away_at = (self.trust != HostTrust::NoHost).then(|| now.at + limits::HOST_AWAY);
        if self.wants_claim(now) {
            self.claim(me, now, speaker, wanted);
        } else {
            self.claim_at = self.renewal(now);
        }
    }

    /// Does what it is time for.
    pub fn on_tick(&mut self, me: &Me, now: Now, speaker: &mut Speaker, wanted: &mut Wanted) {
        let lapsed = self.held.as_ref().is_some_and(|held| !held.holds(now));
        if std::mem::replace(&mut self.lapsed, lapsed) && self.is_member(now) {
            wanted.events.push(AdmissionEvent::Restored);
        }
        // For itself a machine signs anew as soon as a clock that was set asks for it: nobody else reminds it.
        let for_itself = self.trust == HostTrust::NoHost && self.wants_claim(now);
        if for_itself || self.claim_at.is_some_and(|at| at <= now.at) {
            if self.wants_claim(now) {
                self.claim(me, now, speaker, wanted);
            } else {
                self.claim_at = self.renewal(now);
            }
        }
        if self.attending.is_some_and(|since| since + limits::SIDE_VISIT_TIME <= now.at) {
            self.stop_attending(me, wanted);
        }
        self.hosts.on_tick(now, me, speaker, &mut wanted.lines, &mut wanted.sides);
        if self.away_at.is_some_and(|at| at <= now.at) {
            self.on_away(wanted);
        }
        if self.away && !self.warned && self.wants_claim(now) && self.is_member(now) {
            self.warned = true;
            let until = self.held.as_ref().map_or(0, |held| held.claims.until);
            wanted.events.push(AdmissionEvent::Ending { until });
        }
    }

    /// When to tick.
    pub fn wake_at(&self) -> Option<Duration> {
        let attending = self.attending.map(|since| since + limits::SIDE_VISIT_TIME);
        earliest([self.claim_at, attending, self.hosts.wake_at(), self.away_at])
    }

    /// Takes a message of the board, of whatever kind.
    pub fn on_message(&mut self, me: &Me, now: Now, message: Message, speaker: &mut Speaker, wanted: &mut Wanted) {
        match message {
            _ if self.trust == HostTrust::NoHost => {}
            Message::Prove(prove) => self.on_prove(me, now, &prove, wanted),
            Message::Admit(admit) => self.on_admit(me, now, admit, wanted),
            Message::Deny(deny) => self.on_deny(me, now, &deny, wanted),
            Message::Beat(beat) => self.on_beat(me, now, &beat, speaker, wanted),
            _ => {}
        }
    }

    /// Something happened in a side topic of its own.
    pub fn on_side(&mut self, me: &Me, now: Now, input: SideInput, speaker: &mut Speaker, wanted: &mut Wanted) {
        let (topic, look, sighting) = match input {
            SideInput::Opened { topic, look } => {
                self.hosts.on_opened(now, me, &topic, look);
                return self.hosts.on_tick(now, me, speaker, &mut wanted.lines, &mut wanted.sides);
            }
            SideInput::Seen { topic, look, sighting } => (topic, look, sighting),
        };
        let Some(key) = self.hosts.on_seen(now, me, &topic, look, &mut wanted.sides) else { return };
        let seen = match sighting {
            Sighting::Guest if self.host.is_none() => return self.believe(me, now, key, wanted),
            Sighting::Guest => return,
            Sighting::Unavailable(why) => {
                if !std::mem::replace(&mut self.told.unchecked, true) {
                    wanted.events.push(AdmissionEvent::Unchecked { key, why });
                }
                return;
            }
            Sighting::Others(names) => names.join(", "),
            Sighting::Odd(why) => why,
        };
        // Each has a key of his own, of which there are as many as he likes.
        self.told.imposters += 1;
        if self.told.imposters <= limits::HOSTS_WAITING {
            wanted.events.push(AdmissionEvent::Imposter { key, seen });
        }
    }

    /// The host looks for this machine in the side topic of its key. If it is not her who says so, nobody is there.
    fn on_prove(&mut self, me: &Me, now: Now, prove: &Prove, wanted: &mut Wanted) {
        if prove.process != me.secret.process_key() || !self.wants_claim(now) {
            return;
        }
        if self.is_other_host(prove.host, wanted) {
            return;
        }
        if self.attending.is_none() || self.attend_at <= now.at {
            self.stop_attending(me, wanted);
            self.attending = Some(now.at);
            self.attend_at = now.at + self.attend_again;
            self.attend_again = (self.attend_again * 2).min(ATTEND_AGAIN_MAX);
            wanted.sides.push(SideOutput::Attend { topic: me.cluster.admit_topic(&me.user, me.keys()) });
        }
        if self.host.is_none() {
            self.consider(me, now, prove.host, wanted);
        }
    }

    /// The host's yes.
    fn on_admit(&mut self, me: &Me, now: Now, admit: Admit, wanted: &mut Wanted) {
        if admit.process != me.secret.process_key() {
            return;
        }
        let Ok(claims) = admit.membership.verify_first_sight(&me.cluster, now.unix) else { return };
        if self.is_other_host(claims.host, wanted) {
            return;
        }
        if claims.user != me.user || claims.machine != me.identity.machine_key() {
            return;
        }
        if self.host.is_none() {
            self.hosts.keep(claims.host, admit);
            self.consider(me, now, claims.host, wanted);
        } else {
            self.accept(me, now, admit, claims, false, wanted);
        }
    }

    /// Finds out whether this is the host's key.
    fn consider(&mut self, me: &Me, now: Now, host: MachineKey, wanted: &mut Wanted) {
        let is_known = match &self.trust {
            // Her other processes on her own machine.
            HostTrust::Login => host == me.identity.machine_key() && me.user == *me.cluster.owner(),
            HostTrust::Named(_) | HostTrust::FirstSight => true,
            HostTrust::NoHost => false,
        };
        if is_known {
            self.believe(me, now, host, wanted);
        } else {
            self.hosts.consider(now, me, host, &mut wanted.sides);
        }
    }

    /// This is the host's key.
    fn believe(&mut self, me: &Me, now: Now, host: MachineKey, wanted: &mut Wanted) {
        let signed = self.hosts.settle(me, host, &mut wanted.sides);
        // A key that somebody only talks about may be signed with by nobody.
        if signed.is_none() && self.trust == HostTrust::FirstSight {
            return;
        }
        self.host = Some(host);
        wanted.save = true;
        if let Some(admit) = signed
            && let Ok(claims) = admit.membership.verify(&me.cluster, host, now.unix)
        {
            self.accept(me, now, admit, claims, true, wanted);
        }
    }

    fn accept(
        &mut self,
        me: &Me,
        now: Now,
        admit: Admit,
        claims: MembershipClaims,
        first_sight: bool,
        wanted: &mut Wanted,
    ) {
        // An old signature that somebody plays again must not shorten the life of a newer one, nor bring back one that was removed.
        let is_newer = |held: &Held| held.holds(now) && held.claims.until >= claims.until;
        if self.held.as_ref().is_some_and(is_newer) || self.removed.voids(claims.machine, claims.serial) {
            return;
        }
        self.host_heard_at = Some(now.at);
        self.denied = None;
        self.warned = false;
        let host = claims.host;
        self.held = Some(Held::new(me, now, admit.membership.clone(), claims));
        self.claim_at = self.renewal(now);
        self.claim_again = CLAIM_AGAIN;
        self.stop_attending(me, wanted);
        wanted.save = true;
        wanted.events.push(AdmissionEvent::Admitted { host, membership: admit.membership, first_sight });
    }

    /// The host's no.
    fn on_deny(&mut self, me: &Me, now: Now, deny: &Deny, wanted: &mut Wanted) {
        if deny.process != me.secret.process_key() || self.is_member(now) {
            return;
        }
        // It is said once, though the claim is repeated and the answer with it.
        if self.denied.replace(deny.why) != Some(deny.why) {
            wanted.events.push(AdmissionEvent::Denied(deny.why));
        }
    }

    /// The host's beat: she is there, there are so many peers, and these belong no more.
    fn on_beat(&mut self, me: &Me, now: Now, signed: &Signed, speaker: &mut Speaker, wanted: &mut Wanted) {
        let Ok(beat) = Beat::verify(signed, &me.cluster) else { return };
        let age = now.unix.abs_diff(beat.time);
        if age > limits::CLOCK_SKEW.as_secs() {
            // An old one may be played again at any time; only where there is no other, the clocks are to blame.
            if self.away && self.host == Some(beat.host) && !std::mem::replace(&mut self.told.clock, true) {
                wanted.events.push(AdmissionEvent::ClockOff { seconds: age });
            }
            return;
        }
        if self.is_other_host(beat.host, wanted) {
            return;
        }
        if self.host.is_none() && !beat.leaving && self.told.heard.len() < limits::HOSTS_WAITING {
            let first = self.told.heard.insert(beat.host);
            wanted.events.extend(first.then_some(AdmissionEvent::HostHeard { key: beat.host }));
        }
        let was_away = self.host_heard_at.is_none();
        if self.host.is_some() {
            // One from ahead of this clock was said, or heard, while a clock was wrong.
            if self.last_beat > now.unix + p2p_proto::limits::CLOCK_SKEW.as_secs() {
                self.last_beat = 0;
            }
            // An older one that somebody plays again tells nothing.
            if beat.time < self.last_beat {
                return;
            }
            match self.removed.on_beat(&beat) {
                News::Old => return,
                News::Nothing => {}
                News::Forked => {
                    if !std::mem::replace(&mut self.told.forked, true) {
                        wanted.events.push(AdmissionEvent::Forked);
                    }
                }
                News::Removals => self.on_removals(me, now, wanted),
            }
            self.last_beat = beat.time;
            // Only the pinned host's word: anybody can sign a beat with some key, and silence everybody with a large number.
            speaker.set_peers(beat.peers);
            if beat.leaving {
                self.on_away(wanted);
            } else {
                self.away_at = Some(now.at + limits::HOST_AWAY);
                if std::mem::take(&mut self.away) {
                    wanted.events.push(AdmissionEvent::HostBack);
                }
            }
        }
        self.host_heard_at = (!beat.leaving).then_some(now.at);
        // A host who came (back) has not heard an earlier claim; one that was said just now may still be on its way to her. And nobody has
        // claimed anew yet what does not hold because a clock was set right.
        let unclaimed = self.claim_at.is_none_or(|at| at > now.at + CLAIM_AGAIN_MAX);
        if (was_away || unclaimed) && !beat.leaving && self.wants_claim(now) {
            self.claim_again = CLAIM_AGAIN;
            let at = self.claimed_at.map_or(now.at, |at| now.at.max(at + CLAIM_AGAIN));
            self.claim_at = Some(self.claim_at.map_or(at, |earlier| earlier.min(at)));
            self.on_tick(me, now, speaker, wanted);
        }
    }

    fn on_removals(&mut self, me: &Me, now: Now, wanted: &mut Wanted) {
        wanted.save = true;
        wanted.events.push(AdmissionEvent::Removals);
        let own = |held: &mut Held| self.removed.voids(held.claims.machine, held.claims.serial);
        if self.held.take_if(own).is_some() {
            wanted.events.push(AdmissionEvent::Removed);
            self.claim_at = Some(now.at + CLAIM_AGAIN_MAX);
            self.stop_attending(me, wanted);
        }
    }

    fn on_away(&mut self, wanted: &mut Wanted) {
        self.away_at = None;
        if !std::mem::replace(&mut self.away, true) {
            wanted.events.push(AdmissionEvent::HostAway);
        }
    }

    fn stop_attending(&mut self, me: &Me, wanted: &mut Wanted) {
        if self.attending.take().is_some() {
            wanted.sides.push(SideOutput::Leave { topic: me.cluster.admit_topic(&me.user, me.keys()) });
        }
    }

    /// Whether `seen` is known not to be the host's key: it is told once.
    fn is_other_host(&mut self, seen: MachineKey, wanted: &mut Wanted) -> bool {
        let pinned = match (self.host, &self.trust) {
            (Some(pinned), _) => Fingerprint::from(pinned),
            (None, HostTrust::Named(named)) => named.clone(),
            (None, _) => return false,
        };
        if pinned.fits(seen) {
            return false;
        }
        if !std::mem::replace(&mut self.told.other_host, true) {
            wanted.events.push(AdmissionEvent::OtherHost { pinned, seen });
        }
        true
    }

    fn wants_claim(&self, now: Now) -> bool {
        self.held.as_ref().is_none_or(|held| !held.holds(now) || now.unix >= held.renew_unix())
    }

    /// The moment of renewal: half of the membership's life.
    fn renewal(&self, now: Now) -> Option<Duration> {
        let left = self.held.as_ref()?.renew_unix().saturating_sub(now.unix);
        Some(now.at + Duration::from_secs(left.max(1)))
    }

    fn claim(&mut self, me: &Me, now: Now, speaker: &mut Speaker, wanted: &mut Wanted) {
        if self.trust == HostTrust::NoHost {
            self.held = Some(Held::own(me, now));
            self.claim_at = self.renewal(now);
            return wanted.events.push(AdmissionEvent::Restored);
        }
        let claim = Claim { user: me.user.clone(), keys: me.keys(), certificate: me.certificate(now), role: me.role };
        speaker.say(now, Message::Claim(claim), &mut wanted.lines);
        self.claimed_at = Some(now.at);
        self.attend_again = ATTEND_AGAIN;
        self.hosts.on_claim();
        self.claim_at = Some(now.at + self.claim_again);
        self.claim_again = (self.claim_again * 2).min(CLAIM_AGAIN_MAX);
    }
}

impl Held {
    /// What a machine signs for itself, where there is no host.
    fn own(me: &Me, now: Now) -> Self {
        let machine = me.identity.machine_key();
        let until = now.unix + limits::MEMBERSHIP_TTL.as_secs();
        let claims =
            MembershipClaims { host: machine, user: me.user.clone(), machine, serial: 0, from: now.unix, until };
        Self::new(me, now, Membership::sign(&me.identity, &me.cluster, &claims), claims)
    }

    fn new(me: &Me, now: Now, membership: Membership, claims: MembershipClaims) -> Self {
        let credentials = me.credentials(&membership, now);
        let certificate_renew_unix = now.unix + p2p_proto::limits::PROCESS_TTL.as_secs() / 2;
        Self { credentials, claims, certificate_renew_unix }
    }

    /// Whether it is within its life; what begins far ahead was signed while a clock was wrong, and nobody else believes it.
    fn holds(&self, now: Now) -> bool {
        self.claims.until > now.unix && self.claims.from <= now.unix + p2p_proto::limits::CLOCK_SKEW.as_secs()
    }

    fn renew_unix(&self) -> u64 {
        self.claims.from + self.claims.until.saturating_sub(self.claims.from) / 2
    }
}
