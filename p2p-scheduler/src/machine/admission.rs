//! How a worker or a client gets its membership and keeps it: it claims, the host signs, both remember (T-01, T-03).
//!
//! The host's key is pinned at first sight. Afterwards only that key counts; whoever signs with another one is reported and ignored.

use std::time::Duration;

use p2p_proto::board::message::{Admit, Beat, Claim, Deny, DenyReason};
use p2p_proto::board::{Line, Message};
use p2p_proto::ids::MachineKey;
use p2p_proto::trust::{Credentials, Membership, MembershipClaims, Signed};

use super::speaker::Speaker;
use super::{Me, Now};

/// A claim is repeated after this long, doubled each time up to [`CLAIM_AGAIN_MAX`]: lines get lost.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);
/// The longest time between two claims.
const CLAIM_AGAIN_MAX: Duration = Duration::from_secs(30);

/// What an admission tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmissionEvent {
    /// The host signed; keep both for the next start.
    Admitted {
        /// The host's key, from now on the only one.
        host: MachineKey,
        /// Her word.
        membership: Membership,
        /// Whether the host's key was seen for the first time.
        first_sight: bool,
    },
    /// The host (or somebody in her name: it is not signed) said no.
    Denied(DenyReason),
    /// Somebody signs as host with a key that is not the pinned one.
    OtherHost {
        /// The key that counts.
        pinned: MachineKey,
        /// The key that was seen.
        seen: MachineKey,
    },
}

/// The state of one peer's membership.
#[derive(Debug)]
pub struct Admission {
    host: Option<MachineKey>,
    held: Option<Held>,
    host_heard_at: Option<Duration>,
    /// The calendar time of her latest beat.
    last_beat: u64,
    denied: Option<DenyReason>,
    other_host_reported: bool,
    claim_at: Option<Duration>,
    claimed_at: Option<Duration>,
    claim_again: Duration,
}

#[derive(Debug)]
struct Held {
    credentials: Credentials,
    claims: MembershipClaims,
    /// The process certificate is made anew before it ends.
    certificate_renew_unix: u64,
}

impl Admission {
    /// With what an earlier start has kept: the host's pinned key and a membership; one that does not verify any more is dropped.
    pub fn new(me: &Me, now: Now, host: Option<MachineKey>, membership: Option<Membership>) -> Self {
        let held = host.zip(membership).and_then(|(host, membership)| {
            let claims = membership.verify(&me.cluster, host, now.unix).ok()?;
            let mine = claims.user == me.user && claims.machine == me.identity.machine_key();
            mine.then(|| Held::new(me, now, membership, claims))
        });
        Self {
            host,
            held,
            host_heard_at: None,
            last_beat: 0,
            denied: None,
            other_host_reported: false,
            claim_at: None,
            claimed_at: None,
            claim_again: CLAIM_AGAIN,
        }
    }

