//! A plan from a seed. Most are small: what three peers cannot get wrong, thirty seldom do, and small ones are many and easy to read.

use p2p_scheduler::memory::Faults;

use super::{ClientPlan, Fault, FaultPlan, Plan, Seat, TaskPlan, WorkerPlan};
use crate::dice::Dice;
use crate::world::Weather;

/// Users with workers, and users with clients; `bob` has both.
const OWNERS: [&str; 3] = ["bob", "carol", "frank"];
const CALLERS: [&str; 3] = ["dave", "erin", "bob"];
const LABELS: [&str; 2] = ["gpu", "big"];

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5EED);
        let horizon_ms = *dice.one(&[5_000, 20_000, 60_000, 120_000]);
        let workers = (0..dice.between(1, 4)).map(|_| worker(&mut dice)).collect::<Vec<_>>();
        let clients = (0..dice.between(1, 3)).map(|_| client(&mut dice)).collect::<Vec<_>>();
        let mut plan = Self { seed, workers, clients, tasks: Vec::new(), faults: Vec::new(), closes_last: false };
        plan.tasks = tasks(&mut dice, &plan, horizon_ms);
        let faults = *dice.one(&[0, 1, 2, 4, 8, 16]);
        plan.faults = (0..faults).map(|_| fault(&mut dice, &plan, horizon_ms)).collect();
        plan.closes_last = dice.percent(70);
        plan
    }
}

fn worker(dice: &mut Dice) -> WorkerPlan {
    WorkerPlan {
        present: true,
        user: OWNERS[dice.index(OWNERS.len())],
        at_ms: if dice.percent(70) { 0 } else { dice.below(10_000) },
        slots: *dice.one(&[1, 1, 2, 2, 3, 4, 8]),
        memory_mib: *dice.one(&[0, 1000, 4000]),
        labels: LABELS.into_iter().filter(|_| dice.percent(40)).collect(),
        allow: if dice.percent(90) { Vec::new() } else { vec![CALLERS[dice.index(CALLERS.len())]] },
    }
}

fn client(dice: &mut Dice) -> ClientPlan {
    let at_ms = if dice.percent(70) { 0 } else { dice.below(10_000) };
    ClientPlan { present: true, user: CALLERS[dice.index(CALLERS.len())], at_ms }
}

/// Bursts of tasks of one kind each.
fn tasks(dice: &mut Dice, plan: &Plan, horizon_ms: u64) -> Vec<TaskPlan> {
    let mut tasks = Vec::new();
    let poisoned = dice.percent(8);
    for burst in 0..dice.between(1, 6) {
        let client = dice.index(plan.clients.len());
        let at_ms = plan.clients[client].at_ms + dice.below(horizon_ms);
        let length_ms = *dice.one(&[0, 1, 10, 100, 1000, 5000, 20_000]);
        let count = *dice.one(&[1, 1, 2, 5, 10, if length_ms <= 100 { 60 } else { 15 }]);
        let spread_ms = if dice.percent(50) { 0 } else { dice.below(5000) };
        let (once, stdin) = (dice.percent(15), dice.percent(10));
        let cpus = if dice.percent(80) { 1 } else { u32::try_from(dice.between(2, 4)).unwrap_or(2) };
        let memory_mib = if dice.percent(80) { 0 } else { *dice.one(&[100, 500, 3000]) };
        let labels: Vec<_> = LABELS.into_iter().filter(|_| dice.percent(8)).collect();
        let priority = *dice.one(&[0, 0, 0, 1, -1]);
        let (cancels, limits) = (dice.percent(20), dice.percent(5));
        for n in 0..count {
            let at_ms = at_ms + spread_ms * n / count;
            tasks.push(TaskPlan {
                at_ms,
                client,
                time_ms: length_ms * dice.between(50, 150) / 100,
                cpus,
                once,
                stdin,
                memory_mib,
                labels: labels.clone(),
                priority,
                timeout_ms: if limits { 1 + length_ms } else { 0 },
                poison: poisoned && burst == 0 && n == 0,
                // Without the dice, so that older seeds keep their meaning.
                input: (plan.seed.is_multiple_of(8) && n % 4 != 3).then_some((burst % 3) as u8),
                cancel_ms: (cancels && dice.percent(50)).then(|| at_ms + dice.below(2 * length_ms + 100)),
            });
        }
    }
    tasks.sort_by_key(|task| task.at_ms);
    tasks
}

fn fault(dice: &mut Dice, plan: &Plan, horizon_ms: u64) -> FaultPlan {
    let at_ms = dice.below(horizon_ms);
    let for_ms = *dice.one(&[100, 1000, 5_000, 12_000, 20_000, 40_000, 80_000]);
    let worker = dice.index(plan.workers.len());
    let client = Seat::Client(dice.index(plan.clients.len()));
    let linked = if dice.percent(60) { Seat::Worker(worker) } else { client };
    let anybody = if dice.percent(20) { Seat::Host } else { linked };
    let (fault, for_ms) = match dice.below(24) {
        0..=2 => {
            let mut share = || u32::try_from(dice.below(300)).unwrap_or(0);
            let faults = Faults { lose: share(), repeat: share(), hold: share() };
            (Fault::Weather(Weather { faults, delay_ms: *dice.one(&[20, 500, 5000]) }), for_ms)
        }
        3 => (Fault::Weather(Weather { faults: Faults { lose: 1000, ..Faults::default() }, delay_ms: 20 }), for_ms),
        4 => (Fault::Apart(vec![anybody, linked]), for_ms),
        5 => (Fault::BoardRestart, for_ms.min(20_000)),
        6 => (Fault::BoardAway(anybody), for_ms),
        7 => (Fault::Misrouted(linked), for_ms),
        8 => (Fault::Replay(u32::try_from(dice.between(1, 20)).unwrap_or(1)), 0),
        9 => (Fault::Forge(u32::try_from(dice.between(1, 20)).unwrap_or(1)), 0),
        10..=12 => (Fault::Cut(linked), 0),
        13 => (Fault::HalfOpen(linked), 0),
        14 => (Fault::Unnoticed(linked), 0),
        15 => (Fault::Slow(linked, *dice.one(&[50, 500, 3000])), for_ms),
        16 => (Fault::Wall, for_ms),
        17..=18 => {
            let (power, keeps) = (dice.percent(40), dice.percent(60));
            (Fault::Crash { seat: anybody, power, keeps }, for_ms.min(20_000))
        }
        19 => (Fault::Drain(worker), for_ms.min(20_000)),
        20 => (Fault::Stop(worker), for_ms.min(20_000)),
        21 if dice.percent(50) => (Fault::Leave(dice.index(plan.clients.len())), for_ms.min(20_000)),
        21 | 22 => (Fault::Sleep(anybody), for_ms),
        _ => (Fault::Skew(anybody, *dice.one(&[-1000, -290, -60, 60, 290, 1000])), for_ms),
    };
    FaultPlan { at_ms, for_ms, fault }
}
