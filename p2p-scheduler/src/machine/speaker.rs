//! What a peer says on the board: numbered, dated, and no faster than its share of the board (B-03).

use std::collections::VecDeque;
use std::time::Duration;

use p2p_proto::board::{Envelope, Line, Message};
use p2p_proto::ids::PeerName;
use p2p_proto::limits;

use super::bucket::{Bucket, Flow};
use super::{Now, Table};

/// Lines that wait for the bucket, at most; the oldest go first, being the least true.
const WAITING_LINES: usize = 64;

/// So few peers cannot flood a board: they say what they have to say at once (B-03).
pub(crate) const FEW_PEERS: u32 = 8;

/// A token bucket in front of the board. One token is one line; it fills at this peer's share of
/// [`limits::BOARD_LINES_PER_S`], and holds [`limits::BOARD_BURST`] or, among few, [`limits::BOARD_BURST_AMONG_FEW`].
#[derive(Debug)]
pub struct Speaker {
    name: PeerName,
    sequence: u64,
    /// Peers present, as the host counts them.
    peers: u32,
    bucket: Bucket,
    waiting: VecDeque<Waiting>,
}

/// A line that waits for the bucket.
#[derive(Debug)]
struct Waiting {
    line: Line,
    /// After that nobody has any use for it.
    until: Option<Duration>,
    /// It goes ahead of the others.
    first: bool,
}

impl Speaker {
    /// A speaker with a full bucket.
    pub fn new(name: PeerName) -> Self {
        let bucket = Bucket::full(limits::BOARD_BURST_AMONG_FEW);
        Self { name, sequence: 0, peers: 1, bucket, waiting: VecDeque::new() }
    }

    /// The board has this many peers: each gets an equal share.
    pub fn set_peers(&mut self, peers: u32) {
        // Nobody knows more peers than these; a larger number would only silence everybody.
        let most = u32::try_from(limits::DIRECTORY_PEERS).unwrap_or(u32::MAX);
        self.peers = peers.clamp(1, most);
    }

    /// Peers on the board, as far as known; at least 1.
    pub fn peers(&self) -> u32 {
        self.peers
    }

    /// How long to wait before saying what everybody says at the same occasion, so that the board stays near its rate (B-03): a part, by
    /// `dice`, of the time in which all peers have had their turn.
    pub fn spread(&self, dice: u32) -> Duration {
        if self.peers <= FEW_PEERS {
            return Duration::ZERO;
        }
        let all = f64::from(self.peers) / f64::from(limits::BOARD_LINES_PER_S);
        Duration::from_secs_f64(all * f64::from(dice) / f64::from(u32::MAX))
    }

    /// How long a hello that is said now is to count; it is repeated at half of it. Grows with the peers, so that presence stays at
    /// [`limits::HELLO_LINES_PER_S`] of the whole board (B-03).
    pub fn hello_ttl(&self) -> Duration {
        let all = Duration::from_secs(2 * u64::from(self.peers / limits::HELLO_LINES_PER_S));
        all.clamp(limits::HELLO_TTL, limits::HELLO_TTL_MAX)
    }

    /// The line that says `message` now.
    pub fn line(&mut self, now: Now, message: Message) -> Line {
        self.sequence += 1;
        let envelope = Envelope { from: self.name.clone(), sequence: self.sequence, time: now.unix, message };
        Line::encode(&envelope).unwrap_or_else(|fault| unreachable!("a message within its limits fits a line: {fault}"))
    }

    /// Says `message` as soon as the bucket allows.
    pub fn say(&mut self, now: Now, message: Message, out: &mut Vec<Line>) {
        let line = self.line(now, message);
        self.wait(now, Waiting { line, until: None, first: false }, out);
    }

    /// Says `message` before all that waits: for what everybody needs, whatever others cause to be said.
    pub fn say_first(&mut self, now: Now, message: Message, out: &mut Vec<Line>) {
        let line = self.line(now, message);
        let at = self.waiting.iter().take_while(|waiting| waiting.first).count();
        self.make_room();
        let at = at.min(self.waiting.len());
        self.waiting.insert(at, Waiting { line, until: None, first: true });
        self.on_tick(now, out);
    }

    /// Lines that wait for the bucket.
    pub(crate) fn table(&self) -> Table {
        Table { what: "lines that wait", holds: self.waiting.len(), most: WAITING_LINES }
    }

    /// Whether more than half of what may be said at once is still unsaid.
    pub fn is_quiet(&self, now: Now) -> bool {
        self.waiting.is_empty() && self.bucket.is_half_full(now.at, self.flow())
    }

    /// Says `message` if [`Speaker::is_quiet`]: for what strangers can cause. Returns whether it was said.
    pub fn say_if_quiet(&mut self, now: Now, message: Message, out: &mut Vec<Line>) -> bool {
        let quiet = self.is_quiet(now);
        if quiet {
            self.say(now, message, out);
        }
        quiet
    }

    /// Says a ready-made line as soon as the bucket allows, and not after `until`: where many call at once, answers to those who have given up
    /// would take the share of those who still wait, and nobody would ever be answered in time. A line that waits already is said once.
    pub fn say_until(&mut self, now: Now, line: Line, until: Duration, out: &mut Vec<Line>) {
        if self.waiting.iter().all(|waiting| waiting.line != line) {
            self.wait(now, Waiting { line, until: Some(until), first: false }, out);
        }
    }

