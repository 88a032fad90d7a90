//! What the client's driver, a handle and the pumps share about a task: its attempts, what they said, and their windows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use event_listener::{Event, EventListener};

use p2p_proto::blob::Part;
use p2p_proto::error::ProtoError;
use p2p_proto::ids::{AttemptId, PeerName, TaskId};
use p2p_proto::link::ToWorker;
use p2p_proto::link::item::{Channel, Data, Taken};

use super::TaskEvent;
use super::attempt::{Attempt, AttemptQueue};
use super::pump::Source;
use crate::driver::lock;
use crate::machine::client::Outcome;

/// What is shared about a task, from its submission until nobody holds it.
///
/// The client's driver calls the `on_` methods under its lock, in the order of the machine's outputs and of what came; they never wait.
pub(crate) struct TaskShared {
    pub(crate) id: TaskId,
    /// What can be read only once comes last: it waits until the attempt runs.
    pub(super) sources: Vec<(Channel, Source)>,
    state: Mutex<TaskState>,
    /// The reader may find something.
    news: Event,
    /// A window has room, an attempt runs, or one is over.
    moved: Event,
}

#[derive(Default)]
pub(super) struct TaskState {
    /// What is told ahead of the shown attempt's events; after the outcome, all that is left to tell.
    front: VecDeque<TaskEvent>,
    /// Those that live, in the order of their beginning; the first one is shown.
    attempts: Vec<Attempt>,
    over: bool,
    unreadable: bool,
}

impl TaskShared {
    pub(crate) fn new(id: TaskId, mut sources: Vec<(Channel, Source)>) -> Self {
        sources.sort_by_key(|(_, source)| source.is_read_once());
        Self { id, sources, state: Mutex::default(), news: Event::new(), moved: Event::new() }
    }

    /// An attempt was sent to a worker. It is shown when no other one lives. Where there are [`TaskShared::has_sources`], somebody must
    /// [`pump`](TaskShared::pump) them to it.
    pub(crate) fn on_attempt(&self, id: AttemptId, worker: PeerName, queue: Arc<dyn AttemptQueue>) {
        let mut state = lock(&self.state);
        if !state.over {
            state.attempts.push(Attempt::new(id, worker, queue));
        }
        drop(state);
        self.news.notify(1);
    }

    /// It runs.
    pub(crate) fn on_started(&self, id: AttemptId) {
        if let Some(attempt) = lock(&self.state).live(id) {
            attempt.started = true;
            attempt.events.push_back(TaskEvent::Started);
        }
        self.moved.notify(usize::MAX);
        self.news.notify(1);
    }

    /// It has something to say to a person.
    pub(crate) fn on_note(&self, id: AttemptId, text: String) {
        if let Some(attempt) = lock(&self.state).live(id) {
            attempt.on_note(text);
        }
        self.news.notify(1);
    }

    /// A piece of its output came. Returns whether its output is crowded: much waits, because another attempt is shown. That is said once
    /// of each attempt.
    ///
    /// # Errors
    /// When the worker keeps to no window.
    pub(crate) fn on_data(&self, data: Data) -> Result<bool, ProtoError> {
        let mut state = lock(&self.state);
        let shown = state.attempts.first().is_some_and(|attempt| attempt.id == data.attempt);
        let Some(attempt) = state.live(data.attempt) else { return Ok(false) };
        let crowded = attempt.on_data(data)?;
        let news = crowded && !shown && !attempt.crowded;
        attempt.crowded |= news;
        drop(state);
        if shown {
            self.news.notify(1);
        }
        Ok(news)
    }

    /// It asks for a part of the blob of a channel.
    ///
    /// # Errors
    /// When its last request there is not answered yet.
    pub(super) fn ask(&self, id: AttemptId, channel: Channel, part: Part) -> Result<(), ProtoError> {
        if let Some(attempt) = lock(&self.state).live(id) {
            if !attempt.answering.insert(channel) {
                return Err(ProtoError::Malformed("a request before the last one was answered".to_owned()));
            }
            attempt.fetches.push_back((channel, part));
        }
        self.moved.notify(usize::MAX);
        Ok(())
    }

    /// The worker took input.
    pub(crate) fn on_taken(&self, taken: Taken) {
        if let Some(attempt) = lock(&self.state).live(taken.attempt) {
            attempt.outflow.on_taken(taken.channel, taken.bytes);
        }
        self.moved.notify(usize::MAX);
    }