    /// The host's key, once known.
    pub fn host(&self) -> Option<MachineKey> {
        self.host
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

    /// The last refusal, if no membership holds.
    pub fn denied(&self, now: Now) -> Option<DenyReason> {
        if self.is_member(now) { None } else { self.denied }
    }

    /// The board is up: claims when there is nothing to show, or it ends soon.
    pub fn on_up(&mut self, me: &Me, now: Now, speaker: &mut Speaker, out: &mut Vec<Line>) {
        self.claim_again = CLAIM_AGAIN;
        if self.wants_claim(now) {
            self.claim(me, now, speaker, out);
        } else {
            self.claim_at = self.renewal(now);
        }
    }

    /// Claims again when it is time.
    pub fn on_tick(&mut self, me: &Me, now: Now, speaker: &mut Speaker, out: &mut Vec<Line>) {
        if self.claim_at.is_some_and(|at| at <= now.at) {
            if self.wants_claim(now) { self.claim(me, now, speaker, out) } else { self.claim_at = self.renewal(now) }
        }
    }

    /// When to tick.
    pub fn wake_at(&self) -> Option<Duration> {
        self.claim_at
    }

    /// The host's yes.
    pub fn on_admit(&mut self, me: &Me, now: Now, admit: Admit) -> Option<AdmissionEvent> {
        if admit.process != me.secret.process_key() {
            return None;
        }
        let claims = admit.membership.verify_first_sight(&me.cluster, now.unix).ok()?;
        if let Some(event) = self.other_host(claims.host) {
            return event;
        }
        if claims.user != me.user || claims.machine != me.identity.machine_key() {
            return None;
        }
        // An old signature that somebody plays again must not shorten the life of a newer one that holds.
        let is_newer =
            |held: &Held| held.holds(now) && held.claims.host == claims.host && held.claims.until >= claims.until;
        if self.held.as_ref().is_some_and(is_newer) {
            return None;
        }
        let first_sight = self.host.is_none();
        let host = claims.host;
        self.host = Some(host);
        self.host_heard_at = Some(now.at);
        self.denied = None;
        self.held = Some(Held::new(me, now, admit.membership.clone(), claims));
        self.claim_at = self.renewal(now);
        self.claim_again = CLAIM_AGAIN;
        Some(AdmissionEvent::Admitted { host, membership: admit.membership, first_sight })
    }

    /// The host's no.
    pub fn on_deny(&mut self, me: &Me, now: Now, deny: &Deny) -> Option<AdmissionEvent> {
        if deny.process != me.secret.process_key() || self.is_member(now) {
            return None;
        }
        // It is said once, though the claim is repeated and the answer with it.
        if self.denied.replace(deny.why) == Some(deny.why) {
            return None;
        }
        Some(AdmissionEvent::Denied(deny.why))
    }

    /// The host's beat: she is there, and there are so many peers.
    pub fn on_beat(
        &mut self,
        me: &Me,
        now: Now,
        signed: &Signed,
        speaker: &mut Speaker,
        out: &mut Vec<Line>,
    ) -> Option<AdmissionEvent> {
        let beat = Beat::verify(signed, &me.cluster).ok()?;
        let age = now.unix.abs_diff(beat.time);
        if age > p2p_proto::limits::CLOCK_SKEW.as_secs() {
            return None;
        }
        if let Some(event) = self.other_host(beat.host) {
            return event;
        }
        let was_away = self.host_heard_at.is_none();
        if self.host.is_some() {
            // One from ahead of this clock was said, or heard, while a clock was wrong.
            if self.last_beat > now.unix + p2p_proto::limits::CLOCK_SKEW.as_secs() {
                self.last_beat = 0;
            }
            // An older one that somebody plays again tells nothing.
            if beat.time < self.last_beat {
                return None;
            }
            self.last_beat = beat.time;
            // Only the pinned host's word: anybody can sign a beat with some key, and silence everybody with a large number.
            speaker.set_peers(beat.peers);
        }
        self.host_heard_at = (!beat.leaving).then_some(now.at);
        // A host who came (back) has not heard an earlier claim; one that was said just now may still be on its way to her. And nobody has
        // claimed anew yet what does not hold because a clock was set right.
        let unclaimed = self.claim_at.is_none_or(|at| at > now.at + CLAIM_AGAIN_MAX);
        if (was_away || unclaimed) && !beat.leaving && self.wants_claim(now) {
            self.claim_again = CLAIM_AGAIN;
            let at = self.claimed_at.map_or(now.at, |at| now.at.max(at + CLAIM_AGAIN));
            self.claim_at = Some(self.claim_at.map_or(at, |earlier| earlier.min(at)));
            self.on_tick(me, now, speaker, out);
        }
        None
    }

    /// What to say about a signature by `seen`, if that is not the pinned host: it is told once.
    fn other_host(&mut self, seen: MachineKey) -> Option<Option<AdmissionEvent>> {
        let pinned = self.host.filter(|pinned| *pinned != seen)?;
        let first = !std::mem::replace(&mut self.other_host_reported, true);
        Some(first.then_some(AdmissionEvent::OtherHost { pinned, seen }))
    }

    fn wants_claim(&self, now: Now) -> bool {
        self.held.as_ref().is_none_or(|held| !held.holds(now) || now.unix >= held.renew_unix())
    }

    /// The moment of renewal: half of the membership's life.
    fn renewal(&self, now: Now) -> Option<Duration> {
        let left = self.held.as_ref()?.renew_unix().saturating_sub(now.unix);
        Some(now.at + Duration::from_secs(left.max(1)))
    }

    fn claim(&mut self, me: &Me, now: Now, speaker: &mut Speaker, out: &mut Vec<Line>) {
        let claim = Claim { user: me.user.clone(), keys: me.keys(), certificate: me.certificate(now), role: me.role };
        speaker.say(now, Message::Claim(claim), out);
        self.claimed_at = Some(now.at);
        self.claim_at = Some(now.at + self.claim_again);
        self.claim_again = (self.claim_again * 2).min(CLAIM_AGAIN_MAX);
    }
}

impl Held {
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
