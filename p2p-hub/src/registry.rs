//! Who is in which topic, who gets a chunk, and who goes when somebody leaves. No I/O and no clock.
//!
//! The driver calls [`Registry::open`] when a command starts, [`Registry::readers`] for each chunk, and
//! [`Registry::leave`] when a command ends for whatever reason; each answer names the clients that something happens to
//! besides, and the driver does it to them. A client named in [`Registry::leave`]'s answer has left already.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::MAX_TOPICS;
use crate::topics::{AccessList, AccessLists, Caller, Resolved, resolve};

/// One running `pipe`, `pub` or `sub`; numbered in the order of joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId(pub(crate) u64);

/// Which way a client's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// `pub`: writes only.
    Pub,
    /// `sub`: reads only.
    Sub,
    /// `pipe`: both.
    Pipe,
}

/// How a topic hands out its chunks; set by the first client, as on pico.sh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dispatch {
    /// To every reader.
    Multicast,
    /// To one reader after the other.
    RoundRobin,
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    /// The client's line in `ls`: `UUID (USER@IP:PORT)`.
    pub(crate) label: String,
    pub(crate) direction: Direction,
    /// The topic as it was asked for, checked.
    pub(crate) topic: String,
    /// `-p`.
    pub(crate) public: bool,
    /// `-a`.
    pub(crate) access: AccessList,
    /// `-r`: one's own chunks come back.
    pub(crate) replay: bool,
    /// `sub -k`: stays when the others leave.
    pub(crate) keep_alive: bool,
    /// `pub`, unless `-b=false`: waits until somebody reads.
    pub(crate) block: bool,
    pub(crate) dispatch: Dispatch,
    /// The topic to use where access to a public one is denied.
    pub(crate) substitute: String,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The topic's full name.
    pub(crate) topic: String,
    /// The client waits for a first reader, and is not a member yet.
    pub(crate) waiting: bool,
    /// Publishers that have a reader now: what they sent ahead can go out.
    pub(crate) unblocked: Vec<ClientId>,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A public topic has an access list without the caller.
    AccessDenied,
    /// There are [`MAX_TOPICS`] topics.
    TooManyTopics,
}

/// Where a client's chunk goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// To these, possibly to nobody.
    To(Vec<ClientId>),
    /// It waits until somebody reads.
    Blocked,
    /// The client is no member any more.
    Gone,
}

/// All topics, members and access lists.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    topics: BTreeMap<String, Topic>,
    lists: AccessLists,
    clients: BTreeMap<ClientId, Client>,
}

#[derive(Debug)]
struct Topic {
    dispatch: Dispatch,
    turn: usize,
    members: BTreeSet<ClientId>,
    waiting: BTreeSet<ClientId>,
}

#[derive(Debug)]
struct Client {
    label: String,
    topic: String,
    direction: Direction,
    replay: bool,
    keep_alive: bool,
    block: bool,
    owns_list: bool,
}

impl Registry {
    /// Lets a client in, or has it wait for a first reader.
    pub(crate) fn open(&mut self, id: ClientId, caller: &Caller, open: Open) -> Result<Opened, Refused> {
        let (name, own) = match resolve(caller, &open.topic, open.public, &self.lists) {
            Resolved::Own(name) => (name, true),
            Resolved::Guest(name) => (name, false),
            // A reader would wait in vain in a topic of its own; the others get one, and may tell its name.
            Resolved::Denied if open.direction == Direction::Sub => {
                return Err(Refused::AccessDenied);
            }
            Resolved::Denied => (open.substitute, true),
        };
        if !self.topics.contains_key(&name) && self.topics.len() >= MAX_TOPICS {
            return Err(Refused::TooManyTopics);
        }
        // The first session decides for as long as it lives, even without a list: a later list is ignored.
        let owns_list = own && !self.lists.contains_key(&name);
        if owns_list {
            self.lists.insert(name.clone(), open.access);
        }
        let waiting = open.block && !self.has_reader(&name);
        let topic = self.topics.entry(name.clone()).or_insert_with(|| Topic {
            dispatch: open.dispatch,
            turn: 0,
            members: BTreeSet::new(),
            waiting: BTreeSet::new(),
        });
        if waiting {
            topic.waiting.insert(id);
        } else {
            topic.members.insert(id);
        }
        self.clients.insert(
            id,
            Client {
                label: open.label,
                topic: name.clone(),
                direction: open.direction,
                replay: open.replay,
                keep_alive: open.keep_alive,
                block: open.block,
                owns_list,
            },
        );
        let unblocked = match open.direction {
            Direction::Pub => Vec::new(),
            Direction::Sub | Direction::Pipe => self.unblock(&name),
        };
        Ok(Opened { topic: name, waiting, unblocked })
    }

