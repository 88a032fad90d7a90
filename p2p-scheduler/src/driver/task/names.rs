//! Names large content before it is submitted, so that workers that have it need not be sent it (D-01).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use p2p_blobs::{Look, Remembered};
use p2p_proto::blob::Recipe;
use p2p_proto::limits;
use p2p_proto::link::item::Channel;
use p2p_proto::task::Content;

use super::Task;
use super::builder::INLINE_TOTAL_BYTES;
use super::pump::{Blob, Origin, Source};
use crate::driver::lock;

/// What a name costs of the room for inline content, bytes: a task's names of blobs have to fit one record with it.
const NAME_BYTES: u64 = 64;
/// Files whose names are remembered.
const REMEMBERED: usize = 4096;

/// Names that were made, so that a file is read once for many tasks.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Mutex<HashMap<Look, Arc<Recipe>>>,
    /// Names of earlier processes too.
    kept: OnceLock<Remembered>,
}

impl Names {
    /// Keeps names in this folder, and uses those that are there. Only the first call counts.
    pub(crate) fn keep_in(&self, folder: PathBuf) {
        let _ = self.kept.set(Remembered::in_folder(folder));
    }

    /// Names the large content of a task, the largest first; blocks. What cannot be named, or has no room for its name, is sent to each
    /// attempt. Returns how many bytes had to be read for that.
    pub(crate) fn name(&self, task: &mut Task) -> u64 {
        let mut large: Vec<usize> = (0..task.sources.len()).filter(|at| is_large(task, *at)).collect();
        large.sort_by_key(|at| std::cmp::Reverse(size(task, *at)));
        let room = INLINE_TOTAL_BYTES.saturating_sub(task.inline) / NAME_BYTES;
        let mut read = 0;
        for at in large.into_iter().take(usize::try_from(room).unwrap_or(usize::MAX)) {
            let size = size(task, at);
            let (channel, source) = &mut task.sources[at];
            let (origin, named) = match source {
                Source::Bytes(bytes) => {
                    read += size;
                    (Origin::Bytes(Arc::clone(bytes)), p2p_blobs::name_bytes(bytes).map(Arc::new))
                }
                Source::File(path) => (Origin::File(path.clone()), self.of_file(path, &mut read)),
                Source::Folder(folder) => {
                    let named = folder.recipe().map(|(recipe, bytes)| {
                        read += bytes;
                        recipe
                    });
                    (Origin::Folder(Arc::clone(folder)), named)
                }
                Source::Reader(_) | Source::Blob(_) => continue,
            };
            match named {
                Ok(recipe) if recipe.name().size == size => {
                    let content = Content::Blob(recipe.name());
                    match channel {
                        Channel::Input(index) => task.spec.inputs[usize::from(*index)].content = content,
                        _ => task.spec.payload = content,
                    }
                    *source = Source::Blob(Blob { recipe, origin });
                }
                Ok(_) => log::debug!("an input changed before it was sent"),
                Err(fault) => log::debug!("an input cannot be named: {fault}"),
            }
        }
        read
    }

    fn of_file(&self, path: &Path, read: &mut u64) -> io::Result<Arc<Recipe>> {
        let before = Look::at(path)?;
        if let Some(known) = lock(&self.known).get(&before) {
            return Ok(Arc::clone(known));
        }
        if let Some(kept) = self.kept.get().and_then(|kept| kept.find(&before)) {
            return Ok(self.know(before, kept));
        }
        *read += before.size();
        let recipe = p2p_blobs::name(path)?;
        // One that is written to meanwhile may look the same: then its workers notice.
        if Look::at(path)? != before {
            return Ok(Arc::new(recipe));
        }
        if let Some(Err(fault)) = self.kept.get().map(|kept| kept.keep(&before, &recipe)) {
            log::debug!("the name of {} cannot be kept: {fault}", path.display());
        }
        Ok(self.know(before, recipe))
    }

    fn know(&self, look: Look, recipe: Recipe) -> Arc<Recipe> {
        let mut known = lock(&self.known);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        Arc::clone(known.entry(look).or_insert_with(|| Arc::new(recipe)))
    }
}

/// Whether it has content that should be named.
pub(crate) fn has_large(task: &Task) -> bool {
    (0..task.sources.len()).any(|at| is_large(task, at))
}

fn is_large(task: &Task, at: usize) -> bool {
    matches!(task.sources[at].1, Source::Bytes(_) | Source::File(_) | Source::Folder(_))
        && size(task, at) > limits::BLOB_ABOVE_BYTES
}

fn size(task: &Task, at: usize) -> u64 {
    match task.sources[at].0 {
        Channel::Input(index) => task.spec.inputs[usize::from(index)].content.size(),
        _ => task.spec.payload.size(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = limits::BLOB_ABOVE_BYTES as usize + 1;

    fn named(task: &Task) -> Vec<bool> {
        let contents = task.spec.inputs.iter().map(|file| &file.content).chain([&task.spec.payload]);
        contents.map(|content| matches!(content, Content::Blob(_))).collect()
    }

    #[test]
    fn large_content_is_named_once_and_small_content_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (small, large) = (dir.path().join("small"), dir.path().join("large"));
        std::fs::write(&small, vec![1; LARGE - 1]).unwrap();
        std::fs::write(&large, vec![2; LARGE]).unwrap();
        let names = Names::default();
        let task = || Task::new("f", vec![3; LARGE]).input("a", &small).unwrap().input("b", &large).unwrap();
        let (mut first, mut second) = (task(), task());
        assert!(has_large(&first));
        assert_eq!(names.name(&mut first), 2 * LARGE as u64);
        assert_eq!((named(&first), has_large(&first), first.spec.check()), (vec![false, true, true], false, Ok(())));
        assert_eq!(names.name(&mut second), LARGE as u64, "the file is known by now");
        assert_eq!(first.spec, second.spec);
        std::fs::write(&large, vec![4; LARGE]).unwrap();
        let mut third = task();
        names.name(&mut third);
        assert_ne!(second.spec.inputs[1], third.spec.inputs[1], "it has changed since");
    }

    #[test]
    fn what_cannot_be_named_is_sent_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let changes: [fn(&Path); 2] =
            [|path| std::fs::remove_file(path).unwrap(), |path| std::fs::write(path, vec![1; LARGE + 1]).unwrap()];
        for change in changes {
            std::fs::write(&path, vec![1; LARGE]).unwrap();
            let mut task = Task::new("f", Vec::new()).input("a", &path).unwrap();
            change(&path);
            Names::default().name(&mut task);
            assert_eq!(task.spec.inputs[0].content, Content::Streamed(LARGE as u64));
        }
    }

    #[test]
    fn as_many_names_as_fit_one_item_go_to_the_largest() {
        let dir = tempfile::tempdir().unwrap();
        let mut task = Task::new("f", Vec::new());
        for index in 0..limits::FILES {
            let path = dir.path().join(index.to_string());
            std::fs::write(&path, vec![1; LARGE + index]).unwrap();
            task = task.input(&index.to_string(), &path).unwrap();
        }
        Names::default().name(&mut task);
        let named = named(&task);
        let count = usize::try_from(INLINE_TOTAL_BYTES / NAME_BYTES).unwrap();
        assert!(named[limits::FILES - count..limits::FILES].iter().all(|named| *named));
        assert!(!named[..limits::FILES - count].iter().any(|named| *named));
        let submit =
            p2p_proto::link::item::Submit { attempt: p2p_proto::ids::AttemptId(1), task: task.spec, alone: false };
        assert!(p2p_proto::link::record::append(&p2p_proto::link::ToWorker::Submit(submit), &mut Vec::new()));
    }
}
