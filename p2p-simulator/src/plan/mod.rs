//! What is to happen in one run: who takes part, what there is to do, and what goes wrong when. Made from a seed, shortened by the
//! shrinker, shown to people. Every part can be left out, and what refers to it then does nothing.

mod generate;
mod show;

use crate::world::Weather;

/// A run in full: the same plan is the same run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Decides all chance in the world: latencies, what the weather does to which line, keys.
    pub seed: u64,
    /// By seat.
    pub workers: Vec<WorkerPlan>,
    /// By seat.
    pub clients: Vec<ClientPlan>,
    /// What there is to do.
    pub tasks: Vec<TaskPlan>,
    /// What goes wrong.
    pub faults: Vec<FaultPlan>,
    /// Whether the board throws out whoever is left alone on it when another leaves.
    pub closes_last: bool,
}

/// A place for a process. Whoever starts again takes the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    /// The host's.
    Host,
    /// This worker's.
    Worker(usize),
    /// This client's.
    Client(usize),
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPlan {
    /// Whether it takes part: the shrinker leaves it out without renumbering the others.
    pub present: bool,
    /// Whose it is.
    pub user: &'static str,
    /// When it starts, milliseconds.
    pub at_ms: u64,
    /// Its slots.
    pub slots: u32,
    /// Its memory, MiB; 0 for unknown.
    pub memory_mib: u64,
    /// Its labels.
    pub labels: Vec<&'static str>,
    /// Whom it serves; everybody if empty.
    pub allow: Vec<&'static str>,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// Whether it takes part.
    pub present: bool,
    /// Whose it is.
    pub user: &'static str,
    /// When it starts, milliseconds.
    pub at_ms: u64,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPlan {
    /// When it is submitted, milliseconds.
    pub at_ms: u64,
    /// By which client.
    pub client: usize,
    /// How long it runs, milliseconds.
    pub time_ms: u64,
    /// Slots that it takes.
    pub cpus: u32,
    /// Never to be started twice.
    pub once: bool,
    /// It reads stdin.
    pub stdin: bool,
    /// Memory that it needs, MiB.
    pub memory_mib: u64,
    /// What its worker must offer.
    pub labels: Vec<&'static str>,
    /// Among the tasks of its user.
    pub priority: i8,
    /// How long it may run, milliseconds; 0 for as long as it likes.
    pub timeout_ms: u64,
    /// Ends its worker's process.
    pub poison: bool,
    /// Its large input, if it has one: which of a few.
    pub input: Option<u8>,
    /// When it is cancelled, milliseconds.
    pub cancel_ms: Option<u64>,
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultPlan {
    /// When, milliseconds.
    pub at_ms: u64,
    /// For how long, milliseconds, where that makes sense: until somebody starts again, wakes up, or hears the others.
    pub for_ms: u64,
    /// What.
    pub fault: Fault,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The board loses, repeats, holds back and delays lines.
    Weather(Weather),
    /// These do not hear the others on the board, nor they them.
    Apart(Vec<Seat>),
    /// The board restarts: everybody loses it, and comes back a little later each.
    BoardRestart,
    /// One of them loses the board.
    BoardAway(Seat),
    /// One of them loses the board and comes to the wrong place first.
    Misrouted(Seat),
    /// A stranger says so many lines again.
    Replay(u32),
    /// A stranger says so many lines that he made up.
    Forge(u32),
    /// Links break, and both sides notice.
    Cut(Seat),
    /// Links break, and the others notice only by the silence.
    HalfOpen(Seat),
    /// Links break, and nobody notices but by the silence.
    Unnoticed(Seat),
    /// Links take so many milliseconds longer each way.
    Slow(Seat, u64),
    /// No connection comes about.
    Wall,
    /// The process ends, and starts again.
    Crash {
        /// Whose.
        seat: Seat,
        /// Its links break without anybody noticing at once.
        power: bool,
        /// What it kept is still there.
        keeps: bool,
    },
    /// A worker is told to finish and leave; another one starts.
    Drain(usize),
    /// A worker is told to leave at once; another one starts.
    Stop(usize),
    /// A client leaves in order; another one starts.
    Leave(usize),
    /// A machine sleeps.
    Sleep(Seat),
    /// A clock is wrong by so many seconds.
    Skew(Seat, i64),
}

impl Plan {
    /// When the last fault is over and everything was submitted, milliseconds.
    pub fn calm_ms(&self) -> u64 {
        let faults = self.faults.iter().map(|fault| fault.at_ms + fault.for_ms);
        let tasks = self.tasks.iter().map(|task| task.at_ms.max(task.cancel_ms.unwrap_or(0)));
        let starts =
            self.workers.iter().map(|worker| worker.at_ms).chain(self.clients.iter().map(|client| client.at_ms));
        faults.chain(tasks).chain(starts).max().unwrap_or(0)
    }
}
