//! The hub's shared state: the registry, and for each client what comes in and what goes out.
//!
//! Nothing here waits. One lock covers the registry and the order in which chunks reach the outboxes, so that all readers
//! of a topic see the same order.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::command::Join;
use crate::flags::format_span;
use crate::limits::{MAX_CHUNK_BYTES, PENDING_BYTES, PENDING_CHUNKS};
use crate::listing::listing;
use crate::lock;
use crate::outbox::{End, Outbox, Room};
use crate::registry::{ClientId, Direction, Open, Opened, Readers, Refused, Registry};
use crate::topics::{Caller, check_topic};

/// All topics and clients of one hub.
#[derive(Debug, Default)]
pub(crate) struct Board {
    state: Mutex<State>,
}

/// One running `pipe`, `pub` or `sub`.
#[derive(Debug)]
pub(crate) struct Member {
    id: ClientId,
    label: String,
    direction: Direction,
    clean: bool,
    pub(crate) outbox: Arc<Outbox>,
    input: Mutex<Input>,
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    registry: Registry,
    members: HashMap<ClientId, Arc<Member>>,
    last_id: u64,
}

/// What a publisher sent while nobody listened.
#[derive(Debug, Default)]
struct Input {
    pending: VecDeque<Arc<[u8]>>,
    pending_bytes: usize,
    announced: bool,
    ended: bool,
}

impl Board {
    /// Starts a `pipe`, `pub` or `sub`. `target` is how the client reached this hub, for the hints that are printed.
    ///
    /// Besides the new member, the publishers are named that have a reader now: call [`Board::flush`] for each.
    pub(crate) fn join(
        &self,
        caller: &Caller,
        join: Join,
        peer: SocketAddr,
        target: &str,
        outbox: &Arc<Outbox>,
    ) -> Result<(Arc<Member>, Vec<Arc<Member>>), String> {
        let label = format!("{} ({}@{peer})", random_uuid()?, caller.user);
        let substitute = format!("public/{}", random_uuid()?);
        let asked_for_random = join.topic.is_none();
        let topic = match join.topic {
            Some(topic) => topic,
            None => random_uuid()?,
        };
        check_topic(&topic, caller)?;
        let with_list = !join.access.is_empty();
        let open = Open {
            label: label.clone(),
            direction: join.direction,
            topic: topic.clone(),
            public: join.public,
            access: join.access,
            replay: join.replay,
            keep_alive: join.keep_alive,
            block: join.block,
            dispatch: join.dispatch,
            substitute: substitute.clone(),
        };
        let mut state = lock(&self.state);
        state.last_id += 1;
        let id = ClientId(state.last_id);
        let Opened { topic: name, waiting, unblocked } =
            state.registry.open(id, caller, open).map_err(|refused| match refused {
                Refused::AccessDenied => "access denied".to_owned(),
                Refused::TooManyTopics => "this hub has too many topics already".to_owned(),
            })?;
        let member = Arc::new(Member {
            id,
            label,
            direction: join.direction,
            clean: join.clean,
            outbox: Arc::clone(outbox),
            input: Mutex::default(),
            drained: Notify::new(),
        });
        state.members.insert(id, Arc::clone(&member));
        log::info!("{name}: {} joined", member.label);
        let shown = if name == substitute { substitute.trim_start_matches("public/") } else { &topic };
        member.greet(shown, asked_for_random, join.public, with_list.then_some(caller), target);
        if waiting {
            member.status(&format!("no subs found ... waiting {}\n", format_span(join.patience)));
        } else {
            member.announce();
        }
        let unblocked = unblocked.iter().filter_map(|id| state.members.get(id).cloned()).collect();
        Ok((member, unblocked))
    }

    /// Takes bytes from a client. Whoever is named in the answer should get time before more is read from that client.
    pub(crate) fn write(&self, writer: &Member, data: &[u8]) -> Vec<Arc<Member>> {
        if writer.direction == Direction::Sub {
            return Vec::new();
        }
        let mut state = lock(&self.state);
        let mut slow = Vec::new();
        for chunk in data.chunks(MAX_CHUNK_BYTES) {
            let mut input = lock(&writer.input);
            if input.ended {
                break;
            }
            let chunk: Arc<[u8]> = chunk.into();
            if !input.pending.is_empty() || !state.deliver(writer.id, &chunk, &mut slow) {
                input.pending_bytes += chunk.len();
                input.pending.push_back(chunk);
                if !input.has_room() {
                    slow.extend(state.members.get(&writer.id).cloned());
                }
            }
        }
        slow
    }

    /// A client's input has ended: a pipe ends, a publisher when all is sent (call [`Board::flush`]).
    pub(crate) fn end_of_input(&self, writer: &Member) {
        match writer.direction {
            // Most readers have no input from the start.
            Direction::Sub => {}
            Direction::Pipe => lock(&self.state).leave(writer.id, End::Silent),
            Direction::Pub => lock(&writer.input).ended = true,
        }
    }

