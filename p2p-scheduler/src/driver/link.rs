//! One link: what waits to be sent, and the connection that carries it now.

mod pace;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_std::future::timeout;
use event_listener::Event;
use futures::future::{Either, select};

use p2p_proto::error::ProtoError;
use p2p_proto::ids::AttemptId;
use p2p_proto::limits::RECORD_BYTES;
use p2p_proto::link::item::{Item, Open};
use p2p_proto::link::stream::Received;
use p2p_proto::link::{Connected, LinkError, LinkReceiver, LinkSender, Stream};

use self::pace::Pace;
use super::lock;
use crate::ConnectionId;
use crate::executor::Gone;

/// Bulk that waits in one link's queue before its producers do, bytes.
const BULK_QUEUE_BYTES: usize = 512 * 1024;

/// How long the other side may take to read what was sent before an orderly end.
const CLOSE_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// What the other side had said before it took nothing any more is here by then.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// A link, shared by everybody who has something to say on it. It outlives its connections (L-05).
pub(crate) struct LinkQueue<T: Item> {
    state: Mutex<State<T>>,
    content: Event,
    room: Event,
    closing: AtomicBool,
    dead: AtomicBool,
    /// `closing` or `dead` was set.
    ending: Event,
}

struct State<T: Item> {
    stream: Stream<T, T::Other>,
    /// What carries it. Whoever else still reads or writes has been replaced.
    carrier: Option<ConnectionId>,
}

/// What a connection has to write.
enum Filled {
    /// A record.
    Record,
    /// Nothing now; `drained` if nothing is left either.
    Nothing { drained: bool },
    /// Another connection carries the link.
    Replaced,
}

