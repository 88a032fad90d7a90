//! Side topics of a hub in memory: it knows whose each board is, because it was told so when it was made.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use event_listener::Event;
use p2p_proto::board::{Sighting, Watch, Witness};
use p2p_proto::ids::UserName;

use super::MemoryHub;
use crate::driver::lock;

/// Who is on which side topic.
#[derive(Default)]
pub(super) struct SideTopics {
    state: Mutex<State>,
    moved: Event,
}

#[derive(Default)]
struct State {
    /// For whom each topic is open.
    open: BTreeMap<String, UserName>,
    /// Sessions by topic.
    there: BTreeMap<String, BTreeMap<u64, UserName>>,
    next: u64,
}

impl SideTopics {
    /// A session of `user`, if the topic is open for him.
    fn enter(&self, topic: &str, user: &UserName) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.open.get(topic) != Some(user) {
            return None;
        }
        state.next += 1;
        let session = state.next;
        state.there.entry(topic.to_owned()).or_default().insert(session, user.clone());
        Some(session)
    }
}

/// The hub's word for one of its users.
pub(super) struct MemoryWitness {
    pub(super) hub: MemoryHub,
    pub(super) user: UserName,
}

struct MemoryWatch {
    hub: MemoryHub,
    topic: String,
    guest: UserName,
}

/// A session on somebody else's topic; dropping it leaves.
struct Visit<'a> {
    hub: &'a MemoryHub,
    topic: &'a str,
    session: u64,
}

#[async_trait]
impl Witness for MemoryWitness {
    async fn open(&self, topic: &str, guest: &UserName) -> Result<Box<dyn Watch>, Sighting> {
        if topic.split('/').next() != Some(self.user.as_str()) {
            return Err(Sighting::Odd(format!("{topic} is not a topic of {}", self.user)));
        }
        let mut state = lock(&self.hub.sides().state);
        if state.open.insert(topic.to_owned(), guest.clone()).is_some() {
            return Err(Sighting::Odd(format!("{topic} is open already")));
        }
        Ok(Box::new(MemoryWatch { hub: self.hub.clone(), topic: topic.to_owned(), guest: guest.clone() }))
    }

    async fn attend(&self, topic: &str) {
        let Some(session) = self.hub.sides().enter(topic, &self.user) else {
            // As on a real one: who is not let in is somewhere else, and nobody tells him.
            return futures::future::pending().await;
        };
        let _visit = Visit { hub: &self.hub, topic, session };
        self.hub.sides().moved.notify(usize::MAX);
        futures::future::pending().await
    }
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn sighting(&mut self) -> Sighting {
        loop {
            let moved = self.hub.sides().moved.listen();
            {
                let state = lock(&self.hub.sides().state);
                let there: Vec<_> = state.there.get(&self.topic).into_iter().flat_map(BTreeMap::values).collect();
                match there[..] {
                    [] => {}
                    [one] if *one == self.guest => return Sighting::Guest,
                    _ => return Sighting::Others(there.into_iter().map(ToString::to_string).collect()),
                }
            }
            moved.await;
        }
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        lock(&self.hub.sides().state).open.remove(&self.topic);
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.hub.sides().state);
        if let Some(there) = state.there.get_mut(self.topic) {
            there.remove(&self.session);
            if there.is_empty() {
                state.there.remove(self.topic);
            }
        }
    }
}
