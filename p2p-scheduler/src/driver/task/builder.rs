//! What a task is made of, checked while it is made.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::AsyncRead;
use serde::Serialize;

use p2p_blobs::Folder;
use p2p_proto::limits;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{
    COMMAND_RUNTIME, Command, Content, Failure, FailureKind, File, TaskSpec, check_file_name, check_file_size,
    check_output_name,
};

use super::pump::Source;
use crate::functions::to_cbor;

/// Payload and files of one task that travel inside its `Submit`, bytes together; the others stream. With as many names as a task may
/// have, and what each file costs, it still fits one record.
pub(super) const INLINE_TOTAL_BYTES: u64 = 22 * 1024;

/// What to run.
#[derive(Debug)]
pub struct Task {
    pub(crate) spec: TaskSpec,
    pub(crate) sources: Vec<(Channel, Source)>,
    pub(super) inline: u64,
    /// Bytes of all file names.
    names: usize,
}

impl Task {
    /// A task for `runtime` with this input.
    pub fn new(runtime: &str, payload: Vec<u8>) -> Self {
        let spec = TaskSpec { runtime: runtime.to_owned(), ..TaskSpec::default() };
        let mut task = Self { spec, sources: Vec::new(), inline: 0, names: 0 };
        if payload.len() <= limits::PAYLOAD_BYTES {
            task.inline = payload.len() as u64;
            task.spec.payload = Content::Inline(payload);
        } else {
            task.spec.payload = Content::Streamed(payload.len() as u64);
            task.sources.push((Channel::Payload, Source::Bytes(Arc::new(payload))));
        }
        task
    }

    /// A call of the function that workers registered under `name`.
    pub fn function(name: &str, input: Vec<u8>) -> Self {
        Self::new(name, input)
    }

    /// A call of the function that workers registered under `name`, with one value as its input; see
    /// [`Functions::register_typed`](crate::Functions::register_typed).
    ///
    /// # Errors
    /// When the value does not serialise.
    pub fn call<In: Serialize>(name: &str, input: &In) -> Result<Self, String> {
        Ok(Self::new(name, to_cbor(input)?))
    }

    /// A program and its arguments.
    pub fn command(command: &Command) -> Self {
        Self::new(COMMAND_RUNTIME, command.to_cbor())
    }

