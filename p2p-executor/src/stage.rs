//! Before an attempt has its slot: reads a streamed payload, and writes the input files into the scratch folder.
//!
//! Nothing of the task runs yet and the folder is new, so nobody else can put a symbolic link or another file in the way.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_std::task;
use p2p_blobs::{Shelf, UnpackError, unpack_folder};
use p2p_proto::limits;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Command, Content, Failure, FailureKind, File, TaskSpec, check_file_name, check_file_size};
use p2p_scheduler::blobs;
use p2p_scheduler::executor::{ContentReader, Piece};

use crate::failure::{file_failure, shown};
use crate::scratch::Scratch;

/// A command beyond this cannot be started on any system that we know, bytes: Linux allows 6 MiB of arguments and variables.
const COMMAND_BYTES: u64 = 8 * 1024 * 1024;
/// Inline content up to this is written without leaving the async thread, bytes: it is faster than handing it over.
const QUICK_BYTES: usize = 64 * 1024;
/// Input files look this much older than they are, so that a change within the clock's tick shows.
const INPUT_AGE: Duration = Duration::from_secs(2);

/// What staging leaves for the run.
#[derive(Debug)]
pub(crate) struct Staged {
    /// What to run.
    pub(crate) command: Command,
    /// Pieces of stdin that came early; bounded by the channel's window, as they are not acknowledged yet.
    pub(crate) stdin: VecDeque<Piece>,
    /// The input files as they were written, but for blobs.
    pub(crate) inputs: Vec<Input>,
}

/// An input file, to be recognised if the command leaves it alone.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// Its name in the scratch folder.
    pub(crate) name: String,
    /// What it looked like.
    pub(crate) look: Look,
}

/// What shows whether a file was replaced or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl From<&fs::Metadata> for Look {
    fn from(about: &fs::Metadata) -> Self {
        Self { inode: about.ino(), size: about.size(), modified: (about.mtime(), about.mtime_nsec()) }
    }
}

