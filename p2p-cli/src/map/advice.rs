//! The tasks of a map end with it: what a person should know about that, once, and how to go on afterwards.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::say;

/// With more tasks than this it may take long.
const MANY: u64 = 300;
/// After this it does.
const LONG: Duration = Duration::from_secs(60);

/// Says each thing once.
#[derive(Debug)]
pub struct Advice {
    log: Option<PathBuf>,
    since: Instant,
    said: bool,
}

impl Advice {
    /// Begins to look; `log` is the `--joblog`.
    pub fn new(log: Option<PathBuf>) -> Self {
        let mut advice = Self { log, since: Instant::now(), said: false };
        if std::io::stderr().is_terminal() {
            advice.say_to_stay();
        }
        advice
    }

    /// So many tasks are known.
    pub fn on_tasks(&mut self, count: u64) {
        if count > MANY || self.since.elapsed() > LONG {
            self.say_to_stay();
        }
    }

    fn say_to_stay(&mut self) {
        if !std::mem::replace(&mut self.said, true) {
            say::info(&stay(self.log.as_deref()));
        }
    }

    /// It ended early: how to go on.
    pub fn say_how_to_go_on(&self) {
        say::info(&go_on(self.log.as_deref()));
    }

    /// Whether anything was written down.
    pub fn has_log(&self) -> bool {
        self.log.is_some()
    }
}

fn stay(log: Option<&Path>) -> String {
    let then = match log {
        Some(log) => {
            format!("if it is stopped, the same command with --resume does what {} does not have", log.display())
        }
        None => "with --joblog FILE, --resume can go on where it was stopped".to_owned(),
    };
    format!("this program has to stay up until its tasks have ended; {then}")
}

fn go_on(log: Option<&Path>) -> String {
    match log {
        Some(log) => format!("to go on, give the same command and inputs with --joblog {} --resume", log.display()),
        None => "what was done is not written down; with --joblog FILE, --resume could go on here".to_owned(),
    }
}
