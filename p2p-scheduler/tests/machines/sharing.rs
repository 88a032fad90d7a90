//! How a worker's slots and memory are shared: among users, by weight, beside what is large, and with what is taken back (S-01 to S-04).

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_proto::board::message::Offer;
use p2p_proto::ids::AttemptId;
use p2p_proto::link::ToWorker;
use p2p_proto::link::item::Submit;
use p2p_proto::task::TaskSpec;
use p2p_scheduler::WorkerOffer;

use p2p_simulator::world::{Peer, World, offer, task};

const SOON: Duration = Duration::from_secs(5);

/// A cluster of bob's worker, and of clients of these users.
fn cluster(offer: WorkerOffer, users: &[&str]) -> (World, Peer, Vec<Peer>) {
    let mut world = World::new(1);
    world.host(&["bob", "dave", "erin"]);
    let worker = world.worker_with("bob", offer, None);
    let clients = users.iter().map(|user| world.client(user)).collect();
    world.run_for(SOON);
    (world, worker, clients)
}

/// Tasks of a client that have ended.
fn ended(world: &World, client: Peer) -> u32 {
    let ended = world.ledger.tasks().filter(|(_, task)| task.client == client && !task.outcomes.is_empty());
    u32::try_from(ended.count()).unwrap()
}

/// Columns: slots; how many processes dave has, how long his tasks take and which weight he has; the same of erin, who has one process and comes
/// later. Then: how many of a hundred parts are dave's.
#[test]
fn two_users_with_endless_work_share_the_slots_whoever_has_more_processes_or_longer_tasks() {
    let table = [
        (1, (5, 1_000, 1), (1_000, 1), 50),
        (1, (1, 10_000, 1), (1_000, 1), 50),
        (2, (5, 1_000, 1), (1_000, 1), 50),
        (2, (5, 1_000, 1), (3_000, 1), 50),
        (3, (5, 500, 1), (700, 1), 50),
        (2, (1, 1_000, 3), (1_000, 1), 75),
        (4, (5, 1_000, 3), (1_000, 1), 75),
        (4, (5, 1_000, 1), (1_000, 3), 25),
    ];
    for (slots, (processes, daves_ms, daves_weight), (erins_ms, erins_weight), expected) in table {
        let weights = [("dave", daves_weight), ("erin", erins_weight)];
        let weights: BTreeMap<_, _> =
            weights.into_iter().map(|(user, weight)| (user.parse().unwrap(), weight)).collect();
        let users: Vec<&str> = std::iter::repeat_n("dave", processes).chain(["erin"]).collect();
        let (mut world, _worker, clients) = cluster(WorkerOffer { weights, ..offer(slots, &["r"]) }, &users);
        let (erin, daves) = clients.split_last().unwrap();
        // More than all slots can do in this time.
        let endless = |ms, of| (0..u64::from(slots) * 160_000 / ms / of + 20).map(|_| task(ms)).collect();
        for dave in daves {
            world.submit_all(*dave, endless(daves_ms, processes as u64));
        }
        world.run_for(Duration::from_secs(20));
        world.submit_all(*erin, endless(erins_ms, 1));
        // Until both are in step.
        world.run_for(Duration::from_secs(20));
        let seconds = |world: &World| {
            let daves: u32 = daves.iter().map(|dave| ended(world, *dave)).sum();
            let (daves, erins) = (u64::from(daves) * daves_ms, u64::from(ended(world, *erin)) * erins_ms);
            (daves as f64 / 1000.0, erins as f64 / 1000.0)
        };
        let (before, time) = (seconds(&world), 100.0);
        world.run_for(Duration::from_secs_f64(time));
        let after = seconds(&world);
        let had = (after.0 - before.0, after.1 - before.1);
        let all = time * f64::from(slots);
        let due = all * f64::from(expected) / 100.0;
        // What is under way at the beginning and at the end is not counted.
        let longest = daves_ms.max(erins_ms) as f64 / 1000.0;
        let row = format!("{slots} slots, {processes} x {daves_ms} ms, {erins_ms} ms: {had:?}, due {due} of {all}");
        assert!((had.0 - due).abs() <= longest * f64::from(slots + 1), "I-06: {row}");
        assert!(had.0 + had.1 >= all - 2.0 * longest * f64::from(slots), "I-05: {row}");
    }
}

/// Columns: how long dave's tasks take, of which there are many on two slots; then: after how long erin's first one ends at the latest.
#[test]
fn a_newcomers_first_task_starts_within_one_task_length() {
    for (daves_ms, within_ms) in [(1, 100), (100, 200), (10_000, 10_100)] {
        let (mut world, _worker, clients) = cluster(offer(2, &["r"]), &["dave", "erin"]);
        let [dave, erin] = clients[..] else { unreachable!() };
        // She is linked already.
        world.submit(erin, task(1));
        world.run_until(SOON, World::all_done);
        world.submit_all(dave, (0..4_000).map(|_| task(daves_ms)).collect());
        world.run_for(Duration::from_secs(1));
        let first = world.submit(erin, task(20));
        world.run_until(Duration::from_millis(within_ms), |world| world.outcome(first).is_some());
    }
}

