//! What a task is made of, and how an attempt at it ends.

use serde::{Deserialize, Serialize};

use crate::blob::BlobRef;
use crate::error::ProtoError;
use crate::limits;

/// The runtime of shell and program commands; its payload is a [`Command`].
pub const COMMAND_RUNTIME: &str = "command";
/// The runtime of R futures. Its payload is a [`Command`] too, whose words are names of the task's input files: first the future, as the R package
/// future describes it to its workers, then globals that travel apart. The result is the output file [`R_VALUE`]; conditions that are to be heard
/// at once go to the channel of the value, each behind its length in 4 bytes, big-endian (docs/r.md).
pub const R_RUNTIME: &str = "r";
/// The file in which an R session leaves what a future came to.
pub const R_VALUE: &str = ".p2p-value";

/// A unit of work, as it travels to a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// What runs it: `command`, or the name under which an embedding program registered a function.
    #[serde(rename = "r")]
    pub runtime: String,
    /// What the runtime gets: a [`Command`] as CBOR, or a function's input.
    #[serde(rename = "p", default, skip_serializing_if = "Content::is_left_out")]
    pub payload: Content,
    /// Files that must be in the scratch folder before it starts.
    #[serde(rename = "i", default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<File>,
    /// Relative names, or patterns with `*` `?` `[..]` `**`, of files to bring back; folders by their names and a `/`.
    #[serde(rename = "o", default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Whether a stdin stream follows; without it stdin is empty.
    #[serde(rename = "s", default, skip_serializing_if = "is_default")]
    pub stdin: bool,
    /// How long it may run, milliseconds; 0 for as long as it likes.
    #[serde(rename = "t", default, skip_serializing_if = "is_default")]
    pub timeout_ms: u64,
    /// Slots that it takes, less one: 0 for an ordinary task.
    #[serde(rename = "c", default, skip_serializing_if = "is_default")]
    pub extra_cpus: u32,
    /// Never to be started a second time (S-04).
    #[serde(rename = "1", default, skip_serializing_if = "is_default")]
    pub once: bool,
    /// Memory that it needs, MiB; 0 for little (S-03).
    #[serde(rename = "m", default, skip_serializing_if = "is_default")]
    pub memory_mib: u64,
    /// Words that its worker must offer, such as `gpu` (S-03).
    #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Among the tasks of its user, higher ones start first (S-01).
    #[serde(rename = "y", default, skip_serializing_if = "is_default")]
    pub priority: i8,
}

/// What the `command` runtime runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; never empty. Bytes, as the operating system has them.
    #[serde(rename = "a")]
    pub argv: Vec<serde_bytes::ByteBuf>,
    /// Variables beside the worker's small clean environment.
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
}

impl Command {
    /// The command as the payload of a task.
    pub fn to_cbor(&self) -> Vec<u8> {
        crate::codec::encode(self)
    }

    /// Reads a task's payload.
    ///
    /// # Errors
    /// [`ProtoError::Malformed`]; an empty `argv` is malformed too.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, ProtoError> {
        let command: Self = crate::codec::decode("a command", bytes)?;
        if command.argv.is_empty() {
            return Err(ProtoError::malformed("a command without a program"));
        }
        Ok(command)
    }
}

/// Bytes that travel inside their item when they are few, or on a channel of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// All of them, here.
    #[serde(rename = "b")]
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// This many follow as [`crate::link::item::Data`].
    #[serde(rename = "n")]
    Streamed(u64),
    /// A blob: who has it need not ask for it ([`crate::link::item::Fetch`]).
    #[serde(rename = "h")]
    Blob(BlobRef),
}

impl Content {
    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Streamed(size) => *size,
            Self::Blob(blob) => blob.size,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.size() == 0
    }

    /// Nothing, here: what a reader takes a left-out field for. Nothing that is streamed is said, for its end follows.
    pub(crate) fn is_left_out(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Inline(Vec::new())
    }
}

