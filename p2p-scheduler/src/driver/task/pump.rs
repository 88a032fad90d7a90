//! Pumps: each sends a task's streamed input to one attempt, channel after channel.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_std::io::ReadExt as _;
use async_std::task::spawn_blocking;
use futures::AsyncRead;
use futures::future::{Either, select, try_join};

use p2p_blobs::Folder;
use p2p_proto::blob::Recipe;
use p2p_proto::ids::AttemptId;
use p2p_proto::limits;
use p2p_proto::link::ToWorker;
use p2p_proto::link::item::{Channel, Data};

use super::TaskShared;
use super::attempt::Attempt;
use crate::driver::lock;

/// Where streamed content comes from.
pub(crate) enum Source {
    /// From memory.
    Bytes(Arc<Vec<u8>>),
    /// From a file of exactly the size that the task's spec says; each attempt's pump opens it anew.
    File(PathBuf),
    /// From a folder, as one run of bytes.
    Folder(Arc<Folder>),
    /// From a stream that can be read once.
    Reader(Mutex<Option<Box<dyn AsyncRead + Send + Unpin>>>),
    /// A blob: only what an attempt asks for is sent to it.
    Blob(Blob),
}

/// Content with a name.
pub(crate) struct Blob {
    pub(crate) recipe: Arc<Recipe>,
    pub(crate) origin: Origin,
}

/// Where a blob's bytes are.
#[derive(Clone)]
pub(crate) enum Origin {
    Bytes(Arc<Vec<u8>>),
    File(PathBuf),
    Folder(Arc<Folder>),
}

impl Origin {
    /// What to say when it cannot be read.
    pub(super) fn unreadable(&self, fault: &std::io::Error) -> String {
        match self {
            Self::Bytes(_) => format!("its payload cannot be read: {fault}"),
            Self::File(path) => format!("{} cannot be read any more: {fault}", path.display()),
            Self::Folder(folder) => format!("{} cannot be read any more: {fault}", folder.path().display()),
        }
    }
}

impl Source {
    pub(super) fn reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::Reader(Mutex::new(Some(Box::new(reader))))
    }

    pub(super) fn is_read_once(&self) -> bool {
        matches!(self, Self::Reader(_))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Folder(folder) => write!(f, "Folder({})", folder.path().display()),
            Self::Reader(_) => f.write_str("Reader"),
            Self::Blob(blob) => write!(f, "Blob({})", blob.recipe.name().id),
        }
    }
}

/// Why a stream was not sent to its end.
pub(super) enum Pumped {
    /// The attempt is over.
    Void,
    /// This machine cannot read it.
    Unreadable(String),
}

impl TaskShared {
    /// Sends all streamed content to one attempt, and what it asks for of the others, until it is over.
    ///
    /// An attempt whose input cannot be read is no reason to end others that have theirs: only when no attempt is left that could win,
    /// this is an error.
    ///
    /// # Errors
    /// Why this machine cannot read what it has promised; the task must then be cancelled.
    pub(crate) async fn pump(&self, id: AttemptId) -> Result<(), String> {
        let streams = async {
            for (channel, source) in &self.sources {
                self.pump_one(id, *channel, source).await?;
            }
            Ok(())
        };
        match try_join(streams, self.answer_all(id)).await {
            Ok(((), ())) | Err(Pumped::Void) => Ok(()),
            Err(Pumped::Unreadable(fault)) => {
                if self.starve(id).await {
                    Err(fault)
                } else {
                    Ok(())
                }
            }
        }
    }

    async fn pump_one(&self, id: AttemptId, channel: Channel, source: &Source) -> Result<(), Pumped> {
        match source {
            Source::Blob(_) => Ok(()),
            Source::Bytes(bytes) => {
                let mut pieces = bytes.chunks(limits::CHUNK_BYTES).peekable();
                while let Some(piece) = pieces.next() {
                    self.send(id, channel, piece.to_vec(), false, pieces.peek().is_none()).await?;
                }
                Ok(())
            }
            Source::File(path) => {
                let mut file = async_std::fs::File::open(path).await.map_err(|fault| unreadable(path, &fault))?;
                self.pump_reader(id, channel, &mut file, |fault| unreadable(path, &fault)).await
            }
            Source::Folder(folder) => {
                let (mut at, size) = (0, folder.size());
                while at < size {
                    let count = (size - at).min(limits::CHUNK_BYTES as u64);
                    let theirs = Arc::clone(folder);
                    let read = spawn_blocking(move || {
                        let mut bytes = vec![0; usize::try_from(count).unwrap_or(limits::CHUNK_BYTES)];
                        theirs.read_exact_at(&mut bytes, at).map(|()| bytes)
                    });
                    let bytes = read.await.map_err(|fault| unreadable(folder.path(), &fault))?;
                    at += count;
                    self.send(id, channel, bytes, false, at == size).await?;
                }
                Ok(())
            }
            Source::Reader(reader) => {
                // An attempt that is handed back before it ran has read nothing of it, so another one can.
                self.until(id, |attempt| attempt.started.then_some(())).await?;
                let again = || Pumped::Unreadable("its stdin was read by an earlier attempt".to_owned());
                let mut reader = lock(reader).take().ok_or_else(again)?;
                let words = |fault| Pumped::Unreadable(format!("its input cannot be read: {fault}"));
                self.pump_reader(id, channel, &mut reader, words).await
            }
        }
    }

