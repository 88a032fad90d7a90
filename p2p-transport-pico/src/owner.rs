//! The owner's board, whose list may change while she hosts.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use event_listener::Event;
use futures::future::{self, Either};
use p2p_proto::board::{Board, BoardError, BoardEvent, Line, Witness};
use p2p_proto::ids::UserName;

use crate::board::{PicoBoard, Topic};
use crate::config::PicoConfig;

/// A topic of one's own with a list of who may enter.
///
/// The server keeps the list of the session that opened the topic, so another list takes another session: the old one writes what it still has
/// to say, and ends first. Members stay on the topic meanwhile.
pub struct OwnerBoard {
    config: PicoConfig,
    name: String,
    current: Mutex<Arc<PicoBoard>>,
    changed: Event,
    witness: Option<Arc<dyn Witness>>,
}

impl OwnerBoard {
    /// Opens `name`, as [`PicoBoard::join`] does, for these users.
    pub fn open(config: PicoConfig, name: String, users: Vec<UserName>) -> Self {
        let board = PicoBoard::join(config.clone(), topic(&name, users));
        let witness = board.witness();
        Self { config, name, current: Mutex::new(Arc::new(board)), changed: Event::new(), witness }
    }

    /// From now on these may enter. Returns once the old session is over; [`BoardEvent::Up`] tells when the new one is there.
    pub async fn set_users(&self, users: Vec<UserName>) {
        self.current().close().await;
        let board = PicoBoard::join(self.config.clone(), topic(&self.name, users));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(board);
        self.changed.notify(usize::MAX);
    }

    fn current(&self) -> Arc<PicoBoard> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Board for OwnerBoard {
    fn publish(&self, line: Line) -> Result<(), BoardError> {
        self.current().publish(line)
    }

    async fn next(&self) -> BoardEvent {
        loop {
            let changed = self.changed.listen();
            let current = self.current();
            if let Either::Left((event, _)) = future::select(current.next(), changed).await {
                return event;
            }
        }
    }

    fn witness(&self) -> Option<Arc<dyn Witness>> {
        self.witness.clone()
    }

    async fn close(&self) {
        self.current().close().await;
    }
}

fn topic(name: &str, users: Vec<UserName>) -> Topic {
    Topic { name: name.to_owned(), access: Some(users), twin: None, after_host: false }
}