impl<T: Item> LinkQueue<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State { stream: Stream::default(), carrier: None }),
            content: Event::new(),
            room: Event::new(),
            closing: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            ending: Event::new(),
        }
    }

    /// Queues an item. Over the bound of control the peer does not read: the link is given up.
    pub(crate) fn push(&self, item: T) {
        // A link that was cut short must not say what came after: the other side takes that for how it went.
        if self.dead.load(Ordering::Acquire) {
            return;
        }
        if lock(&self.state).stream.push(item).is_err() {
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
            if lock(&self.state).stream.bulk_bytes() < BULK_QUEUE_BYTES {
                self.push(item);
                return Ok(());
            }
            room.await;
        }
    }

    /// Drops the bulk of an attempt that is over.
    pub(crate) fn forget_bulk(&self, attempt: AttemptId) {
        lock(&self.state).stream.forget_bulk(attempt);
        self.room.notify(usize::MAX);
    }

    /// This connection carries the link from now on.
    pub(super) fn attach(&self, connection: ConnectionId, open: Open, resumes: bool) {
        let mut state = lock(&self.state);
        state.stream.on_connected(open, resumes);
        state.carrier = Some(connection);
        drop(state);
        self.content.notify(usize::MAX);
    }

    /// This connection has ended.
    pub(super) fn detach(&self, connection: ConnectionId) {
        let mut state = lock(&self.state);
        if state.carrier == Some(connection) {
            state.stream.on_disconnected();
            state.carrier = None;
        }
    }

    /// What carries the link.
    pub(super) fn carrier(&self) -> Option<ConnectionId> {
        lock(&self.state).carrier
    }

    /// Takes a record that came by `connection`: nothing is in it for anybody if that carries the link no more.
    pub(super) fn take(
        &self,
        connection: ConnectionId,
        record: Received<T::Other>,
    ) -> Result<Vec<T::Other>, ProtoError> {
        let mut state = lock(&self.state);
        if state.carrier != Some(connection) {
            return Ok(Vec::new());
        }
        let items = state.stream.take(record)?;
        if state.stream.is_ready() {
            self.content.notify(1);
        }
        Ok(items)
    }

    /// Sends what waits, then ends the link in order.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.content.notify(1);
        self.ending.notify(1);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Nothing will be sent any more: whoever waits for room hears it.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.room.notify(usize::MAX);
        self.content.notify(usize::MAX);
        self.ending.notify(1);
    }

    fn fill(&self, connection: ConnectionId, record: &mut Vec<u8>) -> Result<Filled, ProtoError> {
        let mut state = lock(&self.state);
        if state.carrier != Some(connection) {
            return Ok(Filled::Replaced);
        }
        state.stream.fill(record)?;
        let nothing = record.is_empty();
        Ok(if nothing { Filled::Nothing { drained: state.stream.is_drained() } } else { Filled::Record })
    }

    async fn write(&self, connection: ConnectionId, mut sender: Box<dyn LinkSender>) -> LinkError {
        let mut record = Vec::with_capacity(4096);
        let mut pace = Pace::new();
        loop {
            record.clear();
            let listener = self.content.listen();
            let sent = match self.fill(connection, &mut record) {
                Err(fault) => return LinkError::Misuse(fault.to_string()),
                Ok(Filled::Replaced) => {
                    // What woke this one was meant for its successor.
                    self.content.notify(usize::MAX);
                    return LinkError::Lost("a newer connection has replaced it".to_owned());
                }
                Ok(Filled::Nothing { .. }) if sender.buffered() > 0 => {
                    self.room.notify(usize::MAX);
                    sender.flush().await
                }
                Ok(Filled::Nothing { drained: true }) if self.is_closing() => {
                    sender.close().await;
                    return LinkError::Closed;
                }
                Ok(Filled::Nothing { .. }) => {
                    // An idle link keeps no large buffer.
                    if record.capacity() > RECORD_BYTES / 2 {
                        record = Vec::with_capacity(4096);
                    }
                    listener.await;
                    Ok(())
                }
                Ok(Filled::Record) => match sender.feed(&record) {
                    Ok(()) if sender.buffered() >= pace.bytes() => {
                        self.room.notify(usize::MAX);
                        let since = Instant::now();
                        // What comes next is chosen when it can leave: what becomes urgent until then goes first.
                        let ready = match sender.flush().await {
                            Ok(()) => sender.ready().await,
                            Err(error) => Err(error),
                        };
                        pace.on_written(since.elapsed());
                        ready
                    }
                    fed => fed,
                },
            };
            if let Err(error) = sent {
                return error;
            }
        }
    }

    /// Carries the link over a connection until that ends: `on_record` gets what arrived, one record at a time.
    ///
    /// # Errors
    /// It always ends with the reason; [`LinkError::Closed`] when that was in order.
    pub(super) async fn run(
        &self,
        connection: ConnectionId,
        connected: Connected,
        on_record: impl FnMut(Received<T::Other>) -> Result<(), ProtoError>,
    ) -> LinkError {
        let Connected { sender, receiver, .. } = connected;
        let read = std::pin::pin!(read::<T>(receiver, on_record));
        let write = std::pin::pin!(self.write(connection, sender));
        let given_up = std::pin::pin!(self.given_up());
        let works = async {
            match select(read, write).await {
                Either::Left((ended, _)) => ended,
                // Who has said goodbye and gone takes nothing any more, and then his goodbye is still to be read.
                Either::Right((LinkError::Lost(why), read)) if self.carrier() == Some(connection) => {
                    match timeout(LAST_WORDS, read).await {
                        Ok(LinkError::Closed) => LinkError::Closed,
                        _ => LinkError::Lost(why),
                    }
                }
                Either::Right((ended, _)) => ended,
            }
        };
        select(std::pin::pin!(works), given_up).await.factor_first().0
    }

    /// Ends when this side cannot wait any longer: a write may wait for ever for a peer that does not read.
    async fn given_up(&self) -> LinkError {
        let dead = async {
            loop {
                let ending = self.ending.listen();
                if self.dead.load(Ordering::Acquire) {
                    return LinkError::Broken("it does not read what it is sent".to_owned());
                }
                if self.is_closing() {
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

async fn read<T: Item>(
    mut receiver: Box<dyn LinkReceiver>,
    mut on_record: impl FnMut(Received<T::Other>) -> Result<(), ProtoError>,
) -> LinkError {
    loop {
        let record = match receiver.receive().await {
            Ok(record) => Stream::<T, T::Other>::read(record),
            // Whatever came was not sealed by the peer: that is the fault of the way, and another one may do.
            Err(LinkError::Broken(why)) => return LinkError::Lost(why),
            Err(error) => return error,
        };
        if let Err(fault) = record.and_then(&mut on_record) {
            return LinkError::Broken(fault.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use p2p_proto::link::LinkPath;
    use p2p_proto::link::item::ToWorker;

    use super::*;

    /// A connection whose other side has gone, after these last words.
    struct Gone(LinkError);

    #[async_trait]
    impl LinkSender for Gone {
        fn feed(&mut self, _: &[u8]) -> Result<(), LinkError> {
            Err(LinkError::Lost("the other side is gone".to_owned()))
        }

        fn buffered(&self) -> usize {
            0
        }

        async fn flush(&mut self) -> Result<(), LinkError> {
            Ok(())
        }

        async fn close(&mut self) {}
    }

    #[async_trait]
    impl LinkReceiver for Gone {
        async fn receive(&mut self) -> Result<&[u8], LinkError> {
            // It comes a little later than the writer finds out.
            async_std::task::sleep(Duration::from_millis(10)).await;
            Err(self.0.clone())
        }
    }

    #[test]
    fn a_goodbye_counts_even_if_it_is_read_after_a_write_has_failed() {
        let lost = || LinkError::Lost("cut".to_owned());
        for (last, ends) in
            [(LinkError::Closed, LinkError::Closed), (lost(), LinkError::Lost("the other side is gone".to_owned()))]
        {
            let queue = LinkQueue::<ToWorker>::new();
            let connection = ConnectionId(1);
            let open = Open {
                version: p2p_proto::VERSION,
                name: "bob@box:1".parse().unwrap(),
                capabilities: Vec::new(),
                slots: 1,
                received: None,
                grace_s: 60,
            };
            queue.attach(connection, open, false);
            let connected =
                Connected { sender: Box::new(Gone(lost())), receiver: Box::new(Gone(last)), path: LinkPath::Memory };
            let ended = async_std::task::block_on(queue.run(connection, connected, |_| Ok(())));
            assert_eq!(ended, ends);
        }
    }
}