    /// Who gets the next chunk of `writer`.
    pub(crate) fn readers(&mut self, writer: ClientId) -> Readers {
        let Some(client) = self.clients.get(&writer) else {
            return Readers::Gone;
        };
        let Some(topic) = self.topics.get_mut(&client.topic) else {
            return Readers::Gone;
        };
        let mut readers: Vec<_> = topic
            .members
            .iter()
            .copied()
            .filter(|id| *id != writer || client.replay)
            .filter(|id| self.clients.get(id).is_some_and(Client::reads))
            .collect();
        if readers.is_empty() && client.block {
            return Readers::Blocked;
        }
        if topic.dispatch == Dispatch::RoundRobin && !readers.is_empty() {
            readers = vec![readers[topic.turn % readers.len()]];
            topic.turn = topic.turn.wrapping_add(1);
        }
        Readers::To(readers)
    }

    /// Whether `id` still waits for a first reader.
    pub(crate) fn is_waiting(&self, id: ClientId) -> bool {
        self.clients
            .get(&id)
            .and_then(|client| self.topics.get(&client.topic))
            .is_some_and(|topic| topic.waiting.contains(&id))
    }

    /// Takes a client out, and with it everybody whom the rule of the pipe sends away then.
    ///
    /// When a member leaves, and no publisher and at most one pipe client remain, the remaining ones are sent away too, except
    /// for `sub -k`: so a lone pipe client does not stay, and readers go when their last publisher went.
    pub(crate) fn leave(&mut self, id: ClientId) -> Vec<ClientId> {
        let Some((name, was_member)) = self.remove(id) else {
            return Vec::new();
        };
        let mut sent_away = Vec::new();
        if was_member && let Some(topic) = self.topics.get(&name) {
            let remaining = |direction| self.count(topic, direction);
            if remaining(Direction::Pub) == 0 && remaining(Direction::Pipe) <= 1 {
                sent_away = topic
                    .members
                    .iter()
                    .copied()
                    .filter(|id| self.clients.get(id).is_some_and(|c| !c.keep_alive))
                    .collect();
            }
        }
        for id in &sent_away {
            self.remove(*id);
        }
        sent_away
    }

    /// The topics below `owner/`, in the order of their names.
    pub(crate) fn topics_of(&self, owner: &str) -> Vec<TopicView<'_>> {
        let prefix = format!("{owner}/");
        self.topics
            .range(prefix.clone()..)
            .take_while(|(name, _)| name.starts_with(&prefix))
            .map(|(name, topic)| {
                let labels = |ids: &BTreeSet<ClientId>, direction| {
                    ids.iter()
                        .filter_map(|id| self.clients.get(id))
                        .filter(|client| client.direction == direction)
                        .map(|client| client.label.as_str())
                        .collect()
                };
                TopicView {
                    name,
                    access: self.lists.get(name).map_or(&[], AccessList::entries),
                    pubs: labels(&topic.members, Direction::Pub),
                    subs: labels(&topic.members, Direction::Sub),
                    pipes: labels(&topic.members, Direction::Pipe),
                    waiting_pubs: labels(&topic.waiting, Direction::Pub),
                }
            })
            .collect()
    }

    fn remove(&mut self, id: ClientId) -> Option<(String, bool)> {
        let client = self.clients.remove(&id)?;
        if client.owns_list {
            self.lists.remove(&client.topic);
        }
        let topic = self.topics.get_mut(&client.topic)?;
        let was_member = topic.members.remove(&id);
        topic.waiting.remove(&id);
        if topic.members.is_empty() && topic.waiting.is_empty() {
            self.topics.remove(&client.topic);
        }
        Some((client.topic, was_member))
    }

    /// Waiting publishers become members, and are named together with those that members went away from.
    fn unblock(&mut self, name: &str) -> Vec<ClientId> {
        let Some(topic) = self.topics.get_mut(name) else {
            return Vec::new();
        };
        topic.members.append(&mut topic.waiting);
        topic
            .members
            .iter()
            .copied()
            .filter(|id| {
                let client = self.clients.get(id);
                client.is_some_and(|client| client.direction == Direction::Pub)
            })
            .collect()
    }

    fn has_reader(&self, name: &str) -> bool {
        self.topics.get(name).is_some_and(|topic| {
            let mut members = topic.members.iter();
            members.any(|id| self.clients.get(id).is_some_and(Client::reads))
        })
    }

    fn count(&self, topic: &Topic, direction: Direction) -> usize {
        let members = topic.members.iter();
        members.filter_map(|id| self.clients.get(id)).filter(|client| client.direction == direction).count()
    }
}

impl Client {
    fn reads(&self) -> bool {
        self.direction != Direction::Pub
    }
}

/// One topic as `ls` shows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TopicView<'a> {
    pub(crate) name: &'a str,
    pub(crate) access: &'a [String],
    pub(crate) pubs: Vec<&'a str>,
    pub(crate) subs: Vec<&'a str>,
    pub(crate) pipes: Vec<&'a str>,
    pub(crate) waiting_pubs: Vec<&'a str>,
}

#[cfg(test)]
mod tests;