    async fn pump_reader(
        &self,
        id: AttemptId,
        channel: Channel,
        reader: &mut (dyn AsyncRead + Send + Unpin),
        unreadable: impl Fn(std::io::Error) -> Pumped,
    ) -> Result<(), Pumped> {
        loop {
            let mut bytes = vec![0; limits::CHUNK_BYTES];
            let count = {
                // Whoever waits for a person's next line must hear that nobody wants it any more.
                let void = std::pin::pin!(self.until_void(id));
                match select(reader.read(&mut bytes), void).await {
                    Either::Left((count, _)) => count.map_err(&unreadable)?,
                    Either::Right(_) => return Err(Pumped::Void),
                }
            };
            bytes.truncate(count);
            self.send(id, channel, bytes, false, count == 0).await?;
            if count == 0 {
                return Ok(());
            }
        }
    }

    /// Sends a piece when the windows and the link have room.
    pub(super) async fn send(
        &self,
        id: AttemptId,
        channel: Channel,
        bytes: Vec<u8>,
        packed: bool,
        end: bool,
    ) -> Result<(), Pumped> {
        let size = bytes.len();
        let room = |attempt: &mut Attempt| attempt.outflow.reserve(channel, size).then(|| Arc::clone(&attempt.queue));
        let queue = self.until(id, room).await?;
        let pushed = queue.push_bulk(ToWorker::Data(Data { attempt: id, channel, end, packed, bytes }));
        // A broken link's queue may have no room for as long as it is waited for.
        let void = std::pin::pin!(self.until_void(id));
        match select(pushed, void).await {
            Either::Left((pushed, _)) => pushed.map_err(|_| Pumped::Void),
            Either::Right(_) => Err(Pumped::Void),
        }
    }

    /// Waits until `find` finds something of the attempt.
    pub(super) async fn until<T>(
        &self,
        id: AttemptId,
        mut find: impl FnMut(&mut Attempt) -> Option<T>,
    ) -> Result<T, Pumped> {
        self.wait(|state| match state.live(id) {
            None => Some(Err(Pumped::Void)),
            Some(attempt) => find(attempt).map(Ok),
        })
        .await
    }

    /// Waits for the end of the attempt.
    async fn until_void(&self, id: AttemptId) {
        self.wait(|state| state.live(id).is_none().then_some(())).await;
    }
}

