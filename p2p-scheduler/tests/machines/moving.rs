//! Tasks that move: to who idles (S-02), beside who straggles (S-05), away from who is lost, and away from those whom they bring down (S-04).

use std::time::Duration;

use p2p_proto::ids::TaskId;
use p2p_proto::limits;
use p2p_proto::task::TaskSpec;
use p2p_scheduler::machine::client::TaskState;
use p2p_scheduler::{ClientReport, Outcome};

use p2p_simulator::world::{Peer, World, offer, task};

const SOON: Duration = Duration::from_secs(5);
/// To ask for the first credits and get them.
const START: Duration = Duration::from_millis(50);

/// A client that knows these workers: one task of a millisecond ran on each.
fn cluster(workers: &[(&str, u32)]) -> (World, Vec<Peer>, Peer) {
    let mut world = World::new(1);
    world.host(&["bob", "carol", "dave", "erin", "frank", "grace"]);
    let peers: Vec<_> = workers.iter().map(|(user, slots)| world.worker(user, *slots)).collect();
    let client = world.client("dave");
    world.client_input(client, p2p_scheduler::machine::client::ClientInput::Survey);
    world.run_until(SOON, |world| world.links(client) == workers.len());
    (world, peers, client)
}

/// How long so many tasks of this length take.
fn timed(world: &mut World, client: Peer, count: usize, time_ms: u64) -> Duration {
    let started = world.at;
    world.submit_all(client, (0..count).map(|_| task(time_ms)).collect());
    world.run_until(Duration::from_secs(3600), World::all_done);
    world.at - started
}

#[test]
fn short_tasks_fill_two_slots() {
    for workers in [&[("bob", 2)][..], &[("bob", 1), ("carol", 1)]] {
        let (mut world, _, client) = cluster(workers);
        let took = timed(&mut world, client, 200, 10);
        let ideal = Duration::from_millis(1000);
        assert!(took < ideal.mul_f64(1.15), "{took:?} on {workers:?}");
    }
}

#[test]
fn a_slow_worker_delays_the_end_by_one_of_its_tasks_at_most() {
    for time_ms in [10, 100, 2000] {
        let (mut world, workers, client) = cluster(&[("bob", 1), ("carol", 1), ("erin", 1), ("frank", 1)]);
        world.slow_down(workers[0], 10);
        let took = timed(&mut world, client, 1000, time_ms);
        let task = Duration::from_millis(time_ms);
        let ideal = task.mul_f64(1000.0 / 3.1);
        assert!(took < ideal + task * 10 + START, "{took:?}, ideal {ideal:?}, tasks of {time_ms} ms");
    }
}

#[test]
fn what_waits_moves_to_a_worker_that_comes_later() {
    let (mut world, workers, client) = cluster(&[("bob", 1)]);
    // Short ones first, so that many are sent ahead; then each takes a minute.
    timed(&mut world, client, 100, 1);
    world.slow_down(workers[0], 1000);
    world.submit_all(client, (0..40).map(|_| task(60)).collect());
    world.run_for(Duration::from_secs(10));
    let other = world.worker("carol", 4);
    world.run_until(Duration::from_secs(200), World::all_done);
    assert!(world.runs_of(other) >= 30, "{} of 40 moved", world.runs_of(other));
}

#[test]
fn what_waits_behind_others_moves_to_a_worker_that_idles() {
    let (mut world, workers, client) = cluster(&[("bob", 1), ("carol", 1)]);
    // One of them is filled by somebody who knows of no other.
    let other = world.client("erin");
    world.set_group(workers[1], 1);
    world.submit(other, task(1_000_000));
    world.run_until(SOON, |world| world.running(workers[0]) == 1);
    world.submit_all(client, vec![task(1000); 2]);
    world.run_until(Duration::from_secs(15), |world| world.ledger.open().count() == 1);
}

