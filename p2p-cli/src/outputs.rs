//! Puts files that came back from a worker into place: only what was asked for, only below a folder, whole or not at all.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use p2p_proto::task::{Content, File, check_file_name};
use tempfile::NamedTempFile;

use crate::trouble::{Code, Trouble};

/// The files of one task on their way into a folder.
#[derive(Debug)]
pub struct Outputs {
    folder: PathBuf,
    literal: Vec<String>,
    patterns: GlobSet,
    streamed: HashMap<u16, NamedTempFile>,
}

impl Outputs {
    /// Takes what matches `wanted`, below `folder`.
    pub fn new(wanted: &[String], folder: PathBuf) -> Result<Self, Trouble> {
        let mut patterns = GlobSetBuilder::new();
        for pattern in wanted {
            check_file_name(pattern).map_err(|failure| Trouble::new(Code::Input, failure.message))?;
            let glob = GlobBuilder::new(pattern).literal_separator(true).build().map_err(|fault| {
                Trouble::new(Code::Usage, format!("the pattern {pattern:?} makes no sense: {fault}"))
            })?;
            patterns.add(glob);
        }
        let patterns =
            patterns.build().map_err(|fault| Trouble::new(Code::Usage, format!("too many patterns: {fault}")))?;
        Ok(Self { folder, literal: wanted.to_vec(), patterns, streamed: HashMap::new() })
    }

    /// A piece of the streamed file `index`.
    pub fn write(&mut self, index: u16, bytes: &[u8]) -> Result<(), Trouble> {
        let file = match self.streamed.entry(index) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let file = part_file(&self.folder).map_err(|fault| cannot_write(&self.folder, &fault))?;
                entry.insert(file)
            }
        };
        file.write_all(bytes).map_err(|fault| cannot_write(file.path(), &fault))
    }

    /// Forgets what came of an attempt that is void.
    pub fn discard(&mut self) {
        self.streamed.clear();
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
        if !self.literal.contains(&file.name) && !self.patterns.is_match(&file.name) {
            return Err(from_worker(format!(
                "the worker sent back {:?}, which was not asked for; nothing was written",
                file.name
            )));
        }
        let path = self.folder.join(&file.name);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(|fault| cannot_write(parent, &fault))?;
        let mut part = match &file.content {
            Content::Inline(bytes) => {
                let mut part = part_file(parent).map_err(|fault| cannot_write(parent, &fault))?;
                part.write_all(bytes).map_err(|fault| cannot_write(&path, &fault))?;
                part
            }
            Content::Streamed(size) => {
                let index =
                    u16::try_from(index).map_err(|_| from_worker("the worker sent too many files".to_owned()))?;
                let part = match self.streamed.remove(&index) {
                    Some(part) => part,
                    None => part_file(&self.folder).map_err(|fault| cannot_write(&self.folder, &fault))?,
                };
                let arrived = part.as_file().metadata().map_or(0, |meta| meta.len());
                if arrived != *size {
                    return Err(from_worker(format!("{} did not arrive whole: {arrived} of {size} bytes", file.name)));
                }
                part
            }
        };
        part.flush().map_err(|fault| cannot_write(&path, &fault))?;
        set_mode(&part, file.executable).map_err(|fault| cannot_write(&path, &fault))?;
        part.persist(&path).map_err(|fault| cannot_write(&path, &fault.error))?;
        Ok(path)
    }
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
    let words = format!("{} cannot be written: {fault}; check the folder's rights and room", path.display());
    Trouble::new(Code::CannotWrite, words)
}
