//! The other side: this program, started again in a role, and told what to do in lines of JSON on its stdin.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child as Process, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Result, functions, links, meeting};

/// The argument before the role.
pub const ROLE_FLAG: &str = "--role";

/// What a child is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Role {
    /// The worker's end of a link without anything above it.
    Link,
    /// A hub, and a host on it.
    Meeting {
        /// Where the keys are.
        folder: String,
    },
    /// A worker with functions.
    Worker {
        /// Where it meets its cluster.
        place: meeting::Place,
        /// Its slots.
        slots: u32,
    },
}

impl Role {
    /// Plays the role to its end: until stdin ends.
    ///
    /// # Errors
    /// Whatever goes wrong.
    pub fn play(self) -> Result<()> {
        match self {
            Self::Link => links::play(),
            Self::Meeting { folder } => meeting::play(&folder),
            Self::Worker { place, slots } => functions::play(&place, slots),
        }
    }
}

/// A running child. Ends with its handle.
#[derive(Debug)]
pub struct Child {
    process: Process,
    answers: BufReader<ChildStdout>,
}

impl Child {
    /// Starts `program` (this one) in a role.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(program: &Path, role: &Role) -> Result<Self> {
        let mut process = Command::new(program)
            .arg(ROLE_FLAG)
            .arg(serde_json::to_string(role)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = process.stdout.take().ok_or("a child without stdout")?;
        Ok(Self { process, answers: BufReader::new(answers) })
    }

    /// Tells it something.
    ///
    /// # Errors
    /// When it is gone.
    pub fn tell<T: Serialize>(&mut self, what: &T) -> Result<()> {
        let stdin = self.process.stdin.as_mut().ok_or("a child without stdin")?;
        writeln!(stdin, "{}", serde_json::to_string(what)?)?;
        Ok(stdin.flush()?)
    }

    /// Waits for its next line.
    ///
    /// # Errors
    /// When it is gone, or says something else.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the other side ended".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It ends by itself when its stdin does; whatever hangs is killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In the child: the next line, or `None` at the end.
///
/// # Errors
/// When it is something else.
pub fn told<T: DeserializeOwned>() -> Result<Option<T>> {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

/// In the child: answers.
///
/// # Errors
/// When the parent is gone.
pub fn answer<T: Serialize>(what: &T) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(what)?)?;
    Ok(stdout.flush()?)
}
