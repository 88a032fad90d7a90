//! The bounded queue between a board and its reader (B-07).

use std::collections::VecDeque;

use super::{BoardEvent, Message};
use crate::limits;

/// Events that wait for a reader: never more than [`limits::BOARD_INBOX`]. When it is full the oldest presence line goes
/// first, then the oldest line of any kind; how many went is told by [`BoardEvent::Lagged`] before what follows.
///
/// Pure: an implementation wraps it in a lock and wakes its reader after each `push`.
#[derive(Debug, Default)]
pub struct Inbox {
    events: VecDeque<Entry>,
    lagged: u64,
}

#[derive(Debug)]
struct Entry {
    event: BoardEvent,
    presence: bool,
}

impl Inbox {
    /// Adds an event.
    pub fn push(&mut self, event: BoardEvent) {
        if self.events.len() >= limits::BOARD_INBOX {
            self.drop_one();
        }
        let presence = is_presence(&event);
        self.events.push_back(Entry { event, presence });
    }

    /// The oldest event, if any.
    pub fn pop(&mut self) -> Option<BoardEvent> {
        if self.lagged > 0 {
            return Some(BoardEvent::Lagged(std::mem::take(&mut self.lagged)));
        }
        self.events.pop_front().map(|entry| entry.event)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lagged == 0 && self.events.is_empty()
    }

    fn drop_one(&mut self) {
        let is_line = |entry: &Entry| matches!(entry.event, BoardEvent::Line(_));
        let victim = self
            .events
            .iter()
            .position(|entry| entry.presence)
            .or_else(|| self.events.iter().position(is_line))
            .unwrap_or(0);
        self.events.remove(victim);
        self.lagged += 1;
    }
}

/// Presence is said again and again; a set-up or an admission is answered once.
fn is_presence(event: &BoardEvent) -> bool {
    let BoardEvent::Line(line) = event else {
        return false;
    };
    match line.decode() {
        Ok(envelope) => {
            matches!(envelope.message, Message::Hello(_) | Message::Seek(_) | Message::Beat(_) | Message::Bye(_))
        }
        Err(_) => true,
    }
}
