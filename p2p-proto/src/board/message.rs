//! What peers say on the board (B-01).
//!
//! An [`Envelope`] says who speaks, in which order and when; all of it is a hint (B-02). Only signatures inside the
//! [`Message`] count. Unknown kinds and unknown fields are skipped, so that a newer peer can say more.

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::ProtoError;
use crate::ids::{ClusterName, MachineKey, PeerKeys, PeerName, ProcessKey, Role, SetupId, UserName};
use crate::limits;
use crate::trust::{Credentials, Identity, Membership, ProcessCertificate, Signed, UnixTime};

/// One message and who claims to say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The speaker's display name.
    #[serde(rename = "f")]
    pub from: PeerName,
    /// Counts up per speaker; a reader that wants order may use it.
    #[serde(rename = "n")]
    pub sequence: u64,
    /// The speaker's clock.
    #[serde(rename = "t")]
    pub time: UnixTime,
    /// What is said.
    #[serde(rename = "m")]
    pub message: Message,
}

impl Envelope {
    /// Reads an envelope and checks every bound of its message.
    ///
    /// # Errors
    /// [`ProtoError::UnknownKind`] for a message of a newer version, else [`ProtoError::Malformed`] or
    /// [`ProtoError::Bounds`]. All mean: ignore it.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, ProtoError> {
        let envelope: Self = match codec::decode("a board message", bytes) {
            Ok(envelope) => envelope,
            Err(fault) => {
                return Err(if is_unknown_kind(bytes) { ProtoError::UnknownKind } else { fault });
            }
        };
        envelope.message.check()?;
        Ok(envelope)
    }
}

/// What is said. The serde names are the wire's tags; a tag that was ever used stays reserved for its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// I am here.
    #[serde(rename = "hello")]
    Hello(Hello),
    /// Who offers this?
    #[serde(rename = "seek")]
    Seek(Seek),
    /// I leave.
    #[serde(rename = "bye")]
    Bye(Bye),
    /// The host is here, and this is how many we are.
    #[serde(rename = "beat")]
    Beat(Signed),
    /// Host, sign my key.
    #[serde(rename = "claim")]
    Claim(Claim),
    /// The host's answer to a claim: it is signed.
    #[serde(rename = "admit")]
    Admit(Admit),
    /// The host's answer to a claim: it is not.
    #[serde(rename = "deny")]
    Deny(Deny),
    /// The host has opened the claimant's side topic: be there.
    #[serde(rename = "prove")]
    Prove(Prove),
    /// A newcomer has opened a side topic for the host's key: be there.
    #[serde(rename = "summon")]
    Summon(Summon),
    /// A client calls a worker.
    #[serde(rename = "connect")]
    Connect(Connect),
    /// The worker's answer: let us.
    #[serde(rename = "ready")]
    Ready(Ready),
    /// The worker's answer: no.
    #[serde(rename = "refuse")]
    Refuse(Refuse),
}

/// A peer's presence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Membership and process certificate.
    #[serde(rename = "c")]
    pub credentials: Credentials,
    /// The speaker's process key.
    #[serde(rename = "k")]
    pub process: ProcessKey,
    /// What it does.
    #[serde(rename = "r")]
    pub role: Role,
    /// The protocol version that it speaks.
    #[serde(rename = "v")]
    pub version: u16,
    /// What a worker offers.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<Offer>,
    /// For how long this is good, seconds.
    #[serde(rename = "l")]
    pub ttl_s: u32,
}

/// What a worker offers (S-03).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Tasks that it runs at a time.
    #[serde(rename = "s")]
    pub slots: u32,
    /// How many of them were free when it said so.
    #[serde(rename = "f")]
    pub free: u32,
    /// What it can run, such as `command`.
    #[serde(rename = "r")]
    pub runtimes: Vec<String>,
    /// Memory that tasks may use together, MiB; 0 where it is not known.
    #[serde(rename = "m", default)]
    pub memory_mib: u64,
    /// Words that a task may ask for, such as `gpu`.
    #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// A client looks for workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seek {
    /// Which runtime; empty for any.
    #[serde(rename = "r")]
    pub runtime: String,
    /// About how many answers are wanted (B-03).
    #[serde(rename = "k")]
    pub answers: u32,
}

/// A peer leaves. Changes nothing for a peer with a live link (B-02).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// Who.
    #[serde(rename = "k")]
    pub process: ProcessKey,
}

