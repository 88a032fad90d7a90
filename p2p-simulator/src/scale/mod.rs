//! What grows how: clusters from ten to ten thousand workers, from one to a hundred clients, and up to a million tasks, each axis alone.

mod table;

use std::collections::BTreeSet;
use std::time::Duration;

use p2p_proto::limits;
use p2p_proto::task::TaskSpec;
use p2p_proto::trust::Identity;
use p2p_scheduler::{HostKept, HostTrust};

pub use self::table::{BEGIN, END, in_page, table};
use crate::world::{Peer, World, offer, task};

/// How the sizes of an axis are called, and which they are.
pub const AXES: [(&str, &[u64]); 3] = [
    ("workers", &[10, 30, 100, 300, 1000, 3000, 10_000]),
    ("clients", &[1, 3, 10, 30, 100]),
    ("tasks", &[1000, 10_000, 100_000, 1_000_000]),
];
/// How long a task runs, milliseconds.
const TASK_MS: u64 = 10;
/// Machines of each user who has workers.
const MACHINES_EACH: u64 = 32;
/// Tasks on the other two axes.
const TASKS: u64 = 20_000;
/// How long nothing but presence is measured, at least: everybody says hello twice meanwhile.
const STEADY: Duration = Duration::from_secs(120);
/// Processes start this far from each other: so many at once are a restart of everybody, not growth.
const STARTS_APART: Duration = Duration::from_millis(20);
/// No measurement takes longer, in virtual time.
const LIMIT: Duration = Duration::from_secs(7200);

/// One size of one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Which axis, of [`AXES`].
    pub axis: &'static str,
    /// Which size.
    pub size: u64,
    /// Board lines a second while nobody has work.
    pub lines_per_s: f64,
    /// Board lines from the first task to the last outcome, for each task.
    pub lines_per_task: f64,
    /// Items on links, both ways, for each task.
    pub items_per_task: f64,
    /// Calls of machines, for each task.
    pub steps_per_task: f64,
    /// Memory of a client's machine when it has done its work, bytes.
    pub client_bytes: usize,
    /// The same of a worker's machine, on average.
    pub worker_bytes: usize,
    /// The same of the host's machine.
    pub host_bytes: usize,
}

/// Measures every size of every axis up to `most`, and tells `each` row as it comes. `live` says how many bytes are allocated now.
pub fn measure(most: u64, live: fn() -> usize, mut each: impl FnMut(&Row)) -> Vec<Row> {
    let mut rows = Vec::new();
    for (axis, sizes) in AXES {
        for size in sizes.iter().copied().filter(|size| *size <= most) {
            let row = match axis {
                "workers" => one(axis, size, [size, 1, TASKS], live),
                "clients" => one(axis, size, [10, size, TASKS], live),
                _ => one(axis, size, [10, 1, size], live),
            };
            each(&row);
            rows.push(row);
        }
    }
    rows
}

/// Measures a cluster of so many workers, clients and tasks.
fn one(axis: &'static str, size: u64, [workers, clients, tasks]: [u64; 3], live: fn() -> usize) -> Row {
    let mut world = World::new(size);
    world.keep_lines = false;
    world.only_who_listens = true;
    let users: Vec<String> = (0..clients).map(|n| format!("user{n}")).collect();
    // They are members already, for so many claims at once say nothing about a cluster at work; each on a machine of its own.
    let seats: Vec<(String, [u8; 32])> =
        (0..workers).map(|n| (format!("bob{}", n / MACHINES_EACH), secret(n))).collect();
    let names: BTreeSet<&str> = users.iter().chain(seats.iter().map(|(user, _)| user)).map(String::as_str).collect();
    let host = world.host_with(&names.into_iter().collect::<Vec<_>>(), roster(&seats));
    world.run_for(Duration::from_secs(5));
    let (mut pools, mut callers) = (Vec::new(), Vec::new());
    for n in 0..workers.max(clients) {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        if let Some((user, secret)) = seats.get(n) {
            let kept = world.sit_at(user, *secret, host);
            pools.push(world.worker_keeping(user, offer(4, &["r"]), kept, 0, HostTrust::Login));
        }
        if let Some(user) = users.get(n) {
            callers.push(world.client(user));
        }
        world.run_for(STARTS_APART);
    }
    let steady = STEADY.max(Duration::from_secs(2 * workers / u64::from(limits::HELLO_LINES_PER_S)));
    world.run_for(steady);
    let before = world.ledger.lines();
    world.run_for(steady);
    let lines_per_s = (world.ledger.lines() - before) as f64 / steady.as_secs_f64();
    let before = (world.ledger.lines(), world.items, world.steps);
    for client in &callers {
        world.submit_all(*client, (0..tasks / clients).map(|_| spec()).collect());
    }
    world.run_until(LIMIT, World::all_done);
    let per_task = |now: u64, before: u64| (now - before) as f64 / (tasks / clients * clients) as f64;
    Row {
        axis,
        size,
        lines_per_s,
        lines_per_task: per_task(world.ledger.lines(), before.0),
        items_per_task: per_task(world.items, before.1),
        steps_per_task: per_task(world.steps, before.2),
        client_bytes: weigh(&mut world, &callers, live),
        worker_bytes: weigh(&mut world, &pools, live),
        host_bytes: weigh(&mut world, &[host], live),
    }
}

/// The key of a worker's machine.
fn secret(n: u64) -> [u8; 32] {
    let mut secret = [200; 32];
    secret[..8].copy_from_slice(&n.to_be_bytes());
    secret
}

/// What a host has kept who has let all of these in.
fn roster(seats: &[(String, [u8; 32])]) -> HostKept {
    let members = seats
        .iter()
        .filter_map(|(user, secret)| Some((user.parse().ok()?, Identity::from_secret(secret).machine_key())));
    HostKept { members: members.collect(), serial: 1, ..HostKept::default() }
}

fn spec() -> TaskSpec {
    task(TASK_MS)
}

/// The memory of these machines, bytes each on average; they are gone afterwards.
fn weigh(world: &mut World, peers: &[Peer], live: fn() -> usize) -> usize {
    let mut machines: Vec<_> = peers.iter().map(|peer| world.take_machine(*peer)).collect();
    let before = live();
    machines.clear();
    before.saturating_sub(live()) / peers.len().max(1)
}
