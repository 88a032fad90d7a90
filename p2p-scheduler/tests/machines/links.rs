//! Links that lose their connections, and what becomes of the tasks on them (L-05, L-06).

use std::time::Duration;

use p2p_proto::board::Message;
use p2p_proto::limits;
use p2p_proto::task::{Ended, TaskSpec};
use p2p_scheduler::machine::worker::WorkerInput;
use p2p_scheduler::{ClientReport, Outcome, WorkerReport};

use p2p_simulator::world::{Peer, World, task};

const SOON: Duration = Duration::from_secs(5);

/// A worker with one slot that runs a task of this length, which may start only once: nothing but its own link can bring it back.
fn running(time: Duration) -> (World, Peer, Peer, p2p_proto::ids::TaskId) {
    let mut world = World::new(1);
    world.host(&["bob", "carol", "dave", "erin"]);
    let (worker, client) = (world.worker("bob", 1), world.client("dave"));
    let spec = task(u64::try_from(time.as_millis()).unwrap());
    let id = world.submit(client, TaskSpec { once: true, ..spec });
    world.run_until(SOON, |world| world.running(worker) == 1);
    (world, worker, client, id)
}

fn resumed(world: &World, client: Peer) -> usize {
    world.client_reports(client).iter().filter(|report| matches!(report, ClientReport::Resumed { .. })).count()
}

#[test]
fn a_link_goes_on_over_a_new_connection() {
    let (mut world, worker, client, id) = running(Duration::from_secs(100));
    let link = world.links_of(client);
    for cuts in 1..=5 {
        world.cut(worker);
        world.run_until(Duration::from_secs(2), |world| resumed(world, client) == cuts);
        world.run_for(Duration::from_secs(10));
        assert_eq!(world.links_of(client), link);
    }
    world.run_until(Duration::from_secs(60), World::all_done);
    assert!(world.outcome(id).unwrap().is_success());
    assert_eq!(world.runs(id), 1);
    let reports = world.worker_reports(worker);
    assert_eq!(reports.iter().filter(|report| matches!(report, WorkerReport::Broken { .. })).count(), 5);
    assert_eq!(reports.iter().filter(|report| matches!(report, WorkerReport::Unlinked { .. })).count(), 0);
}

#[test]
fn results_wait_for_the_link_and_nothing_runs_twice() {
    let (mut world, worker, client, id) = running(Duration::from_secs(3));
    let waits = world.submit_all(client, (0..20).map(|_| task(100)).collect());
    // Nobody is reached for a while, in which it ends.
    world.refuse_links = true;
    world.cut(worker);
    world.run_for(Duration::from_secs(20));
    assert_eq!((world.running(worker), world.outcome(id)), (0, None));
    let tells =
        world.client_reports(client).iter().any(|report| matches!(report, ClientReport::Broken { tasks: 1.., .. }));
    assert!(tells, "a person hears of it");
    world.refuse_links = false;
    world.run_until(Duration::from_secs(15), World::all_done);
    for id in waits.into_iter().chain([id]) {
        assert!(world.outcome(id).unwrap().is_success());
        assert_eq!(world.runs(id), 1);
    }
}

#[test]
fn after_the_grace_both_sides_give_up() {
    let (mut world, worker, client, id) = running(Duration::from_secs(500));
    world.refuse_links = true;
    world.cut(worker);
    world.run_for(limits::GRACE - Duration::from_secs(1));
    assert_eq!((world.running(worker), world.outcome(id)), (1, None));
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.running(worker), 0, "it is killed");
    assert!(matches!(world.outcome(id), Some(Outcome::Lost { .. })), "{:?}", world.outcome(id));
    world.refuse_links = false;
    let other = world.submit(client, task(1));
    world.run_until(limits::GRACE * 2, |world| world.outcome(other).is_some());
    assert_eq!(world.links(worker), 1);
}

#[test]
fn a_link_goes_on_before_the_worker_has_noticed_that_it_broke() {
    let (mut world, worker, client, id) = running(Duration::from_secs(40));
    world.cut_silently(client);
    world.run_until(Duration::from_secs(2), |world| resumed(world, client) == 1);
    world.run_until(Duration::from_secs(60), World::all_done);
    assert!(world.outcome(id).unwrap().is_success());
    assert_eq!((resumed(&world, client), world.links(worker)), (1, 1), "the end of the old connection changed nothing");
}

