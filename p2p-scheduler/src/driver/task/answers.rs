//! Answers what attempts ask for of a task's blobs.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Instant;

use async_std::task::spawn_blocking;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt as _};

use p2p_blobs::{Packer, Worth};
use p2p_proto::blob::{Part, Recipe};
use p2p_proto::error::ProtoError;
use p2p_proto::ids::AttemptId;
use p2p_proto::limits;
use p2p_proto::link::item::{Channel, Fetch};

use super::TaskShared;
use super::pump::{Blob, Origin, Pumped, Source};

/// Requests of one attempt that are answered at a time; the others wait.
const AT_ONCE: usize = 4;
/// What is read at once, bytes: few trips to where reading may block, and little memory.
const LOT_BYTES: usize = 4 * limits::CHUNK_BYTES;

impl TaskShared {
    /// An attempt asks for a part of one of the task's blobs.
    ///
    /// # Errors
    /// When there is no such blob, the request is too long, or the one before it on this channel is not answered yet.
    pub(crate) fn on_fetch(&self, fetch: Fetch) -> Result<(), ProtoError> {
        let Fetch { attempt, channel, part } = fetch;
        if self.blob(channel).is_none() {
            return Err(ProtoError::Malformed("a request for what is no blob".to_owned()));
        }
        if let Part::Chunks(runs) = &part
            && runs.len() > limits::FETCH_RUNS
        {
            let (found, limit) = (runs.len() as u64, limits::FETCH_RUNS as u64);
            return Err(ProtoError::Bounds { what: "the runs of chunks in a request", found, limit });
        }
        self.ask(attempt, channel, part)
    }

    /// Answers one attempt until it is over; at once where the task has no blobs.
    pub(super) async fn answer_all(&self, id: AttemptId) -> Result<(), Pumped> {
        if !self.sources.iter().any(|(_, source)| matches!(source, Source::Blob(_))) {
            return Ok(());
        }
        let mut answers = FuturesUnordered::new();
        let worth = Arc::new(Worth::default());
        loop {
            if answers.len() < AT_ONCE {
                let asked = std::pin::pin!(self.until(id, |attempt| attempt.fetches.pop_front()));
                // An empty set is done at once, and must not be asked.
                let answered =
                    async { if answers.is_empty() { std::future::pending().await } else { answers.next().await } };
                match select(asked, std::pin::pin!(answered)).await {
                    Either::Left((asked, _)) => {
                        let (channel, part) = asked?;
                        answers.push(self.answer(id, channel, part, Arc::clone(&worth)));
                    }
                    Either::Right((answered, _)) => answered.unwrap_or(Ok(()))?,
                }
            } else if let Some(answered) = answers.next().await {
                answered?;
            }
        }
    }

    fn blob(&self, channel: Channel) -> Option<&Blob> {
        self.sources.iter().find_map(|(of, source)| match source {
            Source::Blob(blob) if *of == channel => Some(blob),
            _ => None,
        })
    }

    async fn answer(&self, id: AttemptId, channel: Channel, part: Part, worth: Arc<Worth>) -> Result<(), Pumped> {
        let Some(blob) = self.blob(channel) else { return Ok(()) };
        let Part::Chunks(runs) = part else {
            let bytes = blob.recipe.to_bytes();
            let mut pieces = bytes.chunks(limits::CHUNK_BYTES).peekable();
            while let Some(piece) = pieces.next() {
                self.answer_with(id, channel, (piece.to_vec(), false), pieces.peek().is_none()).await?;
            }
            return Ok(());
        };
        let chunks = blob.recipe.chunks().len();
        let ranges: Vec<_> = runs.iter().filter_map(|run| bytes_of(&blob.recipe, run.indices(chunks))).collect();
        let mut lots = ranges.into_iter().flat_map(lots).peekable();
        if lots.peek().is_none() {
            return self.answer_with(id, channel, (Vec::new(), false), true).await;
        }
        let mut packer = Packer::default();
        while let Some(lot) = lots.next() {
            let began = Instant::now();
            self.until(id, |attempt| attempt.outflow.has_room(channel).then_some(())).await?;
            worth.on_waited(began.elapsed());
            let (origin, theirs) = (blob.origin.clone(), Arc::clone(&worth));
            let read = spawn_blocking(move || {
                let pieces = read(&origin, lot)?;
                Ok((pack(&theirs, &mut packer, pieces), packer))
            });
            let (pieces, again) =
                read.await.map_err(|fault: io::Error| Pumped::Unreadable(blob.origin.unreadable(&fault)))?;
            packer = again;
            let began = Instant::now();
            let mut pieces = pieces.into_iter().peekable();
            while let Some(piece) = pieces.next() {
                let end = pieces.peek().is_none() && lots.peek().is_none();
                self.answer_with(id, channel, piece, end).await?;
            }
            worth.on_waited(began.elapsed());
        }
        Ok(())
    }

