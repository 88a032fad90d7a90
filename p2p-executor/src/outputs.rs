//! Finds the files that a task promised, and brings them back.
//!
//! A name without `*`, `?` and `[` is literal, and so is one with them if just that file exists. In a pattern `*` and `?` stay within one part of
//! a path, `**` does not; names that begin with a dot are seen only by patterns that have a part that begins with one. Patterns leave out
//! input files that the command did not change, and may match nothing. Symbolic links are followed as long as they are relative and
//! stay inside the folder.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use async_std::task;
use globset::{GlobBuilder, GlobMatcher};
use p2p_proto::limits::{CHUNK_BYTES, FILE_NAMES_BYTES, FILES};
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Content, Failure, FailureKind, File, check_file_name, check_file_size};
use p2p_scheduler::executor::{AttemptEnd, OutputWriter};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use walkdir::WalkDir;

use crate::failure::{shown, worker_failure};
use crate::scratch::Scratch;
use crate::stage::{Input, Look};

/// What names and inline files of one attempt may take together, bytes: they travel in one item.
const END_BYTES: usize = 48 * 1024;
/// What a file takes beside its name and content, bytes.
const FILE_EXTRA_BYTES: usize = 32;
/// Notes about one attempt's output files; the rest is counted.
const NOTES: usize = 10;
/// How often an open that raced with a rename is repeated.
const OPEN_TRIES: usize = 8;

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
) -> Result<Vec<File>, Failure> {
    task::spawn_blocking(move || {
        let mut notes = Notes::default();
        let found = Folder::open(&scratch)?.find(&patterns, &inputs, strict, &mut notes);
        notes.tell(&output);
        let mut files = found?;
        inline_small(&mut files, scratch.path())?;
        Ok(files)
    })
    .await
}

/// Sends the files that do not travel inline.
///
/// # Errors
/// A failure, or a cancelled end when nobody will read them.
pub(crate) async fn stream(files: &[File], scratch: &Arc<Scratch>, output: &OutputWriter) -> Result<(), AttemptEnd> {
    for (index, file) in (0u16..).zip(files) {
        let Content::Streamed(size) = file.content else { continue };
        let mut open = Some(Folder::open(scratch)?.file(&file.name).map_err(|refusal| refusal.failure(&file.name))?.0);
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
            sent.map_err(|_| AttemptEnd::new(p2p_proto::task::Ended::Cancelled))?;
            open = (!end).then_some(from);
        }
    }
    Ok(())
}

/// Reads small files into their place, as long as the end of the attempt stays small.
fn inline_small(files: &mut [File], folder: &Path) -> Result<(), Failure> {
    let names: usize = files.iter().map(|file| file.name.len() + FILE_EXTRA_BYTES).sum();
    let mut room = END_BYTES.saturating_sub(names) as u64;
    for file in files {
        let size = file.content.size();
        if size > room {
            continue;
        }
        room -= size;
        let mut bytes = Vec::new();
        let opened = Folder::at(folder)?.file(&file.name).map_err(|refusal| refusal.failure(&file.name))?.0;
        let read = opened.take(size).read_to_end(&mut bytes);
        read.map_err(|error| {
            worker_failure(&format!("reading the output file {}", shown(file.name.as_bytes())), &error)
        })?;
        file.content = Content::Inline(bytes);
    }
    Ok(())
}

/// The scratch folder, as the root of every name.
struct Folder<'a> {
    path: &'a Path,
    root: fs::File,
}

impl<'a> Folder<'a> {
    fn open(scratch: &'a Scratch) -> Result<Self, Failure> {
        Self::at(scratch.path())
    }