    /// Sends what a publisher sent ahead, and ends the publisher if that was all.
    ///
    /// Readers that are named in the answer were too slow: give them time, and call again.
    pub(crate) fn flush(&self, publisher: &Member) -> Vec<Arc<Member>> {
        let mut state = lock(&self.state);
        let mut slow = Vec::new();
        if publisher.direction != Direction::Pub || state.registry.is_waiting(publisher.id) {
            return slow;
        }
        publisher.announce();
        loop {
            let first = lock(&publisher.input).pending.front().cloned();
            let Some(chunk) = first else { break };
            if !slow.is_empty() || !state.deliver(publisher.id, &chunk, &mut slow) {
                return slow;
            }
            let mut input = lock(&publisher.input);
            input.pending.pop_front();
            input.pending_bytes -= chunk.len();
            publisher.drained.notify_waiters();
        }
        if lock(&publisher.input).ended {
            publisher.status("msg sent!\n");
            publisher.outbox.finish(End::Exit(0));
            state.leave(publisher.id, End::Silent);
        }
        Vec::new()
    }

    /// A publisher's patience has ended; nothing happens if it has found a reader since.
    pub(crate) fn out_of_patience(&self, writer: &Member) {
        let mut state = lock(&self.state);
        if state.registry.is_waiting(writer.id) {
            if writer.clean {
                writer.outbox.finish(End::Exit(1));
            } else {
                writer.outbox.fail("timeout reached, exiting");
            }
            state.leave(writer.id, End::Silent);
        }
    }

    /// A client has gone.
    pub(crate) fn leave(&self, member: &Member) {
        lock(&self.state).leave(member.id, End::Gone);
    }

    /// What `ls` prints for this user.
    pub(crate) fn list(&self, user: &str) -> String {
        listing(&lock(&self.state).registry.topics_of(user))
    }
}

/// Waits until a writer to all these may go on; at once for all of them, lest several that stand still add up.
pub(crate) fn room(slow: Vec<Arc<Member>>) -> impl Future<Output = ()> + Send {
    let waiting: JoinSet<()> = slow.into_iter().map(|member| async move { member.room().await }).collect();
    async move {
        waiting.join_all().await;
    }
}

impl Member {
    /// Waits until its writer may go on: until its backlog is short again, or what it sent ahead is.
    async fn room(&self) {
        self.outbox.room().await;
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if lock(&self.input).has_room() {
                return;
            }
            tokio::select! {
                () = drained => {}
                () = self.outbox.ended() => return,
            }
        }
    }

    /// Tells the client how others can join, where it cannot know.
    fn greet(&self, topic: &str, asked_for_random: bool, public: bool, listed_by: Option<&Caller>, target: &str) {
        let kind = match self.direction {
            Direction::Pub => "channel",
            Direction::Pipe if asked_for_random => "topic",
            Direction::Pipe | Direction::Sub => return,
        };
        let flag = if public { "-p " } else { "" };
        let owner = listed_by.map_or(String::new(), |caller| format!("{}/", caller.user));
        self.status(&format!("subscribe to this {kind}:\n  ssh {target} sub {flag}{owner}{topic}\n"));
    }

    fn announce(&self) {
        let mut input = lock(&self.input);
        if self.direction == Direction::Pub && !input.announced {
            input.announced = true;
            self.status("sending msg ...\n");
        }
    }

    fn status(&self, text: &str) {
        if !self.clean {
            self.outbox.say(text);
        }
    }
}

impl State {
    /// Hands a chunk to its readers; false if it has to wait for one. Who is too slow is cut off or added to `slow`.
    fn deliver(&mut self, writer: ClientId, chunk: &Arc<[u8]>, slow: &mut Vec<Arc<Member>>) -> bool {
        let readers = match self.registry.readers(writer) {
            Readers::To(readers) => readers,
            Readers::Blocked => return false,
            Readers::Gone => return true,
        };
        for id in readers {
            let Some(reader) = self.members.get(&id) else {
                continue;
            };
            match reader.outbox.push(Arc::clone(chunk)) {
                Room::Plenty => {}
                Room::Slow => {
                    if !slow.iter().any(|other| other.id == id) {
                        slow.push(Arc::clone(reader));
                    }
                }
                Room::Overflow => {
                    log::warn!("{} cut off: it does not read", reader.label);
                    self.leave(id, End::CutOff);
                }
            }
        }
        true
    }

    fn leave(&mut self, id: ClientId, end: End) {
        let sent_away = self.registry.leave(id);
        let Some(member) = self.members.remove(&id) else {
            return;
        };
        member.outbox.finish(end);
        log::info!("{} left", member.label);
        for id in sent_away {
            if let Some(other) = self.members.remove(&id) {
                other.outbox.finish(End::Silent);
                log::info!("{} sent away: alone in its topic", other.label);
            }
        }
    }
}

impl Input {
    fn has_room(&self) -> bool {
        self.pending_bytes <= PENDING_BYTES && self.pending.len() <= PENDING_CHUNKS
    }
}

/// A random (version 4) UUID.
fn random_uuid() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(format_uuid(bytes, 4))
}

/// Formats 16 bytes as a UUID of the given version.
pub(crate) fn format_uuid(mut bytes: [u8; 16], version: u8) -> String {
    bytes[6] = bytes[6] & 0x0f | version << 4;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex =
        |range: std::ops::Range<usize>| -> String { bytes[range].iter().map(|byte| format!("{byte:02x}")).collect() };
    let groups = [hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)];
    groups.join("-")
}