    /// Sends a piece of an answer. With the end of one the next request may come.
    async fn answer_with(
        &self,
        id: AttemptId,
        channel: Channel,
        (bytes, packed): (Vec<u8>, bool),
        end: bool,
    ) -> Result<(), Pumped> {
        if end {
            self.until(id, |attempt| Some(attempt.answering.remove(&channel))).await?;
        }
        self.send(id, channel, bytes, packed, end).await
    }
}

/// Packs what is worth it.
fn pack(worth: &Worth, packer: &mut Packer, pieces: Vec<Vec<u8>>) -> Vec<(Vec<u8>, bool)> {
    if !worth.pays() {
        return pieces.into_iter().map(|piece| (piece, false)).collect();
    }
    let (began, bytes) = (Instant::now(), pieces.iter().map(Vec::len).sum());
    let packed = pieces.into_iter().map(|piece| match packer.pack(&piece) {
        Some(packed) => (packed, true),
        None => (piece, false),
    });
    let packed = packed.collect();
    worth.on_packed(bytes, began.elapsed());
    packed
}

/// Where neighbouring chunks are in their blob.
fn bytes_of(recipe: &Recipe, indices: Range<usize>) -> Option<Range<u64>> {
    let chunks = recipe.chunks().get(indices)?;
    let (first, last) = (chunks.first()?, chunks.last()?);
    Some(first.at..last.at + u64::from(last.size))
}

fn lots(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = range;
    (start..end).step_by(LOT_BYTES).map(move |at| at..end.min(at + LOT_BYTES as u64))
}

