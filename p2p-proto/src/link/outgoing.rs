//! What waits to be sent on one link: control ahead of bulk (L-04), and an attempt's end behind its data.

use std::collections::{HashMap, VecDeque};

use super::item::Item;
use super::record;
use crate::error::ProtoError;
use crate::ids::AttemptId;
use crate::limits;

/// The sending queue of one link, for items of one direction.
///
/// Control is bounded by [`limits::LINK_CONTROL_QUEUE_BYTES`]: whoever exceeds it has a peer that does not read, and gives the
/// link up. Bulk is bounded by its producers, who ask [`Outgoing::bulk_bytes`] before they add; a queue never holds more than
/// what is in the windows.
#[derive(Debug)]
pub struct Outgoing<T> {
    control: VecDeque<T>,
    control_bytes: usize,
    bulk: VecDeque<T>,
    bulk_bytes: usize,
    /// Items of an attempt in `bulk`; its `Finished` may go ahead of other attempts' bulk, not of its own.
    bulk_items: HashMap<AttemptId, usize>,
}

impl<T> Default for Outgoing<T> {
    fn default() -> Self {
        Self {
            control: VecDeque::new(),
            control_bytes: 0,
            bulk: VecDeque::new(),
            bulk_bytes: 0,
            bulk_items: HashMap::new(),
        }
    }
}

impl<T: Item> Outgoing<T> {
    /// Queues `item` where it belongs.
    ///
    /// # Errors
    /// [`ProtoError::Bounds`] when control is over its limit.
    pub fn push(&mut self, item: T) -> Result<(), ProtoError> {
        let weight = item.weight();
        let behind = item.follows_bulk_of().filter(|attempt| self.bulk_items.contains_key(attempt));
        if let Some(attempt) = item.bulk_of().or(behind) {
            *self.bulk_items.entry(attempt).or_default() += 1;
            self.bulk_bytes += weight;
            self.bulk.push_back(item);
            return Ok(());
        }
        if self.control_bytes + weight > limits::LINK_CONTROL_QUEUE_BYTES {
            let found = self.control_bytes + weight;
            return Err(ProtoError::bounds(
                "what waits for the other side to read",
                found,
                limits::LINK_CONTROL_QUEUE_BYTES,
            ));
        }
        self.control_bytes += weight;
        self.control.push_back(item);
        Ok(())
    }

    /// Bulk that waits, bytes.
    pub fn bulk_bytes(&self) -> usize {
        self.bulk_bytes
    }

    /// Control that waits, bytes.
    pub fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    /// Whether control waits.
    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.bulk.is_empty()
    }

    /// Drops the bulk of an attempt that nobody wants any more.
    pub fn forget_bulk(&mut self, attempt: AttemptId) {
        if self.bulk_items.contains_key(&attempt) {
            let before = self.bulk.len();
            self.bulk.retain(|item| item.bulk_of() != Some(attempt));
            let left = self.bulk.iter().filter(|item| item.follows_bulk_of() == Some(attempt)).count();
            if before != self.bulk.len() {
                self.bulk_bytes = self.bulk.iter().map(Item::weight).sum();
            }
            if left == 0 {
                self.bulk_items.remove(&attempt);
            } else {
                self.bulk_items.insert(attempt, left);
            }
        }
    }

    /// Fills `record`, which must be empty, with the next items. It stays empty when nothing waits.
    ///
    /// # Errors
    /// [`ProtoError::Misuse`] for an item that no record can hold; it is dropped.
    pub fn fill(&mut self, record: &mut Vec<u8>) -> Result<(), ProtoError> {
        self.fill_control(record, &mut drop)?;
        if self.has_control() { Ok(()) } else { self.fill_bulk(record, usize::MAX, &mut drop) }
    }

    /// Adds the next control items to `record`, and hands each that was added to `sent`.
    ///
    /// # Errors
    /// [`ProtoError::Misuse`] for an item that not even an empty record can hold; it is dropped.
    pub fn fill_control(&mut self, record: &mut Vec<u8>, sent: &mut impl FnMut(T)) -> Result<(), ProtoError> {
        while let Some(item) = self.control.front() {
            if !record::append(item, record) {
                return if record.is_empty() { self.drop_oversized() } else { Ok(()) };
            }
            self.control_bytes -= item.weight();
            self.control.pop_front().into_iter().for_each(&mut *sent);
        }
        Ok(())
    }

    /// Adds the next bulk to `record` while there is less than `room` of it, bytes, and hands each item that was added to `sent`.
    ///
    /// # Errors
    /// [`ProtoError::Misuse`] for an item that not even an empty record can hold; it is dropped.
    pub fn fill_bulk(
        &mut self,
        record: &mut Vec<u8>,
        mut room: usize,
        sent: &mut impl FnMut(T),
    ) -> Result<(), ProtoError> {
        while let Some(item) = self.bulk.front().filter(|_| room > 0) {
            // Almost full: encoding a large chunk only to take it back would cost a pass over its bytes.
            if record.len() + item.weight() / 2 > limits::RECORD_BYTES || !record::append(item, record) {
                return if record.is_empty() { self.drop_oversized() } else { Ok(()) };
            }
            room = room.saturating_sub(item.weight());
            self.pop_bulk().into_iter().for_each(&mut *sent);
        }
        Ok(())
    }

    fn pop_bulk(&mut self) -> Option<T> {
        let item = self.bulk.pop_front()?;
        self.bulk_bytes -= item.weight();
        if let Some(attempt) = item.bulk_of().or_else(|| item.follows_bulk_of())
            && let Some(left) = self.bulk_items.get_mut(&attempt)
        {
            *left -= 1;
            if *left == 0 {
                self.bulk_items.remove(&attempt);
            }
        }
        Some(item)
    }

    fn drop_oversized(&mut self) -> Result<(), ProtoError> {
        if let Some(item) = self.control.pop_front() {
            self.control_bytes -= item.weight();
        } else {
            self.pop_bulk();
        }
        Err(ProtoError::Misuse("an item is larger than a record"))
    }
}