/// What the host says regularly, signed by her machine's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Her key, for who has not seen it yet.
    #[serde(rename = "h")]
    pub host: MachineKey,
    /// Peers present, herself included (B-03).
    #[serde(rename = "n")]
    pub peers: u32,
    /// Her counter of signatures and removals; never goes backwards (T-03).
    #[serde(rename = "s")]
    pub serial: u64,
    /// Machines that were removed lately, with the serial of their removal; at most [`limits::REMOVALS`].
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub removals: Vec<(MachineKey, u64)>,
    /// [`Beat::digest`] of all who belong: two members can tell whether they were told the same.
    #[serde(rename = "d", default, with = "serde_bytes", skip_serializing_if = "Option::is_none")]
    pub roster: Option<[u8; 32]>,
    /// Her clock: an old beat that somebody plays again does not make the host present.
    #[serde(rename = "t")]
    pub time: UnixTime,
    /// When this process of hers began to host; 0 where it does not say. Of two that host at once, the later one goes.
    #[serde(rename = "u", default, skip_serializing_if = "is_zero")]
    pub since: UnixTime,
    /// Another process of hers that began to host later, and is to hear that it must go: nobody else can have said so to it.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<PeerName>,
    /// She is going away for a while.
    #[serde(rename = "b", default, skip_serializing_if = "is_false")]
    pub leaving: bool,
}

const BEAT_TAG: &str = "beat";

impl Beat {
    /// The signed beat.
    pub fn sign(&self, host: &Identity, cluster: &ClusterName) -> Signed {
        Signed::sign(host, BEAT_TAG, cluster, self)
    }

    /// BLAKE3, in its key derivation mode, of the roster as CBOR: pairs of user and machine, in order.
    pub fn digest<'a>(roster: impl Iterator<Item = (&'a UserName, &'a MachineKey)>) -> [u8; 32] {
        let roster: std::collections::BTreeSet<(&UserName, &MachineKey)> = roster.collect();
        blake3::derive_key("p2p1 roster", &codec::encode(&roster))
    }

    /// The beat, if whoever it names as host signed it.
    ///
    /// Whether that is the right host is for the caller to compare.
    ///
    /// # Errors
    /// [`ProtoError::Untrusted`], [`ProtoError::Malformed`] or [`ProtoError::Bounds`].
    pub fn verify(signed: &Signed, cluster: &ClusterName) -> Result<Self, ProtoError> {
        let claimed: Self = signed.unverified(BEAT_TAG)?;
        let beat: Self = signed.verify(claimed.host, BEAT_TAG, cluster)?;
        check_count("removals in a beat", beat.removals.len(), limits::REMOVALS)?;
        Ok(beat)
    }
}

/// A machine asks the host to sign its key for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// As which user.
    #[serde(rename = "u")]
    pub user: UserName,
    /// Its keys.
    #[serde(rename = "k")]
    pub keys: PeerKeys,
    /// Proof that it has the machine's secret key now: the certificate of its fresh process key.
    #[serde(rename = "c")]
    pub certificate: ProcessCertificate,
    /// Its role, which the certificate confirms.
    #[serde(rename = "r")]
    pub role: Role,
}

/// The host signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admit {
    /// For which process's claim.
    #[serde(rename = "k")]
    pub process: ProcessKey,
    /// The host's word.
    #[serde(rename = "m")]
    pub membership: Membership,
}

/// The host refused to sign. Unsigned: a forged one can only make a person look twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deny {
    /// For which process's claim.
    #[serde(rename = "k")]
    pub process: ProcessKey,
    /// Why.
    #[serde(rename = "w")]
    pub why: DenyReason,
}

/// Why a host does not sign a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DenyReason {
    /// The user is not on her list.
    #[serde(rename = "list")]
    NotListed,
    /// The user is known by the key of another machine.
    #[serde(rename = "key")]
    OtherKey,
    /// The claim's own certificate does not verify.
    #[serde(rename = "cert")]
    BadCertificate,
    /// The host herself has to approve the key.
    #[serde(rename = "wait")]
    AwaitsApproval,
    /// In the side topic of the key somebody else was seen, or nobody.
    #[serde(rename = "proof")]
    Unproven,
    /// The user has as many machines as she takes.
    #[serde(rename = "many")]
    TooManyMachines,
    /// A reason of a newer version.
    #[serde(other, rename = "?")]
    Other,
}

/// The host has opened the side topic of a claimed key (T-02). Unsigned: who is told so without need looks at an empty topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prove {
    /// For which process's claim.
    #[serde(rename = "k")]
    pub process: ProcessKey,
    /// Her key, for who has to check it himself.
    #[serde(rename = "h")]
    pub host: MachineKey,
}

/// A newcomer has opened a side topic for the host's key (T-02). Unsigned: the topic is the user's, and shows her to nobody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summon {
    /// Whose topic.
    #[serde(rename = "u")]
    pub user: UserName,
    /// For which host key.
    #[serde(rename = "h")]
    pub host: MachineKey,
    /// Which process's topic.
    #[serde(rename = "k")]
    pub process: ProcessKey,
}