    fn wait(&mut self, now: Now, waiting: Waiting, out: &mut Vec<Line>) {
        self.make_room();
        self.waiting.push_back(waiting);
        self.on_tick(now, out);
    }

    fn make_room(&mut self) {
        if self.waiting.len() >= WAITING_LINES {
            // The oldest of those that are not to be said first.
            let oldest = self.waiting.iter().position(|waiting| !waiting.first).unwrap_or(0);
            self.waiting.remove(oldest);
        }
    }

    /// Says what the bucket allows by now.
    pub fn on_tick(&mut self, now: Now, out: &mut Vec<Line>) {
        self.bucket.fill(now.at, self.flow());
        self.waiting.retain(|waiting| waiting.until.is_none_or(|until| until >= now.at));
        while !self.waiting.is_empty() && self.bucket.take() {
            out.extend(self.waiting.pop_front().map(|waiting| waiting.line));
        }
    }

    /// When the next waiting line may be said.
    pub fn wake_at(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then(|| self.bucket.next_at(self.flow()))
    }

    /// This peer's share of the board.
    fn flow(&self) -> Flow {
        let few = self.peers <= FEW_PEERS;
        let burst = if few { limits::BOARD_BURST_AMONG_FEW } else { limits::BOARD_BURST };
        Flow { burst, every: Duration::from_secs(1) * self.peers / limits::BOARD_LINES_PER_S }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_proto::board::message::Seek;

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_share() {
        let mut speaker = Speaker::new("bob@h:1".parse().unwrap());
        speaker.set_peers(10);
        let mut out = Vec::new();
        let mut now = Now { at: Duration::from_secs(5), unix: 5 };
        for _ in 0..limits::BOARD_BURST + 3 {
            speaker.say(now, Message::Seek(Seek { runtime: String::new(), answers: 1 }), &mut out);
        }
        assert_eq!(out.len(), limits::BOARD_BURST as usize);
        for said in 1..=3 {
            now.at = speaker.wake_at().unwrap();
            speaker.on_tick(now, &mut out);
            assert_eq!(out.len(), limits::BOARD_BURST as usize + said);
        }
        assert_eq!(speaker.wake_at(), None);
        assert!(now.at >= Duration::from_secs(7), "three lines at one a second came by {:?}", now.at);
    }

    #[test]
    fn what_is_said_first_goes_ahead_of_a_queue_and_is_not_crowded_out_of_it() {
        let mut speaker = Speaker::new("alice@h:1".parse().unwrap());
        let now = Now { at: Duration::from_secs(5), unix: 5 };
        let seek = |answers| Message::Seek(Seek { runtime: String::new(), answers });
        let answers = |line: &Line| match line.decode().unwrap().message {
            Message::Seek(seek) => seek.answers,
            other => panic!("{other:?}"),
        };
        let mut out = Vec::new();
        for _ in 0..200 {
            speaker.say(now, seek(0), &mut out);
        }
        out.clear();
        speaker.say_first(now, seek(1), &mut out);
        speaker.say_first(now, seek(2), &mut out);
        for _ in 0..200 {
            speaker.say(now, seek(0), &mut out);
        }
        assert!(out.is_empty(), "the bucket was empty");
        assert_eq!(speaker.table().holds, WAITING_LINES);
        speaker.on_tick(Now { at: now.at + Duration::from_millis(350), unix: 5 }, &mut out);
        assert_eq!(out.iter().map(answers).collect::<Vec<_>>(), [1, 2, 0]);
    }

    /// Columns: peers; for how long a hello counts, s.
    #[test]
    fn hellos_of_many_are_rarer_so_that_all_together_stay_at_their_share() {
        let most = u32::try_from(limits::DIRECTORY_PEERS).unwrap();
        let mut speaker = Speaker::new("bob@h:1".parse().unwrap());
        for (peers, ttl_s) in [(1, 120), (300, 120), (600, 240), (3000, 1200), (most, 4000), (u32::MAX, 4000)] {
            speaker.set_peers(peers);
            assert_eq!(speaker.hello_ttl().as_secs(), ttl_s, "{peers} peers");
            let per_s = f64::from(peers.min(most)) / (speaker.hello_ttl() / 2).as_secs_f64();
            assert!(per_s <= f64::from(limits::HELLO_LINES_PER_S), "{per_s} hellos a second");
        }
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_said_and_what_waits_is_said_once() {
        let mut speaker = Speaker::new("bob@h:1".parse().unwrap());
        speaker.set_peers(10);
        let mut now = Now { at: Duration::from_secs(5), unix: 5 };
        for _ in 0..limits::BOARD_BURST {
            speaker.say(now, Message::Seek(Seek { runtime: String::new(), answers: 1 }), &mut Vec::new());
        }
        let [stale, fresh] =
            [1, 2].map(|answers| speaker.line(now, Message::Seek(Seek { runtime: String::new(), answers })));
        let mut out = Vec::new();
        speaker.say_until(now, stale, now.at + Duration::from_millis(500), &mut out);
        for _ in 0..3 {
            speaker.say_until(now, fresh.clone(), now.at + Duration::from_secs(60), &mut out);
        }
        assert!(out.is_empty(), "the bucket was empty");
        while let Some(at) = speaker.wake_at() {
            now.at = at;
            speaker.on_tick(now, &mut out);
        }
        assert_eq!(out, [fresh]);
    }
}
