//! Puts files that came back from a worker into place: only what was asked for, only below a folder, whole or not at all.

mod folder;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use p2p_proto::task::{Content, Failure, FailureKind, File, check_file_name, check_output_name};
use tempfile::NamedTempFile;

use crate::trouble::{Code, Trouble};

/// The files of one task on their way into place.
#[derive(Debug)]
pub struct Outputs {
    /// Where files are while they arrive.
    folder: PathBuf,
    wanted: Vec<Wanted>,
    streamed: HashMap<u16, NamedTempFile>,
}

/// A file that is to come back, or a pattern of such files.
#[derive(Clone, Debug)]
pub struct Wanted {
    name: String,
    pattern: Option<GlobMatcher>,
    /// It is a folder, with all that is in it.
    folder: bool,
    /// Below this folder they are put.
    root: PathBuf,
    /// A task that succeeds has it.
    must: bool,
}

impl Wanted {
    /// Exactly this file.
    pub fn file(name: String, root: PathBuf) -> Self {
        Self { name, pattern: None, folder: false, root, must: true }
    }

    /// This folder, with all that is in it.
    pub fn folder(name: String, root: PathBuf) -> Self {
        Self { folder: true, ..Self::file(name, root) }
    }

    /// Files that match a pattern, and one that has it as its name.
    ///
    /// # Errors
    /// When the pattern makes no sense.
    pub fn pattern(name: String, root: PathBuf) -> Result<Self, Failure> {
        // As a worker understands it: braces are not part of the patterns' language.
        let mut in_class = false;
        let plain = name.chars().map(|c| {
            in_class = c == '[' || in_class && c != ']';
            if !in_class && matches!(c, '{' | '}') { format!("[{c}]") } else { c.to_string() }
        });
        let glob = GlobBuilder::new(&plain.collect::<String>()).literal_separator(true).backslash_escape(false).build();
        let glob = glob.map_err(|fault| {
            Failure::new(FailureKind::BadName, format!("the pattern {name:?} makes no sense: {}", fault.kind()))
        })?;
        Ok(Self { name, pattern: Some(glob.compile_matcher()), folder: false, root, must: false })
    }

    fn is(&self, name: &str, folder: bool) -> bool {
        if self.folder || folder {
            return self.folder && folder && self.name == name;
        }
        // As on a worker: a pattern without a dot part means no hidden file. A worker that lies could plant a .bashrc otherwise.
        let matches = |pattern: &GlobMatcher| pattern.is_match(name) && (hidden(&self.name) || !hidden(name));
        self.name == name || self.pattern.as_ref().is_some_and(matches)
    }
}

impl Outputs {
    /// Takes what matches `wanted`, below `folder`.
    pub fn new(wanted: &[String], folder: PathBuf) -> Result<Self, Trouble> {
        let mut all = Vec::with_capacity(wanted.len());
        for name in wanted {
            let (bare, is_folder) =
                check_output_name(name).map_err(|failure| Trouble::new(Code::Input, failure.message))?;
            if is_folder {
                all.push(Wanted::folder(bare.to_owned(), folder.clone()));
                continue;
            }
            let pattern = Wanted::pattern(name.clone(), folder.clone());
            all.push(pattern.map_err(|failure| Trouble::new(Code::Usage, failure.message))?);
        }
        Ok(Self::of(all, folder))
    }

    /// Takes what is wanted; what arrives is in `folder` before it is put into place.
    pub fn of(wanted: Vec<Wanted>, folder: PathBuf) -> Self {
        Self { folder, wanted, streamed: HashMap::new() }
    }

    /// A piece of the streamed file `index`.
    pub fn write(&mut self, index: u16, bytes: &[u8]) -> Result<(), Trouble> {
        if self.wanted.is_empty() {
            let words = "the worker sends a file, and none was asked for; nothing was written";
            return Err(Trouble::new(Code::Failed, words));
        }
        let file = match self.streamed.entry(index) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(arriving_file(&self.folder).map_err(|fault| cannot_receive(&self.folder, &fault))?)
            }
        };
        // Its name is told only when all of it is here.
        let folder = file.path().parent().unwrap_or(&self.folder).to_owned();
        file.as_file_mut().write_all(bytes).map_err(|fault| cannot_receive(&folder, &fault))
    }

    /// Forgets what came of an attempt that is void.
    pub fn discard(&mut self) {
        self.streamed.clear();
    }

    /// The file that a task which succeeded should have and has not.
    pub fn missing(&self, files: &[File]) -> Option<&str> {
        let is = |file: &File, wanted: &Wanted| file.name == wanted.name && file.folder == wanted.folder;
        let missing = |wanted: &&Wanted| wanted.must && !files.iter().any(|file| is(file, wanted));
        self.wanted.iter().find(missing).map(|wanted| wanted.name.as_str())
    }

    /// Puts the files of a finished attempt into place, over what was there. Returns their paths.
    pub fn place(&mut self, files: &[File]) -> Result<Vec<PathBuf>, Trouble> {
        let mut placed = Vec::with_capacity(files.len());
        for (index, file) in files.iter().enumerate() {
            placed.push(self.place_one(index, file)?);
        }
        Ok(placed)
    }

    fn place_one(&mut self, index: usize, file: &File) -> Result<PathBuf, Trouble> {
        let from_worker = |words: String| Trouble::new(Code::Failed, words);
        check_file_name(&file.name)
            .map_err(|failure| from_worker(format!("the worker sent back: {}", failure.message)))?;
        let Some(wanted) = self.wanted.iter().find(|wanted| wanted.is(&file.name, file.folder)) else {
            return Err(from_worker(format!(
                "the worker sent back {:?}, which was not asked for; nothing was written",
                file.name
            )));
        };
        let path = wanted.root.join(&file.name);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(|fault| cannot_write(parent, &fault))?;
        let mut part = match &file.content {
            Content::Inline(bytes) => {
                let mut part = part_file(parent).map_err(|fault| cannot_write(parent, &fault))?;
                part.as_file_mut().write_all(bytes).map_err(|fault| cannot_write(&path, &fault))?;
                part
            }
            Content::Blob(_) => {
                return Err(from_worker(format!("the worker named {} and did not send it: upgrade it", file.name)));
            }
            Content::Streamed(size) => {
                let index =
                    u16::try_from(index).map_err(|_| from_worker("the worker sent too many files".to_owned()))?;
                let part = match self.streamed.remove(&index) {
                    Some(part) => part,
                    None => arriving_file(&self.folder).map_err(|fault| cannot_receive(&self.folder, &fault))?,
                };
                let arrived = part.as_file().metadata().map_or(0, |meta| meta.len());
                if arrived != *size {
                    return Err(from_worker(format!("{} did not arrive whole: {arrived} of {size} bytes", file.name)));
                }
                part
            }
        };
        part.flush().map_err(|fault| cannot_write(&path, &fault))?;
        if file.folder {
            let packed = part.reopen().map_err(|fault| cannot_write(&path, &fault))?;
            folder::place(packed, file.content.size(), &path)?;
            return Ok(path);
        }
        set_mode(&part, file.executable).map_err(|fault| cannot_write(&path, &fault))?;
        persist(part, &path).map_err(|fault| cannot_write(&path, &fault))?;
        Ok(path)
    }
}