#[test]
fn what_waits_for_memory_is_not_asked_back_for_the_same_worker() {
    let mut world = World::new(72_472);
    world.host(&["bob", "dave"]);
    let client = world.client("dave");
    let mut with_memory = offer(8, &["r"]);
    with_memory.offer.memory_mib = 4000;
    world.worker_with("bob", with_memory, None);
    world.run_for(SOON);
    let large = || TaskSpec { memory_mib: 3000, ..task(1_000_000) };
    world.submit_all(client, vec![large(), large(), task(1_000_000)]);
    world.run_for(SOON);
    let before = world.items;
    world.run_for(SOON);
    assert!(world.items - before < 20, "{} items", world.items - before);
}

#[test]
fn what_waits_at_a_worker_that_leaves_moves_to_one_that_idles() {
    let (mut world, workers, client) = cluster(&[("bob", 1)]);
    // Short ones show that many can be sent ahead; then a long one blocks what was.
    let tasks = (0..40).map(|n| task(if n == 20 { 1_000_000 } else { 10 })).collect();
    world.submit_all(client, tasks);
    world.run_for(Duration::from_secs(1));
    world.worker_input(workers[0], p2p_scheduler::machine::worker::WorkerInput::Drain);
    world.worker("carol", 1);
    world.run_until(Duration::from_secs(60), |world| world.ledger.open().count() == 1);
}

#[test]
fn an_attempt_that_hangs_is_copied_and_cancelled() {
    for (once, copied) in [(false, true), (true, false)] {
        let (mut world, workers, client) = cluster(&[("bob", 1), ("carol", 1)]);
        timed(&mut world, client, 20, 100);
        world.slow_down(workers[0], 10_000);
        let ids = world.submit_all(client, (0..2).map(|_| TaskSpec { once, ..task(100) }).collect());
        world.run_for(Duration::from_secs(10));
        let done = ids.iter().filter(|id| world.outcome(**id).is_some()).count();
        assert_eq!(done == 2, copied);
        if copied {
            assert_eq!(world.running(workers[0]), 0, "the other attempt is cancelled");
        }
    }
}

#[test]
fn tasks_of_a_killed_worker_start_elsewhere_within_six_seconds() {
    // Each has room for all, whoever was given them first.
    let (mut world, workers, client) = cluster(&[("bob", 4), ("carol", 4)]);
    let ids = world.submit_all(client, (0..4).map(|_| task(20_000)).collect());
    world.run_until(SOON, |world| world.running(workers[0]) + world.running(workers[1]) == 4);
    let (victim, other) =
        if world.running(workers[0]) > 0 { (workers[0], workers[1]) } else { (workers[1], workers[0]) };
    let lost: Vec<TaskId> = ids.iter().copied().filter(|id| world.runs_on(*id) == [victim]).collect();
    assert!(!lost.is_empty());
    world.kill(victim);
    world.run_until(Duration::from_secs(6), |world| lost.iter().all(|id| world.runs_on(*id) == [other]));
    let told = world.client_reports(client).iter().filter(|report| matches!(report, ClientReport::Elsewhere { .. }));
    assert_eq!(told.count(), 1, "in one line");
    world.run_until(Duration::from_secs(120), World::all_done);
    assert!(ids.iter().all(|id| world.outcome(*id).unwrap().is_success()));
}

#[test]
fn tasks_of_a_worker_that_falls_silent_start_elsewhere_within_twenty_seconds() {
    let (mut world, workers, client) = cluster(&[("bob", 1)]);
    let id = world.submit(client, task(60_000));
    world.run_until(SOON, |world| world.running(workers[0]) == 1);
    let other = world.worker("bob", 1);
    world.run_for(SOON);
    world.power_off(workers[0]);
    world.run_until(Duration::from_secs(20), |world| world.runs_on(id).contains(&other));
    world.run_until(Duration::from_secs(120), World::all_done);
}

