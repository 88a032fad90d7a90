//! CBOR in and out, with the remainder checked: ciborium itself accepts trailing bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ProtoError;

/// Nesting that a message may have; ours need five. Deeper input is an error, not a full stack.
const DEPTH: usize = 16;

/// Appends the CBOR of `value`. Values of this crate always encode.
pub(crate) fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    if let Err(fault) = ciborium::into_writer(value, &mut *out) {
        // A Vec cannot refuse bytes and our types have no fallible Serialize.
        unreachable!("a message does not encode: {fault}");
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    encode_into(value, &mut out);
    out
}

/// The one value that `bytes` hold.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ProtoError> {
    let mut rest = bytes;
    let value = decode_first(what, &mut rest)?;
    if rest.is_empty() { Ok(value) } else { Err(ProtoError::malformed(what)) }
}

/// The first value of `rest`, which moves past it.
pub(crate) fn decode_first<T: DeserializeOwned>(what: &'static str, rest: &mut &[u8]) -> Result<T, ProtoError> {
    ciborium::de::from_reader_with_recursion_limit(rest, DEPTH).map_err(|_| ProtoError::malformed(what))
}