/// Stages an attempt. Cancel-safe in that dropping it loses the attempt, and nothing else.
///
/// # Errors
/// What is wrong with the task's names, sizes or payload, or with this worker's disk.
pub(crate) async fn stage(
    task: &mut TaskSpec,
    content: &mut ContentReader,
    shelf: Option<&Shelf>,
    scratch: &Arc<Scratch>,
) -> Result<Staged, Failure> {
    for (index, file) in task.inputs.iter().enumerate() {
        check_file_name(&file.name)?;
        check_file_size(&file.name, file.content.size())?;
        if u16::try_from(index).is_err() || index >= limits::FILES {
            let message = format!("a task may have at most {} input files", limits::FILES);
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
    }
    let inputs = write_inline(std::mem::take(&mut task.inputs), scratch).await?;
    let mut streams = Streams::new(&task.payload, &inputs)?;
    let mut stdin = VecDeque::new();
    while streams.open > 0 {
        let piece = content.next().await.map_err(|_| broken("the client is gone"))?;
        let (channel, size) = (piece.channel, piece.bytes.len());
        match channel {
            Channel::Stdin if task.stdin => {
                stdin.push_back(piece);
                continue;
            }
            Channel::Payload => streams.payload.take(&piece, &mut streams.open)?,
            Channel::Input(index) => {
                let Some((file, stream)) =
                    inputs.get(usize::from(index)).zip(streams.inputs.get_mut(usize::from(index)))
                else {
                    return Err(broken("bytes came for an input file that the task does not have"));
                };
                stream.take_size(&piece, &mut streams.open)?;
                append(arrives_as(file, index, scratch), file.name.clone(), piece.bytes, scratch).await?;
            }
            _ => return Err(broken("bytes came on a channel that this task does not have")),
        }
        content.taken(channel, size);
    }
    let payload = match std::mem::take(&mut task.payload) {
        Content::Inline(bytes) => bytes,
        Content::Streamed(_) => streams.payload.bytes,
        Content::Blob(blob) => blobs::hold_bytes(shelf, content, Channel::Payload, &blob).await?,
    };
    let command = Command::from_cbor(&payload)
        .map_err(|error| Failure::new(FailureKind::Malformed, format!("the task's command cannot be read: {error}")))?;
    let inputs = finish_all(inputs, scratch).await?;
    Ok(Staged { command, stdin, inputs })
}

/// What is still to come.
struct Streams {
    payload: Stream,
    inputs: Vec<Stream>,
    /// How many channels have not ended yet.
    open: usize,
}

impl Streams {
    fn new(payload: &Content, inputs: &[File]) -> Result<Self, Failure> {
        if payload.size() > COMMAND_BYTES {
            let message = format!("a command may have at most {COMMAND_BYTES} bytes; pass long arguments in a file");
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        let payload = Stream::new("the task's command", payload);
        let inputs: Vec<_> = inputs.iter().map(|file| Stream::new(&file.name, &file.content)).collect();
        let open = inputs.iter().chain([&payload]).filter(|stream| !stream.ended).count();
        Ok(Self { payload, inputs, open })
    }
}

/// One channel that comes in.
struct Stream {
    name: String,
    missing: u64,
    ended: bool,
    /// Of the payload only.
    bytes: Vec<u8>,
}

impl Stream {
    fn new(name: &str, content: &Content) -> Self {
        let missing = match content {
            Content::Inline(_) | Content::Blob(_) => 0,
            Content::Streamed(size) => *size,
        };
        Self { name: name.to_owned(), missing, ended: missing == 0, bytes: Vec::new() }
    }

    fn take(&mut self, piece: &Piece, open: &mut usize) -> Result<(), Failure> {
        self.take_size(piece, open)?;
        self.bytes.extend_from_slice(&piece.bytes);
        Ok(())
    }

    /// Counts a piece; neither more nor fewer bytes may come than were announced.
    fn take_size(&mut self, piece: &Piece, open: &mut usize) -> Result<(), Failure> {
        let Some(missing) = self.missing.checked_sub(piece.bytes.len() as u64) else {
            return Err(broken(&format!("more bytes came for {} than were announced", self.name)));
        };
        self.missing = missing;
        if piece.end && !self.ended {
            if missing > 0 {
                return Err(broken(&format!("{missing} bytes of {} did not come", self.name)));
            }
            self.ended = true;
            *open -= 1;
        }
        Ok(())
    }
}

fn broken(what: &str) -> Failure {
    Failure::new(FailureKind::Malformed, format!("{what}: the client's program is at fault; upgrade it"))
}

/// Creates every input file, with its content where that is here already; the files come back without it.
async fn write_inline(files: Vec<File>, scratch: &Arc<Scratch>) -> Result<Vec<File>, Failure> {
    let inline = |file: &File| match &file.content {
        Content::Inline(bytes) => bytes.len(),
        Content::Streamed(_) | Content::Blob(_) => 0,
    };
    let quick = files.len() < 16 && files.iter().map(inline).sum::<usize>() <= QUICK_BYTES;
    if quick && !files.iter().any(|file| file.folder) {
        return create_all(files, scratch);
    }
    let scratch = Arc::clone(scratch);
    task::spawn_blocking(move || create_all(files, &scratch)).await
}

fn create_all(mut files: Vec<File>, scratch: &Scratch) -> Result<Vec<File>, Failure> {
    for (index, file) in (0..).zip(&mut files) {
        create(file, &arrives_as(file, index, scratch)).map_err(|error| failure(&file.name, scratch, &error))?;
        if let Content::Inline(bytes) = &mut file.content {
            *bytes = Vec::new();
        }
    }
    Ok(files)
}

/// Where it is while it comes in: a folder is unpacked once all of it is here. Nobody else knows the token.
fn arrives_as(file: &File, index: u16, scratch: &Scratch) -> PathBuf {
    if file.folder {
        scratch.path().join(format!(".{}.{index}", scratch.token()))
    } else {
        scratch.path().join(&file.name)
    }
}

fn create(file: &File, path: &Path) -> io::Result<()> {
    if matches!(file.content, Content::Blob(_)) {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|_| file.name.contains('/')) {
        fs::create_dir_all(parent)?;
    }
    let mode = if file.executable { 0o755 } else { 0o644 };
    let mut to =
        OpenOptions::new().write(true).create_new(true).mode(mode).custom_flags(libc::O_NOFOLLOW).open(path)?;
    match &file.content {
        Content::Inline(bytes) => to.write_all(bytes),
        Content::Streamed(_) | Content::Blob(_) => Ok(()),
    }
}

/// Adds a piece to a file. It is opened each time: a thousand files that stream in at once must not use up the worker's descriptors.
async fn append(path: PathBuf, name: String, bytes: Vec<u8>, scratch: &Arc<Scratch>) -> Result<(), Failure> {
    let scratch = Arc::clone(scratch);
    task::spawn_blocking(move || {
        let opened = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW).open(path);
        opened.and_then(|mut to| to.write_all(&bytes)).map_err(|error| failure(&name, &scratch, &error))
    })
    .await
}

/// All that is here by now; blobs come later.
async fn finish_all(inputs: Vec<File>, scratch: &Arc<Scratch>) -> Result<Vec<Input>, Failure> {
    let folders = inputs.iter().any(|file| file.folder);
    let scratch = Arc::clone(scratch);
    let finish = move || {
        let mut finished = Vec::with_capacity(inputs.len());
        for (index, file) in (0..).zip(inputs) {
            match file.content {
                Content::Blob(_) => {}
                _ if file.folder => {
                    let path = arrives_as(&file, index, &scratch);
                    let open = || Ok((fs::File::open(&path)?, fs::symlink_metadata(&path)?.len()));
                    let (packed, size) = open().map_err(|error| failure(&file.name, &scratch, &error))?;
                    finished.extend(unpack(packed, size, &file.name, &scratch)?);
                    fs::remove_file(&path).map_err(|error| failure(&file.name, &scratch, &error))?;
                }
                _ => finished.push(finish(file, &scratch)?),
            }
        }
        Ok(finished)
    };
    if folders { task::spawn_blocking(finish).await } else { finish() }
}

/// Puts the folder `name` into the scratch folder, from its `size` bytes; blocks. Returns its files.
///
/// # Errors
/// What is wrong with it, or with this worker's disk.
pub(crate) fn unpack(from: impl Read, size: u64, name: &str, scratch: &Scratch) -> Result<Vec<Input>, Failure> {
    let to = scratch.path().join(name);
    if let Some(parent) = to.parent().filter(|_| name.contains('/')) {
        fs::create_dir_all(parent).map_err(|error| failure(name, scratch, &error))?;
    }
    let mut inputs = Vec::new();
    let unpacked = unpack_folder(from, size, &to, INPUT_AGE, |inside, about| {
        inputs.push(Input { name: format!("{name}/{inside}"), look: Look::from(about) });
    });
    match unpacked {
        Ok(()) => Ok(inputs),
        Err(UnpackError::Refused(failure)) => Err(Failure {
            message: format!("the input folder {}: {}", shown(name.as_bytes()), failure.message),
            ..failure
        }),
        Err(UnpackError::Io { name: inside, fault }) => Err(failure(&format!("{name}/{inside}"), scratch, &fault)),
    }
}

fn finish(file: File, scratch: &Scratch) -> Result<Input, Failure> {
    let look = || {
        let opened = fs::File::open(scratch.path().join(&file.name))?;
        opened.set_modified(SystemTime::now() - INPUT_AGE)?;
        Ok(Look::from(&opened.metadata()?))
    };
    let look = look().map_err(|error| failure(&file.name, scratch, &error))?;
    Ok(Input { name: file.name, look })
}

fn failure(name: &str, scratch: &Scratch, error: &io::Error) -> Failure {
    file_failure(&format!("writing the input file {}", shown(name.as_bytes())), scratch.path(), error)
}
