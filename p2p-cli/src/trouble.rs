//! What went wrong, for people, and as an exit code for scripts (docs/exit-codes.md).

use std::fmt;
use std::process::ExitCode;

use p2p_proto::board::BoardError;
use p2p_proto::task::{Failure, FailureKind};
use p2p_transport_wormhole::code::{CodeError, Stage};

use crate::say;

/// The program's exit codes beside those of a command that it ran; as sysexits.h and the shell have them where those have any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The command line makes no sense.
    Usage = 2,
    /// An input cannot be read, or a name cannot be used.
    Input = 65,
    /// The cluster cannot be entered: unknown, not on the list, host away.
    NoCluster = 68,
    /// The board, the mailbox server or the other side cannot be reached, or nobody can run the task.
    Unavailable = 69,
    /// Something on this machine failed.
    System = 71,
    /// A result cannot be written here.
    CannotWrite = 73,
    /// The connection to the worker was lost and the task is not to be run again, or a transfer broke off.
    Lost = 74,
    /// The other side of a transfer refused, or offers what cannot be taken.
    Refused = 76,
    /// The key is not known, a server's key cannot be trusted, or the other side has another code.
    Denied = 77,
    /// The task ran longer than `--timeout`.
    TimedOut = 124,
    /// The worker could not run it, or its results cannot be had.
    Failed = 125,
    /// The program is there but cannot be executed.
    NotExecutable = 126,
    /// The worker has no such program.
    NotFound = 127,
    /// It was interrupted.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        // Every code fits a byte.
        Self::from(code as u8)
    }
}

/// What happened, why, and what to do now; and the exit code that says the same to a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    code: Code,
    words: String,
}

impl Trouble {
    /// A trouble in words.
    pub fn new(code: Code, words: impl Into<String>) -> Self {
        Self { code, words: words.into() }
    }

    /// Something on this machine failed while `doing`.
    pub fn system(doing: &str, fault: impl fmt::Display) -> Self {
        Self::new(Code::System, format!("{doing}: {fault}"))
    }

    /// Its exit code.
    pub fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl From<BoardError> for Trouble {
    fn from(error: BoardError) -> Self {
        let code = match &error {
            BoardError::Auth(_) | BoardError::HostKey(_) => Code::Denied,
            BoardError::Refused(_) => Code::NoCluster,
            BoardError::Full | BoardError::Closed | BoardError::Unreachable(_) => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

impl From<CodeError> for Trouble {
    fn from(error: CodeError) -> Self {
        let code = match &error {
            CodeError::Misuse(_) => Code::Usage,
            CodeError::Mailbox { .. } | CodeError::NotInUse | CodeError::Crowded | CodeError::Unreachable(_) => {
                Code::Unavailable
            }
            CodeError::Silent { stage: Stage::Join, .. } => Code::Unavailable,
            CodeError::Silent { .. } | CodeError::Lost(_) => Code::Lost,
            CodeError::WrongCode => Code::Denied,
            CodeError::Refused(_) | CodeError::Protocol(_) | CodeError::Unacceptable(_) => Code::Refused,
            CodeError::Input(_) => Code::Input,
            CodeError::CannotWrite(_) | CodeError::Exists(_) => Code::CannotWrite,
            CodeError::System(_) => Code::System,
            CodeError::Stopped => Code::Interrupted,
        };
        let words = match error {
            CodeError::Exists(path) if path.is_dir() => {
                format!("{} is there already: choose another place with -o", path.display())
            }
            CodeError::Exists(path) => {
                format!("{} is there already: choose another place with -o, or replace it with --force", path.display())
            }
            // The other side's, or a server's.
            error => say::harmless(&error.to_string()),
        };
        Self::new(code, words)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::new(Code::of(failure.kind), failure.message)
    }
}

impl Code {
    /// The code of a failure on the worker, or of a task that cannot be made.
    pub fn of(kind: FailureKind) -> Self {
        match kind {
            FailureKind::CommandNotFound => Self::NotFound,
            FailureKind::NotExecutable => Self::NotExecutable,
            FailureKind::BadName | FailureKind::TooLarge => Self::Input,
            _ => Self::Failed,
        }
    }
}
