//! Input files that are blobs: fetched while the attempt waits for its slot, and put into its folder once it has it, so that a long queue
//! does not fill the disk.

use std::fs;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use async_std::task;
use futures::future::{self, Either};
use futures::{StreamExt as _, TryStreamExt as _, pin_mut, stream};
use p2p_blobs::{Ahead, Held, Shelf};
use p2p_proto::blob::BlobRef;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Content, Failure, FailureKind, TaskSpec};
use p2p_scheduler::blobs::hold;
use p2p_scheduler::executor::{ContentReader, Gone, SlotGate};

use crate::failure::{file_failure, shown};
use crate::scratch::Scratch;
use crate::stage::{Input, Look, unpack};

/// Blobs of one attempt that are asked for at a time: enough to fill a link with small ones over a long way.
const AT_ONCE: usize = 16;
/// How often a blob that had to make room before it was used is asked for again.
const TRIES: u32 = 3;

/// An input file that is a blob.
#[derive(Clone, Debug)]
struct Large {
    name: String,
    executable: bool,
    folder: bool,
    channel: Channel,
    blob: BlobRef,
}

/// The blobs of an attempt's input files.
#[derive(Debug)]
pub(crate) struct Blobs {
    shelf: Shelf,
    large: Vec<Large>,
    held: Vec<(Large, Held)>,
    /// Room for them among those of other attempts that wait.
    ahead: Option<Ahead>,
}

/// Whether some of the task's content is kept.
pub(crate) fn has_blobs(task: &TaskSpec) -> bool {
    task.inputs
        .iter()
        .map(|file| &file.content)
        .chain([&task.payload])
        .any(|content| matches!(content, Content::Blob(_)))
}

impl Blobs {
    pub(crate) fn new(task: &TaskSpec, shelf: Shelf) -> Self {
        let large = (0..).zip(&task.inputs).filter_map(|(index, file)| match file.content {
            Content::Blob(blob) => {
                let (name, channel) = (file.name.clone(), Channel::Input(index));
                Some(Large { name, executable: file.executable, folder: file.folder, channel, blob })
            }
            Content::Inline(_) | Content::Streamed(_) => None,
        });
        Self { shelf, large: large.collect(), held: Vec::new(), ahead: None }
    }

    /// Has all of them in the cache. Waits for room while many other attempts wait for their slots, unless this one has its own.
    ///
    /// # Errors
    /// Why one cannot be had.
    pub(crate) async fn fetch(&mut self, slot: &mut SlotGate, content: &ContentReader) -> Result<(), Failure> {
        let blobs: Vec<_> = self.large.iter().map(|large| large.blob).collect();
        self.ahead = {
            let (ahead, runs) = (self.shelf.ahead(&blobs), slot.pass());
            pin_mut!(ahead, runs);
            match future::select(ahead, runs).await {
                Either::Left((ahead, _)) => Some(ahead),
                // Withdrawn attempts are told so soon.
                Either::Right((Ok(()) | Err(Gone), _)) => None,
            }
        };
        self.held = self.hold_all(self.large.clone(), content).await?;
        Ok(())
    }

    /// Puts them into the attempt's folder.
    ///
    /// # Errors
    /// Names that clash, and a disk that is full.
    pub(crate) async fn place(
        mut self,
        scratch: &Arc<Scratch>,
        content: &ContentReader,
    ) -> Result<Vec<Input>, Failure> {
        let mut placed = Vec::with_capacity(self.large.len());
        for tries in 1.. {
            let (held, scratch) = (std::mem::take(&mut self.held), Arc::clone(scratch));
            let (more, missing) = task::spawn_blocking(move || place_all(held, &scratch)).await?;
            placed.extend(more);
            if missing.is_empty() {
                break;
            }
            if tries >= TRIES {
                let message = "other workers of this machine need all the room in its cache; try again later";
                return Err(Failure::new(FailureKind::Worker, message));
            }
            self.held = self.hold_all(missing, content).await?;
        }
        Ok(placed)
    }

    async fn hold_all(&self, large: Vec<Large>, content: &ContentReader) -> Result<Vec<(Large, Held)>, Failure> {
        let held = stream::iter(large).map(|large| async move {
            let held = hold(&self.shelf, content, large.channel, &large.blob).await;
            held.map(|held| (large, held)).map_err(Failure::from)
        });
        held.buffer_unordered(AT_ONCE).try_collect().await
    }
}

/// Returns what is there now, and what had to make room meanwhile.
fn place_all(held: Vec<(Large, Held)>, scratch: &Scratch) -> Result<(Vec<Input>, Vec<Large>), Failure> {
    let (mut placed, mut missing) = (Vec::new(), Vec::new());
    for (large, held) in held {
        if large.folder {
            match held.open() {
                Ok(from) => placed.extend(unpack(from, large.blob.size, &large.name, scratch)?),
                Err(fault) if fault.kind() == ErrorKind::NotFound => missing.push(large),
                Err(fault) => return Err(unplaced(&large, scratch, &fault)),
            }
            continue;
        }
        let path = scratch.path().join(&large.name);
        let put = || {
            if let Some(parent) = path.parent().filter(|_| large.name.contains('/')) {
                fs::create_dir_all(parent)?;
            }
            held.place(&path, large.executable)?;
            fs::symlink_metadata(&path)
        };
        match put() {
            Ok(about) => placed.push(Input { name: large.name, look: Look::from(&about) }),
            Err(fault) if fault.kind() == ErrorKind::NotFound && scratch.path().exists() => missing.push(large),
            Err(fault) => return Err(unplaced(&large, scratch, &fault)),
        }
    }
    Ok((placed, missing))
}

fn unplaced(large: &Large, scratch: &Scratch, fault: &io::Error) -> Failure {
    let doing = format!("writing the input file {}", shown(large.name.as_bytes()));
    file_failure(&doing, scratch.path(), fault)
}
