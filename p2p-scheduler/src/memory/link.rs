//! Links: two bounded queues of records between two tasks.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use event_listener::Event;
use p2p_proto::limits;
use p2p_proto::link::{
    ConnectPlan, Connected, Hints, LinkError, LinkPath, LinkReceiver, LinkSender, LinkTransport, PendingLink,
};

use crate::driver::lock;

/// Bytes of records under way in one direction before the sender waits: about what sockets hold.
const PIPE_BYTES: usize = 512 * 1024;

/// All links of one process. Cheap to clone; all clones are the same net.
#[derive(Clone, Default)]
pub struct MemoryNet(Arc<Mutex<NetState>>);

#[derive(Default)]
struct NetState {
    /// Who waits for the other side, by transit key.
    waiting: HashMap<[u8; 32], Waiting>,
    next_waiting: u64,
    refusing: bool,
}

struct Waiting {
    id: u64,
    plan: ConnectPlan,
    outcome: async_std::channel::Sender<Result<Connected, LinkError>>,
    links: Arc<Mutex<Links>>,
}

/// Both directions of each link of one transport.
type Links = Vec<[Weak<Pipe>; 2]>;

impl MemoryNet {
    /// A net without links.
    pub fn new() -> Self {
        Self::default()
    }

    /// A process's way to make links. Those whom it reaches have a transport of the same net.
    pub fn transport(&self) -> MemoryTransport {
        MemoryTransport { net: self.clone(), links: Arc::default() }
    }

    /// While it is `true`, no connection comes about: [`LinkError::Unreachable`].
    pub fn refuse(&self, refusing: bool) {
        lock(&self.0).refusing = refusing;
    }
}

impl fmt::Debug for MemoryNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryNet(..)")
    }
}

/// Makes the links of one process.
#[derive(Clone)]
pub struct MemoryTransport {
    net: MemoryNet,
    links: Arc<Mutex<Links>>,
}

impl MemoryTransport {
    /// Cuts every link that goes from or to here, as a broken cable would: both sides hear [`LinkError::Lost`], and records that were
    /// under way are gone. New links may be made.
    pub fn cut(&self) {
        for pipe in lock(&self.links).drain(..).flatten().filter_map(|pipe| pipe.upgrade()) {
            pipe.cut();
        }
    }
}

#[async_trait]
impl LinkTransport for MemoryTransport {
    async fn prepare(&self) -> Result<Box<dyn PendingLink>, LinkError> {
        Ok(Box::new(MemoryPending { transport: self.clone() }))
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryTransport(..)")
    }
}

struct MemoryPending {
    transport: MemoryTransport,
}

#[async_trait]
impl PendingLink for MemoryPending {
    fn hints(&self) -> Hints {
        Hints::default()
    }

    async fn connect(self: Box<Self>, plan: ConnectPlan) -> Result<Connected, LinkError> {
        let MemoryTransport { net, links } = self.transport;
        let key = plan.transit_key.0;
        let (id, outcome) = {
            let mut state = lock(&net.0);
            if state.refusing {
                return Err(LinkError::Unreachable("the net refuses connections".to_owned()));
            }
            if let Some(other) = state.waiting.remove(&key) {
                return meet(other, plan, &links);
            }
            let (sender, outcome) = async_std::channel::bounded(1);
            let id = state.next_waiting;
            state.next_waiting += 1;
            state.waiting.insert(key, Waiting { id, plan, outcome: sender, links });
            (id, outcome)
        };
        // Whoever drops this future has given the set-up up.
        let _registered = Registered { net, key, id };
        match async_std::future::timeout(limits::SETUP_TIMEOUT, outcome.recv()).await {
            Ok(Ok(met)) => met,
            Ok(Err(_)) | Err(_) => Err(LinkError::Unreachable("the other side did not come".to_owned())),
        }
    }
}

struct Registered {
    net: MemoryNet,
    key: [u8; 32],
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut state = lock(&self.net.0);
        if state.waiting.get(&self.key).is_some_and(|waiting| waiting.id == self.id) {
            state.waiting.remove(&self.key);
        }
    }
}