#[test]
fn a_client_says_what_it_waits_for_when_its_only_worker_is_killed() {
    let (mut world, workers, client) = cluster(&[("bob", 1)]);
    let (id, once) = (world.submit(client, task(1000)), world.submit(client, TaskSpec { once: true, ..task(1000) }));
    world.run_until(SOON, |world| world.running(workers[0]) == 1);
    world.kill(workers[0]);
    world.run_for(Duration::from_secs(1));
    let now = world.now();
    let state = |world: &World, id| world.client_machine(client).state(now, id);
    let words = state(&world, id).unwrap().to_string();
    assert!(words.contains("the connection to") && words.contains("may start elsewhere"), "{words}");
    world.run_for(Duration::from_secs(10));
    let waiting = world.waiting(client).expect("it waits").to_string();
    assert!(!waiting.is_empty());
    assert!(!matches!(state(&world, once), None | Some(TaskState::Running { .. })));
    world.worker("carol", 1);
    world.run_until(Duration::from_secs(20), |world| world.outcome(id).is_some());
    assert!(world.outcome(id).unwrap().is_success());
}

#[test]
fn a_task_that_takes_three_workers_down_is_failed_and_the_others_are_not() {
    let (mut world, _, client) = cluster(&[("bob", 16)]);
    let poison = world.submit(client, task(60_000));
    let others = world.submit_all(client, (0..31).map(|_| task(3000)).collect());
    let mut killed = 0;
    let until = world.at + Duration::from_secs(900);
    while world.outcome(poison).is_none() {
        assert!(world.at < until, "{killed} workers were killed");
        world.run_for(Duration::from_millis(500));
        for worker in world.runs_on(poison) {
            world.kill(worker);
            killed += 1;
            world.worker(["carol", "erin", "frank", "grace"][killed % 4], 16);
        }
    }
    assert_eq!(killed, 3);
    let outcome = world.outcome(poison);
    assert!(matches!(outcome, Some(Outcome::Lost { losses, .. }) if losses.len() == 3), "{outcome:?}");
    world.run_until(Duration::from_secs(300), World::all_done);
    assert!(others.iter().all(|id| world.outcome(*id).unwrap().is_success()));
}

#[test]
fn a_friend_who_closes_his_lid_again_and_again_is_not_blamed() {
    let (mut world, _, client) = cluster(&[("bob", 1)]);
    let id = world.submit(client, task(20_000));
    for _ in 0..4 {
        world.run_until(limits::GRACE * 4, |world| !world.runs_on(id).is_empty());
        world.run_for(Duration::from_secs(1));
        // Nobody reaches him until both sides have given up; then he is there again.
        world.refuse_links = true;
        let worker = world.runs_on(id)[0];
        world.cut(worker);
        world.run_for(limits::GRACE + SOON);
        assert_eq!(world.outcome(id), None);
        world.refuse_links = false;
    }
    world.run_until(limits::GRACE * 4, World::all_done);
    assert!(world.outcome(id).unwrap().is_success());
}

#[test]
fn tasks_go_where_memory_and_labels_are_and_it_is_said_when_that_is_nowhere() {
    let mut world = World::new(1);
    world.host(&["bob", "carol", "dave"]);
    let mut gpu = offer(1, &["r"]);
    (gpu.offer.labels, gpu.offer.memory_mib) = (vec!["gpu".to_owned()], 4096);
    let (worker, client) = (world.worker_with("bob", gpu, None), world.client("dave"));
    world.worker("carol", 4);
    let spec = |labels: &[&str], memory_mib| TaskSpec {
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        memory_mib,
        ..task(1000)
    };
    let ids = [spec(&["gpu"], 0), spec(&[], 4096), spec(&["gpu"], 1)].map(|spec| world.submit(client, spec));
    for id in ids {
        world.run_until(SOON, |world| world.runs_on(id) == [worker]);
    }
    let nowhere = world.submit(client, spec(&["gpu", "tpu"], 9000));
    world.run_for(SOON);
    let words = world.waiting(client).unwrap().to_string();
    assert!(words.contains("9000 MiB of memory") && words.contains("the label tpu"), "{words}");
    assert_eq!(world.outcome(nowhere), None);
}
