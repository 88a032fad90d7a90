//! Plays the worker's driver: starts attempts, reads what they say, and looks for what they leave behind.
#![allow(dead_code, unreachable_pub, reason = "shared by several test programs, each of which uses a part of it")]

pub mod small_disk;

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_std::channel::{Receiver, Sender, unbounded};
use async_std::future::timeout;
use async_std::task::{self, JoinHandle};
use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use p2p_executor::{CommandConfig, CommandExecutor};
use p2p_proto::blob::Part;
use p2p_proto::limits::CHUNK_BYTES;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{COMMAND_RUNTIME, Command, Content, Ended, Failure, File, TaskSpec};
use p2p_scheduler::executor::{AttemptEnd, AttemptHandle, Executor, Gone, OutputSink, Piece, Stop};

/// What takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// An executor with a base folder of its own.
pub struct Rig {
    pub executor: CommandExecutor,
    /// Whose tasks they are.
    pub user: &'static str,
    pub base: tempfile::TempDir,
}

/// A killed process is gone after this long, on whatever machine.
const DYING: Duration = Duration::from_secs(10);

impl Rig {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut CommandConfig)) -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut config = CommandConfig { base: base.path().to_owned(), ..CommandConfig::default() };
        change(&mut config);
        Self { executor: CommandExecutor::new(config).unwrap(), user: "bob", base }
    }

    /// Starts an attempt that has its slot.
    pub fn start(&self, task: TaskSpec) -> Attempt {
        let attempt = self.start_waiting(task);
        attempt.handle.open_slot();
        attempt
    }

    /// Starts an attempt that has no slot yet.
    pub fn start_waiting(&self, task: TaskSpec) -> Attempt {
        let (events_in, events) = unbounded();
        let sink = Arc::new(Sink { events: events_in, permits: Mutex::new(None) });
        let (handle, io) = AttemptHandle::pair(self.user.parse().unwrap(), Arc::clone(&sink) as Arc<dyn OutputSink>);
        let end = task::spawn(self.executor.attempt(task, io));
        Attempt { handle, events, sink, end, seen: Seen::default(), blobs: BTreeMap::new() }
    }

    /// Runs a task to its end.
    pub fn run(&self, task: TaskSpec) -> Done {
        task::block_on(self.start(task).end())
    }

    /// Fails if a process or a folder of an attempt is left. What was killed while it became another program is seen for a moment yet.
    pub fn assert_clean(&self) {
        let until = Instant::now() + DYING;
        while !self.processes().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.processes(), Vec::<String>::new(), "processes are left");
        assert_eq!(self.folders(), Vec::<PathBuf>::new(), "folders are left");
    }

    /// Waits until `count` processes are seen: one in the middle of `exec` has no environment that can be read.
    pub fn assert_running(&self, count: usize) {
        let until = Instant::now() + DYING;
        while self.processes().len() < count && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(self.processes().len() >= count, "too few run: {:?}", self.processes());
    }

    /// The processes that have this rig's base folder in their environment.
    pub fn processes(&self) -> Vec<String> {
        processes_of(self.base.path())
    }

    /// The folders of attempts.
    pub fn folders(&self) -> Vec<PathBuf> {
        let homes = children(self.base.path());
        homes.iter().flat_map(|home| children(home)).filter(|path| !path.ends_with("blobs")).collect()
    }
}

/// The running processes with `base` in their environment.
pub fn processes_of(base: &Path) -> Vec<String> {
    let needle = base.to_str().unwrap();
    let carries = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok_and(|pid| pid != std::process::id()))
            && fs::read(entry.path().join("environ"))
                .is_ok_and(|environment| String::from_utf8_lossy(&environment).contains(needle))
    };
    let found = fs::read_dir("/proc").unwrap().flatten().filter(carries);
    found
        .map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            format!("{:?} {}", entry.file_name(), String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .collect()
}

