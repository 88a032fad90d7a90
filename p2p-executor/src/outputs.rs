//! Finds the files that a task promised, and brings them back.
//!
//! A name without `*`, `?` and `[` is literal, and so is one with them if just that file exists. In a pattern `*` and `?` stay within one part of
//! a path, `**` does not; names that begin with a dot are seen only by patterns that have a part that begins with one. Patterns leave out
//! input files that the command did not change, and may match nothing. Symbolic links are followed as long as they are relative and
//! stay inside the folder. A name that ends with `/` is a folder, with all that is in it; its links come back as links.

mod folder;
mod notes;
mod pattern;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use async_std::task;
use p2p_blobs::Shelf;
use p2p_proto::limits::{BLOB_ABOVE_BYTES, CHUNK_BYTES, FILE_NAMES_BYTES, FILES};
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Content, Ended, Failure, FailureKind, File, check_file_name, check_file_size};
use p2p_scheduler::executor::{AttemptEnd, OutputWriter};

use crate::failure::{shown, worker_failure};
use crate::scratch::Scratch;
use crate::stage::{Input, Look};
use folder::{Folder, Refusal};
use notes::Notes;
use pattern::Glob;

/// What names and inline files of one attempt may take together, bytes: they travel in one item.
const END_BYTES: usize = 48 * 1024;
/// What a file takes beside its name and content, bytes.
const FILE_EXTRA_BYTES: usize = 32;

/// Finds the files, and reads those that are small enough to travel at once; the others are [`Content::Streamed`].
///
/// # Errors
/// With `strict`, the first literal name that is missing, leads out of the folder, is no file or too large; too many files. Without,
/// what can be had comes back, and the rest is told in notes.
pub(crate) async fn collect(
    patterns: Vec<String>,
    inputs: Vec<Input>,
    strict: bool,
    scratch: Arc<Scratch>,
    output: OutputWriter,
) -> Result<Outputs, Failure> {
    task::spawn_blocking(move || {
        let mut notes = Notes::default();
        let folder = Folder::open(scratch.path())?;
        let found = find(&folder, &patterns, &inputs, strict, &mut notes);
        notes.tell(&output);
        let mut outputs = found?;
        inline_small(&mut outputs, &folder)?;
        Ok(outputs)
    })
    .await
}

/// What comes back.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    /// As the end of the attempt has it.
    pub(crate) files: Vec<File>,
    /// Those of them that are folders, by their index.
    folders: HashMap<usize, Arc<p2p_blobs::Folder>>,
}

impl Outputs {
    /// Whether some of them are kept in the cache.
    pub(crate) fn has_large(&self) -> bool {
        self.files.iter().any(is_large)
    }
}

fn is_large(file: &File) -> bool {
    !file.folder && file.content.size() > BLOB_ABOVE_BYTES
}

/// Keeps large files in the cache: a client that has them as inputs of other tasks need not send them. What cannot be kept is sent, if it comes to that.
pub(crate) async fn keep(outputs: &Outputs, shelf: Shelf, scratch: &Arc<Scratch>) {
    let names: Vec<_> = outputs.files.iter().filter(|file| is_large(file)).map(|file| file.name.clone()).collect();
    // Not the folder itself, whose removal would wait for this.
    let path = scratch.path().to_owned();
    task::spawn_blocking(move || {
        let Ok(folder) = Folder::open(&path) else { return };
        for name in names {
            let kept = folder.path_of(&name).map(|path| shelf.keep(&path));
            if !matches!(kept, Ok(Ok(()))) {
                log::debug!("the output {name} is not kept: {kept:?}");
            }
        }
    })
    .await;
}

