//! How an attempt gets the blobs that its task names: from this worker's cache, or else from its client, chunk by chunk.
//!
//! ```text
//!  in the cache? --yes--> use it
//!       | no
//!  wait for the turn at this blob --> in the cache by now? --yes--> use it
//!       | no
//!  ask for the list of its chunks, if it has several and the list is not here
//!       |
//!  ask for the chunks that are missing; check and keep each; what is here stays if the link breaks or the attempt ends
//! ```

use std::sync::Arc;

use async_std::task::{JoinHandle, spawn_blocking};
use p2p_blobs::{Begun, CacheError, Fill, Held, Shelf, unpack};
use p2p_proto::blob::{BlobId, BlobRef, Part, Recipe, Run};
use p2p_proto::limits::FETCH_RUNS;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Failure, FailureKind};

use crate::executor::{ChannelReader, ContentReader, Gone};

/// Why a blob cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nothing more can come.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The cache does not take it, or what came is not what was named.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl From<FetchError> for Failure {
    fn from(fault: FetchError) -> Self {
        let kind = match &fault {
            FetchError::Gone(_) | FetchError::Cache(CacheError::Wrong(_)) => FailureKind::Malformed,
            FetchError::Cache(CacheError::TooLarge { .. }) => FailureKind::TooLarge,
            FetchError::Cache(CacheError::DiskFull { .. }) => FailureKind::DiskFull,
            FetchError::Cache(CacheError::Io { .. }) => FailureKind::Worker,
        };
        Self::new(kind, fault.to_string())
    }
}

/// The blob of `channel`, from the shelf or from the client. It is asked for once, however many attempts of this machine wait for it. One
/// call at a time for each channel. Cancel-safe: what has come by then is not asked for again.
///
/// # Errors
/// When the client is gone, the cache has no room, or what came is not what the blob's name says.
pub async fn hold(
    shelf: &Shelf,
    content: &ContentReader,
    channel: Channel,
    blob: &BlobRef,
) -> Result<Held, FetchError> {
    let (theirs, blob) = (shelf.clone(), *blob);
    if let Some(held) = spawn_blocking(move || theirs.hold(&blob)).await? {
        shelf.count_hit(&blob);
        return Ok(held);
    }
    let _turn = shelf.turn(&blob).await;
    let theirs = shelf.clone();
    let mut fill = match spawn_blocking(move || theirs.fill(&blob)).await? {
        Begun::Held(held) => {
            shelf.count_hit(&blob);
            return Ok(held);
        }
        Begun::Fill(fill) => fill,
    };
    let mut reader = content.channel(channel);
    if fill.wants_recipe() {
        let bytes = recipe(&mut reader, &blob).await?;
        fill = spawn_blocking(move || fill.set_recipe(&bytes).map(|()| fill)).await?;
    }
    let fill = Arc::new(fill);
    fetch(&mut reader, &fill).await?;
    drop(reader);
    let whole = || CacheError::Wrong("an input is still being written".to_owned());
    let fill = Arc::into_inner(fill).ok_or_else(whole)?;
    Ok(spawn_blocking(move || fill.finish()).await?)
}

/// The bytes of the blob of `channel`: from the shelf or by way of it, if there is one. They are bounded by what a payload may have. One call at a time for
/// each channel. Cancel-safe.
///
/// # Errors
/// As [`hold`].
pub async fn hold_bytes(
    shelf: Option<&Shelf>,
    content: &ContentReader,
    channel: Channel,
    blob: &BlobRef,
) -> Result<Vec<u8>, FetchError> {
    let Some(shelf) = shelf else { return read(content, channel, blob).await };
    let held = hold(shelf, content, channel, blob).await?;
    let bytes = spawn_blocking(move || held.read().map_err(|fault| (held, fault))).await;
    bytes.map_err(|(held, fault)| CacheError::Io { path: held.path().to_owned(), fault }.into())
}