pub fn children(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// A task that runs a program.
pub fn command<const N: usize>(argv: [&str; N]) -> TaskSpec {
    command_with(argv, &[])
}

pub fn command_with<const N: usize>(argv: [&str; N], env: &[(&str, &str)]) -> TaskSpec {
    let argv = argv.iter().map(|argument| serde_bytes::ByteBuf::from(argument.as_bytes())).collect();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let payload = Content::Inline(Command { argv, env }.to_cbor());
    TaskSpec { runtime: COMMAND_RUNTIME.to_owned(), payload, ..TaskSpec::default() }
}

/// A task that runs a line of shell.
pub fn shell(line: &str) -> TaskSpec {
    command(["sh", "-c", line])
}

pub fn input(name: &str, content: &str) -> File {
    File {
        name: name.to_owned(),
        content: Content::Inline(content.as_bytes().to_vec()),
        executable: false,
        folder: false,
    }
}

/// An attempt as the driver sees it.
pub struct Attempt {
    pub handle: AttemptHandle,
    pub sink: Arc<Sink>,
    events: Receiver<Event>,
    end: JoinHandle<AttemptEnd>,
    pub seen: Seen,
    /// What is sent when it is asked for.
    pub blobs: BTreeMap<Channel, Vec<u8>>,
}

/// What was heard so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub streams: BTreeMap<Channel, Vec<u8>>,
    pub ended: Vec<Channel>,
    pub taken: BTreeMap<Channel, u64>,
    pub notes: Vec<String>,
    pub fetches: Vec<(Channel, Part)>,
}

impl Seen {
    /// How many bytes of chunks were asked for.
    pub fn fetched(&self, blobs: &BTreeMap<Channel, Vec<u8>>) -> usize {
        self.fetches
            .iter()
            .map(|(channel, part)| match part {
                Part::Recipe => 0,
                Part::Chunks(_) => part_of(&blobs[channel], part).len(),
            })
            .sum()
    }

    pub fn text(&self, channel: Channel) -> String {
        String::from_utf8(self.streams.get(&channel).cloned().unwrap_or_default()).unwrap()
    }

    pub fn stdout(&self) -> String {
        self.text(Channel::Stdout)
    }
}

/// A part of a blob of these bytes.
pub fn part_of(bytes: &[u8], part: &Part) -> Vec<u8> {
    let recipe = p2p_blobs::name_bytes(bytes).unwrap();
    let Part::Chunks(runs) = part else { return recipe.to_bytes() };
    let chunks = runs.iter().flat_map(|run| run.indices(recipe.chunks().len())).map(|index| recipe.chunks()[index]);
    let bytes_of = |chunk: p2p_proto::blob::Chunk| {
        let at = usize::try_from(chunk.at).unwrap();
        &bytes[at..at + chunk.size as usize]
    };
    chunks.flat_map(bytes_of).copied().collect()
}

/// What an attempt left.
#[derive(Debug)]
pub struct Done {
    pub end: AttemptEnd,
    pub seen: Seen,
}

impl Done {
    pub fn ended(&self) -> &Ended {
        &self.end.ended
    }

    pub fn stdout(&self) -> String {
        self.seen.stdout()
    }

    pub fn stderr(&self) -> String {
        self.seen.text(Channel::Stderr)
    }

    pub fn failure(&self) -> &Failure {
        match &self.end.ended {
            Ended::Failed(failure) => failure,
            other => panic!("expected a failure, got {other:?}; stderr: {}", self.stderr()),
        }
    }

    /// The files that came back, by name, with their bytes.
    pub fn outputs(&self) -> BTreeMap<&str, Vec<u8>> {
        let content = |index: usize, file: &File| match &file.content {
            Content::Inline(bytes) => bytes.clone(),
            Content::Streamed(size) => {
                let channel = Channel::Output(u16::try_from(index).unwrap());
                let bytes = self.seen.streams.get(&channel).cloned().unwrap_or_default();
                assert_eq!(bytes.len() as u64, *size, "{} is not complete", file.name);
                assert!(self.seen.ended.contains(&channel) || *size == 0, "{} has no end", file.name);
                bytes
            }
            Content::Blob(blob) => panic!("{} came back as {blob:?}", file.name),
        };
        let files = self.end.outputs.iter().enumerate();
        files.map(|(index, file)| (file.name.as_str(), content(index, file))).collect()
    }
}

