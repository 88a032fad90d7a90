//! `--halt`: when to stop before the end, in GNU parallel's grammar and with its exit codes.
//!
//! `WHEN,WHY=COUNT`: when is `now` (kill what runs) or `soon` (let it finish, start no more), why is `fail`, `success` or `done`, count is
//! a number of tasks or a percentage of all. Short for some: `never` or `0`, `1` and `2` for one that failed, `-1` and `-2` for one that
//! succeeded, soon or now, and `10%` for `soon,fail=10%`.
//!
//! [`Halting`] is told of every task that ended, in that order, and says once that it is time.

use std::fmt;
use std::str::FromStr;

/// More failures than this have one exit code.
const COUNTED: u64 = 100;

/// The option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// All tasks are run, whatever happens.
    Never,
    /// Stops at some point.
    At {
        /// What happens to the tasks that run then.
        when: When,
        /// Which tasks count.
        why: Why,
        /// How many of them.
        limit: Limit,
    },
}

/// What happens to the tasks that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// They are killed.
    Now,
    /// They finish; no more are started.
    Soon,
}

/// Which tasks count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Fail,
    Success,
    Done,
}

/// How many tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Tasks(u64),
    /// Of all tasks, which can be known only when all inputs are read.
    Percent(u64),
}

impl FromStr for Halt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = match text {
            "0" | "never" => return Ok(Self::Never),
            "1" => "soon,fail=1",
            "2" => "now,fail=1",
            "-1" => "soon,success=1",
            "-2" => "now,success=1",
            text if text.ends_with('%') && !text.contains(['=', ',']) => return Self::at("soon", "fail", text),
            text => text,
        };
        let (when, condition) = text.split_once(',').ok_or_else(|| wrong(text))?;
        let (why, limit) = condition.split_once('=').ok_or_else(|| wrong(text))?;
        Self::at(when, why, limit)
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::At { when, why, limit } = self else { return f.write_str("never") };
        let when = if *when == When::Now { "now" } else { "soon" };
        let why = match why {
            Why::Fail => "fail",
            Why::Success => "success",
            Why::Done => "done",
        };
        match limit {
            Limit::Tasks(count) => write!(f, "{when},{why}={count}"),
            Limit::Percent(count) => write!(f, "{when},{why}={count}%"),
        }
    }
}

impl Halt {
    /// Whether tasks finish that run when it is time.
    pub fn is_soon(&self) -> bool {
        matches!(self, Self::At { when: When::Soon, .. })
    }

    fn at(when: &str, why: &str, limit: &str) -> Result<Self, String> {
        let wrong = || wrong(&format!("{when},{why}={limit}"));
        let when = match when {
            "now" => When::Now,
            "soon" => When::Soon,
            _ => return Err(wrong()),
        };
        let why = match why {
            "fail" => Why::Fail,
            "success" => Why::Success,
            "done" => Why::Done,
            _ => return Err(wrong()),
        };
        let (digits, percent) = limit.strip_suffix('%').map_or((limit, false), |digits| (digits, true));
        let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let count: u64 = digits.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
        match (count, percent) {
            (0, _) => Err("it would stop before anything ran: count from 1".to_owned()),
            (101.., true) => Err("there are no more than 100% of all tasks".to_owned()),
            (count, true) => Ok(Self::At { when, why, limit: Limit::Percent(count) }),
            (count, false) => Ok(Self::At { when, why, limit: Limit::Tasks(count) }),
        }
    }
}

fn wrong(text: &str) -> String {
    format!(
        "{text:?} is not never, nor WHEN,WHY=COUNT with now or soon, with fail, success or done, and with a number or a percentage: \
         for example now,fail=1 or soon,success=10%"
    )
}

/// The counts that decide.
#[derive(Debug)]
pub struct Halting {
    halt: Halt,
    total: Option<u64>,
    good: u64,
    failed: u64,
    /// In earlier runs.
    before: Before,
    /// The exit code of the task that ended last.
    last: u8,
    /// Once it is time: the exit code.
    code: Option<u8>,
}

