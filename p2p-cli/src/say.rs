//! Lines for people go to stderr; answers go to stdout.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::MultiProgress;

use crate::options::Common;

static QUIET: AtomicBool = AtomicBool::new(false);
/// While progress bars are drawn, lines go above them.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Sets up the log: warnings by default, more with `-v`, nothing with `-q`; `RUST_LOG` overrides.
pub fn start_log(common: &Common) {
    QUIET.store(common.quiet, Ordering::Relaxed);
    let level = match (common.quiet, common.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let environment = env_logger::Env::default().default_filter_or(level);
    // A library may warn with the words of a server that it did not expect.
    env_logger::Builder::from_env(environment)
        .format(|out, record| writeln!(out, "p2p: {}", harmless(&record.args().to_string())))
        .init();
}

/// Something that a person should know, unless `-q`.
pub fn info(text: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        line(&format!("p2p: {text}"));
    }
}

/// A line on stderr, whatever `-q` says.
pub fn line(text: &str) {
    let bars = BARS.lock().unwrap_or_else(PoisonError::into_inner);
    match &*bars {
        Some(bars) if !bars.is_hidden() => {
            // A bar that cannot be drawn must not stop the work.
            let _ = bars.println(text);
        }
        _ => eprintln!("{text}"),
    }
}

/// Draws lines above these bars from now on; `None` to end that.
pub fn set_bars(bars: Option<MultiProgress>) {
    *BARS.lock().unwrap_or_else(PoisonError::into_inner) = bars;
}

/// Text of a peer's, with what could control a terminal escaped; newlines and tabs stay.
pub fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control() && c != '\n' && c != '\t';
            let plain = (!escaped).then_some(c);
            plain.into_iter().chain(escaped.then(|| c.escape_default()).into_iter().flatten())
        })
        .collect()
}
