//! What happened, in words: off while millions of seeds run, and made by running a seed again.

use std::collections::VecDeque;
use std::time::Duration;

/// The last events of a run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    keep: usize,
    lines: VecDeque<String>,
}

impl Trace {
    /// Keeps nothing, which costs nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Keeps the last `keep` events.
    pub fn last(keep: usize) -> Self {
        Self { keep, lines: VecDeque::new() }
    }

    /// Notes what `who` met with at `at`; the words are made only where they are kept.
    pub fn note(&mut self, at: Duration, who: &str, what: impl FnOnce() -> String) {
        if self.keep == 0 {
            return;
        }
        if self.lines.len() >= self.keep {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>11.6}  {who:<14} {}", at.as_secs_f64(), what()));
    }

    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        self.keep > 0
    }

    /// All that is kept, the oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