/// Whether a part of it begins with a dot.
fn hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.'))
}

/// Renames it into place; where that cannot be, as between two disks, a copy is.
fn persist(part: NamedTempFile, path: &Path) -> io::Result<()> {
    let Err(fault) = part.persist(path) else { return Ok(()) };
    if fault.error.kind() != io::ErrorKind::CrossesDevices {
        return Err(fault.error);
    }
    let rights = fault.file.as_file().metadata()?.permissions();
    let mut copy = part_file(path.parent().unwrap_or(Path::new(".")))?;
    io::copy(&mut fault.file.reopen()?, copy.as_file_mut())?;
    copy.as_file().set_permissions(rights)?;
    copy.persist(path).map_err(|fault| fault.error)?;
    Ok(())
}

/// A file may be wanted elsewhere while nothing can be written in the current folder.
fn arriving_file(folder: &Path) -> io::Result<NamedTempFile> {
    part_file(folder).or_else(|fault| part_file(&std::env::temp_dir()).map_err(|_| fault))
}

fn part_file(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".p2p-").suffix(".part").tempfile_in(folder)
}

/// The rights that a program started here would give.
#[cfg(unix)]
fn set_mode(part: &NamedTempFile, executable: bool) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let wanted = if executable { 0o777 } else { 0o666 };
    part.as_file().set_permissions(fs::Permissions::from_mode(wanted & !umask()))
}

#[cfg(unix)]
fn umask() -> u32 {
    use rustix::fs::Mode;
    // There is no call that only reads it. The program sets none of its own, so both calls see the same.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

fn cannot_write(path: &Path, fault: &io::Error) -> Trouble {
    not_written(&format!("{} cannot be written", shown(path)), fault)
}

fn cannot_receive(folder: &Path, fault: &io::Error) -> Trouble {
    not_written(&format!("a file that comes back cannot be written into {}", shown(folder)), fault)
}

fn not_written(what: &str, fault: &io::Error) -> Trouble {
    let words = match fault.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("{what}: this disk is full ({fault}); free space there, or go to a folder on a larger disk")
        }
        _ => format!("{what}: {fault}; check the folder's rights"),
    };
    Trouble::new(Code::CannotWrite, words)
}

/// As it is named without the detour of the current folder.
fn shown(path: &Path) -> std::path::Display<'_> {
    let path = path.strip_prefix(".").unwrap_or(path);
    if path.as_os_str().is_empty() { Path::new("this folder").display() } else { path.display() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn is(pattern: &str, name: &str) -> bool {
        Wanted::pattern(pattern.to_owned(), PathBuf::new()).unwrap().is(name, false)
    }

    #[test]
    fn a_worker_that_lies_plants_no_hidden_files() {
        for (pattern, name) in [
            ("*", ".bashrc"),
            ("?bashrc", ".bashrc"),
            ("[!a]bashrc", ".bashrc"),
            ("[.]bashrc", ".bashrc"),
            ("**", ".ssh/authorized_keys"),
            ("**", "out/.ssh/authorized_keys"),
            ("**/*_keys", ".ssh/authorized_keys"),
            ("out/*", "out/.profile"),
        ] {
            assert!(!is(pattern, name), "{pattern} took {name}");
        }
    }

    #[test]
    fn only_a_folder_that_was_asked_for_comes_back_as_one() {
        let folder = Wanted::folder("out".to_owned(), PathBuf::new());
        assert!(folder.is("out", true));
        assert!(!folder.is("out", false) && !folder.is("other", true));
        assert!(!Wanted::file("out".to_owned(), PathBuf::new()).is("out", true));
        assert!(!Wanted::pattern("*".to_owned(), PathBuf::new()).unwrap().is("out", true));
    }

    #[test]
    fn hidden_files_come_back_when_they_are_named() {
        for (pattern, name) in
            [(".bashrc", ".bashrc"), (".*", ".bashrc"), ("out/.*/x", "out/.cache/x"), ("**", "out/x.log"), ("*", "a.b")]
        {
            assert!(is(pattern, name), "{pattern} did not take {name}");
        }
    }
}