/// The bytes of the blob of `channel`, which are kept nowhere. They are bounded by what a payload may have. One call at a time for each
/// channel. Cancel-safe.
///
/// # Errors
/// When the client is gone, or what came is not what the blob's name says.
pub async fn read(content: &ContentReader, channel: Channel, blob: &BlobRef) -> Result<Vec<u8>, FetchError> {
    let mut reader = content.channel(channel);
    let recipe = match Recipe::of_one(blob) {
        Some(recipe) => recipe,
        None => {
            let bytes = recipe(&mut reader, blob).await?;
            Recipe::read(blob, &bytes).map_err(|fault| CacheError::Wrong(fault.to_string()))?
        }
    };
    let mut answer = Answer::new(&mut reader);
    answer.reader.fetch(Part::Chunks(vec![Run(0, blob.chunks)]));
    let mut bytes = Vec::new();
    for chunk in recipe.chunks() {
        let part = answer.take(chunk.size as usize).await?;
        if BlobId::of(&part) != chunk.id {
            return Err(CacheError::Wrong("a part of the payload is not what its name says".to_owned()).into());
        }
        bytes.extend_from_slice(&part);
    }
    answer.end().await?;
    Ok(bytes)
}

async fn recipe(reader: &mut ChannelReader, blob: &BlobRef) -> Result<Vec<u8>, FetchError> {
    reader.fetch(Part::Recipe);
    let mut answer = Answer::new(reader);
    let bytes = answer.take(blob.recipe_bytes()).await?;
    answer.end().await?;
    Ok(bytes)
}

/// Asks for what is missing, and keeps it. One chunk is written while the next one comes.
async fn fetch(reader: &mut ChannelReader, fill: &Arc<Fill>) -> Result<(), FetchError> {
    let missing = fill.missing();
    let mut writes: Option<JoinHandle<Result<(), CacheError>>> = None;
    for runs in missing.chunks(FETCH_RUNS) {
        reader.fetch(Part::Chunks(runs.to_vec()));
        let mut answer = Answer::new(reader);
        for index in runs.iter().flat_map(|run| run.0..run.0.saturating_add(run.1)) {
            let Some(size) = fill.chunk_bytes(index) else { continue };
            let bytes = answer.take(size).await?;
            if let Some(write) = writes.take() {
                write.await?;
            }
            let fill = Arc::clone(fill);
            writes = Some(spawn_blocking(move || fill.put(index, &bytes)));
        }
        answer.end().await?;
    }
    match writes {
        Some(write) => Ok(write.await?),
        None => Ok(()),
    }
}

/// The bytes that answer a request.
struct Answer<'a> {
    reader: &'a mut ChannelReader,
    rest: Vec<u8>,
    /// Where the rest begins.
    at: usize,
    ended: bool,
}

impl<'a> Answer<'a> {
    fn new(reader: &'a mut ChannelReader) -> Self {
        Self { reader, rest: Vec::new(), at: 0, ended: false }
    }

    /// The next so many bytes.
    async fn take(&mut self, size: usize) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            if self.at == self.rest.len() {
                self.more().await?;
            }
            let more = (size - bytes.len()).min(self.rest.len() - self.at);
            bytes.extend_from_slice(&self.rest[self.at..self.at + more]);
            self.at += more;
        }
        Ok(bytes)
    }

    /// Waits for its end.
    async fn end(mut self) -> Result<(), FetchError> {
        while !self.ended {
            self.more().await?;
        }
        if self.at == self.rest.len() { Ok(()) } else { Err(wrong("more of an input came than was asked for")) }
    }

    /// The next piece, once all of the last one is taken.
    async fn more(&mut self) -> Result<(), FetchError> {
        if self.at < self.rest.len() {
            return Err(wrong("more of an input came than was asked for"));
        }
        if self.ended {
            return Err(wrong("less of an input came than was asked for"));
        }
        let piece = self.reader.next().await?;
        // It is not kept but for the chunk that is being put together.
        self.reader.taken(piece.bytes.len());
        self.ended = piece.end;
        self.rest = if piece.packed {
            unpack(&piece.bytes).map_err(|fault| wrong(&format!("an input came that cannot be unpacked: {fault}")))?
        } else {
            piece.bytes
        };
        self.at = 0;
        Ok(())
    }
}

fn wrong(what: &str) -> FetchError {
    CacheError::Wrong(format!("{what}: the client's program is at fault; upgrade it")).into()
}
