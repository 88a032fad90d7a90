//! Counts tasks, and says at the end what became of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use p2p_proto::ids::PeerName;

use super::follow::{Done, Verdict};
use super::template::Row;
use crate::say;

/// Tasks that are told in full: those that failed, and those that are unfinished.
const TOLD: usize = 20;
/// What is shown of an argument, characters.
const ARGUMENT_CHARACTERS: usize = 200;
/// What is shown of a failed task's stderr.
const TAIL_BYTES: usize = 1000;
const TAIL_LINES: usize = 5;

/// The counts.
pub struct Summary {
    since: Instant,
    good: u64,
    failed: u64,
    unfinished: u64,
    workers: BTreeMap<PeerName, (u64, Duration)>,
    failures: Vec<String>,
    names: Vec<String>,
}

impl Summary {
    /// The clock runs from now on.
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            good: 0,
            failed: 0,
            unfinished: 0,
            workers: BTreeMap::new(),
            failures: Vec::new(),
            names: Vec::new(),
        }
    }

    /// Counts a task.
    pub fn count(&mut self, done: &Done) {
        if let Some(worker) = &done.worker {
            let (tasks, ran) = match self.workers.get_mut(worker) {
                Some(known) => known,
                None => self.workers.entry(worker.clone()).or_default(),
            };
            *tasks += 1;
            *ran += done.ran;
        }
        match &done.verdict {
            Verdict::Good => self.good += 1,
            Verdict::Failed { why, .. } => {
                self.failed += 1;
                if self.failures.len() < TOLD {
                    self.failures.push(failure(done, why));
                }
            }
            Verdict::Unfinished => {
                self.unfinished += 1;
                if self.names.len() < TOLD {
                    self.names.push(arguments(&done.row));
                }
            }
        }
    }

    /// Tasks that failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Tasks that ended, well or not.
    pub fn ended(&self) -> u64 {
        self.good + self.failed
    }

    /// Counts tasks that were given up while they ran or waited.
    pub fn add_unfinished(&mut self, count: usize) {
        self.unfinished += count as u64;
    }

    /// Says what became of all. What went wrong is said even with `-q`.
    pub fn say(&self) {
        for failure in &self.failures {
            say::line(failure);
        }
        if let Some(more @ 1..) = self.failed.checked_sub(TOLD as u64) {
            say::line(&format!("p2p: and {more} more failed; --json tells about each"));
        }
        if self.unfinished > 0 {
            let more = self.unfinished - self.names.len() as u64;
            let mut names = self.names.clone();
            names.extend((more > 0 && !names.is_empty()).then(|| format!("and {more} more")));
            let colon = if names.is_empty() { "" } else { ": " };
            say::line(&format!("p2p: {} unfinished{colon}{}", self.unfinished, names.join(", ")));
        }
        let took = self.since.elapsed();
        let rate = self.ended() as f64 / took.as_secs_f64().max(1e-6);
        let took = if took < Duration::from_secs(60) {
            format!("{:.1} s", took.as_secs_f64())
        } else {
            humantime::format_duration(Duration::from_secs(took.as_secs())).to_string()
        };
        say::info(&format!("{} done, {} failed, in {took}, {rate:.1} a second", self.good, self.failed));
        for (worker, (tasks, ran)) in &self.workers {
            let s = if *tasks == 1 { "" } else { "s" };
            say::info(&format!("{worker}: {tasks} task{s}, {:.1} s of work", ran.as_secs_f64()));
        }
    }
}

fn failure(done: &Done, why: &str) -> String {
    let worker = done.worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
    let mut text = format!("p2p: failed: {}{worker}: {why}", arguments(&done.row));
    let tail = done.stderr.tail(TAIL_BYTES);
    let tail = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = tail.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        text.push_str("\n    ");
        text.push_str(&say::harmless(line));
    }
    text
}

/// A task's values on one line.
fn arguments(row: &Row) -> String {
    let joined = row.values.join(&b' ');
    let text = String::from_utf8_lossy(&joined[..joined.len().min(4 * ARGUMENT_CHARACTERS)]);
    let mut short: String = text.chars().take(ARGUMENT_CHARACTERS).collect();
    if short.len() < joined.len() && short.chars().count() == ARGUMENT_CHARACTERS {
        short.push_str("...");
    }
    // A newline in an argument must not look like a line of ours.
    let short = say::harmless(&short.replace('\n', "\\n"));
    if short.is_empty() { format!("number {}", row.number) } else { short }
}