fn unreadable(path: &Path, fault: &std::io::Error) -> Pumped {
    Pumped::Unreadable(format!("{} cannot be read any more: {fault}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::super::recorder::{Recorder, finished, worker};
    use super::*;
    use crate::machine::client::Outcome;
    use async_std::task::{block_on, spawn};
    use p2p_proto::ids::TaskId;
    use p2p_proto::link::item::Taken;

    const FIRST: AttemptId = AttemptId(1);
    const SECOND: AttemptId = AttemptId(2);

    fn task(sources: Vec<(Channel, Source)>) -> Arc<TaskShared> {
        Arc::new(TaskShared::new(TaskId(1), sources))
    }

    type Pump = async_std::task::JoinHandle<Result<(), String>>;

    /// An attempt begins, with a pump of its own.
    fn begin(task: &Arc<TaskShared>, id: AttemptId, link: &Arc<Recorder>) -> Pump {
        task.on_attempt(id, worker("bob"), link.clone());
        let task = Arc::clone(task);
        spawn(async move { task.pump(id).await })
    }

    /// Waits until a channel was sent to its end. Returns what.
    async fn whole(link: &Recorder, id: AttemptId, channel: Channel) -> Vec<u8> {
        let sent = async {
            loop {
                match link.sent(id, channel) {
                    (bytes, true) => return bytes,
                    _ => async_std::task::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        async_std::future::timeout(Duration::from_secs(30), sent).await.expect("the pump hangs")
    }

    async fn ended(pump: Pump) -> Result<(), String> {
        async_std::future::timeout(Duration::from_secs(30), pump).await.expect("the pump hangs")
    }

    #[test]
    fn attempts_are_sent_the_same_content_at_the_same_time() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let (bytes, in_file) = (vec![1; 200_000], vec![2; 100_000]);
        file.write_all(&in_file).unwrap();
        let sources = vec![
            (Channel::Payload, Source::Bytes(Arc::new(bytes.clone()))),
            (Channel::Input(0), Source::File(file.path().to_owned())),
        ];
        block_on(async {
            let (task, first, second) = (task(sources), Arc::default(), Arc::default());
            let pumps = [begin(&task, FIRST, &first), begin(&task, SECOND, &second)];
            for (id, link) in [(FIRST, &first), (SECOND, &second)] {
                assert_eq!(whole(link, id, Channel::Payload).await, bytes);
                assert_eq!(whole(link, id, Channel::Input(0)).await, in_file);
            }
            for pump in pumps {
                assert_eq!(ended(pump).await, Ok(()));
            }
        });
    }

    #[test]
    fn a_pump_waits_for_its_own_window_and_ends_with_its_attempt() {
        let window = usize::try_from(limits::CHANNEL_WINDOW_BYTES).unwrap();
        let size = window + limits::CHUNK_BYTES;
        block_on(async {
            let task = task(vec![(Channel::Payload, Source::Bytes(Arc::new(vec![0; size])))]);
            let links: [Arc<Recorder>; 3] = [Arc::default(), Arc::default(), Arc::new(Recorder::without_room())];
            let ids = [FIRST, SECOND, AttemptId(3)];
            let [first, second, third] = [0, 1, 2].map(|at| begin(&task, ids[at], &links[at]));
            task.on_taken(Taken { attempt: SECOND, channel: Channel::Payload, bytes: 0 });
            // The second one's reader takes what comes, the first one's nothing.
            while !links[1].sent(SECOND, Channel::Payload).1 {
                let bytes = links[1].sent(SECOND, Channel::Payload).0.len() as u64;
                task.on_taken(Taken { attempt: SECOND, channel: Channel::Payload, bytes });
                async_std::task::yield_now().await;
            }
            assert_eq!(ended(second).await, Ok(()));
            assert!(links[0].sent(FIRST, Channel::Payload).0.len() <= window);
            task.on_withdraw(FIRST);
            assert_eq!(ended(first).await, Ok(()));
            task.on_outcome(Outcome::Finished { worker: worker("bob"), finished: finished(SECOND) });
            assert_eq!(ended(third).await, Ok(()), "a link without room holds no pump of an attempt that is over");
        });
    }

    #[test]
    fn a_stream_is_read_by_the_first_attempt_that_runs() {
        block_on(async {
            let task = task(vec![(Channel::Stdin, Source::reader(&b"lines"[..]))]);
            let (first, second) = (Arc::default(), Arc::default());
            let pumps = [begin(&task, FIRST, &first), begin(&task, SECOND, &second)];
            task.on_started(SECOND);
            assert_eq!(whole(&second, SECOND, Channel::Stdin).await, b"lines");
            // It was sent before its worker was lost, and runs after all: without input, but the other one may win.
            task.on_started(FIRST);
            async_std::task::sleep(Duration::from_millis(20)).await;
            assert_eq!(first.items(), []);
            task.on_outcome(Outcome::Finished { worker: worker("bob"), finished: finished(SECOND) });
            for pump in pumps {
                assert_eq!(ended(pump).await, Ok(()));
            }
        });
    }

    #[test]
    fn a_task_fails_when_no_attempt_is_left_that_has_its_stream() {
        block_on(async {
            let task = task(vec![(Channel::Stdin, Source::reader(&b"lines"[..]))]);
            let (first, second) = (Arc::default(), Arc::default());
            let pump = begin(&task, FIRST, &first);
            task.on_started(FIRST);
            whole(&first, FIRST, Channel::Stdin).await;
            assert_eq!(ended(pump).await, Ok(()));
            let pump = begin(&task, SECOND, &second);
            task.on_started(SECOND);
            task.on_withdraw(FIRST);
            assert_eq!(ended(pump).await, Err("its stdin was read by an earlier attempt".to_owned()));
        });
    }

    #[test]
    fn a_file_that_cannot_be_read_any_more_ends_the_task_unless_another_attempt_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input");
        std::fs::write(&path, b"content").unwrap();
        block_on(async {
            let task = task(vec![(Channel::Input(0), Source::File(path.clone()))]);
            let links: [Arc<Recorder>; 3] = Default::default();
            assert_eq!(ended(begin(&task, FIRST, &links[0])).await, Ok(()));
            std::fs::remove_file(&path).unwrap();
            let second = begin(&task, SECOND, &links[1]);
            let third = begin(&task, AttemptId(3), &links[2]);
            async_std::task::sleep(Duration::from_millis(20)).await;
            task.on_withdraw(FIRST);
            for pump in [second, third] {
                let fault = ended(pump).await.unwrap_err();
                assert!(fault.contains("cannot be read any more"), "{fault}");
            }
        });
    }
}
