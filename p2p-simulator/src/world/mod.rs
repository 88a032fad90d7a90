//! A whole cluster in virtual time: real machines, real handshakes and records, no I/O. One seed decides what the board loses, how long
//! things take, and in which order what is simultaneous happens.
//!
//! | file | holds |
//! |---|---|
//! | `place` | the processes: who they are, when they start and end |
//! | `audit` | what machines hold, and everything at the end |
//! | `board` | what the board does to lines |
//! | `wires` | the connections that links are made of |
//! | `links` | the streams that connections carry |
//! | `executor` | attempts at work |
//! | `promises` | what is due of whom by when, and how many lines are enough |
//! | `effects` | inputs into machines, and what becomes of their outputs |
//! | `sides` | side topics, where the board shows by whose login somebody is there |
//! | `scenario` | what tests ask a world |

mod audit;
mod board;
mod effects;
mod executor;
mod links;
mod place;
mod promises;
mod scenario;
mod sides;
mod wires;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_proto::board::{BoardEvent, Line};
use p2p_proto::ids::{AttemptId, TaskId};
use p2p_proto::link::LinkError;
use p2p_proto::task::Ended;
use p2p_scheduler::machine::Now;
use p2p_scheduler::machine::side::SideInput;
use p2p_scheduler::{ConnectionId, LinkId};

use self::board::Board;
pub use self::board::Weather;
use self::executor::Executor;
pub use self::executor::{plan_task, task, task_of, time_of};
use self::links::Links;
use self::place::Place;
pub use self::place::{Machine, offer};
use self::promises::Promises;
use self::sides::Sides;
use self::wires::Wires;
use crate::dice::Dice;
use crate::ledger::{Ledger, Violation};
use crate::trace::Trace;

/// The cluster in which everything happens.
pub const CLUSTER: &str = "alice/friends";
/// The calendar when a world begins.
pub const EPOCH: u64 = 1_800_000_000;

/// One process of a world, in the order in which they started. A process that starts again is another one.
pub type Peer = usize;
/// One side of a link.
pub type End = (Peer, LinkId);

/// One side of a connection.
type Plug = (Peer, ConnectionId);

/// What will happen.
#[derive(Debug)]
enum Happening {
    Board(Peer, BoardEvent),
    Line(Peer, Line),
    Prepared(Plug),
    Connected(Plug),
    Disconnected(Plug, LinkError),
    ClosedAnyway(Plug),
    /// A record on this wire.
    Record(usize, Plug, Vec<u8>),
    Ended(End, AttemptId, Ended),
    NobodyCame([u8; 32]),
    Side(Peer, SideInput),
    /// What runs there ends its process.
    Poisoned(Peer),
}

impl Happening {
    /// Whom it happens to.
    fn peer(&self) -> Option<Peer> {
        match self {
            Self::Board(peer, _) | Self::Line(peer, _) | Self::Poisoned(peer) => Some(*peer),
            Self::Prepared((peer, _))
            | Self::Connected((peer, _))
            | Self::ClosedAnyway((peer, _))
            | Self::Disconnected((peer, _), _)
            | Self::Record(_, (peer, _), _)
            | Self::Side(peer, _)
            | Self::Ended((peer, _), ..) => Some(*peer),
            Self::NobodyCame(_) => None,
        }
    }
}

/// A cluster, its network and its time.
pub struct World {
    /// Since the world began.
    pub at: Duration,
    /// Where its chance comes from.
    pub dice: Dice,
    /// What was checked, and what is known of tasks.
    pub ledger: Ledger,
    /// What happened.
    pub trace: Trace,
    /// Every line that was said, by whom; only where [`World::keep_lines`] is set.
    pub said: Vec<(Duration, Peer, Line)>,
    /// Whether `said` is filled.
    pub keep_lines: bool,
    /// Whether lines go only to those who do something with them: what others read and drop changes nothing but the time that it takes.
    pub only_who_listens: bool,
    /// Whether also the rules are checked that only hold where everybody is as programs start him: whole runs set it.
    pub strict: bool,
    /// Connections that are refused.
    pub refuse_links: bool,
    /// Processes that ended because of what they ran, for whoever starts them again.
    pub died: Vec<Peer>,
    /// Calls of machines.
    pub steps: u64,
    /// Items that links carried.
    pub items: u64,
    last_attempt: AttemptId,
    places: Vec<Place>,
    happenings: BTreeMap<(Duration, u64), Happening>,
    wakes: BTreeSet<(Duration, Peer)>,
    sequence: u64,
    board: Board,
    wires: Wires,
    links: Links,
    executor: Executor,
    sides: Sides,
    promises: Promises,
    /// Chance that changes nothing: when a machine is asked whether it forgot something.
    probes: Dice,
    next_task: u64,
    machines: BTreeMap<String, [u8; 32]>,
}