/// Sends the files that do not travel inline.
///
/// # Errors
/// A failure, or a cancelled end when nobody will read them.
pub(crate) async fn stream(outputs: &Outputs, scratch: &Arc<Scratch>, output: &OutputWriter) -> Result<(), AttemptEnd> {
    for (index, file) in (0u16..).zip(&outputs.files) {
        let Content::Streamed(size) = file.content else { continue };
        if let Some(folder) = outputs.folders.get(&usize::from(index)) {
            stream_folder(index, folder, output).await?;
            continue;
        }
        let mut open =
            Some(Folder::open(scratch.path())?.file(&file.name).map_err(|refusal| refusal.failure(&file.name))?.0);
        let mut missing = size;
        while let Some(mut from) = open.take() {
            let want = missing.min(CHUNK_BYTES as u64);
            let read = move || {
                let mut bytes = Vec::with_capacity(CHUNK_BYTES.min(want as usize));
                from.by_ref().take(want).read_to_end(&mut bytes).map(|_| (from, bytes))
            };
            let doing = || format!("reading the output file {}", shown(file.name.as_bytes()));
            let (from, bytes) = task::spawn_blocking(read).await.map_err(|error| worker_failure(&doing(), &error))?;
            if (bytes.len() as u64) < want {
                let error = io::Error::other("it became shorter meanwhile");
                return Err(worker_failure(&doing(), &error).into());
            }
            missing -= want;
            let end = missing == 0;
            let sent = output.write(Channel::Output(index), bytes, end).await;
            sent.map_err(|_| AttemptEnd::new(Ended::Cancelled))?;
            open = (!end).then_some(from);
        }
    }
    Ok(())
}

async fn stream_folder(index: u16, folder: &Arc<p2p_blobs::Folder>, output: &OutputWriter) -> Result<(), AttemptEnd> {
    let (mut at, size) = (0, folder.size());
    while at < size {
        let (theirs, count) = (Arc::clone(folder), (size - at).min(CHUNK_BYTES as u64));
        let read = task::spawn_blocking(move || {
            let mut bytes = vec![0; usize::try_from(count).unwrap_or(CHUNK_BYTES)];
            theirs.read_exact_at(&mut bytes, at).map(|()| bytes)
        });
        let doing = || format!("reading the output folder {}", shown(folder.path().as_os_str().as_encoded_bytes()));
        let bytes = read.await.map_err(|error| worker_failure(&doing(), &error))?;
        at += count;
        let sent = output.write(Channel::Output(index), bytes, at == size).await;
        sent.map_err(|_| AttemptEnd::new(Ended::Cancelled))?;
    }
    Ok(())
}

/// The files that patterns name, in their order, each once.
fn find(
    folder: &Folder<'_>,
    patterns: &[String],
    inputs: &[Input],
    strict: bool,
    notes: &mut Notes,
) -> Result<Outputs, Failure> {
    let mut found = Found::default();
    let mut globs = Vec::new();
    for pattern in patterns {
        let added = if pattern.ends_with('/') {
            found.add_folder(pattern, folder, strict)
        } else {
            match folder.file(pattern) {
                Ok((_, about)) => found.add(pattern, &about),
                Err(Refusal::Missing) if pattern.contains(['*', '?', '[']) => {
                    Glob::new(pattern).map(|glob| globs.push(glob))
                }
                // No wonder after a failure.
                Err(Refusal::Missing) if !strict => Ok(()),
                Err(refusal) => Err(refusal.failure(pattern)),
            }
        };
        match added {
            Err(failure) if !strict => notes.left_out(failure),
            added => added?,
        }
    }
    let inputs: HashMap<&str, Look> = inputs.iter().map(|input| (input.name.as_str(), input.look)).collect();
    let is_unchanged = |name: &str, about: &fs::Metadata| {
        inputs.get(name).is_some_and(|look| {
            // What an input folder's link leads to is another file.
            let link = || fs::symlink_metadata(folder.path().join(name));
            *look == Look::from(about) || link().is_ok_and(|about| *look == Look::from(&about))
        })
    };
    for name in pattern::matching(folder.path(), &mut globs, notes)? {
        let checked = check_file_name(&name);
        let added = checked.and_then(|()| match folder.file(&name) {
            Ok((_, about)) if is_unchanged(&name, &about) => Ok(()),
            Ok((_, about)) => found.add(&name, &about),
            // Links that lead nowhere, or to folders.
            Err(Refusal::Missing | Refusal::Folder) => Ok(()),
            Err(refusal) => Err(refusal.failure(&name)),
        });
        match added {
            Err(failure) if strict && failure.kind == FailureKind::TooLarge => return Err(failure),
            Err(failure) => notes.left_out(failure),
            Ok(()) => {}
        }
    }
    for glob in globs.iter().filter(|glob| strict && !glob.matched()) {
        notes.add(format!("no file matches {}", shown(glob.text().as_bytes())));
    }
    Ok(Outputs { files: found.files, folders: found.folders })
}