/// Columns: whether the task may start only once; then: how often it ran, and whether it succeeded.
#[test]
fn what_a_worker_has_given_up_is_no_loss_but_for_what_may_not_start_again() {
    for (once, runs, success) in [(false, 2, true), (true, 1, false)] {
        let mut world = World::new(1);
        world.host(&["bob", "dave"]);
        let (worker, client) = (world.worker("bob", 1), world.client("dave"));
        let id = world.submit(client, TaskSpec { once, ..task(100_000) });
        world.run_until(SOON, |world| world.running(worker) == 1);
        world.refuse_links = true;
        // The client notices later, and so waits longer.
        world.cut_silently(worker);
        world.run_for(limits::GRACE + Duration::from_secs(5));
        assert_eq!((world.running(worker), world.outcome(id)), (0, None));
        world.refuse_links = false;
        world.run_until(Duration::from_secs(300), World::all_done);
        assert_eq!(resumed(&world, client), 0);
        assert_eq!(world.runs(id), runs);
        assert_eq!(world.outcome(id).unwrap().is_success(), success);
    }
}

#[test]
fn a_worker_that_drains_waits_for_who_may_come_for_his_results() {
    for comes in [true, false] {
        let (mut world, worker, _, id) = running(Duration::from_secs(3));
        world.worker_input(worker, WorkerInput::Drain);
        world.refuse_links = true;
        world.cut(worker);
        world.run_for(Duration::from_secs(10));
        let left = |world: &World| {
            let said = world.said.iter().filter(|(_, who, _)| *who == worker);
            said.map(|(_, _, line)| line.decode().unwrap().message).any(|message| matches!(message, Message::Bye(_)))
        };
        assert!(!left(&world), "its result is here");
        world.refuse_links = !comes;
        world.run_for(limits::GRACE + SOON);
        assert!(left(&world));
        let success = world.outcome(id).is_some_and(Outcome::is_success);
        assert_eq!(success, comes);
    }
}

#[test]
fn a_worker_that_is_new_knows_nothing_of_old_links() {
    let (mut world, worker, client, id) = running(Duration::from_secs(30));
    world.kill(worker);
    let other = world.submit(client, task(10));
    world.worker("carol", 1);
    world.run_until(limits::GRACE * 3, World::all_done);
    assert!(matches!(world.outcome(id), Some(Outcome::Lost { .. })));
    let Some(Outcome::Finished { finished, .. }) = world.outcome(other) else { panic!("it did not run") };
    assert_eq!(finished.ended, Ended::Exit(0));
}

#[test]
fn a_link_comes_back_without_a_board_and_again() {
    let (mut world, worker, client, id) = running(Duration::from_secs(60));
    let since = world.said.len();
    for cuts in 1..=4 {
        // The next connection is made ready a second after the last one came up.
        world.run_for(Duration::from_secs(2));
        world.board_down(client);
        world.board_down(worker);
        world.cut(worker);
        world.run_until(Duration::from_millis(100), |world| resumed(world, client) == cuts);
        assert_eq!(world.links(worker), 1);
    }
    world.run_until(Duration::from_secs(60), World::all_done);
    assert!(world.outcome(id).unwrap().is_success());
    let calls = world.said[since..]
        .iter()
        .filter(|(_, _, line)| matches!(line.decode().unwrap().message, Message::Connect(_) | Message::Ready(_)));
    assert_eq!(calls.count(), 0);
    let refused = world.worker_reports(worker).iter().any(|report| matches!(report, WorkerReport::Refused { .. }));
    assert!(!refused, "{:?}", world.worker_reports(worker));
}

#[test]
fn a_standby_that_comes_to_nothing_leaves_the_call_by_the_board() {
    let (mut world, worker, client, id) = running(Duration::from_secs(60));
    world.run_for(Duration::from_secs(2));
    world.refuse_links = true;
    world.cut(worker);
    world.run_for(Duration::from_millis(20));
    world.refuse_links = false;
    world.run_until(Duration::from_secs(10), |world| resumed(world, client) == 1);
    // And the next one is used again.
    world.run_for(Duration::from_secs(2));
    world.board_down(client);
    world.cut(client);
    world.run_until(Duration::from_millis(100), |world| resumed(world, client) == 2);
    world.run_until(Duration::from_secs(60), World::all_done);
    assert!(world.outcome(id).unwrap().is_success());
}

#[test]
fn workers_that_left_without_a_word_are_not_in_the_way_of_one_that_lives() {
    for seed in 0..8 {
        let mut world = World::new(seed);
        world.host(&["bob", "dave"]);
        let (doomed, client) = (world.worker("bob", 1), world.client("dave"));
        let id = world.submit(client, task(60_000));
        world.run_until(SOON, |world| world.running(doomed) == 1);
        let mut others: Vec<Peer> = (0..5).map(|_| world.worker("bob", 1)).collect();
        let alive = others.remove(usize::try_from(world.random(5)).unwrap());
        world.run_for(SOON);
        for other in others {
            world.kill(other);
        }
        world.kill(doomed);
        world.run_until(limits::ELSEWHERE_AFTER + SOON, |world| world.running(alive) == 1);
        world.run_until(Duration::from_secs(100), |world| world.outcome(id).is_some());
    }
}
