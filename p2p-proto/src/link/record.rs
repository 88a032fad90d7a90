//! Items in records: one record carries one or more CBOR items, one after the other (L-03).

use std::marker::PhantomData;

use super::item::Item;
use crate::codec;
use crate::error::ProtoError;
use crate::limits;

/// Appends `item` to a record that is being filled.
///
/// Returns whether it fitted: if not, `record` is as it was, and the item belongs into the next one.
pub fn append<T: Item>(item: &T, record: &mut Vec<u8>) -> bool {
    let before = record.len();
    codec::encode_into(item, record);
    let fits = record.len() <= limits::RECORD_BYTES;
    if !fits {
        record.truncate(before);
    }
    fits
}

/// The items of a received record, in order.
///
/// Items of unknown kind are skipped. After an error nothing more comes: the link must end.
pub fn items<T: Item>(record: &[u8]) -> Items<'_, T> {
    Items { rest: record, skipped: 0, kind: PhantomData }
}

/// See [`items`].
#[derive(Debug)]
pub struct Items<'a, T> {
    rest: &'a [u8],
    skipped: u64,
    kind: PhantomData<T>,
}

impl<T> Items<'_, T> {
    /// Items of unknown kind so far: they count as received (L-05).
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

impl<T: Item> Iterator for Items<'_, T> {
    type Item = Result<T, ProtoError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let start = self.rest;
            match codec::decode_first("a link item", &mut self.rest) {
                Ok(item) => return Some(Ok(item)),
                Err(fault) => match skip_unknown::<T>(start) {
                    Some(rest) => {
                        self.skipped += 1;
                        self.rest = rest;
                    }
                    None => {
                        self.rest = &[];
                        return Some(Err(fault));
                    }
                },
            }
        }
        None
    }
}

/// What follows the first item of `bytes`, if that is a well-formed item of a kind that this version does not know.
fn skip_unknown<T: Item>(mut bytes: &[u8]) -> Option<&[u8]> {
    let value: ciborium::Value = codec::decode_first("a link item", &mut bytes).ok()?;
    let tag = match &value {
        ciborium::Value::Text(tag) => tag,
        ciborium::Value::Map(entries) => match entries.as_slice() {
            [(ciborium::Value::Text(tag), _)] => tag,
            _ => return None,
        },
        _ => return None,
    };
    (!T::TAGS.contains(&tag.as_str())).then_some(bytes)
}