impl World {
    /// When it begins.
    pub const START: Duration = Duration::from_secs(1);

    /// An empty world.
    pub fn new(seed: u64) -> Self {
        Self {
            at: Self::START,
            dice: Dice::new(seed),
            ledger: Ledger::default(),
            trace: Trace::off(),
            said: Vec::new(),
            keep_lines: true,
            only_who_listens: false,
            strict: false,
            refuse_links: false,
            died: Vec::new(),
            steps: 0,
            items: 0,
            last_attempt: AttemptId(0),
            places: Vec::new(),
            happenings: BTreeMap::new(),
            wakes: BTreeSet::new(),
            sequence: 0,
            board: Board::default(),
            wires: Wires::default(),
            links: Links::default(),
            executor: Executor::default(),
            sides: Sides::default(),
            promises: Promises::default(),
            probes: Dice::new(!seed),
            next_task: 0,
            machines: BTreeMap::new(),
        }
    }

    /// Both clocks, as they should be.
    pub fn now(&self) -> Now {
        Now { at: self.at, unix: EPOCH + self.at.as_secs() }
    }

    /// Both clocks, as this process reads them.
    fn now_of(&self, peer: Peer) -> Now {
        let Now { at, unix } = self.now();
        Now { at, unix: unix.saturating_add_signed(self.places[peer].skew_s) }
    }

    /// A number below `below`.
    pub fn random(&mut self, below: u64) -> u64 {
        self.dice.below(below)
    }

    /// Does the next thing that happens up to `until`; `false` when there is none.
    ///
    /// # Errors
    /// A rule was broken, now or before.
    pub fn step(&mut self, until: Duration) -> Result<bool, Violation> {
        let happening = self.happenings.first_key_value().map(|((at, _), _)| *at);
        let wake = self.wakes.first().copied();
        match (happening, wake) {
            (at, Some((wake, peer))) if at.is_none_or(|at| wake <= at) && wake <= until => {
                // A moment that has passed is now: time never goes back.
                self.at = self.at.max(wake);
                self.tick(peer);
            }
            (Some(at), _) if at <= until => {
                self.at = self.at.max(at);
                if let Some((key, happening)) = self.happenings.pop_first() {
                    self.happen(key, happening);
                }
            }
            _ => {
                self.at = self.at.max(until);
                return Ok(false);
            }
        }
        self.check_promises();
        self.ledger.verdict().map(|()| true)
    }

    fn happen(&mut self, (_, sequence): (Duration, u64), happening: Happening) {
        let asleep_until = happening.peer().and_then(|peer| self.places[peer].asleep_until);
        if let Some(until) = asleep_until.filter(|until| *until > self.at) {
            // In the same order, once it wakes.
            self.happenings.insert((until, sequence), happening);
            return;
        }
        match happening {
            Happening::Board(peer, event) => self.on_board(peer, event),
            Happening::Line(peer, line) => self.on_line(peer, line),
            Happening::Prepared(plug) => self.on_prepared(plug),
            Happening::Connected(plug) => self.on_connected(plug),
            Happening::Disconnected(plug, error) => self.on_disconnected(plug, error),
            Happening::ClosedAnyway(plug) => self.on_closed_anyway(plug),
            Happening::Record(wire, plug, bytes) => self.on_record(wire, plug, &bytes),
            Happening::Ended(end, attempt, ended) => self.on_ended(end, attempt, ended),
            Happening::Side(peer, input) => self.on_side(peer, input),
            Happening::NobodyCame(key) => self.on_nobody_came(key),
            Happening::Poisoned(peer) => {
                if self.is_alive(peer) {
                    self.kill(peer);
                    self.died.push(peer);
                }
            }
        }
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.happenings.insert((self.at + after, self.sequence), happening);
    }

    fn note(&mut self, peer: Peer, what: impl FnOnce() -> String) {
        if self.trace.is_on() {
            let who = self.places[peer].label(peer);
            self.trace.note(self.at, &who, what);
        }
    }

    fn next_task_id(&mut self) -> TaskId {
        self.next_task += 1;
        TaskId(self.next_task - 1)
    }
}
