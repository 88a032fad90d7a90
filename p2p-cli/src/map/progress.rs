//! The bar on stderr, while a person looks at it.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2p_scheduler::Status;

use crate::say;

/// Redraws a second.
const REDRAWS: u8 = 10;

/// The bar, or nothing where nobody looks.
pub struct Progress(Option<(MultiProgress, ProgressBar)>);

impl Progress {
    /// Draws a bar if stderr is a terminal and `wanted`.
    pub fn new(wanted: bool) -> Self {
        if !wanted || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS));
        let bar = bars.add(ProgressBar::no_length().with_style(style(false)));
        bar.enable_steady_tick(Duration::from_millis(500));
        say::set_bars(Some(bars.clone()));
        Self(Some((bars, bar)))
    }

    /// What lines of others must keep clear of.
    pub fn bars(&self) -> Option<MultiProgress> {
        self.0.as_ref().map(|(bars, _)| bars.clone())
    }

    /// How many tasks there will be.
    pub fn total(&self, total: u64) {
        if let Some((_, bar)) = &self.0 {
            bar.set_length(total);
            bar.set_style(style(true));
        }
    }

    /// How many tasks have ended.
    pub fn ended(&self, ended: u64) {
        if let Some((_, bar)) = &self.0 {
            bar.set_position(ended);
        }
    }

    /// Whether [`Progress::say`] is of any use.
    pub fn is_drawn(&self) -> bool {
        self.0.is_some()
    }

    /// Says who works.
    pub fn say(&self, status: &Status, failed: u64) {
        let Some((_, bar)) = &self.0 else { return };
        let linked = status.workers.iter().filter(|worker| worker.path.is_some());
        let (workers, slots) = linked.fold((0, 0), |(workers, slots), worker| (workers + 1, slots + worker.slots));
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        bar.set_message(format!("{workers} workers, {slots} slots{failed}"));
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Some((_, bar)) = &self.0 {
            bar.finish_and_clear();
            say::set_bars(None);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(total_known: bool) -> ProgressStyle {
    let template = if total_known {
        "{wide_bar} {pos}/{len}, {per_sec:.1}, {eta} left; {msg}"
    } else {
        "{spinner} {pos} done, {per_sec:.1}, {elapsed}; {msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