    fn at(path: &'a Path) -> Result<Self, Failure> {
        let root = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path);
        let root = root.map_err(|error| worker_failure("opening the task's folder", &error))?;
        Ok(Self { path, root })
    }

    /// The files that patterns name, in their order, each once.
    fn find(
        &self,
        patterns: &[String],
        inputs: &[Input],
        strict: bool,
        notes: &mut Notes,
    ) -> Result<Vec<File>, Failure> {
        let mut found = Found::default();
        let mut globs = Vec::new();
        for pattern in patterns {
            let added = match self.file(pattern) {
                Ok((_, about)) => found.add(pattern, &about),
                Err(Refusal::Missing) if pattern.contains(['*', '?', '[']) => {
                    Glob::new(pattern).map(|glob| globs.push(glob))
                }
                // No wonder after a failure.
                Err(Refusal::Missing) if !strict => Ok(()),
                Err(refusal) => Err(refusal.failure(pattern)),
            };
            match added {
                Err(failure) if !strict => notes.left_out(failure),
                added => added?,
            }
        }
        let inputs: HashMap<&str, Look> = inputs.iter().map(|input| (input.name.as_str(), input.look)).collect();
        for name in self.matching(&mut globs)? {
            let checked = check_file_name(&name);
            let added = checked.and_then(|()| match self.file(&name) {
                Ok((_, about)) if inputs.get(name.as_str()) == Some(&Look::from(&about)) => Ok(()),
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
        for glob in globs.iter().filter(|glob| strict && !glob.matched) {
            notes.add(format!("no file matches {}", shown(glob.pattern.as_bytes())));
        }
        Ok(found.files)
    }

    /// The names that match, sorted.
    fn matching(&self, globs: &mut [Glob]) -> Result<BTreeSet<String>, Failure> {
        if globs.is_empty() {
            return Ok(BTreeSet::new());
        }
        let hidden = globs.iter().any(|glob| glob.hidden);
        let walk = WalkDir::new(self.path).follow_links(false).min_depth(1).into_iter();
        let seen = walk.filter_entry(|entry| {
            hidden || entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".")
        });
        let mut names = BTreeSet::new();
        // What cannot be read is not the client's to have.
        for entry in seen.flatten().filter(|entry| !entry.file_type().is_dir()) {
            let Ok(path) = entry.path().strip_prefix(self.path) else { continue };
            let mut matched = false;
            for glob in globs.iter_mut().filter(|glob| glob.is_match(path)) {
                glob.matched = true;
                matched = true;
            }
            if matched {
                names.insert(path.to_string_lossy().into_owned());
            }
            // Unchanged inputs among them do not count; what comes back is counted later.
            if names.len() > 2 * FILES {
                return Err(too_many());
            }
        }
        Ok(names)
    }

    /// Opens a regular file without ever leaving the folder.
    fn file(&self, name: &str) -> Result<(fs::File, fs::Metadata), Refusal> {
        let file = self.open_inside(name)?;
        let about = file.metadata().map_err(Refusal::Other)?;
        if about.is_dir() {
            return Err(Refusal::Folder);
        }
        if !about.is_file() {
            return Err(Refusal::NoFile);
        }
        Ok((file, about))
    }

    #[cfg(target_os = "linux")]
    fn open_inside(&self, name: &str) -> Result<fs::File, Refusal> {
        // A pipe must not hold us up: it is refused once it is open.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..OPEN_TRIES {
            return match rustix::fs::openat2(self.root.as_fd(), name, flags, Mode::empty(), resolve) {
                Ok(file) => Ok(file.into()),
                Err(Errno::AGAIN | Errno::INTR) => continue,
                // Linux before 5.6, or a container that forbids new calls.
                Err(Errno::NOSYS | Errno::PERM) => self.open_checked(name),
                Err(error) => Err(error.into()),
            };
        }
        Err(Errno::AGAIN.into())
    }

    #[cfg(not(target_os = "linux"))]
    fn open_inside(&self, name: &str) -> Result<fs::File, Refusal> {
        self.open_checked(name)
    }

    /// As `open_inside` where the system does not check: safe as long as nothing of the command is left that swaps folders for links.
    fn open_checked(&self, name: &str) -> Result<fs::File, Refusal> {
        let path = fs::canonicalize(self.path.join(name)).map_err(Refusal::from)?;
        if !path.starts_with(self.path) {
            return Err(Refusal::LeadsOut);
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(Refusal::from)
    }
}

/// Why a name brings nothing back.
#[derive(Debug)]
enum Refusal {
    Missing,
    LeadsOut,
    Folder,
    NoFile,
    Other(io::Error),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::Missing,
            Errno::XDEV | Errno::LOOP => Self::LeadsOut,
            Errno::NXIO => Self::NoFile,
            error => Self::Other(error.into()),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or_else(|| Self::Other(error), Self::from)
    }
}

