//! The board's handle: queues in both directions, and who waits for them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_std::future::timeout;
use async_std::task;
use async_trait::async_trait;
use futures::task::AtomicWaker;
use p2p_proto::board::{Board, BoardError, BoardEvent, Inbox, Line, Witness};
use p2p_proto::ids::UserName;
use p2p_proto::limits;

use crate::config::PicoConfig;
use crate::keeper;
use crate::side::SideTopics;

/// How long [`Board::close`] waits for queued lines.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What to open on the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The topic as one asks for it, such as `alice/friends/future.p2p`.
    pub name: String,
    /// For the owner: who else may enter. Opening it again and again until the server shows this list is the board's business.
    pub access: Option<Vec<UserName>>,
    /// For a guest: the private topic that the server gives him instead when it does not let him in (B-04).
    pub twin: Option<String>,
    /// For the owner's other processes: enter only while the topic carries a list, which is while she hosts. A session of hers that
    /// opened the topic first, without a list, would keep the host's list out for as long as it stays.
    pub after_host: bool,
}

/// A place on one topic of a board that behaves like pico.sh's pipe.
///
/// A task of its own keeps it: connects, logs in, opens the topic, and does it again when any of that breaks (B-05). Dropping
/// it leaves the board at once; [`Board::close`] writes what is queued first.
pub struct PicoBoard {
    shared: Arc<Shared>,
    sides: Arc<SideTopics>,
}

impl PicoBoard {
    /// Starts to join; [`BoardEvent::Up`] tells when it has worked.
    ///
    /// Needs no runtime around it: its task runs on async-std's.
    pub fn join(config: PicoConfig, topic: Topic) -> Self {
        let shared = Arc::new(Shared::default());
        let sides = Arc::new(SideTopics::new(config.clone()));
        task::spawn(keeper::keep(Arc::clone(&shared), config, topic));
        Self { shared, sides }
    }
}

#[async_trait]
impl Board for PicoBoard {
    fn publish(&self, line: Line) -> Result<(), BoardError> {
        {
            let mut state = self.shared.lock();
            if state.leaving || state.over {
                return Err(BoardError::Closed);
            }
            if state.outbox.len() >= limits::BOARD_OUTBOX {
                return Err(BoardError::Full);
            }
            state.outbox.push_back(line);
        }
        self.shared.keeper.wake();
        Ok(())
    }

    async fn next(&self) -> BoardEvent {
        poll_fn(|context| self.shared.poll_event(context)).await
    }

    fn witness(&self) -> Option<Arc<dyn Witness>> {
        Some(Arc::clone(&self.sides) as Arc<dyn Witness>)
    }

    async fn close(&self) {
        self.shared.lock().leaving = true;
        self.shared.keeper.wake();
        let over = poll_fn(|context| self.shared.poll_over(context));
        if timeout(CLOSE_TIMEOUT, over).await.is_err() {
            self.shared.abandon();
        }
    }
}

impl Drop for PicoBoard {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

/// What the handle and the owning task share. Nobody holds the lock while waiting.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    reader: AtomicWaker,
    keeper: AtomicWaker,
    closer: AtomicWaker,
}

#[derive(Default)]
struct State {
    inbox: Inbox,
    outbox: VecDeque<Line>,
    /// Write what is queued, then go.
    leaving: bool,
    /// Go now.
    abandoned: bool,
    /// The task has ended.
    over: bool,
}

impl Shared {
    pub(crate) fn report(&self, event: BoardEvent) {
        self.lock().inbox.push(event);
        self.reader.wake();
    }

    /// The next line to write; it stays first in the queue until [`Shared::line_written`].
    pub(crate) fn first_line(&self) -> Option<Line> {
        self.lock().outbox.front().cloned()
    }

    pub(crate) fn line_written(&self) {
        self.lock().outbox.pop_front();
    }

    /// Whether to go: nothing is left to write, or nobody waits for it any more.
    pub(crate) fn is_dismissed(&self) -> bool {
        let state = self.lock();
        state.abandoned || (state.leaving && state.outbox.is_empty())
    }

    /// Waits until [`Shared::is_dismissed`].
    pub(crate) async fn dismissed(&self) {
        self.until(Self::is_dismissed).await;
    }

    /// Waits until nobody waits for queued lines any more.
    pub(crate) async fn abandoned(&self) {
        self.until(|shared| shared.lock().abandoned).await;
    }

    /// Waits until there is a line to write, or until it is time to go.
    pub(crate) async fn called(&self) {
        self.until(|shared| !shared.lock().outbox.is_empty() || shared.is_dismissed()).await;
    }

    async fn until(&self, met: impl Fn(&Self) -> bool) {
        poll_fn(|context| {
            self.keeper.register(context.waker());
            if met(self) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The task has ended; nothing will be written any more.
    pub(crate) fn end(&self) {
        {
            let mut state = self.lock();
            state.over = true;
            state.outbox.clear();
        }
        self.closer.wake();
    }

    fn abandon(&self) {
        self.lock().abandoned = true;
        self.keeper.wake();
    }

    fn poll_event(&self, context: &mut Context<'_>) -> Poll<BoardEvent> {
        self.reader.register(context.waker());
        self.lock().inbox.pop().map_or(Poll::Pending, Poll::Ready)
    }

    fn poll_over(&self, context: &mut Context<'_>) -> Poll<()> {
        self.closer.register(context.waker());
        if self.lock().over { Poll::Ready(()) } else { Poll::Pending }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