    /// The attempt is void: what it said and nobody has read is forgotten. If it was shown, the oldest one that lives is shown from its
    /// beginning.
    pub(crate) fn on_withdraw(&self, id: AttemptId) {
        let mut state = lock(&self.state);
        let Some(at) = state.attempts.iter().position(|attempt| attempt.id == id) else { return };
        let attempt = state.attempts.remove(at);
        attempt.queue.forget_bulk(id);
        if at == 0 {
            state.again();
        }
        drop(state);
        self.moved.notify(usize::MAX);
        self.news.notify(1);
    }

    /// The task is over. If another attempt than the shown one won, it is shown from its beginning before the outcome. Returns all
    /// attempts that lived.
    pub(crate) fn on_outcome(&self, outcome: Outcome) -> Vec<AttemptId> {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.over, true) {
            return Vec::new();
        }
        let ended = std::mem::take(&mut state.attempts);
        for attempt in &ended {
            attempt.queue.forget_bulk(attempt.id);
        }
        let ids = ended.iter().map(|attempt| attempt.id).collect();
        let won = match &outcome {
            Outcome::Finished { finished, .. } => ended.iter().position(|attempt| attempt.id == finished.attempt),
            Outcome::Cancelled | Outcome::Lost { .. } => None,
        };
        let told = won.unwrap_or(0);
        if told > 0 {
            state.again();
        }
        // Nobody is left to acknowledge it to.
        state.front.extend(ended.into_iter().nth(told).into_iter().flat_map(|attempt| attempt.events));
        state.front.push_back(TaskEvent::Outcome(outcome));
        drop(state);
        self.moved.notify(usize::MAX);
        self.news.notify(1);
        ids
    }

    /// What was to be sent cannot be read any more, for this reason: the reader hears the first one.
    pub(crate) fn on_unreadable(&self, fault: String) {
        let mut state = lock(&self.state);
        if !state.over && !std::mem::replace(&mut state.unreadable, true) {
            state.front.push_back(TaskEvent::Note(fault));
        }
        drop(state);
        self.news.notify(1);
    }

    /// Whether anything is to be streamed to each attempt.
    pub(crate) fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }

    /// Whether it has its outcome, read or not.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.state).over
    }

    /// Listens for something to [`TaskShared::pop`].
    pub(super) fn news(&self) -> EventListener {
        self.news.listen()
    }

    /// The next event for the reader. Handing out is what acknowledges it.
    pub(super) fn pop(&self) -> Option<TaskEvent> {
        let mut state = lock(&self.state);
        if let Some(event) = state.front.pop_front() {
            return Some(event);
        }
        let shown = state.attempts.first_mut()?;
        let (event, taken) = shown.pop()?;
        if let Some(taken) = taken {
            shown.queue.push(ToWorker::Taken(taken));
        }
        Some(event)
    }

    /// The attempt's input cannot be read. Waits for its end, and then returns `false`, or until no other attempt can do better.
    pub(super) async fn starve(&self, id: AttemptId) -> bool {
        if let Some(attempt) = lock(&self.state).live(id) {
            attempt.starved = true;
        }
        self.moved.notify(usize::MAX);
        self.wait(|state| match state.live(id) {
            None => Some(false),
            Some(_) => state.attempts.iter().all(|attempt| attempt.starved).then_some(true),
        })
        .await
    }

    /// Waits until `check` finds something. It is asked again whenever a window has room, an attempt runs, or one is over.
    pub(super) async fn wait<T>(&self, mut check: impl FnMut(&mut TaskState) -> Option<T>) -> T {
        loop {
            let moved = self.moved.listen();
            if let Some(found) = check(&mut lock(&self.state)) {
                return found;
            }
            moved.await;
        }
    }
}

