//! What was found on each leg, and how it is said.

use p2p_proto::board::BoardError;
use p2p_transport_pico::Step;

use super::{WAY_IN, leg_of};
use crate::say::harmless;
use crate::trouble::{Code, Trouble};

/// The legs' names, on the screen and in JSON.
pub mod name {
    /// The board's name is looked up.
    pub const NAME: &str = "name";
    /// A server answers there.
    pub const PORT: &str = "port";
    /// It is the right one.
    pub const HOST_KEY: &str = "host key";
    /// It takes a key of the user's.
    pub const KEY: &str = "key";
    /// That key has an account.
    pub const ACCOUNT: &str = "account";
    /// A line comes back from the board.
    pub const ECHO: &str = "board";
    /// A link of this machine to itself.
    pub const DIRECT: &str = "direct link";
    /// The same by a relay.
    pub const RELAY: &str = "relay";
    /// This machine's clock.
    pub const CLOCK: &str = "clock";
}

/// The longest name, and a space.
const NAME_WIDTH: usize = 12;

/// How a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It works.
    Well,
    /// It does not; and the exit code, if it is the first.
    Failed(Code),
    /// It was not tried: something before it failed, or there is nothing to try.
    Skipped,
}

/// One leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub name: &'static str,
    pub state: State,
    pub words: String,
}

impl Leg {
    /// Works; says what was found.
    pub fn well(name: &'static str, words: impl Into<String>) -> Self {
        Self { name, state: State::Well, words: words.into() }
    }

    /// Does not work; says what happened, why, and what to do.
    pub fn failed(name: &'static str, code: Code, words: impl Into<String>) -> Self {
        Self { name, state: State::Failed(code), words: words.into() }
    }

    /// Does not work, for this reason.
    pub fn broken(name: &'static str, trouble: &Trouble) -> Self {
        Self::failed(name, trouble.code(), trouble.to_string())
    }

    /// The exit code, if it failed and is the first that did.
    pub fn code(&self) -> Option<Code> {
        match self.state {
            State::Failed(code) => Some(code),
            State::Well | State::Skipped => None,
        }
    }

    /// Was not tried; says why.
    pub fn skipped(name: &'static str, words: impl Into<String>) -> Self {
        Self { name, state: State::Skipped, words: words.into() }
    }

    /// For people, in lines of this width.
    pub fn shown(&self, width: usize) -> String {
        let mark = match self.state {
            State::Well => "ok  ",
            State::Failed(_) => "FAIL",
            State::Skipped => "-   ",
        };
        let head = format!("{mark}  {:NAME_WIDTH$}", self.name);
        let room = width.saturating_sub(head.len()).max(20);
        let mut lines = String::new();
        for (nth, line) in textwrap::wrap(&harmless(&self.words), room).iter().enumerate() {
            let before = if nth == 0 { head.clone() } else { format!("\n{}", " ".repeat(head.len())) };
            lines.push_str(&before);
            lines.push_str(line);
        }
        lines
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let state = match self.state {
            State::Well => "ok",
            State::Failed(_) => "failed",
            State::Skipped => "skipped",
        };
        serde_json::json!({ "leg": self.name, "state": state, "said": self.words })
    }
}

/// What was found so far; each leg is shown once it is known.
pub struct Examination<F> {
    show: F,
    legs: Vec<Leg>,
}

impl<F: FnMut(&Leg)> Examination<F> {
    pub fn new(show: F) -> Self {
        Self { show, legs: Vec::new() }
    }

    pub fn add(&mut self, leg: Leg) {
        (self.show)(&leg);
        self.legs.push(leg);
    }

    pub fn into_legs(self) -> Vec<Leg> {
        self.legs
    }
}