/// A file of a task, by its name inside the scratch folder (D-02).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative, `/` between parts; [`check_file_name`] says what is allowed.
    #[serde(rename = "n")]
    pub name: String,
    /// What is in it.
    #[serde(rename = "c", default)]
    pub content: Content,
    /// Whether it may be executed.
    #[serde(rename = "x", default, skip_serializing_if = "is_default")]
    pub executable: bool,
    /// Whether it is a folder, and its content a [`crate::tree`].
    #[serde(rename = "d", default, skip_serializing_if = "is_default")]
    pub folder: bool,
}

/// How an attempt ended. "Exactly one of `Finished` or `Returned`" (S-04): this is inside `Finished`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// A command's exit status; 0 is success. A function that returned is `Exit(0)` too.
    #[serde(rename = "exit")]
    Exit(i32),
    /// A signal ended the command.
    #[serde(rename = "signal")]
    Signal(i32),
    /// It ran longer than the task allows, and was killed.
    #[serde(rename = "timeout")]
    TimedOut,
    /// It was cancelled, and is gone.
    #[serde(rename = "cancel")]
    Cancelled,
    /// It could not be run, or its results cannot be had.
    #[serde(rename = "failed")]
    Failed(Failure),
}

/// Why an attempt could not be run or its results cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure, for programs.
    #[serde(rename = "k")]
    pub kind: FailureKind,
    /// What happened, why, what to do, for people; at most [`limits::NOTE_BYTES`].
    #[serde(rename = "m")]
    pub message: String,
}

/// Kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// The worker has no such program.
    #[serde(rename = "notfound")]
    CommandNotFound,
    /// The program is there but cannot be executed.
    #[serde(rename = "noexec")]
    NotExecutable,
    /// A file name leads out of the scratch folder or clashes with another one.
    #[serde(rename = "name")]
    BadName,
    /// A file that the task promised was not there when it ended.
    #[serde(rename = "missing")]
    MissingOutput,
    /// Something is larger than its limit.
    #[serde(rename = "large")]
    TooLarge,
    /// The worker's disk is full.
    #[serde(rename = "disk")]
    DiskFull,
    /// The worker cannot run this runtime.
    #[serde(rename = "runtime")]
    UnknownRuntime,
    /// The function panicked or reported an error.
    #[serde(rename = "function")]
    FunctionFailed,
    /// The task's bytes break the protocol.
    #[serde(rename = "malformed")]
    Malformed,
    /// Anything else that went wrong on the worker's machine.
    #[serde(rename = "worker")]
    Worker,
    /// A kind of a newer version.
    #[serde(other, rename = "?")]
    Other,
}

impl Failure {
    /// A failure; a message over its limit is cut.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > limits::NOTE_BYTES {
            let mut end = limits::NOTE_BYTES;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        Self { kind, message }
    }
}

/// Why a worker hands an attempt back unstarted. It costs no attempt (S-04).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReturnReason {
    /// The worker is leaving.
    #[serde(rename = "drain")]
    Draining,
    /// It was sent without a credit.
    #[serde(rename = "credit")]
    NoCredit,
    /// The client asked for it back.
    #[serde(rename = "recall")]
    Recalled,
    /// The worker cannot run such a task: runtime, slots, memory or labels.
    #[serde(rename = "match")]
    Mismatch,
    /// The client cancelled it before it started.
    #[serde(rename = "cancel")]
    Cancelled,
    /// A reason of a newer version.
    #[serde(other, rename = "?")]
    Other,
}

impl TaskSpec {
    /// Slots that it takes.
    pub fn cpus(&self) -> u32 {
        self.extra_cpus.saturating_add(1)
    }