/// Reads pieces to send. The file is opened each time: a client has many tasks, and few descriptors.
fn read(origin: &Origin, lot: Range<u64>) -> io::Result<Vec<Vec<u8>>> {
    let size = usize::try_from(lot.end - lot.start).map_err(io::Error::other)?;
    match origin {
        Origin::Bytes(bytes) => {
            let at = usize::try_from(lot.start).map_err(io::Error::other)?;
            let lot = bytes.get(at..at + size).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(lot.chunks(limits::CHUNK_BYTES).map(<[u8]>::to_vec).collect())
        }
        Origin::File(path) => {
            let file = File::open(path)?;
            let mut pieces = Vec::with_capacity(size.div_ceil(limits::CHUNK_BYTES));
            for at in (0..size).step_by(limits::CHUNK_BYTES) {
                let mut piece = vec![0; limits::CHUNK_BYTES.min(size - at)];
                file.read_exact_at(&mut piece, lot.start + at as u64)?;
                pieces.push(piece);
            }
            Ok(pieces)
        }
        Origin::Folder(folder) => {
            let mut bytes = vec![0; size];
            folder.read_exact_at(&mut bytes, lot.start)?;
            Ok(bytes.chunks(limits::CHUNK_BYTES).map(<[u8]>::to_vec).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::recorder::{Recorder, worker};
    use super::*;
    use async_std::task::{block_on, sleep, spawn};
    use p2p_blobs::{name_bytes, unpack};
    use p2p_proto::blob::Run;
    use p2p_proto::ids::TaskId;
    use p2p_proto::link::ToWorker;
    use p2p_proto::link::item::Taken;

    const ID: AttemptId = AttemptId(1);
    const CHANNEL: Channel = Channel::Input(3);

    /// An attempt at a task with one blob, whose reader takes everything at once.
    struct World {
        task: Arc<TaskShared>,
        link: Arc<Recorder>,
        bytes: Vec<u8>,
    }

    impl World {
        fn new(bytes: Vec<u8>) -> Self {
            let recipe = Arc::new(name_bytes(&bytes).unwrap());
            let origin = Origin::Bytes(Arc::new(bytes.clone()));
            let sources = vec![
                (CHANNEL, Source::Blob(Blob { recipe, origin })),
                (Channel::Payload, Source::Bytes(Arc::default())),
            ];
            let world = Self { task: Arc::new(TaskShared::new(TaskId(1), sources)), link: Arc::default(), bytes };
            world.task.on_attempt(ID, worker("bob"), world.link.clone());
            let task = Arc::clone(&world.task);
            spawn(async move { task.pump(ID).await });
            world
        }

        fn recipe(&self) -> Recipe {
            name_bytes(&self.bytes).unwrap()
        }

        fn ask(&self, part: Part) -> Result<(), ProtoError> {
            self.task.on_fetch(Fetch { attempt: ID, channel: CHANNEL, part })
        }

        /// Waits for the end of the answer that begins after so many pieces. Returns its pieces.
        async fn answer(&self, after: usize) -> Vec<(Vec<u8>, bool)> {
            let whole = async {
                loop {
                    let data = |item: ToWorker| match item {
                        ToWorker::Data(data) if data.channel == CHANNEL => Some(data),
                        _ => None,
                    };
                    let all: Vec<_> = self.link.items().into_iter().filter_map(data).collect();
                    let bytes = all.iter().map(|data| data.bytes.len() as u64).sum();
                    self.task.on_taken(Taken { attempt: ID, channel: CHANNEL, bytes });
                    if all.len() > after && all.last().is_some_and(|data| data.end) {
                        return all[after..].iter().map(|data| (data.bytes.clone(), data.packed)).collect();
                    }
                    sleep(Duration::from_millis(1)).await;
                }
            };
            async_std::future::timeout(Duration::from_secs(30), whole).await.expect("no answer")
        }
    }

    fn whole(pieces: &[(Vec<u8>, bool)]) -> Vec<u8> {
        pieces.iter().flat_map(|(bytes, packed)| if *packed { unpack(bytes).unwrap() } else { bytes.clone() }).collect()
    }

    /// Bytes without patterns.
    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        std::iter::repeat_with(&mut next).take(size).collect()
    }

    #[test]
    fn what_is_asked_for_is_sent_in_that_order() {
        let world = World::new(noise(3_000_000));
        let recipe = world.recipe();
        block_on(async {
            world.ask(Part::Recipe).unwrap();
            let list = world.answer(0).await;
            assert_eq!(whole(&list), recipe.to_bytes());
            world.ask(Part::Chunks(vec![Run(4, 2), Run(0, 1), Run(u32::MAX, 1)])).unwrap();
            let chunks = world.answer(list.len()).await;
            let bytes_of = |index: usize| {
                let chunk = recipe.chunks()[index];
                let at = usize::try_from(chunk.at).unwrap();
                &world.bytes[at..at + chunk.size as usize]
            };
            assert!(whole(&chunks) == [bytes_of(4), bytes_of(5), bytes_of(0)].concat());
            assert!(chunks.iter().all(|(_, packed)| !packed), "noise does not shrink");
            let seen = list.len() + chunks.len();
            world.ask(Part::Chunks(vec![Run(1_000_000, 1)])).unwrap();
            assert_eq!(world.answer(seen).await, [(Vec::new(), false)], "what is not there is nothing");
        });
    }

    #[test]
    fn what_shrinks_is_sent_packed() {
        let world = World::new(b"the same line again\n".repeat(100_000));
        block_on(async {
            world.ask(Part::Chunks(vec![Run(0, u32::MAX)])).unwrap();
            let pieces = world.answer(0).await;
            assert!(whole(&pieces) == world.bytes);
            assert!(pieces.iter().map(|(bytes, _)| bytes.len()).sum::<usize>() < world.bytes.len() / 10);
        });
    }

    #[test]
    fn requests_that_keep_no_rule_are_refused() {
        let world = World::new(noise(100_000));
        let many = vec![Run(0, 1); limits::FETCH_RUNS + 1];
        assert!(world.ask(Part::Chunks(many)).is_err());
        let elsewhere = Fetch { attempt: ID, channel: Channel::Payload, part: Part::Recipe };
        assert!(world.task.on_fetch(elsewhere).is_err(), "it is no blob");
        let gone = Fetch { attempt: AttemptId(7), channel: CHANNEL, part: Part::Recipe };
        assert_eq!(world.task.on_fetch(gone), Ok(()), "it may have crossed the end of its attempt");
        let task = TaskShared::new(
            TaskId(1),
            vec![(
                CHANNEL,
                Source::Blob(Blob { recipe: Arc::new(world.recipe()), origin: Origin::Bytes(Arc::default()) }),
            )],
        );
        task.on_attempt(ID, worker("bob"), Arc::new(Recorder::default()));
        let ask = || task.on_fetch(Fetch { attempt: ID, channel: CHANNEL, part: Part::Recipe });
        assert_eq!(ask(), Ok(()));
        assert!(ask().is_err(), "the first one is not answered yet");
    }

    #[test]
    fn a_blob_that_cannot_be_read_any_more_fails_the_task_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let recipe = Arc::new(name_bytes(&noise(100_000)).unwrap());
        let sources = vec![(CHANNEL, Source::Blob(Blob { recipe, origin: Origin::File(path) }))];
        let task = Arc::new(TaskShared::new(TaskId(1), sources));
        task.on_attempt(ID, worker("bob"), Arc::new(Recorder::default()));
        task.on_fetch(Fetch { attempt: ID, channel: CHANNEL, part: Part::Chunks(vec![Run(0, 1)]) }).unwrap();
        let fault = block_on(async_std::future::timeout(Duration::from_secs(30), task.pump(ID))).unwrap().unwrap_err();
        assert!(fault.contains("cannot be read any more"), "{fault}");
    }
}