/// A client calls a worker: link set-up, first message (L-01).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// The caller.
    #[serde(rename = "a")]
    pub caller: PeerKeys,
    /// The callee.
    #[serde(rename = "b")]
    pub callee: PeerKeys,
    /// The caller's counter.
    #[serde(rename = "i")]
    pub setup: SetupId,
    /// The protocol version that the caller speaks.
    #[serde(rename = "v")]
    pub version: u16,
    /// Noise message 1, around a [`crate::link::setup::Call`].
    #[serde(rename = "x", with = "serde_bytes")]
    pub noise: Vec<u8>,
}

/// The worker answers: link set-up, second message (L-01).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The caller.
    #[serde(rename = "a")]
    pub caller: ProcessKey,
    /// The callee.
    #[serde(rename = "b")]
    pub callee: ProcessKey,
    /// As in the `connect`.
    #[serde(rename = "i")]
    pub setup: SetupId,
    /// Noise message 2, around a [`crate::link::setup::Answer`].
    #[serde(rename = "x", with = "serde_bytes")]
    pub noise: Vec<u8>,
}

/// The worker does not want this link. Unsigned, so it ends a set-up only for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// The caller.
    #[serde(rename = "a")]
    pub caller: ProcessKey,
    /// The callee.
    #[serde(rename = "b")]
    pub callee: ProcessKey,
    /// As in the `connect`.
    #[serde(rename = "i")]
    pub setup: SetupId,
    /// Why.
    #[serde(rename = "w")]
    pub why: RefuseReason,
    /// The version that the worker speaks.
    #[serde(rename = "v")]
    pub version: u16,
}

/// Why a worker refuses a set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefuseReason {
    /// The versions do not fit.
    #[serde(rename = "version")]
    Version,
    /// The caller's credentials do not verify here.
    #[serde(rename = "trust")]
    Untrusted,
    /// The handshake does not verify.
    #[serde(rename = "noise")]
    Handshake,
    /// The worker serves only some users (`--allow`).
    #[serde(rename = "allow")]
    NotAllowed,
    /// Too many links or set-ups.
    #[serde(rename = "busy")]
    Busy,
    /// It is leaving.
    #[serde(rename = "drain")]
    Draining,
    /// A reason of a newer version.
    #[serde(other, rename = "?")]
    Other,
}

impl RefuseReason {
    /// Whether another try a little later may succeed.
    pub fn retry_helps(self) -> bool {
        matches!(self, Self::Busy | Self::Untrusted | Self::Other)
    }
}

impl Message {
    /// Every bound of the message.
    fn check(&self) -> Result<(), ProtoError> {
        match self {
            Self::Hello(hello) => hello.offer.as_ref().map_or(Ok(()), Offer::check),
            Self::Seek(seek) => check_word("a runtime", &seek.runtime, limits::RUNTIME_BYTES),
            _ => Ok(()),
        }
    }
}

impl Offer {
    /// Whether the offer keeps its bounds.
    ///
    /// # Errors
    /// [`ProtoError::Bounds`] naming what is too large, [`ProtoError::Malformed`] for a word with control characters.
    pub fn check(&self) -> Result<(), ProtoError> {
        check_count("slots", self.slots as usize, limits::SLOTS as usize)?;
        check_count("runtimes", self.runtimes.len(), limits::RUNTIMES)?;
        check_count("labels", self.labels.len(), limits::LABELS)?;
        for runtime in &self.runtimes {
            check_word("a runtime", runtime, limits::RUNTIME_BYTES)?;
        }
        for label in &self.labels {
            check_word("a label", label, limits::LABEL_BYTES)?;
        }
        Ok(())
    }
}

fn check_count(what: &'static str, found: usize, limit: usize) -> Result<(), ProtoError> {
    if found > limit { Err(ProtoError::bounds(what, found, limit)) } else { Ok(()) }
}

/// Words of strangers end up on people's terminals.
fn check_word(what: &'static str, word: &str, limit: usize) -> Result<(), ProtoError> {
    if word.chars().any(char::is_control) {
        return Err(ProtoError::malformed(what));
    }
    check_count(what, word.len(), limit)
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Whether the bytes are an envelope whose message has a tag that this version does not know.
fn is_unknown_kind(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Outline {
        m: ciborium::Value,
    }
    let Ok(outline) = codec::decode::<Outline>("a board message", bytes) else {
        return false;
    };
    let Some([(ciborium::Value::Text(tag), _)]) = outline.m.as_map().map(Vec::as_slice) else {
        return false;
    };
    !TAGS.contains(&tag.as_str())
}

/// Every tag that [`Message`] knows.
const TAGS: [&str; 12] =
    ["hello", "seek", "bye", "beat", "claim", "admit", "deny", "prove", "summon", "connect", "ready", "refuse"];
