//! One connection on its way through Transit's lines.

use super::lines::{Lines, Side};

/// How a connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// This side dialled the other.
    Dialled,
    /// Someone dialled this side: the other side, or a stranger.
    Accepted,
    /// This side dialled a relay.
    Relayed,
}

/// One connection, from its opening until it is ready, chosen or useless.
///
/// Say [`Connection::greeting`] first, then feed what arrives to [`Connection::step`], again and again until a step took no
/// bytes or ended the connection. No byte is ever kept: what arrives is compared with what is expected.
#[derive(Clone, Debug)]
pub struct Connection {
    way: Way,
    expects: Expects,
    /// Bytes of the expected line that have arrived.
    matched: usize,
    /// One of them was wrong, and where is not to be seen from outside.
    spoilt: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    /// The relay's "ok".
    Relayed,
    /// The other side's line.
    Line,
    /// The first byte of the leader's word: it says which word.
    Verdict,
    Go,
    Nevermind,
    /// Nothing: the leader has not spoken yet, so the other side must be quiet.
    Silence,
}

/// What came of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All bytes were taken; more must come.
    More,
    /// Our line is due now.
    Say,
    /// The other side proved that it holds the key; its line was the last thing missing to go. Leaders only.
    Ready {
        /// Whether our line is due before anything else.
        say: bool,
    },
    /// The leader chose this connection. Followers only.
    Go,
    /// The leader chose another one. Followers only.
    Nevermind,
    /// These bytes are not Transit's, or not under this key.
    Garbage,
}

impl Connection {
    /// A connection that was opened just now.
    pub fn new(way: Way) -> Self {
        let expects = if way == Way::Relayed { Expects::Relayed } else { Expects::Line };
        Self { way, expects, matched: 0, spoilt: false }
    }

    /// How it came about.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Whether the other end has proved that it holds the key.
    pub fn is_proven(&self) -> bool {
        !matches!(self.expects, Expects::Relayed | Expects::Line)
    }

    /// Whether the leader may say `go` here.
    pub fn is_ready(&self) -> bool {
        self.expects == Expects::Silence
    }

    /// What to say at once; nothing to someone who dialled us, unless the lines are [outspoken](Lines::outspoken).
    pub fn greeting<'a>(&self, lines: &'a Lines) -> Option<&'a [u8]> {
        match self.way {
            Way::Dialled => Some(&lines.ours),
            Way::Relayed => Some(&lines.relay),
            Way::Accepted => lines.outspoken.then_some(lines.ours.as_slice()),
        }
    }

    /// Takes bytes from the front of `bytes` up to the next event; says how many, and the event.
    pub fn step(&mut self, side: Side, lines: &Lines, bytes: &[u8]) -> (usize, Step) {
        let Some(first) = bytes.first() else { return (0, Step::More) };
        if self.expects == Expects::Verdict {
            self.expects = if *first == Lines::GO[0] { Expects::Go } else { Expects::Nevermind };
        }
        let line: &[u8] = match self.expects {
            Expects::Relayed => Lines::RELAYED,
            Expects::Line => &lines.theirs,
            Expects::Go => Lines::GO,
            Expects::Nevermind => Lines::NEVERMIND,
            Expects::Silence | Expects::Verdict => return (0, Step::Garbage),
        };
        let rest = &line[self.matched..];
        let length = rest.len().min(bytes.len());
        let wrong = rest.iter().zip(bytes).position(|(expected, byte)| expected != byte);
        // Where a wrong byte of the secret part is tells nobody: he would have the line after a thousand tries.
        let is_secret = |at: usize| self.expects == Expects::Line && self.matched + at >= Lines::PUBLIC_BYTES;
        match wrong {
            Some(at) if !self.spoilt && !is_secret(at) => return (0, Step::Garbage),
            Some(_) => self.spoilt = true,
            None => {}
        }
        self.matched += length;
        if self.matched < line.len() {
            return (length, Step::More);
        }
        if self.spoilt {
            return (length, Step::Garbage);
        }
        self.matched = 0;
        (length, self.complete(side, lines))
    }

    /// The expected line is complete: what it means, and what comes next.
    fn complete(&mut self, side: Side, lines: &Lines) -> Step {
        match self.expects {
            Expects::Relayed => {
                self.expects = Expects::Line;
                Step::Say
            }
            Expects::Line => {
                let say = self.way == Way::Accepted && !lines.outspoken;
                self.expects = if side == Side::Leader { Expects::Silence } else { Expects::Verdict };
                match side {
                    Side::Leader => Step::Ready { say },
                    Side::Follower if say => Step::Say,
                    Side::Follower => Step::More,
                }
            }
            Expects::Go => Step::Go,
            Expects::Nevermind => Step::Nevermind,
            Expects::Verdict | Expects::Silence => Step::Garbage,
        }
    }
}
