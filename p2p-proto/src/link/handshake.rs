//! The Noise handshake of a link, as a machine without I/O (L-01, L-02).
//!
//! `Noise_IK_25519_ChaChaPoly_BLAKE2s`, the caller being the client. Message 1 travels in `connect`, message 2 in `ready`. The
//! prologue binds protocol version, cluster, both peers' keys and both roles, so a message replayed under other names
//! does not verify. Entropy comes in as an argument: the same inputs make the same bytes.

use std::fmt;
use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{BoxedCryptoResolver, CryptoResolver, DefaultResolver, FallbackResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, StatelessTransportState};

use crate::error::ProtoError;
use crate::ids::{ClusterName, PeerKeys};
use crate::limits;
use crate::trust::ProcessSecret;

/// The handshake's name in the Noise specification.
pub const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// What a payload of either message may measure, bytes: both messages must fit a board line.
pub const PAYLOAD_BYTES: usize = 2400;
/// What sealing adds to a record, bytes.
const TAG_BYTES: usize = 16;
/// What message 1 adds to its payload: ephemeral key, sealed static key, two tags.
const MESSAGE_1_EXTRA: usize = 32 + 48 + 16;

/// Who talks to whom: both sides must agree on every field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parties {
    /// The cluster in which they meet.
    pub cluster: ClusterName,
    /// The client, who calls.
    pub caller: PeerKeys,
    /// The worker, who is called.
    pub callee: PeerKeys,
}

impl Parties {
    fn prologue(&self) -> Vec<u8> {
        let mut bytes = format!("p2p1 link\0{}\0client\0", self.cluster).into_bytes();
        bytes.extend_from_slice(&crate::VERSION.to_be_bytes());
        for keys in [self.caller, self.callee] {
            bytes.extend_from_slice(&keys.machine.0);
            bytes.extend_from_slice(&keys.process.0);
        }
        bytes
    }
}

/// The caller after message 1: expects message 2.
#[derive(Debug)]
pub struct Calling {
    noise: HandshakeState,
}

impl Calling {
    /// Makes message 1 around `payload`, which only the callee can read.
    ///
    /// # Errors
    /// [`ProtoError::Bounds`] for a payload over [`PAYLOAD_BYTES`].
    pub fn start(
        parties: &Parties,
        secret: &ProcessSecret,
        payload: &[u8],
        entropy: [u8; 32],
    ) -> Result<(Self, Vec<u8>), ProtoError> {
        check_payload(payload)?;
        let prologue = parties.prologue();
        let mut noise = builder(&prologue, secret, entropy)?
            .remote_public_key(&parties.callee.process.0)
            .and_then(Builder::build_initiator)
            .map_err(|_| ProtoError::Misuse("a link handshake cannot begin with these keys"))?;
        let message = write(&mut noise, payload)?;
        Ok((Self { noise }, message))
    }

    /// Takes message 2: the session, and the callee's payload.
    ///
    /// # Errors
    /// [`ProtoError::Handshake`] unless the callee answered exactly this message 1. The caller goes on waiting for a
    /// better one with a [`Calling`] made anew from the same entropy; this one is used up.
    pub fn finish(mut self, message: &[u8]) -> Result<(Session, Vec<u8>), ProtoError> {
        let payload = read(&mut self.noise, message)?;
        Ok((Session::new(self.noise)?, payload))
    }
}

/// The callee after message 1: has the caller's payload to judge, and has told nothing yet.
#[derive(Debug)]
pub struct Called {
    noise: HandshakeState,
}

impl Called {
    /// Takes message 1 and opens the caller's payload.
    ///
    /// # Errors
    /// [`ProtoError::Handshake`] when it was not made by `parties.caller` for `parties.callee`.
    pub fn open(
        parties: &Parties,
        secret: &ProcessSecret,
        message: &[u8],
        entropy: [u8; 32],
    ) -> Result<(Self, Vec<u8>), ProtoError> {
        let prologue = parties.prologue();
        let mut noise = builder(&prologue, secret, entropy)?
            .build_responder()
            .map_err(|_| ProtoError::Misuse("a link handshake cannot be answered with this key"))?;
        let payload = read(&mut noise, message)?;
        // IK carries the caller's static key inside message 1; it must be the one that the caller's certificate names.
        if noise.get_remote_static() != Some(parties.caller.process.0.as_slice()) {
            return Err(ProtoError::Handshake);
        }
        Ok((Self { noise }, payload))
    }

    /// Makes message 2 around `payload`, and the session.
    ///
    /// # Errors
    /// [`ProtoError::Bounds`] for a payload over [`PAYLOAD_BYTES`].
    pub fn answer(mut self, payload: &[u8]) -> Result<(Session, Vec<u8>), ProtoError> {
        check_payload(payload)?;
        let message = write(&mut self.noise, payload)?;
        Ok((Session::new(self.noise)?, message))
    }
}