impl Refusal {
    fn failure(self, name: &str) -> Failure {
        let name = shown(name.as_bytes());
        match self {
            Self::Missing => Failure::new(
                FailureKind::MissingOutput,
                format!(
                    "the command succeeded, but left no file {name}; check the name, and that it is written below the folder in which the command starts"
                ),
            ),
            Self::LeadsOut => Failure::new(
                FailureKind::BadName,
                format!(
                    "the output {name} is refused: a symbolic link leads out of the task's folder; copy the file into it"
                ),
            ),
            Self::Folder => Failure::new(
                FailureKind::BadName,
                format!("the output {name} is a folder; ask for its files, for example as {name}/**"),
            ),
            Self::NoFile => Failure::new(
                FailureKind::BadName,
                format!(
                    "the output {name} is not a regular file but a pipe, socket or device; copy its content into a file"
                ),
            ),
            Self::Other(error) => worker_failure(&format!("opening the output file {name}"), &error),
        }
    }
}

/// What a person should know about files that do not come back.
#[derive(Default)]
struct Notes {
    texts: Vec<String>,
    more: usize,
}

impl Notes {
    fn left_out(&mut self, failure: Failure) {
        self.add(format!("left out: {}", failure.message));
    }

    fn add(&mut self, text: String) {
        if self.texts.len() < NOTES {
            self.texts.push(text);
        } else {
            self.more += 1;
        }
    }

    fn tell(self, output: &OutputWriter) {
        self.texts.into_iter().for_each(|text| output.note(text));
        if self.more > 0 {
            output.note(format!("{} more output files or patterns brought nothing back", self.more));
        }
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    files: Vec<File>,
    names: BTreeSet<String>,
    names_bytes: usize,
}

impl Found {
    fn add(&mut self, name: &str, about: &fs::Metadata) -> Result<(), Failure> {
        check_file_size(name, about.len())?;
        if self.names.contains(name) {
            return Ok(());
        }
        if self.files.len() >= FILES || self.names_bytes + name.len() > FILE_NAMES_BYTES {
            return Err(too_many());
        }
        self.names.insert(name.to_owned());
        self.names_bytes += name.len();
        let executable = about.mode() & 0o100 != 0;
        self.files.push(File { name: name.to_owned(), content: Content::Streamed(about.len()), executable });
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

/// A pattern.
struct Glob {
    pattern: String,
    matcher: GlobMatcher,
    /// Whether it sees names that begin with a dot.
    hidden: bool,
    matched: bool,
}

impl Glob {
    fn new(pattern: &str) -> Result<Self, Failure> {
        // Braces are not part of the patterns' language.
        let plain = pattern.chars().map(|c| match c {
            '{' => "[{]".to_owned(),
            '}' => "[}]".to_owned(),
            c => c.to_string(),
        });
        let built =
            GlobBuilder::new(&plain.collect::<String>()).literal_separator(true).backslash_escape(false).build();
        let glob = built.map_err(|error| {
            let message =
                format!("the output pattern {} cannot be understood: {}", shown(pattern.as_bytes()), error.kind());
            Failure::new(FailureKind::BadName, message)
        })?;
        let hidden = pattern.split('/').any(|part| part.starts_with('.'));
        Ok(Self { pattern: pattern.to_owned(), matcher: glob.compile_matcher(), hidden, matched: false })
    }

    fn is_match(&self, path: &Path) -> bool {
        let shows = || !path.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
        self.matcher.is_match(path) && (self.hidden || shows())
    }
}