    /// Puts the file at `path` into the task's scratch folder as `name`.
    ///
    /// # Errors
    /// A [`Failure`] that says why that file cannot travel: unreadable, no regular file, too large, or a bad name.
    pub fn input(mut self, name: &str, path: &Path) -> Result<Self, Failure> {
        self.add_name(name)?;
        let shown = path.display();
        let unreadable = |fault: std::io::Error| {
            Failure::new(
                FailureKind::Other,
                format!("the input file {shown} cannot be read: {fault}; check its name and rights"),
            )
        };
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            let message = if metadata.is_dir() {
                format!("the input {shown} is a folder: write it as {shown}/ to send it with all that is in it")
            } else {
                format!("the input {shown} is no regular file: name regular files and folders")
            };
            return Err(Failure::new(FailureKind::Other, message));
        }
        check_file_size(&shown.to_string(), metadata.len())?;
        let index = self.next_index()?;
        let content = if self.inline + metadata.len() <= INLINE_TOTAL_BYTES {
            let bytes = std::fs::read(path).map_err(unreadable)?;
            if bytes.len() as u64 != metadata.len() {
                let message = format!("the input file {shown} changed while it was read: try again when it is at rest");
                return Err(Failure::new(FailureKind::Other, message));
            }
            self.inline += metadata.len();
            Content::Inline(bytes)
        } else {
            // Opened now, so that a missing right is told at once and not in the middle of the work.
            std::fs::File::open(path).map_err(unreadable)?;
            self.sources.push((Channel::Input(index), Source::File(path.to_owned())));
            Content::Streamed(metadata.len())
        };
        let executable = is_executable(&metadata);
        self.spec.inputs.push(File { name: name.to_owned(), content, executable, folder: false });
        Ok(self)
    }

    /// Puts a folder with all that is in it into the task's scratch folder as `name`. It is read when it is sent, once for all tasks that share it.
    ///
    /// # Errors
    /// A [`Failure`] for a bad name, too many inputs, or a small folder that cannot be read.
    pub fn input_folder(mut self, name: &str, folder: &Arc<Folder>) -> Result<Self, Failure> {
        self.add_name(name)?;
        let index = self.next_index()?;
        let size = folder.size();
        let content = if self.inline + size <= INLINE_TOTAL_BYTES {
            let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
            folder.read_exact_at(&mut bytes, 0).map_err(|fault| {
                let message = format!("the input folder {} cannot be read: {fault}", folder.path().display());
                Failure::new(FailureKind::Other, message)
            })?;
            self.inline += size;
            Content::Inline(bytes)
        } else {
            self.sources.push((Channel::Input(index), Source::Folder(Arc::clone(folder))));
            Content::Streamed(size)
        };
        self.spec.inputs.push(File { name: name.to_owned(), content, executable: false, folder: true });
        Ok(self)
    }

    /// The index of the next input.
    fn next_index(&self) -> Result<u16, Failure> {
        let index = u16::try_from(self.spec.inputs.len()).ok().filter(|index| usize::from(*index) < limits::FILES);
        index.ok_or_else(|| {
            let message = format!("a task may have at most {} inputs; a folder is one", limits::FILES);
            Failure::new(FailureKind::TooLarge, message)
        })
    }

    /// Brings the files back that this relative name or pattern matches; with a `/` at its end the folder of that name, with all that is in it.
    ///
    /// # Errors
    /// A [`Failure`] when the name leads out of the scratch folder, or there are too many.
    pub fn output(mut self, pattern: &str) -> Result<Self, Failure> {
        check_output_name(pattern)?;
        self.add_name_bytes(pattern)?;
        if self.spec.outputs.len() >= limits::FILES {
            let message = format!("a task may have at most {} names or patterns of output files", limits::FILES);
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        self.spec.outputs.push(pattern.to_owned());
        Ok(self)
    }

    /// All names travel in one item: there is room for so many bytes of them.
    fn add_name(&mut self, name: &str) -> Result<(), Failure> {
        check_file_name(name)?;
        self.add_name_bytes(name)
    }

    fn add_name_bytes(&mut self, name: &str) -> Result<(), Failure> {
        self.names += name.len();
        if self.names > limits::FILE_NAMES_BYTES {
            let message = format!(
                "the file names of one task may have {} bytes together: shorten them, or use patterns or several tasks",
                limits::FILE_NAMES_BYTES
            );
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        Ok(())
    }

    /// Streams `reader` to the command's stdin. It is read once, by the first attempt that runs: such a task cannot be started again
    /// once it ran.
    pub fn stdin(mut self, reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        self.spec.stdin = true;
        self.sources.push((Channel::Stdin, Source::reader(reader)));
        self
    }

    /// Kills it after so long.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.spec.timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        self
    }

    /// Lets it take so many slots, at least 1.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.spec.extra_cpus = cpus.saturating_sub(1);
        self
    }

    /// Gives it only to workers that have this much memory for it, MiB; 0, which is the default, for little (S-03).
    ///
    /// It is what the task asks for, not a limit on what it may take.
    pub fn memory_mib(mut self, memory_mib: u64) -> Self {
        self.spec.memory_mib = memory_mib;
        self
    }

    /// Gives it only to workers that offer this word, such as `gpu` (S-03). Several labels must all be offered.
    ///
    /// # Errors
    /// A [`Failure`] when the label is empty, has a control character or more than [`limits::LABEL_BYTES`], or there are more than
    /// [`limits::LABELS`].
    pub fn label(mut self, label: &str) -> Result<Self, Failure> {
        if label.is_empty() || label.chars().any(char::is_control) {
            let message = format!("the label {label:?} is refused: a label is a word, as workers offer it");
            return Err(Failure::new(FailureKind::Malformed, message));
        }
        if label.len() > limits::LABEL_BYTES {
            let message = format!("the label {label:?} is too long: a label may have {} bytes", limits::LABEL_BYTES);
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        if self.spec.labels.iter().any(|known| known == label) {
            return Ok(self);
        }
        if self.spec.labels.len() >= limits::LABELS {
            let message = format!("a task may ask for at most {} labels", limits::LABELS);
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        self.spec.labels.push(label.to_owned());
        Ok(self)
    }

    /// Lets it start before those of its user's waiting tasks that have a lower priority; 0 is the default. Other users' tasks are not
    /// held up by it: shares between users are fair whatever they ask for (S-01).
    pub fn priority(mut self, priority: i8) -> Self {
        self.spec.priority = priority;
        self
    }

    /// Never starts it a second time, even if its worker is lost.
    pub fn once(mut self) -> Self {
        self.spec.once = true;
        self
    }
}

#[cfg(unix)]
fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &std::fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_proto::ids::AttemptId;
    use p2p_proto::link::item::Submit;
    use p2p_proto::link::{ToWorker, record};

    #[test]
    fn names_that_would_not_fit_one_item_are_refused_when_the_task_is_made() {
        let mut task = Ok(Task::new("command", Vec::new()));
        for index in 0..limits::FILES {
            task = task.and_then(|task| task.output(&format!("{index}")));
        }
        assert_eq!(task.unwrap().output("one-more").unwrap_err().kind, FailureKind::TooLarge);
        let long = "x".repeat(limits::FILE_NAME_BYTES);
        let mut task = Ok(Task::new("command", Vec::new()));
        for _ in 0..=limits::FILE_NAMES_BYTES / long.len() {
            task = task.and_then(|task| task.output(&long));
        }
        assert_eq!(task.unwrap_err().kind, FailureKind::TooLarge);
    }

    #[test]
    fn a_label_is_a_word_within_its_bounds() {
        let task = |labels: &[String]| {
            labels.iter().try_fold(Task::new("command", Vec::new()), |task, label| task.label(label))
        };
        let words = |count: usize| (0..count).map(|n| format!("label-{n}")).collect::<Vec<_>>();
        let good =
            [vec!["gpu".to_owned(), "gpu".to_owned()], vec!["l".repeat(limits::LABEL_BYTES)], words(limits::LABELS)];
        for (labels, kept) in good.iter().zip([1, 1, limits::LABELS]) {
            assert_eq!(task(labels).map(|task| task.spec.labels.len()), Ok(kept));
        }
        let bad = [
            (FailureKind::Malformed, vec![String::new()]),
            (FailureKind::Malformed, vec!["a\nb".to_owned()]),
            (FailureKind::TooLarge, vec!["l".repeat(limits::LABEL_BYTES + 1)]),
            (FailureKind::TooLarge, words(limits::LABELS + 1)),
        ];
        for (kind, labels) in bad {
            assert_eq!(task(&labels).unwrap_err().kind, kind, "{labels:?}");
        }
    }

    #[test]
    fn what_a_task_asks_for_reaches_its_spec() {
        let task = Task::new("command", Vec::new()).memory_mib(2048).priority(-3).cpus(4).once();
        let spec = task.label("gpu").unwrap().spec;
        assert_eq!((spec.memory_mib, spec.priority, spec.extra_cpus, spec.once), (2048, -3, 3, true));
        assert_eq!((spec.check(), &spec.labels[..]), (Ok(()), &["gpu".to_owned()][..]));
    }

    #[test]
    fn the_largest_task_that_can_be_made_fits_one_item() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input");
        std::fs::write(&path, vec![0xff; usize::try_from(INLINE_TOTAL_BYTES).unwrap() - limits::PAYLOAD_BYTES])
            .unwrap();
        let mut task = Task::new(&"r".repeat(limits::RUNTIME_BYTES), vec![0xff; limits::PAYLOAD_BYTES]);
        // As many names as there may be, as long as they may be together.
        let name = |n: usize| format!("{n:0width$}", width = limits::FILE_NAMES_BYTES / limits::FILES / 2);
        for n in 0..limits::FILES {
            task = task.input(&name(n), &path).unwrap().output(&name(n)).unwrap();
        }
        for n in 0..limits::LABELS {
            task = task.label(&format!("{n:0width$}", width = limits::LABEL_BYTES)).unwrap();
        }
        let task = task.memory_mib(u64::MAX).priority(i8::MIN).cpus(u32::MAX).timeout(Duration::MAX).once();
        let Task { spec, sources, .. } = task.stdin(futures::io::empty());
        assert_eq!((spec.check(), sources.len()), (Ok(()), limits::FILES), "all but one file stream, and stdin");
        let submit = ToWorker::Submit(Submit { attempt: AttemptId(u64::MAX), task: spec, alone: true });
        assert!(record::append(&submit, &mut Vec::new()));
    }
}