impl TaskState {
    /// The attempt, if it is not over.
    pub(super) fn live(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|attempt| attempt.id == id)
    }

    /// What the reader saw is void.
    fn again(&mut self) {
        if !self.front.contains(&TaskEvent::Again) {
            self.front.push_back(TaskEvent::Again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorder::{Recorder, data, finished, worker};
    use super::*;
    use p2p_proto::limits::{CHANNEL_WINDOW_BYTES, CHUNK_BYTES};
    use p2p_proto::link::LinkError;

    const FIRST: AttemptId = AttemptId(1);
    const SECOND: AttemptId = AttemptId(2);
    const THIRD: AttemptId = AttemptId(3);
    const OUT: Channel = Channel::Stdout;

    /// A task with the links of its attempts.
    struct World {
        task: TaskShared,
        links: [Arc<Recorder>; 3],
    }

    impl World {
        fn new() -> Self {
            Self { task: TaskShared::new(TaskId(1), Vec::new()), links: Default::default() }
        }

        fn with(attempts: &[AttemptId]) -> Self {
            let world = Self::new();
            for id in attempts {
                world.begin(*id);
            }
            world
        }

        fn link(&self, id: AttemptId) -> &Arc<Recorder> {
            &self.links[usize::try_from(id.0).unwrap() - 1]
        }

        fn begin(&self, id: AttemptId) {
            self.task.on_attempt(id, who(id), self.link(id).clone());
        }

        fn says(&self, id: AttemptId, words: &str) {
            assert!(!self.task.on_data(data(id, OUT, words.as_bytes(), false)).unwrap());
        }

        /// Sends pieces until the window is full. Returns how often it was said that this attempt is crowded.
        fn fill(&self, id: AttemptId) -> usize {
            let pieces = usize::try_from(CHANNEL_WINDOW_BYTES).unwrap() / CHUNK_BYTES;
            let piece = vec![b'x'; CHUNK_BYTES];
            (0..pieces).filter(|_| self.task.on_data(data(id, OUT, &piece, false)).unwrap()).count()
        }

        /// What the reader finds now, in short.
        fn read(&self) -> Vec<String> {
            std::iter::from_fn(|| self.task.pop()).map(|event| short(&event)).collect()
        }
    }

    fn who(id: AttemptId) -> PeerName {
        worker(["bob", "carol", "dave"][usize::try_from(id.0).unwrap() - 1])
    }

    fn short(event: &TaskEvent) -> String {
        let user = |name: &PeerName| name.to_string().split('@').next().unwrap_or_default().to_owned();
        match event {
            TaskEvent::Sent(worker) => format!("to {}", user(worker)),
            TaskEvent::Started => "started".to_owned(),
            TaskEvent::Data { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
            TaskEvent::Note(text) => format!("note {text}"),
            TaskEvent::Again => "again".to_owned(),
            TaskEvent::Outcome(Outcome::Finished { worker, .. }) => format!("won by {}", user(worker)),
            TaskEvent::Outcome(Outcome::Cancelled) => "cancelled".to_owned(),
            TaskEvent::Outcome(Outcome::Lost { .. }) => "lost".to_owned(),
        }
    }

    fn won_by(id: AttemptId) -> Outcome {
        Outcome::Finished { worker: who(id), finished: finished(id) }
    }

    #[test]
    fn a_reader_sees_one_attempt_from_its_beginning_to_its_end() {
        type Case = (&'static str, fn(&World), &'static [&'static str]);
        let cases: &[Case] = &[
            ("the oldest one is shown, others wait", |w| w.says(FIRST, "a"), &["a"]),
            ("a hidden one says nothing", |w| w.says(SECOND, "b"), &[]),
            ("a hidden one is withdrawn unseen", |w| w.task.on_withdraw(SECOND), &[]),
            (
                "the shown one is withdrawn: the oldest that remains is shown",
                |w| {
                    w.task.on_started(SECOND);
                    w.says(SECOND, "b");
                    w.task.on_note(SECOND, "busy".to_owned());
                    w.says(THIRD, "c");
                    w.says(FIRST, "unread");
                    w.task.on_withdraw(FIRST);
                    w.says(SECOND, "b");
                },
                &["again", "to carol", "started", "b", "note busy", "b"],
            ),
            (
                "two are withdrawn before anybody looks",
                |w| {
                    w.says(THIRD, "c");
                    w.task.on_withdraw(FIRST);
                    w.task.on_withdraw(SECOND);
                },
                &["again", "to dave", "c"],
            ),
            (
                "none remains, then another begins",
                |w| {
                    [FIRST, SECOND, THIRD].into_iter().for_each(|id| w.task.on_withdraw(id));
                    w.begin(SECOND);
                },
                &["again", "to carol"],
            ),
            (
                "the shown one wins",
                |w| {
                    w.says(SECOND, "b");
                    w.says(FIRST, "a");
                    w.task.on_outcome(won_by(FIRST));
                },
                &["a", "won by bob"],
            ),
            (
                "another one wins",
                |w| {
                    w.says(THIRD, "c");
                    w.says(FIRST, "unread");
                    w.task.on_outcome(won_by(THIRD));
                },
                &["again", "to dave", "c", "won by dave"],
            ),
            (
                "another one wins before the next one was looked at",
                |w| {
                    w.task.on_withdraw(FIRST);
                    w.task.on_outcome(won_by(THIRD));
                },
                &["again", "to dave", "won by dave"],
            ),
            (
                "nobody wins",
                |w| {
                    w.says(FIRST, "a");
                    w.says(SECOND, "b");
                    w.task.on_outcome(Outcome::Cancelled);
                },
                &["a", "cancelled"],
            ),
            (
                "it is lost after its last attempt",
                |w| {
                    [FIRST, SECOND, THIRD].into_iter().for_each(|id| w.task.on_withdraw(id));
                    w.task.on_outcome(Outcome::Lost {
                        worker: who(THIRD),
                        error: LinkError::Closed,
                        losses: vec![who(THIRD)],
                    });
                },
                &["again", "lost"],
            ),
            (
                "what comes late is nobody's",
                |w| {
                    w.task.on_withdraw(FIRST);
                    w.says(FIRST, "late");
                    w.task.on_started(FIRST);
                    w.task.on_outcome(won_by(SECOND));
                    w.says(SECOND, "late");
                    w.task.on_note(SECOND, "late".to_owned());
                    w.task.on_withdraw(SECOND);
                    w.begin(FIRST);
                    assert_eq!(w.task.on_outcome(Outcome::Cancelled), []);
                },
                &["again", "to carol", "won by carol"],
            ),
        ];
        for (case, happens, expected) in cases {
            let world = World::with(&[FIRST, SECOND, THIRD]);
            assert_eq!(world.read(), ["to bob"], "{case}");
            happens(&world);
            assert_eq!(world.read(), *expected, "{case}");
        }
    }

    #[test]
    fn an_end_names_all_attempts_that_lived_and_drops_what_waits_for_them() {
        let world = World::with(&[FIRST, SECOND, THIRD]);
        world.task.on_withdraw(SECOND);
        assert_eq!(world.task.on_outcome(won_by(THIRD)), [FIRST, THIRD]);
        for id in [FIRST, SECOND, THIRD] {
            assert_eq!(*lock(&world.link(id).forgotten), [id]);
        }
    }

    #[test]
    fn output_is_acknowledged_when_it_is_read_and_only_while_its_attempt_lives() {
        let world = World::with(&[FIRST, SECOND]);
        assert_eq!((world.fill(FIRST), world.fill(SECOND)), (0, 1), "only what is not shown is crowded, and once");
        world.read();
        assert_eq!(world.link(FIRST).items().len(), 3, "told whenever a quarter of the window was read");
        assert!(world.link(SECOND).items().is_empty(), "nobody has read it");
        assert_eq!(world.fill(FIRST), 0);
        world.task.on_withdraw(FIRST);
        world.read();
        assert_eq!((world.link(FIRST).items().len(), world.link(SECOND).items().len()), (3, 3));
        assert_eq!(world.fill(SECOND), 0);
        world.task.on_outcome(won_by(SECOND));
        assert_eq!(world.read().len(), usize::try_from(CHANNEL_WINDOW_BYTES).unwrap() / CHUNK_BYTES + 1);
        assert_eq!(world.link(SECOND).items().len(), 3, "an attempt that is over hears nothing more");
    }

    #[test]
    fn a_worker_that_writes_beyond_the_window_of_a_hidden_attempt_is_noticed() {
        let world = World::with(&[FIRST, SECOND]);
        world.fill(SECOND);
        assert!(world.task.on_data(data(SECOND, OUT, &[0; CHUNK_BYTES], false)).is_err());
    }

    #[test]
    fn the_reader_hears_once_why_input_cannot_be_read() {
        let world = World::with(&[FIRST]);
        world.task.on_unreadable("gone".to_owned());
        world.task.on_unreadable("gone, too".to_owned());
        assert_eq!(world.read(), ["note gone", "to bob"]);
        world.task.on_withdraw(FIRST);
        world.task.on_outcome(Outcome::Cancelled);
        world.task.on_unreadable("late".to_owned());
        assert_eq!(world.read(), ["again", "cancelled"]);
    }
}
