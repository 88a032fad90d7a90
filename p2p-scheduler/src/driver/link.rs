//! The task of one link: reads records into items, writes what is queued.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use event_listener::Event;
use futures::FutureExt as _;
use futures::future::{AbortHandle, select};

use p2p_proto::error::ProtoError;
use p2p_proto::ids::AttemptId;
use p2p_proto::limits::RECORD_BYTES;
use p2p_proto::link::item::Item;
use p2p_proto::link::{Connected, LinkError, LinkReceiver, LinkSender, Outgoing, PendingLink, record};

use super::lock;
use crate::executor::Gone;

/// Encrypted bytes gathered before a write: several records share one, and the peer can read while more is sealed.
const WRITE_BYTES: usize = 256 * 1024;
/// Bulk that waits in one link's queue before its producers do, bytes.
const BULK_QUEUE_BYTES: usize = 512 * 1024;

/// How long the other side may take to read what was sent before an orderly end.
const CLOSE_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// What a driver knows of one link.
pub(crate) struct LinkEntry<T> {
    pub(crate) queue: std::sync::Arc<LinkQueue<T>>,
    /// Between `Prepare` and `Connect`.
    pub(crate) pending: Option<Box<dyn PendingLink>>,
    /// Ends whatever task works on it.
    pub(crate) abort: Option<AbortHandle>,
    /// Its task reads and writes.
    pub(crate) connected: bool,
}

impl<T: Item> LinkEntry<T> {
    /// Ends it: in order once it is connected, at once before. Returns whether nothing is left to wait for.
    pub(crate) fn close(&mut self) -> bool {
        if self.connected {
            self.queue.close();
        } else {
            self.abort();
        }
        !self.connected
    }

    /// Ends it at once.
    pub(crate) fn abort(&mut self) {
        if let Some(abort) = self.abort.take() {
            abort.abort();
        }
        self.queue.kill();
    }
}

/// What waits to be sent on one link, shared by everybody who has something to say.
pub(crate) struct LinkQueue<T> {
    outgoing: Mutex<Outgoing<T>>,
    content: Event,
    room: Event,
    closing: AtomicBool,
    dead: AtomicBool,
    /// `closing` or `dead` was set.
    ending: Event,
}

impl<T: Item> LinkQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            outgoing: Mutex::new(Outgoing::default()),
            content: Event::new(),
            room: Event::new(),
            closing: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            ending: Event::new(),
        }
    }

    /// Queues an item. Over the bound of control the peer does not read: the link's task ends.
    pub(crate) fn push(&self, item: T) {
        // A link that was cut short must not say what came after: the other side takes that for how it went.
        if self.dead.load(Ordering::Acquire) {
            return;
        }
        if lock(&self.outgoing).push(item).is_err() {
            self.kill();
        }
        self.content.notify(1);
    }

    /// Queues bulk when there is room.
    pub(crate) async fn push_bulk(&self, item: T) -> Result<(), Gone> {
        loop {
            let room = self.room.listen();
            if self.dead.load(Ordering::Acquire) {
                return Err(Gone);
            }
            if lock(&self.outgoing).bulk_bytes() < BULK_QUEUE_BYTES {
                self.push(item);
                return Ok(());
            }
            room.await;
        }
    }

    /// Drops the bulk of an attempt that is over.
    pub(crate) fn forget_bulk(&self, attempt: AttemptId) {
        lock(&self.outgoing).forget_bulk(attempt);
        self.room.notify(usize::MAX);
    }

    /// Sends what waits, then ends the link in order.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.content.notify(1);
        self.ending.notify(1);
    }

    /// Nothing will be sent any more: whoever waits for room hears it.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.room.notify(usize::MAX);
        self.content.notify(usize::MAX);
        self.ending.notify(1);
    }

    async fn write(&self, mut sender: Box<dyn LinkSender>) -> LinkError {
        let mut record = Vec::with_capacity(4096);
        loop {
            record.clear();
            let listener = self.content.listen();
            if let Err(fault) = lock(&self.outgoing).fill(&mut record) {
                return LinkError::Misuse(fault.to_string());
            }
            let sent = if record.is_empty() {
                if sender.buffered() > 0 {
                    self.room.notify(usize::MAX);
                    sender.flush().await
                } else if self.closing.load(Ordering::Acquire) {
                    sender.close().await;
                    return LinkError::Closed;
                } else {
                    // An idle link keeps no large buffer.
                    if record.capacity() > RECORD_BYTES / 2 {
                        record = Vec::with_capacity(4096);
                    }
                    listener.await;
                    Ok(())
                }
            } else {
                match sender.feed(&record) {
                    Ok(()) if sender.buffered() >= WRITE_BYTES => {
                        self.room.notify(usize::MAX);
                        sender.flush().await
                    }
                    fed => fed,
                }
            };
            if let Err(error) = sent {
                return error;
            }
        }
    }

    /// Runs a connected link until it ends: `on_items` gets what arrived, one record at a time.
    ///
    /// # Errors
    /// It always ends with the reason; [`LinkError::Closed`] when that was in order.
    pub(crate) async fn run<In: Item>(
        &self,
        connected: Connected,
        on_items: impl FnMut(Vec<In>) -> Result<(), ProtoError>,
    ) -> LinkError {
        let Connected { sender, receiver, .. } = connected;
        let read = std::pin::pin!(read(receiver, on_items));
        let write = std::pin::pin!(self.write(sender));
        let given_up = std::pin::pin!(self.given_up());
        let works = select(read, write).map(|ended| ended.factor_first().0);
        let ended = select(works, given_up).await.factor_first().0;
        self.kill();
        ended
    }

    /// Ends when this side cannot wait any longer: a write may wait for ever for a peer that does not read.
    async fn given_up(&self) -> LinkError {
        let dead = async {
            loop {
                let ending = self.ending.listen();
                if self.dead.load(Ordering::Acquire) {
                    return LinkError::Lost("the other side does not read".to_owned());
                }
                if self.closing.load(Ordering::Acquire) {
                    return LinkError::Closed;
                }
                ending.await;
            }
        };
        let why = dead.await;
        if why == LinkError::Closed {
            async_std::task::sleep(CLOSE_WITHIN).await;
        }
        why
    }
}

async fn read<In: Item>(
    mut receiver: Box<dyn LinkReceiver>,
    mut on_items: impl FnMut(Vec<In>) -> Result<(), ProtoError>,
) -> LinkError {
    loop {
        let items = match receiver.receive().await {
            Ok(record) => record::items(record).collect::<Result<Vec<In>, ProtoError>>(),
            Err(error) => return error,
        };
        if let Err(fault) = items.and_then(&mut on_items) {
            return LinkError::Broken(fault.to_string());
        }
    }
}
