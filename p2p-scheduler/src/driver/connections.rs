//! What the drivers of clients and workers share: board, timer, set-ups and connections, and the links that these carry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use event_listener::Event;
use futures::future::{AbortHandle, Abortable};

use p2p_proto::board::{Board, BoardEvent};
use p2p_proto::error::ProtoError;
use p2p_proto::link::item::{Item, Open};
use p2p_proto::link::{ConnectPlan, Hints, LinkError, LinkPath, LinkTransport, PendingLink};

use super::link::LinkQueue;
use super::{Clock, Timer, lock};
use crate::{ConnectionId, LinkId};

/// What every peer with links has.
pub(crate) struct Base {
    pub(crate) clock: Clock,
    pub(crate) timer: Timer,
    pub(crate) board: Arc<dyn Board>,
    pub(crate) transport: Arc<dyn LinkTransport>,
    /// A connection has ended, or what else somebody may wait for.
    pub(crate) ended: Event,
}

impl Base {
    pub(crate) fn new(clock: Clock, board: Arc<dyn Board>, transport: Arc<dyn LinkTransport>) -> Self {
        Self { clock, timer: Timer::new(), board, transport, ended: Event::new() }
    }
}

/// A client or a worker: one lock around its machine, its links and what else it has.
pub(crate) trait Peer: Send + Sync + Sized + 'static {
    /// What it sends on its links.
    type Out: Item + Send;
    /// What the lock guards.
    type Core: Send;

    fn base(&self) -> &Base;
    fn core(&self) -> &Mutex<Self::Core>;
    fn links(core: &mut Self::Core) -> &mut Links<Self::Out>;
    /// Hands something to the machine, and does what that asks for.
    fn occur(self: &Arc<Self>, core: &mut Self::Core, occurrence: Occurrence);
    /// Takes what came by a link.
    fn on_items(
        self: &Arc<Self>,
        core: &mut Self::Core,
        link: LinkId,
        items: Vec<<Self::Out as Item>::Other>,
    ) -> Result<(), ProtoError>;
}

/// What happens to every peer with links: each is an input of its machine.
pub(crate) enum Occurrence {
    Board(BoardEvent),
    Tick,
    Prepared(ConnectionId, Result<Hints, LinkError>),
    Connected(ConnectionId, LinkPath),
    Disconnected(ConnectionId, LinkError),
}

/// All links and connections of a peer.
pub(crate) struct Links<T: Item> {
    queues: HashMap<LinkId, Arc<LinkQueue<T>>>,
    connections: HashMap<ConnectionId, Connection>,
}

#[derive(Default)]
struct Connection {
    /// Between `Prepare` and `Connect`.
    pending: Option<Box<dyn PendingLink>>,
    /// Ends whatever task works on it.
    abort: Option<AbortHandle>,
    /// What it carries.
    link: Option<LinkId>,
}

impl<T: Item> Default for Links<T> {
    fn default() -> Self {
        Self { queues: HashMap::new(), connections: HashMap::new() }
    }
}

impl<T: Item> Links<T> {
    pub(crate) fn queue(&self, link: LinkId) -> Option<&Arc<LinkQueue<T>>> {
        self.queues.get(&link)
    }

    pub(crate) fn send(&self, link: LinkId, item: T) {
        if let Some(queue) = self.queues.get(&link) {
            queue.push(item);
        }
    }

    /// Whether nothing is left that could still send something.
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    pub(crate) fn attach(&mut self, link: LinkId, connection: ConnectionId, open: Open, resumes: bool) {
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.link = Some(link);
        }
        let queue = Arc::clone(self.queues.entry(link).or_insert_with(|| Arc::new(LinkQueue::new())));
        let before = queue.carrier();
        queue.attach(connection, open, resumes);
        if let Some(before) = before {
            self.abandon(before);
        }
    }

    /// Ends a set-up or connection at once.
    pub(crate) fn abandon(&mut self, connection: ConnectionId) {
        let Some(entry) = self.connections.remove(&connection) else { return };
        if let Some(abort) = entry.abort {
            abort.abort();
        }
        if let Some(queue) = entry.link.and_then(|link| self.queues.get(&link)) {
            queue.detach(connection);
        }
    }

    /// Ends a link: in order if it has a connection.
    pub(crate) fn close(&mut self, link: LinkId) {
        let Some(queue) = self.queues.get(&link) else { return };
        if queue.carrier().is_some() {
            queue.close();
        } else {
            queue.kill();
            self.queues.remove(&link);
        }
    }

    /// Ends everything at once.
    pub(crate) fn abort(&mut self) {
        for connection in self.connections.keys().copied().collect::<Vec<_>>() {
            self.abandon(connection);
        }
        self.queues.drain().for_each(|(_, queue)| queue.kill());
    }

    /// A connection has ended. Returns `false` when it was abandoned before.
    fn on_ended(&mut self, connection: ConnectionId) -> bool {
        let Some(entry) = self.connections.remove(&connection) else { return false };
        if let Some(link) = entry.link
            && let Some(queue) = self.queues.get(&link)
        {
            queue.detach(connection);
            if queue.is_closing() {
                queue.kill();
                self.queues.remove(&link);
            }
        }
        true
    }
}