/// What was found so far.
#[derive(Default)]
struct Found {
    files: Vec<File>,
    names: BTreeSet<String>,
    names_bytes: usize,
    folders: HashMap<usize, Arc<p2p_blobs::Folder>>,
}

impl Found {
    fn add(&mut self, name: &str, about: &fs::Metadata) -> Result<(), Failure> {
        self.push(name, about.len(), about.mode() & 0o100 != 0, false)
    }

    fn add_folder(&mut self, name: &str, inside: &Folder<'_>, strict: bool) -> Result<(), Failure> {
        let name = name.trim_end_matches('/');
        let path = match inside.folder(name) {
            Ok(path) => path,
            // No wonder after a failure.
            Err(Refusal::Missing) if !strict => return Ok(()),
            Err(refusal) => return Err(refusal.folder_failure(name)),
        };
        if self.names.contains(name) {
            return Ok(());
        }
        let packed = p2p_blobs::Folder::open(&path)?;
        let index = self.files.len();
        self.push(name, packed.size(), false, true)?;
        self.folders.insert(index, Arc::new(packed));
        Ok(())
    }

    fn push(&mut self, name: &str, size: u64, executable: bool, folder: bool) -> Result<(), Failure> {
        check_file_size(name, size)?;
        if self.names.contains(name) {
            return Ok(());
        }
        if self.files.len() >= FILES || self.names_bytes + name.len() > FILE_NAMES_BYTES {
            return Err(too_many());
        }
        self.names.insert(name.to_owned());
        self.names_bytes += name.len();
        self.files.push(File { name: name.to_owned(), content: Content::Streamed(size), executable, folder });
        Ok(())
    }
}

fn too_many() -> Failure {
    let message = format!(
        "the task's output patterns match too many files; at most {FILES} files, with {FILE_NAMES_BYTES} bytes of names, \
         come back: pack them into one, for example with tar"
    );
    Failure::new(FailureKind::TooLarge, message)
}

/// Reads small files into their place, as long as the end of the attempt stays small.
fn inline_small(outputs: &mut Outputs, folder: &Folder<'_>) -> Result<(), Failure> {
    let Outputs { files, folders } = outputs;
    let names: usize = files.iter().map(|file| file.name.len() + FILE_EXTRA_BYTES).sum();
    let mut room = END_BYTES.saturating_sub(names) as u64;
    for (index, file) in files.iter_mut().enumerate() {
        let size = file.content.size();
        if size > room {
            continue;
        }
        room -= size;
        let mut bytes = Vec::new();
        let read = if let Some(packed) = folders.get(&index) {
            bytes.resize(usize::try_from(size).unwrap_or_default(), 0);
            packed.read_exact_at(&mut bytes, 0)
        } else {
            let opened = folder.file(&file.name).map_err(|refusal| refusal.failure(&file.name))?.0;
            opened.take(size).read_to_end(&mut bytes).map(drop)
        };
        read.map_err(|error| {
            worker_failure(&format!("reading the output file {}", shown(file.name.as_bytes())), &error)
        })?;
        file.content = Content::Inline(bytes);
    }
    Ok(())
}
