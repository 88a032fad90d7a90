//! The board: what one publishes, everybody else on the topic hears.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use event_listener::Event;
use p2p_proto::board::{Board, BoardError, BoardEvent, Inbox, Line, Witness};
use p2p_proto::ids::UserName;
use p2p_proto::limits;

use super::faults::{Faults, Mangler};
use super::witness::{MemoryWitness, SideTopics};
use crate::driver::lock;

/// Where the boards of one process meet. Cheap to clone; all clones are the same hub.
#[derive(Clone, Default)]
pub struct MemoryHub(Arc<Mutex<HubState>>, Arc<SideTopics>);

#[derive(Default)]
struct HubState {
    places: BTreeMap<u64, Place>,
    next_place: u64,
    faults: Faults,
    seed: u64,
    /// Why it is down.
    down: Option<String>,
}

struct Place {
    topic: String,
    shared: Arc<Shared>,
    mangler: Mangler,
    /// Lines of its own that wait for the hub to come back.
    outbox: VecDeque<Line>,
}

/// What a board shares with its hub.
#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    news: Event,
}

impl Shared {
    fn push(&self, event: BoardEvent) {
        lock(&self.inbox).push(event);
        self.news.notify(1);
    }
}

impl MemoryHub {
    /// A hub that loses nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A place on `topic` by the login of `user`: the hub can show to others that it is his (T-02).
    pub fn board_of(&self, topic: &str, user: &UserName) -> MemoryBoard {
        let mut board = self.board(topic);
        board.user = Some(user.clone());
        board
    }

    pub(super) fn sides(&self) -> &SideTopics {
        &self.1
    }

    /// A place on `topic`, by a login that the hub shows to nobody; its first event is [`BoardEvent::Up`], unless the hub is down.
    pub fn board(&self, topic: &str) -> MemoryBoard {
        let shared = Arc::new(Shared::default());
        let mut hub = lock(&self.0);
        let place = hub.next_place;
        hub.next_place += 1;
        match &hub.down {
            None => shared.push(BoardEvent::Up),
            Some(reason) => shared.push(down(reason)),
        }
        let mangler = Mangler::new(hub.faults, hub.seed ^ place);
        let topic = topic.to_owned();
        let mine = Arc::clone(&shared);
        hub.places.insert(place, Place { topic, shared: mine, mangler, outbox: VecDeque::new() });
        drop(hub);
        MemoryBoard { hub: self.clone(), place, shared, user: None }
    }

    /// From now on, does this to the lines for each reader. Lines that were held back are lost.
    pub fn set_faults(&self, faults: Faults, seed: u64) {
        let mut hub = lock(&self.0);
        (hub.faults, hub.seed) = (faults, seed);
        for (id, place) in &mut hub.places {
            place.mangler = Mangler::new(faults, seed ^ id);
        }
    }

    /// Takes the hub down: everybody hears [`BoardEvent::Down`], and what is published waits, as far as there is room for it.
    pub fn take_down(&self, reason: &str) {
        let mut hub = lock(&self.0);
        if hub.down.is_none() {
            hub.down = Some(reason.to_owned());
            for place in hub.places.values() {
                place.shared.push(down(reason));
            }
        }
    }

    /// Brings the hub back: everybody hears [`BoardEvent::Up`], and what waited is said.
    pub fn bring_up(&self) {
        let mut hub = lock(&self.0);
        if hub.down.take().is_none() {
            return;
        }
        let mut waited = Vec::new();
        for (id, place) in &mut hub.places {
            place.shared.push(BoardEvent::Up);
            waited.extend(place.outbox.drain(..).map(|line| (*id, line)));
        }
        for (from, line) in waited {
            hub.deliver(from, line);
        }
    }

    /// Says `line` to everybody on `topic` in nobody's name: what a stranger on the board can do.
    pub fn inject(&self, topic: &str, line: Line) {
        lock(&self.0).deliver_on(topic, None, line);
    }
}

impl HubState {
    fn deliver(&mut self, from: u64, line: Line) {
        if let Some(topic) = self.places.get(&from).map(|place| place.topic.clone()) {
            self.deliver_on(&topic, Some(from), line);
        }
    }

    fn deliver_on(&mut self, topic: &str, from: Option<u64>, line: Line) {
        for (_, place) in self.places.iter_mut().filter(|(id, place)| Some(**id) != from && place.topic == topic) {
            for line in place.mangler.pass(line.clone()) {
                place.shared.push(BoardEvent::Line(line));
            }
        }
    }
}

/// Nobody waits for a clock here: it is back when [`MemoryHub::bring_up`] is called.
fn down(reason: &str) -> BoardEvent {
    BoardEvent::Down { reason: reason.to_owned(), retry_in: Duration::ZERO }
}

impl fmt::Debug for MemoryHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hub = lock(&self.0);
        f.debug_struct("MemoryHub").field("places", &hub.places.len()).field("down", &hub.down).finish_non_exhaustive()
    }
}

/// One process's place on a topic of a [`MemoryHub`]. Dropping it leaves.
pub struct MemoryBoard {
    hub: MemoryHub,
    place: u64,
    shared: Arc<Shared>,
    user: Option<UserName>,
}

impl MemoryBoard {
    /// Ends it as a board ends that cannot work without a person's help; later lines are refused.
    pub fn fail(&self, error: BoardError) {
        if lock(&self.hub.0).places.remove(&self.place).is_some() {
            self.shared.push(BoardEvent::Failed(error));
        }
    }

    /// Says to this place alone that the board let it into a topic of its own.
    pub fn misroute(&self, retry_in: Duration) {
        self.shared.push(BoardEvent::Misrouted { retry_in });
    }
}

#[async_trait]
impl Board for MemoryBoard {
    fn publish(&self, line: Line) -> Result<(), BoardError> {
        let mut hub = lock(&self.hub.0);
        let is_down = hub.down.is_some();
        let place = hub.places.get_mut(&self.place).ok_or(BoardError::Closed)?;
        if !is_down {
            hub.deliver(self.place, line);
        } else if place.outbox.len() < limits::BOARD_OUTBOX {
            place.outbox.push_back(line);
        } else {
            return Err(BoardError::Full);
        }
        Ok(())
    }

    async fn next(&self) -> BoardEvent {
        loop {
            let news = self.shared.news.listen();
            if let Some(event) = lock(&self.shared.inbox).pop() {
                return event;
            }
            news.await;
        }
    }

    fn witness(&self) -> Option<Arc<dyn Witness>> {
        let user = self.user.clone()?;
        Some(Arc::new(MemoryWitness { hub: self.hub.clone(), user }))
    }

    async fn close(&self) {
        lock(&self.hub.0).places.remove(&self.place);
    }
}

impl Drop for MemoryBoard {
    fn drop(&mut self) {
        lock(&self.hub.0).places.remove(&self.place);
    }
}

impl fmt::Debug for MemoryBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBoard({})", self.place)
    }
}
