//! The secret keys of a machine and of a process, and signatures with a domain tag.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::ProtoError;
use crate::ids::{ClusterName, MachineKey, ProcessKey};

/// A machine's identity: its Ed25519 secret key. Never printed.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// The identity of this 32-byte secret: fresh from the system's randomness, or read back from where it was kept.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The secret, to be kept in a file that nobody else can read.
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn machine_key(&self) -> MachineKey {
        MachineKey(self.0.verifying_key().to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(of {:?})", self.machine_key())
    }
}

/// A process's X25519 secret key for Noise. Never printed.
#[derive(Clone)]
pub struct ProcessSecret {
    secret: [u8; 32],
    public: ProcessKey,
}

impl ProcessSecret {
    /// The key pair of this 32-byte secret, which must be fresh from the system's randomness at each start.
    pub fn from_entropy(secret: [u8; 32]) -> Self {
        let mut dh = crate::link::handshake::x25519();
        dh.set(&secret);
        let mut public = [0; 32];
        public.copy_from_slice(dh.pubkey());
        Self { secret, public: ProcessKey(public) }
    }

    /// The public half.
    pub fn process_key(&self) -> ProcessKey {
        self.public
    }

    /// A number by which to leave to chance what others must not choose: the same for the same `draw`, and nobody else can foresee it.
    pub fn lot(&self, draw: u64) -> u64 {
        let mut hash = blake3::Hasher::new_derive_key("p2p1 lot");
        hash.update(&self.secret).update(&draw.to_be_bytes());
        let mut lot = [0; 8];
        hash.finalize_xof().fill(&mut lot);
        u64::from_be_bytes(lot)
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl fmt::Debug for ProcessSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessSecret(of {:?})", self.public)
    }
}

/// A CBOR body and an Ed25519 signature over `tag`, the cluster's name and the body's very bytes.
///
/// The signed bytes travel as they were signed, so nothing depends on how another program would encode them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    #[serde(rename = "b", with = "serde_bytes")]
    body: Vec<u8>,
    #[serde(rename = "s", with = "serde_bytes")]
    signature: [u8; 64],
}

impl Signed {
    /// Signs `body` for one purpose (`tag`) in one cluster.
    pub fn sign<T: Serialize>(identity: &Identity, tag: &str, cluster: &ClusterName, body: &T) -> Self {
        let body = codec::encode(body);
        let signature = identity.0.sign(&preimage(tag, cluster, &body)).to_bytes();
        Self { body, signature }
    }

    /// The body, if `signer` signed it for this purpose in this cluster.
    ///
    /// # Errors
    /// [`ProtoError::Untrusted`] when the signature does not verify, [`ProtoError::Malformed`] when the body is not a `T`.
    pub fn verify<T: DeserializeOwned>(
        &self,
        signer: MachineKey,
        tag: &'static str,
        cluster: &ClusterName,
    ) -> Result<T, ProtoError> {
        let forged = || ProtoError::Untrusted(format!("the signature of a {tag} does not verify"));
        let key = VerifyingKey::from_bytes(&signer.0).map_err(|_| forged())?;
        let signature = Signature::from_bytes(&self.signature);
        // Strict: small-order keys, whose signatures fit many messages, are refused.
        key.verify_strict(&preimage(tag, cluster, &self.body), &signature).map_err(|_| forged())?;
        codec::decode(tag, &self.body)
    }

    /// The body as it says itself, unverified: only to learn whose key would verify it.
    pub(crate) fn unverified<T: DeserializeOwned>(&self, tag: &'static str) -> Result<T, ProtoError> {
        codec::decode(tag, &self.body)
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({} bytes)", self.body.len())
    }
}

/// `p2p1 `, the tag, a zero byte, the cluster's name, a zero byte, the body: neither text holds a zero, so two
/// purposes or clusters never share a preimage.
fn preimage(tag: &str, cluster: &ClusterName, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("p2p1 {tag}\0{cluster}\0").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
