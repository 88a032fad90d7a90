//! One's own lines, which a topic with replay gives back: nobody wants to hear himself.
#![warn(clippy::disallowed_methods)]

use std::collections::VecDeque;

use p2p_proto::board::Line;
use p2p_proto::limits;

/// Lines that were written and have not come back yet, at most [`limits::BOARD_OUTBOX`].
#[derive(Debug, Default)]
pub(crate) struct OwnLines(VecDeque<Line>);

impl OwnLines {
    pub(crate) fn sent(&mut self, line: Line) {
        if self.0.len() >= limits::BOARD_OUTBOX {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }

    /// Whether this is one's own line coming back; each does so once. Whoever repeats it afterwards is somebody else.
    pub(crate) fn take(&mut self, line: &Line) -> bool {
        // They come back in order, so it is nearly always the first.
        let at = self.0.iter().position(|own| own == line);
        at.is_some_and(|at| self.0.remove(at).is_some())
    }
}

#[cfg(test)]
mod tests {
    use p2p_proto::board::line::Lines;

    use super::*;

    fn line(text: &str) -> Line {
        let mut found = None;
        Lines::default().feed(format!("~p2p1 {text}\n").as_bytes(), |line| found = Some(line));
        found.unwrap()
    }

    #[test]
    fn each_comes_back_once() {
        let mut own = OwnLines::default();
        for text in ["a", "b", "a"] {
            own.sent(line(text));
        }
        let taken = ["b", "a", "x", "a", "a", "b"].map(|text| own.take(&line(text)));
        assert_eq!(taken, [true, true, false, true, false, false]);
    }

    #[test]
    fn a_server_that_gives_nothing_back_costs_no_memory() {
        let mut own = OwnLines::default();
        for number in 0..10_000 {
            own.sent(line(&number.to_string()));
        }
        assert_eq!(own.0.len(), limits::BOARD_OUTBOX);
    }
}