    /// Every bound of a task that came from a peer.
    ///
    /// # Errors
    /// [`Failure`] with what a person can do about it.
    pub fn check(&self) -> Result<(), Failure> {
        if self.runtime.len() > limits::RUNTIME_BYTES {
            return Err(Failure::new(FailureKind::Malformed, "the name of the task's runtime is too long"));
        }
        if self.inputs.len() > limits::FILES || self.outputs.len() > limits::FILES {
            let message = format!("a task may have at most {} files in and as many out", limits::FILES);
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        if self.labels.len() > limits::LABELS || self.labels.iter().any(|label| label.len() > limits::LABEL_BYTES) {
            let message =
                format!("a task may ask for at most {} labels of {} bytes", limits::LABELS, limits::LABEL_BYTES);
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        let names = || self.inputs.iter().map(|file| file.name.as_str()).chain(self.outputs.iter().map(String::as_str));
        let total: usize = names().map(str::len).sum();
        if total > limits::FILE_NAMES_BYTES {
            let message =
                format!("the file names of one task may have at most {} bytes together", limits::FILE_NAMES_BYTES);
            return Err(Failure::new(FailureKind::TooLarge, message));
        }
        self.inputs.iter().try_for_each(|file| check_file_name(&file.name))?;
        self.outputs.iter().try_for_each(|name| check_output_name(name).map(drop))?;
        let contents = || self.inputs.iter().map(|file| &file.content).chain([&self.payload]);
        for content in contents() {
            if let Content::Blob(blob) = content {
                blob.check().map_err(|fault| Failure::new(FailureKind::Malformed, fault.to_string()))?;
            }
        }
        self.inputs.iter().try_for_each(|file| check_file_size(&file.name, file.content.size()))?;
        check_value_size("the task's payload", self.payload.size())
    }
}

/// Whether a file of `size` bytes may travel.
///
/// # Errors
/// [`FailureKind::TooLarge`] above [`limits::FILE_BYTES`].
pub fn check_file_size(name: &str, size: u64) -> Result<(), Failure> {
    check_size(name, size, limits::FILE_BYTES, "split it or make it smaller")
}

/// Whether a payload or value of `size` bytes may travel.
///
/// # Errors
/// [`FailureKind::TooLarge`] above [`limits::VALUE_BYTES`].
pub fn check_value_size(name: &str, size: u64) -> Result<(), Failure> {
    check_size(name, size, limits::VALUE_BYTES, "use a file for more")
}

fn check_size(name: &str, size: u64, limit: u64, instead: &str) -> Result<(), Failure> {
    if size > limit {
        let mib = limit / (1024 * 1024);
        let limit = if mib < 1024 { format!("{mib} MiB") } else { format!("{} GiB", mib / 1024) };
        let message = format!("{name} has {size} bytes; up to {limit} can travel: {instead}");
        return Err(Failure::new(FailureKind::TooLarge, message));
    }
    Ok(())
}

/// Whether `name` may become a path inside a scratch folder (D-02): relative, no `.` or `..` part, no empty part, no device of Windows, no
/// NUL, no backslash, no control character, at most [`limits::FILE_NAME_BYTES`].
///
/// # Errors
/// [`FailureKind::BadName`] saying which rule it breaks.
pub fn check_file_name(name: &str) -> Result<(), Failure> {
    let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
    let fault = |rule: &str| {
        let message =
            format!("the file name \"{shown}\" is refused: {rule}; use a relative name inside the task's folder");
        Err(Failure::new(FailureKind::BadName, message))
    };
    if name.is_empty() {
        return fault("it is empty");
    }
    if name.len() > limits::FILE_NAME_BYTES {
        return fault("it is too long");
    }
    if name.starts_with('/') {
        return fault("it is absolute");
    }
    if name.chars().any(|c| c.is_control() || c == '\\') {
        return fault("it has a control character or a backslash");
    }
    for part in name.split('/') {
        match part {
            ".." => return fault("it climbs out of the folder"),
            "" | "." => return fault("it has an empty or a \".\" part"),
            device if is_device(device) => return fault("it is the name of a device on Windows"),
            _ => {}
        }
    }
    Ok(())
}

/// Whether Windows takes a name for one of its devices, in any folder and whatever its extension ("Naming Files, Paths, and Namespaces"
/// in Microsoft's documentation).
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).trim_end_matches(' ').to_ascii_uppercase();
    let numbered = |name: &str| {
        let digit = stem.strip_prefix(name).and_then(|rest| rest.strip_suffix(|c: char| "0123456789¹²³".contains(c)));
        digit.is_some_and(str::is_empty)
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || numbered("COM") || numbered("LPT")
}

/// As [`check_file_name`], where a name that ends with `/` asks for a folder. Returns the name without that, and whether it does.
///
/// # Errors
/// As [`check_file_name`].
pub fn check_output_name(name: &str) -> Result<(&str, bool), Failure> {
    let (bare, folder) = name.strip_suffix('/').map_or((name, false), |bare| (bare, true));
    check_file_name(bare)?;
    if folder && bare.contains(['*', '?', '[']) {
        let message = format!(
            "{name:?} is refused: a pattern matches files, not folders; name the folder, or its files as {bare}/**"
        );
        return Err(Failure::new(FailureKind::BadName, message));
    }
    Ok((bare, folder))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_scratch_folder() {
        for good in ["a", "a/b.txt", "..a", "a..", ".hidden", "a b/ü", "console", "com", "com10", "auxiliary.c"] {
            assert!(check_file_name(good).is_ok(), "{good:?} was refused");
        }
        for bad in
            ["", "/etc/passwd", "..", "../x", "a/../b", "a//b", "./a", "a/", "a\0b", "a\nb", "a\\b", &"x".repeat(2000)]
                .into_iter()
                .chain(["con", "a/NUL", "aux.c", "COM1", "lpt9.txt", "Prn .x", "com¹"])
        {
            assert_eq!(check_file_name(bad).unwrap_err().kind, FailureKind::BadName, "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_long_failure_message_is_cut_at_a_character() {
        let failure = Failure::new(FailureKind::Worker, "ü".repeat(2000));
        assert!(failure.message.len() <= limits::NOTE_BYTES);
    }

    #[test]
    fn a_task_from_a_peer_keeps_its_bounds() {
        let file =
            |name: &str| File { name: name.into(), content: Content::default(), executable: false, folder: false };
        let good = TaskSpec { runtime: COMMAND_RUNTIME.into(), inputs: vec![file("a")], ..TaskSpec::default() };
        assert_eq!((good.check(), good.cpus()), (Ok(()), 1));
        let long = "x".repeat(limits::FILE_NAME_BYTES);
        let huge = Content::Streamed(limits::FILE_BYTES + 1);
        let no_blob = BlobRef { id: crate::blob::BlobId::of(b""), size: 0, chunks: 1 };
        let bad = [
            (FailureKind::Malformed, TaskSpec { runtime: long.clone(), ..good.clone() }),
            (FailureKind::TooLarge, TaskSpec { inputs: vec![file("a"); limits::FILES + 1], ..good.clone() }),
            (FailureKind::TooLarge, TaskSpec { outputs: vec!["a".into(); limits::FILES + 1], ..good.clone() }),
            (FailureKind::TooLarge, TaskSpec { outputs: vec![long.clone(); 17], ..good.clone() }),
            (FailureKind::TooLarge, TaskSpec { payload: huge.clone(), ..good.clone() }),
            (FailureKind::TooLarge, TaskSpec { payload: Content::Streamed(limits::VALUE_BYTES + 1), ..good.clone() }),
            (FailureKind::Malformed, TaskSpec { payload: Content::Blob(no_blob), ..good.clone() }),
            (
                FailureKind::Malformed,
                TaskSpec { inputs: vec![File { content: Content::Blob(no_blob), ..file("a") }], ..good.clone() },
            ),
            (FailureKind::TooLarge, TaskSpec { inputs: vec![File { content: huge, ..file("a") }], ..good.clone() }),
            (FailureKind::BadName, TaskSpec { inputs: vec![file("../a")], ..good.clone() }),
            (FailureKind::BadName, TaskSpec { outputs: vec!["/etc/*".into()], ..good }),
        ];
        for (kind, task) in bad {
            assert_eq!(task.check().map_err(|failure| failure.kind), Err(kind), "{task:?}");
        }
        assert_eq!(TaskSpec { extra_cpus: u32::MAX, ..TaskSpec::default() }.cpus(), u32::MAX);
    }

    #[test]
    fn a_command_has_a_program() {
        assert!(Command::from_cbor(&Command::default().to_cbor()).is_err());
    }
}