#[test]
fn among_tasks_of_one_user_the_higher_priority_is_first_whichever_process_has_it() {
    let (mut world, worker, clients) = cluster(offer(1, &["r"]), &["dave", "dave"]);
    let short = clients.iter().map(|client| world.submit(*client, task(1))).collect::<Vec<_>>();
    world.run_until(SOON, World::all_done);
    let runs = world.submit(clients[0], task(2_000));
    world.run_until(SOON, |world| world.running(worker) == 1);
    let low = world.submit(clients[0], TaskSpec { priority: -1, ..task(1_000) });
    let high = world.submit(clients[1], TaskSpec { priority: 1, ..task(1_000) });
    world.run_until(SOON, |world| world.worker_machine(worker).load() == (1, 2));
    world.run_until(SOON, |world| world.outcome(high).is_some());
    assert!(world.outcome(runs).is_some() && world.outcome(low).is_none());
    world.run_until(SOON, World::all_done);
    let _ = short;
}

/// A worker with a gigabyte.
fn gigabyte(slots: u32) -> WorkerOffer {
    let with = Offer { memory_mib: 1024, labels: vec!["gpu".to_owned()], ..offer(slots, &["r"]).offer };
    WorkerOffer { offer: with, ..offer(slots, &["r"]) }
}

#[test]
fn what_runs_at_a_time_fits_into_the_memory() {
    let (mut world, worker, clients) = cluster(gigabyte(3), &["dave"]);
    world.submit_all(clients[0], (0..4).map(|_| TaskSpec { memory_mib: 512, ..task(1_000) }).collect());
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.worker_machine(worker).load(), (2, 1), "the third slot is free, but there is no memory for it");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.worker_machine(worker).load(), (2, 0));
    world.run_until(SOON, World::all_done);
}

/// Columns: what a worker with a gigabyte and the label `gpu` is asked for; then: whether it runs there.
#[test]
fn what_a_worker_does_not_have_does_not_run_there() {
    let labels = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let table = [
        (0, labels(&[]), true),
        (1024, labels(&["gpu"]), true),
        (1025, labels(&[]), false),
        (u64::MAX, labels(&[]), false),
        (0, labels(&["big"]), false),
        (0, labels(&["gpu", "big"]), false),
    ];
    for (memory_mib, labels, runs) in table {
        let (mut world, _worker, clients) = cluster(gigabyte(1), &["dave"]);
        let id = world.submit(clients[0], TaskSpec { memory_mib, labels: labels.clone(), ..task(1) });
        world.run_for(Duration::from_secs(60));
        assert_eq!(world.outcome(id).is_some(), runs, "{memory_mib} MiB, {labels:?}");
        assert_eq!(world.runs(id), u32::from(runs));
    }
    // Who does not know how much there is promises none.
    let (mut world, _worker, clients) = cluster(offer(1, &["r"]), &["dave"]);
    let id = world.submit(clients[0], TaskSpec { memory_mib: 1, ..task(1) });
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.runs(id), 0);
}

#[test]
fn nothing_runs_beside_what_runs_alone() {
    let (mut world, worker, clients) = cluster(offer(3, &["r"]), &["dave"]);
    // Of short tasks, credits for all slots lie ready.
    world.submit_all(clients[0], (0..50).map(|_| task(1)).collect());
    world.run_until(SOON, World::all_done);
    world.run_for(Duration::from_millis(100));
    let link = world.links_of(worker)[0];
    let submit = |attempt, alone| ToWorker::Submit(Submit { attempt: AttemptId(attempt), task: task(1_000), alone });
    world.forged_input(worker, link, vec![submit(1000, false), submit(1001, true), submit(1002, false)]);
    let mut seen = Vec::new();
    for _ in 0..6 {
        world.run_for(Duration::from_millis(500));
        seen.push((world.running(worker), world.worker_machine(worker).load()));
    }
    let beside = [(1, (1, 2)), (1, (3, 1)), (1, (3, 1)), (1, (1, 0)), (1, (1, 0)), (0, (0, 0))];
    assert_eq!(seen, beside, "what runs alone takes all slots");
}

#[test]
fn what_waits_can_be_recalled_and_what_runs_cannot() {
    let (mut world, worker, clients) = cluster(offer(1, &["r"]), &["dave"]);
    let dave = clients[0];
    world.submit_all(dave, (0..50).map(|_| task(1)).collect());
    world.run_until(SOON, World::all_done);
    let (runs, waits) = (world.submit(dave, task(2_000)), world.submit(dave, task(1)));
    world.run_until(SOON, |world| world.worker_machine(worker).load() == (1, 1));
    let (link, last) = (world.links_of(worker)[0], world.last_attempt());
    let recall = |attempt| ToWorker::Recall(AttemptId(attempt));
    // The one that runs, and one that was never here.
    world.forged_input(worker, link, vec![recall(last.0 - 1), recall(last.0 + 1000)]);
    assert_eq!(world.worker_machine(worker).load(), (1, 1));
    world.forged_input(worker, link, vec![recall(last.0)]);
    assert_eq!(world.worker_machine(worker).load(), (1, 0));
    // Nobody else is there: it comes again, under a new name, and by the credit that its return has freed.
    world.run_until(Duration::from_millis(100), |world| world.worker_machine(worker).load() == (1, 1));
    assert!(world.last_attempt() > last);
    world.run_until(SOON, World::all_done);
    assert_eq!((world.runs(runs), world.runs(waits)), (1, 1));
}
