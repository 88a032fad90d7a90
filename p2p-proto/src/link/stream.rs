//! A link's stream of items, whatever connections carry it one after the other (L-05).
//!
//! Each side counts the items that it writes and those that it reads, [`Open`] and `Ack` excepted: the count is their number. What was written is
//! kept until the other side has acknowledged it. A new connection begins with an `Open` from each side that says how many items arrived; the
//! rest is written again, in the same order.
//!
//! Calls, for each connection: [`Stream::on_connected`], then [`Stream::fill`] and [`Stream::on_record`] in any order, then
//! [`Stream::on_disconnected`]. Items may be pushed at any time.

use std::collections::VecDeque;

use super::item::{Item, OfConnection, Open};
use super::outgoing::Outgoing;
use super::record;
use crate::error::ProtoError;
use crate::ids::AttemptId;
use crate::limits;

/// One side of a link: `Out` leaves, `In` arrives.
#[derive(Debug)]
pub struct Stream<Out, In> {
    /// Never written so far.
    outgoing: Outgoing<Out>,
    /// Written, not acknowledged.
    kept: VecDeque<Out>,
    kept_control_bytes: usize,
    kept_bulk_bytes: usize,
    /// How many of `kept` were written to the present connection.
    written: usize,
    /// Items that the other side has acknowledged: those before `kept`.
    acknowledged: u64,
    /// Items that have arrived.
    received: u64,
    /// How many of these the other side was told.
    told: u64,
    /// Bytes that arrived since then.
    untold_bytes: usize,
    connection: Connection<Out>,
    incoming: std::marker::PhantomData<fn() -> In>,
}

/// The present connection.
#[derive(Debug)]
enum Connection<Out> {
    /// There is none.
    None,
    /// This side's first item is to be written, unless it was, and the other side's is expected.
    Opening { open: Option<Out>, resumes: bool },
    /// Both are open; this side's first item may still wait to be written.
    Open { open: Option<Out> },
    /// The other side does not have this link: nothing is sent any more, and nothing taken.
    Void,
}

/// What a record holds, read and not yet taken.
#[derive(Debug)]
pub struct Received<In> {
    items: Vec<In>,
    /// Items of unknown kind: they count.
    skipped: u64,
    bytes: usize,
}

impl<Out: Item, In: Item> Default for Stream<Out, In> {
    fn default() -> Self {
        Self {
            outgoing: Outgoing::default(),
            kept: VecDeque::new(),
            kept_control_bytes: 0,
            kept_bulk_bytes: 0,
            written: 0,
            acknowledged: 0,
            received: 0,
            told: 0,
            untold_bytes: 0,
            connection: Connection::None,
            incoming: std::marker::PhantomData,
        }
    }
}

impl<Out: Item, In: Item> Stream<Out, In> {
    /// Queues an item, whether there is a connection or not.
    ///
    /// # Errors
    /// [`ProtoError::Bounds`] when control that waits or is not acknowledged is over [`limits::LINK_CONTROL_QUEUE_BYTES`]: the link is to be
    /// given up.
    pub fn push(&mut self, item: Out) -> Result<(), ProtoError> {
        let held = self.kept_control_bytes + self.outgoing.control_bytes();
        let found = held + item.weight();
        if item.bulk_of().is_none() && found > limits::LINK_CONTROL_QUEUE_BYTES {
            let what = "what waits for the other side to read";
            return Err(ProtoError::bounds(what, found, limits::LINK_CONTROL_QUEUE_BYTES));
        }
        self.outgoing.push(item)
    }

    /// Bulk that was never written, bytes.
    pub fn bulk_bytes(&self) -> usize {
        self.outgoing.bulk_bytes()
    }

    /// Drops the bulk of an attempt that nobody wants any more and that was never written.
    pub fn forget_bulk(&mut self, attempt: AttemptId) {
        self.outgoing.forget_bulk(attempt);
    }