/// The cipher states of one link, shared by its sending and its receiving half.
///
/// It serves exactly one connection, ever: a nonce must not be used twice (L-02).
pub struct Session {
    noise: Arc<StatelessTransportState>,
    channel_binding: [u8; 32],
}

impl Session {
    fn new(noise: HandshakeState) -> Result<Self, ProtoError> {
        let mut channel_binding = [0; 32];
        channel_binding.copy_from_slice(noise.get_handshake_hash());
        let noise = noise.into_stateless_transport_mode().map_err(|_| ProtoError::Handshake)?;
        Ok(Self { noise: Arc::new(noise), channel_binding })
    }

    /// A value that both sides of this session share and that no other session has; not secret.
    pub fn channel_binding(&self) -> [u8; 32] {
        self.channel_binding
    }

    /// The two halves: one seals, one opens.
    pub fn split(self) -> (Sealer, Opener) {
        (Sealer { noise: Arc::clone(&self.noise), nonce: 0 }, Opener { noise: self.noise, nonce: 0 })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

/// Seals records in order.
pub struct Sealer {
    noise: Arc<StatelessTransportState>,
    nonce: u64,
}

impl Sealer {
    /// Writes the Noise message of `record`, without a length, to the front of `out`, and returns its size: 16 bytes more
    /// than the record's.
    ///
    /// # Errors
    /// [`ProtoError::Bounds`] for a record over [`limits::RECORD_BYTES`] or over what fits in `out`.
    pub fn seal(&mut self, record: &[u8], out: &mut [u8]) -> Result<usize, ProtoError> {
        let limit = limits::RECORD_BYTES.min(out.len().saturating_sub(TAG_BYTES));
        if record.len() > limit {
            return Err(ProtoError::bounds("a record", record.len(), limit));
        }
        let written = self
            .noise
            .write_message(self.nonce, record, out)
            .map_err(|_| ProtoError::Misuse("a session sealed as many records as it can"))?;
        self.nonce += 1;
        Ok(written)
    }
}

/// Opens records in order.
pub struct Opener {
    noise: Arc<StatelessTransportState>,
    nonce: u64,
}

impl Opener {
    /// Opens the next Noise message by way of `buffer`, which must be at least as large as `message`, and returns the record.
    ///
    /// # Errors
    /// [`ProtoError::Handshake`] when it is not the next message of this session; the link must then end.
    pub fn open<'a>(&mut self, message: &[u8], buffer: &'a mut [u8]) -> Result<&'a [u8], ProtoError> {
        let length = self.noise.read_message(self.nonce, message, buffer).map_err(|_| ProtoError::Handshake)?;
        self.nonce += 1;
        Ok(&buffer[..length])
    }
}

/// An X25519 implementation, for making process keys.
pub(crate) fn x25519() -> Box<dyn Dh> {
    resolver([0; 32]).resolve_dh(&DHChoice::Curve25519).unwrap_or_else(|| unreachable!("snow is built with Curve25519"))
}

fn check_payload(payload: &[u8]) -> Result<(), ProtoError> {
    if payload.len() > PAYLOAD_BYTES {
        return Err(ProtoError::bounds("a handshake payload", payload.len(), PAYLOAD_BYTES));
    }
    Ok(())
}

fn builder<'a>(prologue: &'a [u8], secret: &'a ProcessSecret, entropy: [u8; 32]) -> Result<Builder<'a>, ProtoError> {
    let misuse = |_| ProtoError::Misuse("a link handshake cannot begin with these keys");
    let params = PATTERN.parse().map_err(misuse)?;
    Builder::with_resolver(params, resolver(entropy))
        .local_private_key(secret.secret())
        .and_then(|builder| builder.prologue(prologue))
        .map_err(misuse)
}

fn write(noise: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, ProtoError> {
    let mut message = vec![0; payload.len() + MESSAGE_1_EXTRA];
    let length = noise.write_message(payload, &mut message).map_err(|_| ProtoError::Handshake)?;
    message.truncate(length);
    Ok(message)
}

fn read(noise: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, ProtoError> {
    if message.len() > PAYLOAD_BYTES + MESSAGE_1_EXTRA {
        return Err(ProtoError::bounds("a handshake message", message.len(), PAYLOAD_BYTES + MESSAGE_1_EXTRA));
    }
    let mut payload = vec![0; message.len()];
    let length = noise.read_message(message, &mut payload).map_err(|_| ProtoError::Handshake)?;
    payload.truncate(length);
    Ok(payload)
}

/// ring where it has the primitive, RustCrypto elsewhere, and `entropy` in place of the system's randomness.
fn resolver(entropy: [u8; 32]) -> BoxedCryptoResolver {
    let primitives = FallbackResolver::new(Box::new(RingResolver), Box::new(DefaultResolver));
    Box::new(Seeded { primitives, entropy })
}

struct Seeded {
    primitives: FallbackResolver,
    entropy: [u8; 32],
}

impl CryptoResolver for Seeded {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(self.entropy))))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        self.primitives.resolve_dh(choice)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.primitives.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        self.primitives.resolve_cipher(choice)
    }
}

struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}
