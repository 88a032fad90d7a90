//! Records of a transfer, as all clients of Magic Wormhole have them; pure.
//!
//! ```text
//! u32 length, big-endian | nonce, 24 bytes: a counter, big-endian | tag, 16 bytes | ciphertext       (NaCl's secretbox)
//! ```
#![deny(clippy::disallowed_methods)]

use crypto_secretbox::aead::AeadInPlace as _;
use crypto_secretbox::{Key, KeyInit as _, Nonce, Tag, XSalsa20Poly1305};
use hkdf::Hkdf;
use p2p_proto::link::TransitKey;
use sha2::Sha256;

use super::limits::{RECORD_BYTES, RECORD_WIRE_BYTES};
use crate::procedure::Side;

/// The length before each record.
pub(super) const LENGTH_BYTES: usize = 4;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// What sealing adds to a record, its length included.
pub(super) const OVERHEAD_BYTES: usize = LENGTH_BYTES + NONCE_BYTES + TAG_BYTES;

/// Seals what one side says, record by record.
pub(super) struct Sealer(Counted);

/// Opens what the other side says, record by record.
pub(super) struct Opener(Counted);

struct Counted {
    cipher: XSalsa20Poly1305,
    /// Records so far.
    count: u128,
}

/// Both directions of one connection for `side`.
pub(super) fn split(key: &TransitKey, side: Side) -> (Sealer, Opener) {
    let sender = Counted::new(key, b"transit_record_sender_key");
    let receiver = Counted::new(key, b"transit_record_receiver_key");
    match side {
        Side::Leader => (Sealer(sender), Opener(receiver)),
        Side::Follower => (Sealer(receiver), Opener(sender)),
    }
}

impl Sealer {
    /// Appends `plain`, at most [`RECORD_BYTES`] of it, as a record.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let plain = &plain[..plain.len().min(RECORD_BYTES)];
        let nonce = self.0.next_nonce();
        // A record of at most `RECORD_BYTES` has a length of four bytes.
        let length = u32::try_from(NONCE_BYTES + TAG_BYTES + plain.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&nonce);
        let tag_at = out.len();
        out.extend_from_slice(&[0; TAG_BYTES]);
        let body_at = out.len();
        out.extend_from_slice(plain);
        let tag = self.0.cipher.encrypt_in_place_detached(&nonce, b"", &mut out[body_at..]);
        // Sealing fails only for more bytes than a record has.
        let tag = tag.unwrap_or_else(|_| unreachable!("a record is small"));
        out[tag_at..body_at].copy_from_slice(&tag);
    }
}

impl Opener {
    /// How long the record is that begins with these bytes, without them.
    ///
    /// # Errors
    /// A length that no record has.
    pub(super) fn length(prefix: [u8; LENGTH_BYTES]) -> Result<usize, String> {
        let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
        if !(NONCE_BYTES + TAG_BYTES..=RECORD_WIRE_BYTES).contains(&length) {
            return Err(format!("it announced a record of {length} bytes"));
        }
        Ok(length)
    }

    /// Opens a record without its length, in place; the plain bytes are what is returned.
    ///
    /// # Errors
    /// When it was not sealed under this key, or is not the next one.
    pub(super) fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<&'a [u8], String> {
        let short = || "a record was too short".to_owned();
        let (nonce, rest) = record.split_at_mut_checked(NONCE_BYTES).ok_or_else(short)?;
        let (tag, body) = rest.split_at_mut_checked(TAG_BYTES).ok_or_else(short)?;
        let expected = self.0.next_nonce();
        if *nonce != *expected {
            return Err("a record is missing or came twice".to_owned());
        }
        let opened = self.0.cipher.decrypt_in_place_detached(&expected, b"", body, Tag::from_slice(tag));
        opened.map_err(|_| "a record does not decrypt".to_owned())?;
        Ok(body)
    }
}

impl Counted {
    fn new(key: &TransitKey, purpose: &[u8]) -> Self {
        let mut derived = Key::default();
        // Expanding fails only for more than 255 hashes' worth of output.
        Hkdf::<Sha256>::new(None, &key.0)
            .expand(purpose, &mut derived)
            .unwrap_or_else(|_| unreachable!("32 bytes are one hash"));
        Self { cipher: XSalsa20Poly1305::new(&derived), count: 0 }
    }

    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = Nonce::default();
        nonce[NONCE_BYTES - 16..].copy_from_slice(&self.count.to_be_bytes());
        self.count += 1;
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> ((Sealer, Opener), (Sealer, Opener)) {
        let key = TransitKey([7; 32]);
        (split(&key, Side::Leader), split(&key, Side::Follower))
    }

    #[test]
    fn what_one_side_seals_the_other_opens_in_order_and_once() {
        let ((mut sealer, _), (_, mut opener)) = both();
        let mut wire = Vec::new();
        for plain in [b"one".as_slice(), b"", &[3; RECORD_BYTES]] {
            wire.clear();
            sealer.seal(plain, &mut wire);
            let length = Opener::length(wire[..LENGTH_BYTES].try_into().unwrap()).unwrap();
            assert_eq!(length + LENGTH_BYTES, wire.len());
            assert_eq!(wire.len(), plain.len() + OVERHEAD_BYTES);
            assert_eq!(opener.open(&mut wire[LENGTH_BYTES..].to_vec()).unwrap(), plain);
        }
        assert!(opener.open(&mut wire[LENGTH_BYTES..]).unwrap_err().contains("came twice"));
    }

    #[test]
    fn what_was_changed_or_is_of_the_other_direction_does_not_open() {
        let ((mut sealer, mut own), (_, mut opener)) = both();
        let mut wire = Vec::new();
        sealer.seal(b"a record", &mut wire);
        let record = wire[LENGTH_BYTES..].to_vec();
        for at in [NONCE_BYTES, NONCE_BYTES + TAG_BYTES, record.len() - 1] {
            let mut changed = record.clone();
            changed[at] ^= 1;
            let mut opener = split(&TransitKey([7; 32]), Side::Follower).1;
            assert!(opener.open(&mut changed).is_err(), "byte {at}");
        }
        assert!(own.open(&mut record.clone()).is_err());
        assert!(opener.open(&mut [0; 7]).is_err());
    }

    #[test]
    fn announced_lengths_are_not_believed() {
        let length = |length: usize| Opener::length(u32::try_from(length).unwrap().to_be_bytes());
        assert!(length(0).is_err() && length(NONCE_BYTES + TAG_BYTES - 1).is_err());
        assert_eq!(length(RECORD_WIRE_BYTES), Ok(RECORD_WIRE_BYTES));
        assert!(length(RECORD_WIRE_BYTES + 1).is_err() && length(u32::MAX as usize).is_err());
    }
}
