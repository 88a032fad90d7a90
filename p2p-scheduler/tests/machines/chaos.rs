//! A few dozen seeds of everything at once: the board loses, repeats and reorders, links are cut, workers die, tasks are cancelled.
//! In the end every task has its one outcome.

use std::time::Duration;

use p2p_scheduler::Outcome;
use p2p_scheduler::machine::client::ClientInput;
use p2p_scheduler::machine::worker::WorkerInput;
use p2p_scheduler::memory::Faults;

use p2p_simulator::world::{World, task};

const USERS: [&str; 4] = ["bob", "carol", "dave", "erin"];

#[test]
fn a_quiet_cluster_runs_everything_once() {
    let mut world = World::new(1);
    world.host(&USERS);
    let workers = [world.worker("bob", 2), world.worker("carol", 3)];
    let clients = [world.client("dave"), world.client("erin")];
    for client in clients {
        world.submit_all(client, (0..100).map(|n| task(n % 50)).collect());
    }
    world.run_until(Duration::from_secs(60), World::all_done);
    for (key, task) in world.ledger.tasks() {
        assert!(task.outcomes[0].is_success(), "{key:?}: {:?}", task.outcomes);
        assert_eq!(task.runs, 1, "{key:?}");
    }
    // Nobody has work any more: links end, and everybody goes on saying hello.
    world.run_for(Duration::from_secs(600));
    for worker in workers {
        assert_eq!(world.links(worker), 0, "an idle link was kept");
    }
}

#[test]
fn every_task_has_one_outcome_whatever_goes_wrong() {
    for seed in 0..32 {
        let mut world = World::new(seed);
        world.host(&USERS);
        let mut workers = [world.worker("bob", 2), world.worker("carol", 1), world.worker("bob", 1)];
        let clients = [world.client("dave"), world.client("erin")];
        let bad = 50 + u32::try_from(seed % 5).unwrap() * 60;
        world.set_faults(Faults { lose: bad, repeat: bad, hold: bad }, seed);
        let mut submitted = Vec::new();
        for round in 0..40 {
            for client in clients {
                let mut specs = Vec::new();
                for _ in 0..world.random(8) {
                    let mut spec = task(1 + world.random(3000));
                    spec.once = world.random(10) == 0;
                    spec.extra_cpus = u32::from(world.random(10) == 0);
                    specs.push(spec);
                }
                submitted.extend(world.submit_all(client, specs).into_iter().map(|id| (client, id)));
            }
            match world.random(12) {
                0 => {
                    let at = usize::try_from(world.random(workers.len() as u64)).unwrap();
                    world.kill(workers[at]);
                    workers[at] = world.worker("bob", 2);
                }
                1 => {
                    let at = usize::try_from(world.random(workers.len() as u64)).unwrap();
                    world.worker_input(workers[at], WorkerInput::Drain);
                    workers[at] = world.worker("carol", 2);
                }
                2 | 3 => {
                    let at = usize::try_from(world.random(workers.len() as u64)).unwrap();
                    world.cut(workers[at]);
                }
                4 if !submitted.is_empty() => {
                    let at = usize::try_from(world.random(submitted.len() as u64)).unwrap();
                    let (client, id) = submitted[at];
                    world.client_input(client, ClientInput::Cancel(id));
                }
                5 => world.board_down(clients[0]),
                6 => world.board_up(clients[0]),
                _ => {}
            }
            world.run_for(Duration::from_millis(100 + 200 * (round % 5)));
        }
        world.board_up(clients[0]);
        world.run_until(Duration::from_secs(1200), World::all_done);
        let lost = world.ledger.tasks().filter(|(_, task)| matches!(task.outcomes[0], Outcome::Lost { .. })).count();
        let all = world.ledger.tasks().count();
        assert!(lost * 4 < all, "seed {seed}: {lost} of {all} tasks were given up");
    }
}