impl Attempt {
    /// Hears one thing.
    async fn hear(&mut self) {
        let event = soon("the attempt to say something", self.events.recv()).await;
        self.on_event(event.expect("the attempt said no more"));
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Piece(piece) => {
                assert!(!self.seen.ended.contains(&piece.channel), "a piece after the end of {:?}", piece.channel);
                if piece.end {
                    self.seen.ended.push(piece.channel);
                }
                self.seen.streams.entry(piece.channel).or_default().extend(piece.bytes);
            }
            Event::Taken(channel, bytes) => *self.seen.taken.entry(channel).or_default() += bytes,
            Event::Note(text) => self.seen.notes.push(text),
            Event::Fetch(channel, part) => {
                if let Some(bytes) = self.blobs.get(&channel) {
                    let answer = part_of(bytes, &part);
                    let mut pieces = answer.chunks(CHUNK_BYTES).peekable();
                    while let Some(piece) = pieces.next() {
                        self.send(channel, piece, pieces.peek().is_none());
                    }
                }
                self.seen.fetches.push((channel, part));
            }
        }
    }

    pub async fn until(&mut self, met: impl Fn(&Seen) -> bool) {
        while !met(&self.seen) {
            self.hear().await;
        }
    }

    /// Waits until stdout has this text.
    pub async fn says(&mut self, text: &str) {
        self.until(|seen| seen.stdout().contains(text)).await;
    }

    pub fn send(&self, channel: Channel, bytes: &[u8], end: bool) {
        self.handle.content(Piece { channel, bytes: bytes.to_vec(), end, packed: false });
    }

    pub fn open_slot(&self) {
        self.handle.open_slot();
    }

    pub fn stop(&self, stop: Stop) {
        self.handle.stop(stop);
    }

    /// Waits for the end, and hears what was said until then.
    pub async fn end(mut self) -> Done {
        let end = loop {
            // What it asks for is sent meanwhile.
            let event = match soon("the end of an attempt", select(&mut self.end, self.events.recv().boxed())).await {
                Either::Left((end, _)) => break end,
                Either::Right((event, _)) => event,
            };
            match event {
                Ok(event) => self.on_event(event),
                Err(_) => break soon("the end of an attempt", &mut self.end).await,
            }
        };
        while !self.events.is_empty() {
            self.hear().await;
        }
        Done { end, seen: self.seen }
    }

    /// Drops the attempt's future in the middle, and waits until it is gone.
    pub async fn abandon(self) {
        soon("the drop of an attempt", self.end.cancel()).await;
    }
}

#[derive(Debug)]
enum Event {
    Piece(Piece),
    Taken(Channel, u64),
    Fetch(Channel, Part),
    Note(String),
}

/// Takes everything at once, unless it is told to be slow.
pub struct Sink {
    events: Sender<Event>,
    permits: Mutex<Option<Receiver<()>>>,
}

impl Sink {
    /// From now on takes one piece for each message on the channel that comes back.
    pub fn slow(&self) -> Sender<()> {
        let (sender, receiver) = unbounded();
        *self.permits.lock().unwrap() = Some(receiver);
        sender
    }
}

impl OutputSink for Sink {
    fn write(&self, piece: Piece) -> BoxFuture<'_, Result<(), Gone>> {
        async move {
            let permits = self.permits.lock().unwrap().clone();
            if let Some(permits) = permits {
                // Without a sender there is no limit any more.
                let _ = permits.recv().await;
            }
            self.events.try_send(Event::Piece(piece)).map_err(|_| Gone)
        }
        .boxed()
    }

    fn taken(&self, channel: Channel, bytes: u64) {
        let _ = self.events.try_send(Event::Taken(channel, bytes));
    }

    fn fetch(&self, channel: Channel, part: Part) {
        let _ = self.events.try_send(Event::Fetch(channel, part));
    }

    fn note(&self, text: String) {
        let _ = self.events.try_send(Event::Note(text));
    }
}