/// Two sides with the same transit key: connects them if they are the two sides of one session.
fn meet(first: Waiting, plan: ConnectPlan, links: &Mutex<Links>) -> Result<Connected, LinkError> {
    let same_session = first.plan.session.channel_binding() == plan.session.channel_binding();
    if !same_session || first.plan.role == plan.role {
        let broken = || LinkError::Broken("it does not have this session".to_owned());
        // Full or closed: it has gone meanwhile.
        let _ = first.outcome.try_send(Err(broken()));
        return Err(broken());
    }
    let (there, here) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
    for links in [&first.links, links] {
        let mut links = lock(links);
        links.retain(|pipes| pipes[0].strong_count() > 0);
        links.push([Arc::downgrade(&there), Arc::downgrade(&here)]);
    }
    let theirs = connected(&there, &here);
    if first.outcome.try_send(Ok(theirs)).is_err() {
        return Err(LinkError::Unreachable("the other side has gone".to_owned()));
    }
    Ok(connected(&here, &there))
}

fn connected(outgoing: &Arc<Pipe>, incoming: &Arc<Pipe>) -> Connected {
    Connected {
        sender: Box::new(Sending { pipe: Arc::clone(outgoing), fed: VecDeque::new(), buffered: 0 }),
        receiver: Box::new(Receiving { pipe: Arc::clone(incoming), record: Vec::new() }),
        path: LinkPath::Memory,
    }
}

/// One direction of one link.
#[derive(Default)]
struct Pipe {
    state: Mutex<PipeState>,
    /// There is something to read. Apart from `room`: whoever waits for one must not wake himself by the other.
    content: Event,
    /// There is room to write.
    room: Event,
}

#[derive(Default)]
struct PipeState {
    records: VecDeque<Vec<u8>>,
    bytes: usize,
    end: Option<LinkError>,
}

impl Pipe {
    /// Nothing more comes after what is under way.
    fn end(&self, error: LinkError) {
        lock(&self.state).end.get_or_insert(error);
        self.notify();
    }

    fn cut(&self) {
        let mut state = lock(&self.state);
        *state = PipeState { end: Some(LinkError::Lost("it was cut".to_owned())), ..PipeState::default() };
        drop(state);
        self.notify();
    }

    fn notify(&self) {
        self.content.notify(usize::MAX);
        self.room.notify(usize::MAX);
    }
}

struct Sending {
    pipe: Arc<Pipe>,
    fed: VecDeque<Vec<u8>>,
    buffered: usize,
}

#[async_trait]
impl LinkSender for Sending {
    fn feed(&mut self, record: &[u8]) -> Result<(), LinkError> {
        if record.is_empty() || record.len() > limits::RECORD_BYTES {
            return Err(LinkError::Misuse(format!("a record of {} bytes", record.len())));
        }
        self.buffered += record.len();
        self.fed.push_back(record.to_vec());
        Ok(())
    }

    fn buffered(&self) -> usize {
        self.buffered
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        while !self.fed.is_empty() {
            let room = self.pipe.room.listen();
            {
                let mut state = lock(&self.pipe.state);
                if let Some(error) = &state.end {
                    return Err(error.clone());
                }
                while state.bytes < PIPE_BYTES
                    && let Some(record) = self.fed.pop_front()
                {
                    state.bytes += record.len();
                    self.buffered -= record.len();
                    state.records.push_back(record);
                }
            }
            self.pipe.content.notify(1);
            if !self.fed.is_empty() {
                room.await;
            }
        }
        Ok(())
    }

    async fn close(&mut self) {
        // An error means that the other side is gone: there is nobody to tell.
        let _ = self.flush().await;
        self.pipe.end(LinkError::Closed);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.pipe.end(LinkError::Lost("the other side is gone".to_owned()));
    }
}

struct Receiving {
    pipe: Arc<Pipe>,
    record: Vec<u8>,
}

#[async_trait]
impl LinkReceiver for Receiving {
    async fn receive(&mut self) -> Result<&[u8], LinkError> {
        loop {
            let content = self.pipe.content.listen();
            {
                let mut state = lock(&self.pipe.state);
                if let Some(record) = state.records.pop_front() {
                    state.bytes -= record.len();
                    self.record = record;
                    break;
                }
                if let Some(error) = &state.end {
                    return Err(error.clone());
                }
            }
            content.await;
        }
        self.pipe.room.notify(1);
        Ok(&self.record)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut state = lock(&self.pipe.state);
        state.records.clear();
        state.bytes = 0;
        drop(state);
        self.pipe.end(LinkError::Lost("the other side is gone".to_owned()));
    }
}