    /// A new connection carries the link. `open` is its first item; where the link `resumes`, it says what has arrived.
    pub fn on_connected(&mut self, mut open: Open, resumes: bool) {
        self.on_disconnected();
        if resumes {
            open.received = Some(self.received);
            self.on_told();
        }
        self.connection = Connection::Opening { open: Some(Out::open(open)), resumes };
    }

    /// The connection has ended.
    pub fn on_disconnected(&mut self) {
        self.connection = Connection::None;
        self.written = 0;
    }

    /// Whether [`Stream::fill`] has something to write.
    pub fn is_ready(&self) -> bool {
        match &self.connection {
            Connection::None | Connection::Void => false,
            Connection::Opening { open: Some(_), .. } | Connection::Open { open: Some(_) } => true,
            Connection::Opening { resumes: true, .. } => false,
            Connection::Opening { resumes: false, .. } | Connection::Open { .. } => {
                self.written < self.kept.len()
                    || self.outgoing.has_control()
                    || (self.outgoing.bulk_bytes() > 0 && self.bulk_room() > 0)
                    || self.must_acknowledge()
            }
        }
    }

    /// Whether everything was written to the present connection, or never can be.
    pub fn is_drained(&self) -> bool {
        match &self.connection {
            Connection::Void => true,
            Connection::None | Connection::Opening { open: Some(_), .. } | Connection::Open { open: Some(_) } => false,
            Connection::Opening { .. } | Connection::Open { .. } => {
                self.outgoing.is_empty() && self.written == self.kept.len()
            }
        }
    }

    /// Fills `record`, which must be empty, with the next items. It stays empty when nothing may be sent now.
    ///
    /// # Errors
    /// [`ProtoError::Misuse`] for an item that no record can hold; it is dropped.
    pub fn fill(&mut self, record: &mut Vec<u8>) -> Result<(), ProtoError> {
        let flows = match &mut self.connection {
            Connection::None | Connection::Void => return Ok(()),
            Connection::Opening { open, resumes } => {
                write_first(open, record);
                // What is to be sent again is known when the other side has said what it has.
                !*resumes
            }
            Connection::Open { open } => {
                write_first(open, record);
                true
            }
        };
        if !flows {
            return Ok(());
        }
        if self.must_acknowledge() || (self.told < self.received && self.has_items()) {
            record::append(&Out::ack(self.received), record);
            self.on_told();
        }
        while let Some(item) = self.kept.get(self.written) {
            if !record::append(item, record) {
                return Ok(());
            }
            self.written += 1;
        }
        let mut control_bytes = 0;
        let kept = &mut self.kept;
        self.outgoing.fill_control(record, &mut |item: Out| {
            control_bytes += item.weight();
            kept.push_back(item);
        })?;
        let mut bulk_bytes = 0;
        let room = limits::LINK_KEPT_BULK_BYTES.saturating_sub(self.kept_bulk_bytes);
        let filled = if self.outgoing.has_control() {
            Ok(())
        } else {
            self.outgoing.fill_bulk(record, room, &mut |item: Out| {
                match item.bulk_of() {
                    Some(_) => bulk_bytes += item.weight(),
                    None => control_bytes += item.weight(),
                }
                kept.push_back(item);
            })
        };
        self.written = self.kept.len();
        self.kept_control_bytes += control_bytes;
        self.kept_bulk_bytes += bulk_bytes;
        filled
    }

    /// The items of a record, in order; `Open` among them, acknowledgements not.
    ///
    /// # Errors
    /// As [`Stream::read`] and [`Stream::take`].
    pub fn on_record(&mut self, record: &[u8]) -> Result<Vec<In>, ProtoError> {
        self.take(Self::read(record)?)
    }

    /// Reads a record: the part of [`Stream::on_record`] that costs time, and needs no stream.
    ///
    /// # Errors
    /// [`ProtoError::Malformed`] for what is no item: the link must end.
    pub fn read(record: &[u8]) -> Result<Received<In>, ProtoError> {
        let mut reader = record::items(record);
        let items = reader.by_ref().collect::<Result<Vec<In>, ProtoError>>()?;
        Ok(Received { items, skipped: reader.skipped(), bytes: record.len() })
    }

