//! The board of a world: every line reaches every other process, unless the weather is against it (B-02).

use std::time::Duration;

use p2p_proto::board::message::{Bye, Deny, DenyReason, Refuse, RefuseReason};
use p2p_proto::board::{BoardEvent, Line, Message};
use p2p_proto::ids::{ProcessKey, Role, SetupId};
use p2p_scheduler::memory::{Faults, Mangler};

use super::{Happening, Peer, World};

/// From one process to another, at least.
const LATENCY: Duration = Duration::from_millis(30);
/// After the board is back.
const COMES_BACK_WITHIN_MS: u64 = 3000;
/// Whom the board throws out because nobody else is there comes back within so many milliseconds.
const THROWN_OUT_MS: u64 = 1200;
/// Lines that are remembered for whoever says them again.
const REMEMBERED: usize = 256;

/// What the board does to lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// What it loses, repeats and holds back.
    pub faults: Faults,
    /// How much later than others a line may come, milliseconds: later ones overtake it.
    pub delay_ms: u64,
}

#[derive(Debug)]
pub(super) struct Board {
    closed: bool,
    closes_last: bool,
    weather: Weather,
    seed: u64,
    /// Lines that somebody may say again.
    recent: Vec<Line>,
    remembered: u64,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            closed: false,
            closes_last: false,
            weather: Weather { faults: Faults::default(), delay_ms: 20 },
            seed: 0,
            recent: Vec::new(),
            remembered: 0,
        }
    }
}