/// Starts a set-up.
pub(crate) fn prepare<P: Peer>(peer: &Arc<P>, core: &mut P::Core, connection: ConnectionId) {
    let of_task = Arc::clone(peer);
    let abort = spawn(async move {
        let peer = of_task;
        let (pending, hints) = match peer.base().transport.prepare().await {
            Ok(pending) => {
                let hints = pending.hints();
                (Some(pending), Ok(hints))
            }
            Err(error) => (None, Err(error)),
        };
        let mut core = lock(peer.core());
        let Some(entry) = P::links(&mut core).connections.get_mut(&connection) else { return };
        entry.pending = pending;
        entry.abort = None;
        peer.occur(&mut core, Occurrence::Prepared(connection, hints));
    });
    let entry = Connection { abort: Some(abort), ..Connection::default() };
    P::links(core).connections.insert(connection, entry);
}

/// Connects it, and carries with it what the machine attaches.
pub(crate) fn connect<P: Peer>(peer: &Arc<P>, core: &mut P::Core, connection: ConnectionId, plan: ConnectPlan) {
    let Some(entry) = P::links(core).connections.get_mut(&connection) else { return };
    let Some(pending) = entry.pending.take() else { return };
    let peer = Arc::clone(peer);
    entry.abort = Some(spawn(async move {
        let error = match pending.connect(plan).await {
            Err(error) => error,
            Ok(connected) => {
                let Some((link, queue)) = on_connected(&peer, connection, connected.path.clone()) else { return };
                let on_record = |record| {
                    let mut core = lock(peer.core());
                    // Under the lock of the machine: a record of a connection that was replaced must not come after those of the next.
                    let items = queue.take(connection, record)?;
                    if items.is_empty() { Ok(()) } else { peer.on_items(&mut core, link, items) }
                };
                queue.run(connection, connected, on_record).await
            }
        };
        let mut core = lock(peer.core());
        if P::links(&mut core).on_ended(connection) {
            peer.occur(&mut core, Occurrence::Disconnected(connection, error));
        }
        drop(core);
        peer.base().ended.notify(usize::MAX);
    }));
}

/// The connection is there. Returns what it carries, if it was not given up.
fn on_connected<P: Peer>(
    peer: &Arc<P>,
    connection: ConnectionId,
    path: LinkPath,
) -> Option<(LinkId, Arc<LinkQueue<P::Out>>)> {
    let mut core = lock(peer.core());
    P::links(&mut core).connections.get(&connection)?;
    peer.occur(&mut core, Occurrence::Connected(connection, path));
    let links = P::links(&mut core);
    let attached = links.connections.get(&connection).and_then(|entry| entry.link);
    let queue = attached.and_then(|link| Some((link, Arc::clone(links.queue(link)?))));
    if queue.is_none() {
        links.abandon(connection);
    }
    queue
}

pub(crate) async fn follow_board<P: Peer>(peer: Arc<P>) {
    loop {
        let event = peer.base().board.next().await;
        let last = matches!(event, BoardEvent::Failed(_));
        peer.occur(&mut lock(peer.core()), Occurrence::Board(event));
        if last {
            return;
        }
    }
}

pub(crate) async fn follow_timer<P: Peer>(peer: Arc<P>) {
    loop {
        peer.base().timer.tick(&peer.base().clock).await;
        peer.occur(&mut lock(peer.core()), Occurrence::Tick);
    }
}

/// Runs in the background until it ends or is aborted.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    let (abort, registration) = AbortHandle::new_pair();
    async_std::task::spawn(Abortable::new(future, registration));
    abort
}