/// What a log knows of earlier runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Tasks that are not run again.
    pub done: u64,
    /// Those of them that succeeded.
    pub good: u64,
}

impl Halting {
    /// Nothing has ended yet but what did in earlier runs. As in GNU parallel that counts as done, but its failures are not counted again.
    pub fn new(halt: Halt, before: Before) -> Self {
        Self { halt, total: None, good: 0, failed: 0, before, last: 0, code: None }
    }

    /// All inputs are known: there are so many tasks, with those of earlier runs.
    pub fn on_total(&mut self, total: u64) -> Option<When> {
        self.total = Some(total);
        self.decide(true)
    }

    /// A task succeeded.
    pub fn on_good(&mut self) -> Option<When> {
        self.good += 1;
        self.last = 0;
        self.decide(matches!(self.halt, Halt::At { why: Why::Success | Why::Done, .. }))
    }

    /// A task failed with this exit code, or by this signal.
    pub fn on_failed(&mut self, exit: i32, signal: i32) -> Option<When> {
        self.failed += 1;
        // As a shell sees it: the lowest byte, of -1 it is 255.
        let code = if exit == 0 { signal.wrapping_add(128) } else { exit };
        self.last = code.to_le_bytes()[0];
        self.decide(matches!(self.halt, Halt::At { why: Why::Fail | Why::Done, .. }))
    }

    /// The exit code of the whole.
    pub fn code(&self) -> u8 {
        let Halt::At { limit, .. } = self.halt else { return counted(self.failed) };
        self.code.unwrap_or_else(|| match limit {
            Limit::Tasks(_) => counted(self.failed),
            Limit::Percent(_) => percent(self.failed, self.good + self.failed),
        })
    }

    /// What ended in earlier runs.
    pub fn before(&self) -> Before {
        self.before
    }

    /// The option.
    pub fn option(&self) -> Halt {
        self.halt
    }

    /// Says once that it is time.
    fn decide(&mut self, counts: bool) -> Option<When> {
        let Halt::At { when, why, limit } = self.halt else { return None };
        if !counts || self.code.is_some() {
            return None;
        }
        let ended = match why {
            Why::Fail => self.failed,
            Why::Success => self.before.good + self.good,
            Why::Done => self.before.done + self.good + self.failed,
        };
        let (enough, one) = match limit {
            Limit::Tasks(count) => (ended >= count, count == 1),
            Limit::Percent(count) => {
                let (ended, needed) = (u128::from(ended) * 100, u128::from(self.total?) * u128::from(count));
                (ended > 0 && ended >= needed, needed == 100)
            }
        };
        if !enough {
            return None;
        }
        self.code = Some(match (why, limit) {
            (Why::Success, _) => 0,
            _ if one => self.last,
            (_, Limit::Tasks(_)) => counted(self.failed),
            (_, Limit::Percent(_)) => percent(self.failed, self.total.unwrap_or_default()),
        });
        Some(when)
    }
}

fn counted(failed: u64) -> u8 {
    u8::try_from(failed.min(COUNTED + 1)).unwrap_or(u8::MAX)
}