impl Board {
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl World {
    /// The board goes away for everybody.
    pub fn close_board(&mut self) {
        self.board.closed = true;
        for peer in 0..self.places.len() {
            if self.is_alive(peer) {
                self.board_down(peer);
            }
        }
    }

    /// The board is back, and everybody comes a little later.
    pub fn open_board(&mut self) {
        if !std::mem::replace(&mut self.board.closed, false) {
            return;
        }
        for peer in 0..self.places.len() {
            if self.is_alive(peer) && !self.places[peer].up {
                self.places[peer].up = true;
                let after = Duration::from_millis(self.dice.below(COMES_BACK_WITHIN_MS));
                self.later(after, Happening::Board(peer, BoardEvent::Up));
            }
        }
    }

    /// Does this to the lines for every process there is and will be.
    pub fn set_weather(&mut self, weather: Weather) {
        self.board.weather = weather;
        self.board.seed = self.dice.any();
        for peer in 0..self.places.len() {
            self.shelter(peer);
        }
    }

    /// Does this to the lines for every process there is now.
    pub fn set_faults(&mut self, faults: Faults, seed: u64) {
        for (peer, place) in self.places.iter_mut().enumerate() {
            place.mangler = Mangler::new(faults, seed.wrapping_add(peer as u64));
        }
    }

    /// A process that is new meets with the weather that there is.
    pub(super) fn shelter(&mut self, peer: Peer) {
        let seed = self.board.seed.wrapping_add(peer as u64);
        self.places[peer].mangler = Mangler::new(self.board.weather.faults, seed);
    }

    /// From now on it hears only those of the same group, 0 for everybody at first.
    pub fn set_group(&mut self, peer: Peer, group: u8) {
        self.places[peer].group = group;
    }

    /// The process's own board connection breaks.
    pub fn board_down(&mut self, peer: Peer) {
        self.places[peer].up = false;
        self.owes_nothing(peer);
        self.board_now(peer, BoardEvent::Down { reason: "cut".to_owned(), retry_in: Duration::from_secs(1) });
        self.on_left();
    }

    /// From now on the board throws out whoever is left alone on it when another leaves, as pico's does.
    pub fn close_for_the_last(&mut self) {
        self.board.closes_last = true;
    }

    /// Somebody is not on the board any more.
    pub(super) fn on_left(&mut self) {
        if !self.board.closes_last || self.board.closed {
            return;
        }
        let mut there = (0..self.places.len()).filter(|peer| self.is_alive(*peer) && self.places[*peer].up);
        let (Some(last), None) = (there.next(), there.next()) else { return };
        self.note(last, || "is the last one on the board".to_owned());
        self.board_down(last);
        self.places[last].up = true;
        let after = Duration::from_millis(self.dice.below(THROWN_OUT_MS));
        self.later(after, Happening::Board(last, BoardEvent::Up));
    }

    /// It comes back.
    pub fn board_up(&mut self, peer: Peer) {
        if !self.places[peer].up && !self.board.closed {
            self.places[peer].up = true;
            self.board_now(peer, BoardEvent::Up);
        }
    }

    /// It comes back to the wrong place: a topic of its own, where nobody is.
    pub fn misroute(&mut self, peer: Peer) {
        self.board_down(peer);
        self.board_now(peer, BoardEvent::Misrouted { retry_in: Duration::from_secs(5) });
    }

    /// Lets an event of the board happen now, or when its process wakes up.
    fn board_now(&mut self, peer: Peer, event: BoardEvent) {
        match self.places[peer].asleep_until {
            Some(_) => self.later(Duration::ZERO, Happening::Board(peer, event)),
            None => self.on_board(peer, event),
        }
    }

    /// Lets an event of the board happen now.
    pub(super) fn on_board(&mut self, peer: Peer, event: BoardEvent) {
        // It was on its way there when something else went wrong.
        if event == BoardEvent::Up && !self.places[peer].up {
            return;
        }
        self.note(peer, || format!("board: {event:?}"));
        if event == BoardEvent::Up {
            self.on_event();
            self.is_there(peer);
        }
        let joining = match event {
            BoardEvent::Up => false,
            BoardEvent::Line(_) | BoardEvent::Lagged(_) | BoardEvent::Warning(_) => self.places[peer].joining,
            BoardEvent::Down { .. } | BoardEvent::Misrouted { .. } | BoardEvent::Failed(_) => true,
        };
        self.board_input(peer, event);
        self.places[peer].joining = joining;
    }

    pub(super) fn on_line(&mut self, peer: Peer, line: Line) {
        if self.places[peer].up {
            self.board_input(peer, BoardEvent::Line(line));
        }
    }

    pub(super) fn publish(&mut self, from: Peer, line: Line) {
        self.places[from].lines += 1;
        self.ledger.on_line();
        self.on_said(from, &line);
        if self.keep_lines {
            self.said.push((self.at, from, line.clone()));
        }
        if self.trace.is_on() {
            self.note(from, || format!("says {}", words(&line)));
        }
        if self.places[from].up {
            self.remember(&line);
            self.spread(Some(from), &line);
        }
    }

    /// A stranger says a line of whomever again.
    pub fn replay(&mut self) {
        if !self.board.recent.is_empty() {
            let line = self.dice.one(&self.board.recent).clone();
            self.trace.note(self.at, "stranger", || format!("says again: {}", words(&line)));
            self.on_event();
            self.spread(None, &line);
        }
    }

    /// A stranger says a line that is no one's, made of one that he heard.
    pub fn forge(&mut self) {
        if self.board.recent.is_empty() {
            return;
        }
        let heard = self.dice.one(&self.board.recent).clone();
        let Ok(mut envelope) = heard.decode() else { return };
        envelope.sequence = envelope.sequence.wrapping_add(self.dice.below(3));
        envelope.message = match envelope.message {
            Message::Hello(hello) if self.dice.percent(50) => Message::Bye(Bye { process: hello.process }),
            Message::Hello(mut hello) => {
                if let Some(offer) = &mut hello.offer {
                    (offer.free, offer.slots) = (offer.slots, offer.slots.saturating_add(1));
                }
                Message::Hello(hello)
            }
            Message::Claim(claim) => Message::Deny(Deny { process: claim.keys.process, why: DenyReason::NotListed }),
            Message::Connect(connect) if self.dice.percent(50) => Message::Refuse(Refuse {
                caller: connect.caller.process,
                callee: connect.callee.process,
                setup: connect.setup,
                why: *self.dice.one(&[RefuseReason::Busy, RefuseReason::Draining, RefuseReason::Untrusted]),
                version: connect.version,
            }),
            Message::Connect(mut connect) => {
                connect.setup = SetupId(connect.setup.0.wrapping_add(self.dice.below(1 << 40)));
                Message::Connect(connect)
            }
            Message::Ready(mut ready) => {
                let at = self.dice.index(ready.noise.len());
                if let Some(byte) = ready.noise.get_mut(at) {
                    *byte ^= 1;
                }
                Message::Ready(ready)
            }
            other => other,
        };
        if let Ok(line) = Line::encode(&envelope) {
            self.trace.note(self.at, "stranger", || format!("forges {}", words(&line)));
            self.on_event();
            self.spread(None, &line);
        }
    }

    fn remember(&mut self, line: &Line) {
        let at = usize::try_from(self.board.remembered).unwrap_or(0) % REMEMBERED;
        self.board.remembered += 1;
        match self.board.recent.get_mut(at) {
            Some(slot) => *slot = line.clone(),
            None => self.board.recent.push(line.clone()),
        }
    }

    fn spread(&mut self, from: Option<Peer>, line: &Line) {
        let kind = self.only_who_listens.then(|| line.decode().ok().map(|envelope| envelope.message)).flatten();
        let group = from.map(|from| self.places[from].group);
        for peer in 0..self.places.len() {
            let place = &mut self.places[peer];
            let hears = place.up && group.is_none_or(|group| group == place.group);
            if from == Some(peer) || !hears || matches!(place.machine, super::Machine::Gone) {
                continue;
            }
            if kind.as_ref().is_some_and(|message| !listens(place.me.role, place.me.secret.process_key(), message)) {
                continue;
            }
            for line in place.mangler.pass(line.clone()) {
                let after = LATENCY + Duration::from_micros(self.dice.below(1000 * self.board.weather.delay_ms.max(1)));
                self.later(after, Happening::Line(peer, line));
            }
        }
    }
}

/// Whether a process in this role does something with such a line.
fn listens(role: Role, process: ProcessKey, message: &Message) -> bool {
    match message {
        // To a worker a hello matters only where a membership is renewed.
        Message::Hello(_) | Message::Bye(_) => role != Role::Worker,
        Message::Seek(_) => role != Role::Client,
        Message::Beat(_) => role != Role::Host,
        Message::Claim(_) => role == Role::Host,
        Message::Admit(admit) => admit.process == process,
        Message::Deny(deny) => deny.process == process,
        Message::Prove(prove) => prove.process == process,
        Message::Summon(_) => role == Role::Host,
        Message::Connect(connect) => connect.callee.process == process,
        Message::Ready(ready) => ready.caller == process,
        Message::Refuse(refuse) => refuse.caller == process,
    }
}

/// A line for people.
fn words(line: &Line) -> String {
    match line.decode() {
        Err(fault) => format!("what nobody understands: {fault}"),
        Ok(envelope) => {
            let what = match &envelope.message {
                Message::Hello(hello) => {
                    format!("hello {:?} {:?}", hello.role, hello.offer.as_ref().map(|offer| offer.free))
                }
                Message::Seek(seek) => format!("seek {} of {:?}", seek.answers, seek.runtime),
                Message::Bye(_) => "bye".to_owned(),
                Message::Beat(_) => "beat".to_owned(),
                Message::Claim(claim) => format!("claim of {}", claim.user),
                Message::Admit(_) => "admit".to_owned(),
                Message::Deny(deny) => format!("deny {:?}", deny.why),
                Message::Prove(_) => "prove".to_owned(),
                Message::Summon(summon) => format!("summon to {}", summon.user),
                Message::Connect(connect) => format!("connect {}", connect.setup.0),
                Message::Ready(ready) => format!("ready {}", ready.setup.0),
                Message::Refuse(refuse) => format!("refuse {} {:?}", refuse.setup.0, refuse.why),
            };
            format!("{what} ({} {})", envelope.from, envelope.sequence)
        }
    }
}
