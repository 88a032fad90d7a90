//! What can go wrong between two who share a code, and whose fault it is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why a transfer did not happen. The words say what happened, why, and what to do now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// The code, or the address of a mailbox server, cannot be used.
    #[error("{0}")]
    Misuse(String),
    /// The mailbox server cannot be reached, or did not do its part.
    #[error("the mailbox server {server} {words}")]
    Mailbox {
        /// Its address.
        server: String,
        /// What it did.
        words: String,
    },
    /// Nobody uses this code now.
    #[error(
        "nobody offers anything under this code now: it may be mistyped, already used (each code works once), or the sender \
         is not there yet"
    )]
    NotInUse,
    /// Two others use this code already.
    #[error("this code is already in use by two others: each works once; send again, under a new one")]
    Crowded,
    /// The other side used another code.
    #[error(
        "the code of the other side is another one: one of the two is mistyped, or somebody guesses; this code is used up, \
         send again under a new one"
    )]
    WrongCode,
    /// The other side did not do its part in time.
    #[error("the other side {stage} within {}: it is gone, or its network is down; send again, under a new code", seconds(*.within))]
    Silent {
        /// What was waited for.
        stage: Stage,
        /// How long.
        within: Duration,
    },
    /// No connection to the other side came about.
    #[error("{0}")]
    Unreachable(String),
    /// The connection broke in the middle.
    #[error("the connection broke off in the middle ({0}); nothing of it is kept; send again, under a new code")]
    Lost(String),
    /// The other side gave up, and said why.
    #[error("the other side gave up: {0}")]
    Refused(String),
    /// The other side does not speak Magic Wormhole's file transfer, or something of it that is not known here.
    #[error("the other side broke the rules of the transfer: {0}")]
    Protocol(String),
    /// What the other side offers cannot be taken.
    #[error("{0}")]
    Unacceptable(String),
    /// What is to be sent cannot be read.
    #[error("{0}")]
    Input(String),
    /// What arrives cannot be written.
    #[error("{0}")]
    CannotWrite(String),
    /// There is something already where it should go.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// Something on this machine failed.
    #[error("{0}")]
    System(String),
    /// This side was told to stop.
    #[error("stopped")]
    Stopped,
}

/// What is waited for, as what the other side did not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It takes up the code.
    Join,
    /// It offers something.
    Offer,
    /// It takes the offer, or not; a person may have to say so.
    Answer,
    /// It says how it can be reached.
    Transit,
    /// It sends on.
    Data,
    /// It takes what is sent.
    Taking,
    /// It confirms what it received.
    Confirmation,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Join => "did not come",
            Self::Offer => "offered nothing",
            Self::Answer => "neither took what is offered nor refused it",
            Self::Transit => "did not say how it can be reached",
            Self::Data => "sent nothing more",
            Self::Taking => "took nothing more",
            Self::Confirmation => "did not confirm what it received",
        })
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        _ if time.subsec_nanos() > 0 => format!("{:.1} s", time.as_secs_f32()),
        seconds if seconds >= 120 && seconds.is_multiple_of(60) => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

/// An error with what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    words
}