/// The legs into the board: what was found on each step, over however many machines, and how it ended.
pub fn way_in(found: &[(Step, String)], ended: Result<(), &BoardError>) -> Vec<Leg> {
    let words = |step: Step| -> Vec<&str> {
        found.iter().filter(|(of, _)| *of == step).map(|(_, words)| words.as_str()).collect()
    };
    // Over several machines all steps are done again at the next one: what was done less often than the step before it is not done.
    let first_undone = WAY_IN.into_iter().scan(usize::MAX, |before, step| {
        let times = words(step).len();
        let undone = times == 0 || times < *before && *before != usize::MAX;
        *before = times;
        Some((step, undone))
    });
    // Where each machine took all steps, the last of them did not get to the port of the next.
    let first_undone = first_undone.into_iter().find(|(_, undone)| *undone).map_or(Step::Port, |(step, _)| step);
    let broken = ended.err().map(|fault| match fault {
        BoardError::HostKey(_) => Step::HostKey,
        BoardError::Auth(_) => Step::Key,
        // The `ssh` program does not tell how far it came.
        _ => first_undone,
    });
    let leg = |step: Step| {
        let name = leg_of(step);
        let seen = words(step).join("; ");
        match (broken, ended) {
            (Some(broken), Err(fault)) if step == broken => Leg::broken(name, &fault.clone().into()),
            (Some(broken), _) if step > broken => Leg::skipped(name, format!("not tried: first {}", leg_of(broken))),
            _ if seen.is_empty() => Leg::skipped(name, "left to the ssh program"),
            _ => Leg::well(name, seen),
        }
    };
    WAY_IN.into_iter().map(leg).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(found: &[Step], ended: Result<(), BoardError>) -> Vec<State> {
        let found: Vec<_> = found.iter().map(|step| (*step, format!("{step:?}"))).collect();
        way_in(&found, ended.as_ref().copied()).into_iter().map(|leg| leg.state).collect()
    }

    #[test]
    fn the_first_step_that_was_not_done_is_the_one_that_failed() {
        use State::{Skipped, Well};
        use Step::{HostKey, Key, Name, Port};
        let (gone, denied) = (State::Failed(Code::Unavailable), State::Failed(Code::Denied));
        let away = || Err(BoardError::Unreachable("away".to_owned()));
        let table = [
            (vec![], away(), [gone, Skipped, Skipped, Skipped]),
            (vec![Name], away(), [Well, gone, Skipped, Skipped]),
            (vec![Name, Port], Err(BoardError::HostKey("changed".to_owned())), [Well, Well, denied, Skipped]),
            (vec![Name, Port, HostKey], Err(BoardError::Auth("no key".to_owned())), [Well, Well, Well, denied]),
            // The server went while keys were offered: none of them is to blame.
            (vec![Name, Port, HostKey], away(), [Well, Well, Well, gone]),
            (vec![Name, Port, HostKey, Key], Ok(()), [Well, Well, Well, Well]),
            // Over a machine in between, beyond which nothing answers.
            (vec![Name, Port, HostKey, Key, Name], away(), [Well, gone, Skipped, Skipped]),
            // Over one that does not connect any further.
            (vec![Name, Port, HostKey, Key], away(), [Well, gone, Skipped, Skipped]),
            // By the ssh program.
            (vec![Key], Ok(()), [Skipped, Skipped, Skipped, Well]),
            (vec![], Err(BoardError::Auth("no key".to_owned())), [Skipped, Skipped, Skipped, denied]),
        ];
        for (found, ended, wanted) in table {
            assert_eq!(states(&found, ended.clone()), wanted, "{found:?}, {ended:?}");
        }
    }

    #[test]
    fn a_leg_is_shown_in_lines_of_the_width_of_the_screen_and_says_nothing_to_the_terminal() {
        let words = "cannot reach the board: \u{1b}[2J nothing listens at that port. Check the network";
        let shown = Leg::failed(name::PORT, Code::Unavailable, words).shown(40);
        assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
        assert!(shown.starts_with("FAIL  port        cannot reach"), "{shown}");
        assert!(shown.lines().count() > 3 && !shown.contains('\u{1b}'), "{shown}");
    }
}