    /// Takes what a record of the present connection held.
    ///
    /// # Errors
    /// [`ProtoError::Malformed`] when the connection does not begin with `Open`, or acknowledges what was never sent, or less than before.
    pub fn take(&mut self, record: Received<In>) -> Result<Vec<In>, ProtoError> {
        let mut items = Vec::with_capacity(record.items.len());
        let mut numbered = record.skipped;
        for item in record.items {
            match (item.of_connection(), &mut self.connection) {
                (_, Connection::None | Connection::Void) => return Ok(items),
                (Ok(OfConnection::Open(open)), Connection::Opening { .. }) => {
                    let fits = self.on_open(&open)?;
                    items.push(In::open(open));
                    if !fits {
                        return Ok(items);
                    }
                }
                (_, Connection::Opening { .. }) => return Err(ProtoError::malformed("a connection's first item")),
                (Ok(OfConnection::Open(_)), Connection::Open { .. }) => {
                    return Err(ProtoError::malformed("a second beginning of a connection"));
                }
                (Ok(OfConnection::Ack(received)), Connection::Open { .. }) => self.on_acknowledged(received)?,
                (Err(item), Connection::Open { .. }) => {
                    numbered += 1;
                    items.push(item);
                }
            }
        }
        if numbered > 0 {
            self.received += numbered;
            self.untold_bytes += record.bytes;
        }
        Ok(items)
    }

    /// The other side's first item. Returns whether it speaks of the same link.
    fn on_open(&mut self, theirs: &Open) -> Result<bool, ProtoError> {
        let Connection::Opening { open, resumes } = &mut self.connection else { return Ok(false) };
        let (open, resumes) = (open.take(), *resumes);
        self.connection = Connection::Open { open };
        if resumes {
            let Some(received) = theirs.received else {
                self.connection = Connection::Void;
                return Ok(false);
            };
            // Nothing of `kept` was written to this connection, and all of it to an earlier one.
            self.written = self.kept.len();
            self.on_acknowledged(received)?;
            self.written = 0;
        }
        Ok(true)
    }

    fn on_acknowledged(&mut self, received: u64) -> Result<(), ProtoError> {
        let news = received.checked_sub(self.acknowledged).and_then(|news| usize::try_from(news).ok());
        let Some(news) = news.filter(|news| *news <= self.written) else {
            return Err(ProtoError::malformed("an acknowledgement of what was not sent, or less than before,"));
        };
        for item in self.kept.drain(..news) {
            match item.bulk_of() {
                Some(_) => self.kept_bulk_bytes -= item.weight(),
                None => self.kept_control_bytes -= item.weight(),
            }
        }
        self.written -= news;
        self.acknowledged = received;
        Ok(())
    }

    fn bulk_room(&self) -> usize {
        limits::LINK_KEPT_BULK_BYTES.saturating_sub(self.kept_bulk_bytes)
    }

    /// Whether more than an acknowledgement is to be written.
    fn has_items(&self) -> bool {
        self.written < self.kept.len()
            || self.outgoing.has_control()
            || (self.outgoing.bulk_bytes() > 0 && self.bulk_room() > 0)
    }

    /// Whether an acknowledgement is due, even alone.
    fn must_acknowledge(&self) -> bool {
        self.received - self.told >= limits::ACK_ITEMS || self.untold_bytes >= limits::ACK_BYTES
    }

    fn on_told(&mut self) {
        self.told = self.received;
        self.untold_bytes = 0;
    }
}

/// Writes a connection's first item, unless it was written. An empty record holds it.
fn write_first<Out: Item>(open: &mut Option<Out>, record: &mut Vec<u8>) {
    if let Some(first) = open.take() {
        record::append(&first, record);
    }
}