/// Rounded up.
fn percent(failed: u64, of: u64) -> u8 {
    let percent = (u128::from(failed) * 100).div_ceil(u128::from(of.max(1)));
    u8::try_from(percent).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_that_of_parallel() {
        let at = |when, why, limit| Ok(Halt::At { when, why, limit });
        let table = [
            ("never", Ok(Halt::Never)),
            ("0", Ok(Halt::Never)),
            ("1", at(When::Soon, Why::Fail, Limit::Tasks(1))),
            ("2", at(When::Now, Why::Fail, Limit::Tasks(1))),
            ("-1", at(When::Soon, Why::Success, Limit::Tasks(1))),
            ("-2", at(When::Now, Why::Success, Limit::Tasks(1))),
            ("10%", at(When::Soon, Why::Fail, Limit::Percent(10))),
            ("soon,fail=3", at(When::Soon, Why::Fail, Limit::Tasks(3))),
            ("soon,success=1", at(When::Soon, Why::Success, Limit::Tasks(1))),
            ("now,done=5", at(When::Now, Why::Done, Limit::Tasks(5))),
            ("now,fail=100%", at(When::Now, Why::Fail, Limit::Percent(100))),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Halt>(), expected, "{text}");
        }
        let wrong = [
            "",
            "now",
            "fail=10%",
            "now,fail",
            "now,fail=",
            "now,fail=x",
            "now,fail=+1",
            "later,fail=1",
            "now,lost=1",
            "3",
            "soon,fail=0",
            "soon,fail=0%",
            "soon,fail=101%",
            "%",
            "now,fail=1,2",
            "now,fail=99999999999999999999",
        ];
        for text in wrong {
            assert!(text.parse::<Halt>().is_err(), "{text}");
        }
    }

    /// Tasks end one after the other with these exit codes; above 200 with a signal. How many ended when it halted, and the exit code.
    fn play(halt: &str, ends: &[i32]) -> (Option<usize>, u8) {
        let mut halting = Halting::new(halt.parse().unwrap(), Before::default());
        assert_eq!(halting.on_total(ends.len() as u64), None, "{halt}");
        for (index, end) in ends.iter().enumerate() {
            let when = match end {
                0 => halting.on_good(),
                201.. => halting.on_failed(0, end - 200),
                _ => halting.on_failed(*end, 0),
            };
            if when.is_some() {
                return (Some(index + 1), halting.code());
            }
        }
        (None, halting.code())
    }

    #[test]
    fn tasks_are_counted_as_parallel_does() {
        // What GNU parallel 20221122 does with -j1.
        let ends = [3, 0, 5, 0, 7, 0];
        let table = [
            ("never", None, 3),
            ("now,fail=1", Some(1), 3),
            ("soon,fail=1", Some(1), 3),
            ("soon,fail=3", Some(5), 3),
            ("soon,success=1", Some(2), 0),
            ("now,success=1", Some(2), 0),
            ("now,done=2", Some(2), 1),
            ("soon,fail=50%", Some(5), 50),
            ("now,success=50%", Some(6), 0),
            ("now,done=50%", Some(3), 34),
            ("soon,done=1", Some(1), 3),
            ("soon,fail=4", None, 3),
            ("soon,fail=51%", None, 50),
            ("now,success=4", None, 3),
        ];
        for (halt, after, code) in table {
            assert_eq!(play(halt, &ends), (after, code), "{halt}");
        }
        assert_eq!(play("now,fail=1", &[0, 209]), (Some(2), 137));
        assert_eq!(play("now,fail=1", &[-1]), (Some(1), 255));
        assert_eq!(play("soon,fail=50%", &[4, 0]), (Some(1), 4));
        assert_eq!(play("never", &[1; 150]), (None, 101));
    }

    #[test]
    fn a_percentage_waits_until_all_inputs_are_known() {
        let mut halting = Halting::new("now,fail=50%".parse().unwrap(), Before::default());
        assert_eq!(halting.on_failed(1, 0), None);
        assert_eq!(halting.on_failed(2, 0), None);
        assert_eq!(halting.on_total(4), Some(When::Now));
        assert_eq!((halting.on_failed(1, 0), halting.code()), (None, 50), "it says so once");
    }

    #[test]
    fn what_ended_in_earlier_runs_counts_as_done() {
        let before = Before { done: 3, good: 2 };
        for (halt, after) in [("now,done=4", 1), ("now,success=4", 2), ("now,fail=1", 0)] {
            let mut halting = Halting::new(halt.parse().unwrap(), before);
            let goods = (1..=3).find(|_| halting.on_good().is_some()).unwrap_or(0);
            assert_eq!(goods, after, "{halt}");
        }
    }
}
