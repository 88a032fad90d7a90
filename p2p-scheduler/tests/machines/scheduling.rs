//! Credits, returns, cancels, losses, drains, and who is told why something waits (S-01 to S-06).

use std::time::Duration;

use p2p_proto::board::message::DenyReason;
use p2p_proto::board::{BoardError, BoardEvent, Message};
use p2p_proto::ids::{AttemptId, TaskId};
use p2p_proto::limits;
use p2p_proto::link::item::Returned;
use p2p_proto::link::{LinkError, ToClient, ToWorker};
use p2p_proto::task::{Ended, ReturnReason, TaskSpec};
use p2p_scheduler::machine::client::{ClientInput, Needs};
use p2p_scheduler::machine::worker::WorkerInput;
use p2p_scheduler::{Outcome, Outside, Waiting, WorkerReport};

use p2p_simulator::world::{CLUSTER, Peer, World, offer, task};

const SOON: Duration = Duration::from_secs(5);

fn cluster(slots: u32) -> (World, Peer, Peer) {
    let mut world = World::new(1);
    world.host(&["bob", "carol", "dave", "erin"]);
    let (worker, client) = (world.worker("bob", slots), world.client("dave"));
    world.run_for(SOON);
    (world, worker, client)
}

fn once(spec: TaskSpec) -> TaskSpec {
    TaskSpec { once: true, ..spec }
}

fn unoffered(cpus: u32) -> Waiting {
    Waiting::Unoffered(Needs { runtime: "r".to_owned(), cpus, ..Needs::default() })
}

fn ended(outcome: Option<&Outcome>) -> Option<&Ended> {
    match outcome {
        Some(Outcome::Finished { finished, .. }) => Some(&finished.ended),
        _ => None,
    }
}

#[test]
fn one_client_after_the_other_has_its_turn() {
    let (mut world, _worker, dave) = cluster(1);
    let erin = world.client("erin");
    world.submit_all(dave, (0..20).map(|_| task(1000)).collect());
    world.run_for(SOON);
    let late = world.submit(erin, task(1000));
    world.run_until(SOON, |world| world.outcome(late).is_some());
}

#[test]
fn short_tasks_stream_and_long_ones_stay_where_they_can_run_elsewhere() {
    let (mut world, _worker, client) = cluster(2);
    let started = world.at;
    world.submit_all(client, (0..200).map(|_| task(10)).collect());
    world.run_until(Duration::from_secs(60), World::all_done);
    let took = world.at - started;
    // 200 tasks of 10 ms on two slots are a second; a round trip of 10 ms between each two would double that.
    assert!(took < Duration::from_millis(1700), "it took {took:?}");
    let (mut world, worker, client) = cluster(2);
    world.submit_all(client, (0..10).map(|_| task(60_000)).collect());
    world.run_for(Duration::from_secs(150));
    assert_eq!(world.worker_machine(worker).load(), (2, 0), "a long task waits where it cannot run");
}

#[test]
fn a_wide_task_takes_its_slots_and_one_that_fits_nowhere_is_named() {
    let (mut world, worker, client) = cluster(3);
    let wide = world.submit(client, TaskSpec { extra_cpus: 2, ..task(1000) });
    world.submit(client, task(1000));
    world.run_until(SOON, |world| world.outcome(wide).is_some());
    world.run_until(SOON, World::all_done);
    assert_eq!(world.worker_machine(worker).load(), (0, 0));
    world.submit(client, TaskSpec { extra_cpus: 3, ..task(1) });
    world.run_for(SOON);
    let waiting = world.waiting(client);
    assert_eq!(waiting, Some(unoffered(4)));
}

#[test]
fn what_is_submitted_without_a_credit_comes_back() {
    let (mut world, worker, client) = cluster(1);
    world.submit(client, task(60_000));
    world.run_for(SOON);
    let link = world.links_of(worker)[0];
    let submit =
        |id| ToWorker::Submit(p2p_proto::link::item::Submit { attempt: AttemptId(id), task: task(1), alone: false });
    let items = (1000..1100).map(submit).collect();
    world.worker_input(worker, WorkerInput::Items { link, items });
    assert_eq!(world.worker_machine(worker).load(), (1, 0));
    assert_eq!(world.links(worker), 1, "that is no reason to end the link: a credit may have been revoked on the way");
}

#[test]
fn a_task_that_is_handed_back_waits_again_and_does_not_go_round_in_circles() {
    let (mut world, worker, client) = cluster(1);
    let running = world.submit(client, task(3_000));
    world.run_for(Duration::from_secs(1));
    let id = world.submit(client, task(10));
    world.run_for(Duration::from_millis(100));
    // The worker says that it cannot run such a task, whatever it offered.
    let attempt = world.last_attempt();
    let link = world.links_of(client)[0];
    let returned = ToClient::Returned(Returned { attempt, why: ReturnReason::Mismatch });
    world.client_input(client, ClientInput::Items { link, items: vec![returned] });
    world.run_for(Duration::from_secs(20));
    assert_eq!(ended(world.outcome(running)), None, "it was the running one that came back");
    assert_eq!(world.outcome(id), None);
    assert!(matches!(world.waiting(client), Some(Waiting::Unoffered(_))), "{:?}", world.waiting(client));
    let submits = world.runs(id);
    assert_eq!(submits, 0);
    // Another worker may.
    world.worker("carol", 1);
    world.run_until(SOON, |world| world.outcome(id).is_some());
    let _ = worker;
}

#[test]
fn a_cancel_ends_a_task_wherever_it_is() {
    let (mut world, worker, client) = cluster(1);
    // Queued here: no worker could run it.
    let nowhere = world.submit(client, TaskSpec { runtime: "none".to_owned(), ..task(1) });
    world.client_input(client, ClientInput::Cancel(nowhere));
    assert_eq!(world.outcome(nowhere), Some(&Outcome::Cancelled));
    // Running there.
    let runs = world.submit(client, task(60_000));
    world.run_until(SOON, |world| world.running(worker) == 1);
    world.client_input(client, ClientInput::Cancel(runs));
    world.client_input(client, ClientInput::Cancel(runs));
    world.run_for(Duration::from_secs(1));
    assert_eq!(ended(world.outcome(runs)), Some(&Ended::Cancelled));
    // Queued there: short tasks are sent ahead.
    world.submit_all(client, (0..50).map(|_| task(1)).collect());
    world.run_until(SOON, World::all_done);
    let long = world.submit(client, task(2_000));
    let ahead = world.submit(client, task(1));
    world.run_until(SOON, |world| world.worker_machine(worker).load() == (1, 1));
    world.client_input(client, ClientInput::Cancel(ahead));
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.outcome(ahead), Some(&Outcome::Cancelled));
    world.run_until(SOON, |world| world.outcome(long).is_some());
    // Over: nothing happens.
    world.client_input(client, ClientInput::Cancel(long));
    world.run_for(SOON);
    assert_eq!(world.runs(ahead), 0);
}

#[test]
fn a_cancelled_task_is_over_when_its_link_breaks() {
    let (mut world, worker, client) = cluster(1);
    let id = world.submit(client, task(60_000));
    world.run_until(SOON, |world| world.running(worker) == 1);
    world.cut(worker);
    world.run_for(Duration::from_millis(10));
    world.client_input(client, ClientInput::Cancel(id));
    assert_eq!(world.outcome(id), Some(&Outcome::Cancelled), "nobody is there to answer");
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.running(worker), 0, "the link goes on, and the cancel with it");
    // Nor does it wait for a worker that never comes back.
    let id = world.submit(client, task(60_000));
    world.run_until(SOON, |world| world.running(worker) == 1);
    world.kill(worker);
    world.client_input(client, ClientInput::Cancel(id));
    world.run_for(SOON);
    assert_eq!(world.outcome(id), Some(&Outcome::Cancelled));
    assert_eq!(world.runs(id), 1);
}

#[test]
fn ten_thousand_cancels_of_waiting_tasks_leave_the_others() {
    let (mut world, _worker, client) = cluster(1);
    let ids = world.submit_all(client, (0..10_000).map(|_| task(1)).collect());
    for id in &ids[..ids.len() - 10] {
        world.client_input(client, ClientInput::Cancel(*id));
    }
    world.run_until(SOON, World::all_done);
    for id in &ids[ids.len() - 10..] {
        assert_eq!(ended(world.outcome(*id)), Some(&Ended::Exit(0)));
    }
}

/// Columns: how often its worker is lost while it runs; then: how often it ran in the end, and whether it was given up.
#[test]
fn a_task_is_lost_so_often_and_no_more() {
    for (losses, may_again, runs, lost) in
        [(1, true, 2, false), (2, true, 3, false), (3, true, 3, true), (1, false, 1, true)]
    {
        let mut world = World::new(1);
        world.host(&["bob", "dave"]);
        let client = world.client("dave");
        let spec = if may_again { task(10_000) } else { once(task(10_000)) };
        let id = world.submit(client, spec);
        for _ in 0..losses {
            let worker = world.worker("bob", 1);
            world.run_until(limits::GRACE * 3, |world| world.running(worker) == 1);
            world.run_for(Duration::from_secs(1));
            world.kill(worker);
        }
        world.run_for(SOON);
        world.worker("bob", 1);
        world.run_until(limits::GRACE * 3, World::all_done);
        assert_eq!(world.runs(id), runs, "{losses} losses");
        match world.outcome(id) {
            Some(Outcome::Lost { losses: told, error: LinkError::Lost(_), .. }) => {
                assert!(lost, "{losses} losses were too many");
                assert_eq!(told.len(), if may_again { losses } else { 1 });
            }
            outcome => assert!(!lost, "{losses} losses ended with {outcome:?}"),
        }
    }
}

/// A worker of one slot that runs one task and has another one waiting.
fn one_runs_and_one_waits() -> (World, Peer, Peer, TaskId, TaskId) {
    let (mut world, worker, client) = cluster(1);
    // A mean of short tasks, so that one is sent ahead.
    world.submit_all(client, (0..50).map(|_| task(1)).collect());
    world.run_until(SOON, World::all_done);
    let (runs, waits) = (world.submit(client, task(3_000)), world.submit(client, task(1)));
    world.run_until(SOON, |world| world.worker_machine(worker).load() == (1, 1));
    (world, worker, client, runs, waits)
}

#[test]
fn a_worker_that_drains_finishes_what_it_holds_and_leaves() {
    let (mut world, worker, client, runs, waits) = one_runs_and_one_waits();
    world.worker_input(worker, WorkerInput::Drain);
    world.worker_input(worker, WorkerInput::Drain);
    assert_eq!(world.worker_machine(worker).load(), (1, 1));
    let later = world.submit(client, task(1));
    let other = world.worker("carol", 1);
    world.run_until(Duration::from_secs(2), |world| world.outcome(later).is_some());
    assert_eq!(world.outcome(runs), None);
    world.run_until(SOON, World::all_done);
    for id in [runs, waits, later] {
        assert_eq!(ended(world.outcome(id)), Some(&Ended::Exit(0)));
    }
    world.run_for(Duration::from_secs(120));
    assert_eq!((world.links(worker), world.links(other)), (0, 0));
    let byes = world
        .said
        .iter()
        .filter(|(_, who, line)| *who == worker && matches!(line.decode().unwrap().message, Message::Bye(_)));
    assert_eq!(byes.count(), 1);
    // Who has left says nothing more.
    let said = world.said.iter().filter(|(_, who, _)| *who == worker).count();
    world.run_for(Duration::from_secs(600));
    assert_eq!(world.said.iter().filter(|(_, who, _)| *who == worker).count(), said);
}

#[test]
fn a_worker_that_drains_and_is_stopped_hands_back_what_waits() {
    let (mut world, worker, _, runs, waits) = one_runs_and_one_waits();
    world.worker_input(worker, WorkerInput::Drain);
    world.run_for(Duration::from_millis(100));
    world.worker_input(worker, WorkerInput::Stop);
    world.run_for(Duration::from_secs(1));
    assert_eq!((world.links(worker), world.running(worker)), (0, 0));
    world.worker("carol", 1);
    world.run_until(Duration::from_secs(60), World::all_done);
    assert_eq!((world.runs(runs), world.runs(waits)), (2, 1));
}

#[test]
fn a_worker_that_is_stopped_loses_what_runs_and_is_gone() {
    let (mut world, worker, client) = cluster(2);
    let (again, never) = (world.submit(client, task(5_000)), world.submit(client, once(task(5_000))));
    world.run_until(SOON, |world| world.running(worker) == 2);
    world.run_for(Duration::from_millis(100));
    world.worker_input(worker, WorkerInput::Stop);
    world.run_for(Duration::from_secs(1));
    assert_eq!((world.links(worker), world.running(worker)), (0, 0));
    assert!(matches!(world.outcome(never), Some(Outcome::Lost { .. })));
    world.worker("carol", 1);
    world.run_until(Duration::from_secs(20), |world| world.outcome(again).is_some());
    assert_eq!(ended(world.outcome(again)), Some(&Ended::Exit(0)));
}

#[test]
fn slots_that_cannot_run_what_waits_do_not_keep_a_client_from_calling_others() {
    let mut world = World::new(1);
    world.host(&["bob", "carol", "dave"]);
    let client = world.client("dave");
    world.worker("bob", 8);
    world.submit(client, task(1));
    world.run_until(SOON, World::all_done);
    // Eight free slots are linked, none of which can run this.
    let other = world.worker_with("carol", offer(1, &["other"]), None);
    world.submit(client, TaskSpec { runtime: "other".to_owned(), ..task(1) });
    world.run_until(SOON, World::all_done);
    assert_eq!(world.links(other), 1);
}

#[test]
fn a_link_is_kept_while_tasks_wait_for_it_and_dropped_when_it_idles() {
    let (mut world, worker, dave) = cluster(1);
    let erin = world.client("erin");
    let long = world.submit(dave, task(300_000));
    world.run_until(SOON, |world| world.running(worker) == 1);
    let waits = world.submit(erin, task(1));
    world.run_for(SOON);
    let link = world.links_of(erin);
    world.run_for(Duration::from_secs(250));
    assert_eq!(world.links_of(erin), link, "a link with a waiting task was taken for an idle one");
    world.run_until(Duration::from_secs(60), World::all_done);
    assert!(world.outcome(long).is_some() && world.outcome(waits).is_some());
    world.run_for(limits::LINK_IDLE * 2);
    assert_eq!(world.links(worker), 0);
}

#[test]
fn lines_do_not_grow_with_tasks() {
    let lines = |tasks: u64| {
        let (mut world, _worker, client) = cluster(1);
        let since = world.said.len();
        for _ in 0..tasks {
            world.submit(client, task(20));
            world.run_for(Duration::from_millis(40));
        }
        let until = Duration::from_secs(120).checked_sub(world.at).unwrap_or_default();
        world.run_for(until);
        assert!(world.all_done());
        world.said.len() - since
    };
    let (few, many) = (lines(10), lines(1000));
    assert!(many <= few + 10, "10 tasks took {few} lines, 1000 tasks {many}");
}

#[test]
fn a_client_that_leaves_ends_everything_and_takes_no_more() {
    let (mut world, worker, client) = cluster(1);
    let ids = world.submit_all(client, vec![task(60_000), task(60_000)]);
    world.run_until(SOON, |world| world.running(worker) == 1);
    world.client_input(client, ClientInput::Leave);
    world.client_input(client, ClientInput::Leave);
    let late = world.submit(client, task(1));
    for id in ids.into_iter().chain([late]) {
        assert_eq!(world.outcome(id), Some(&Outcome::Cancelled));
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!((world.running(worker), world.links(worker)), (0, 0));
    let killed = world.worker_reports(worker).iter().any(|report| matches!(report, WorkerReport::Unlinked { .. }));
    assert!(killed);
}

/// Every reason, and that a person understands it.
#[test]
fn who_waits_hears_why() {
    let name = || CLUSTER.parse().unwrap();
    let words = |waiting: Option<Waiting>, part: &str| {
        let waiting = waiting.expect("something waits");
        assert!(waiting.to_string().contains(part), "{waiting:?} is told as {waiting}");
        waiting
    };
    let mut world = World::new(1);
    let client = world.client("dave");
    assert_eq!(world.waiting(client), None, "nothing waits");
    let id = world.submit(client, task(60_000));
    assert_eq!(words(world.waiting(client), "joining"), Waiting::Joining);
    world.run_for(Duration::from_secs(1));
    assert_eq!(words(world.waiting(client), "has not signed"), Waiting::Unsigned(name()));
    world.board_event(client, BoardEvent::Misrouted { retry_in: SOON });
    let outside = |why| Waiting::Misrouted(name(), why);
    assert_eq!(words(world.waiting(client), "not on its list"), outside(Outside::Unknown));
    world.board_down(client);
    assert_eq!(words(world.waiting(client), "is away (cut)"), Waiting::BoardDown("cut".to_owned()));
    world.board_up(client);
    let host = world.host(&["bob"]);
    world.run_for(Duration::from_secs(40));
    assert_eq!(words(world.waiting(client), "not on the list"), Waiting::Denied(name(), DenyReason::NotListed));
    world.kill(host);
    world.host(&["bob", "dave"]);
    world.run_for(Duration::from_secs(40));
    assert_eq!(words(world.waiting(client), "no worker is in"), Waiting::NoWorkers(name()));
    // Who was inside knows more of being outside, and so does the owner.
    world.board_event(client, BoardEvent::Misrouted { retry_in: SOON });
    assert_eq!(
        words(world.waiting(client), "alice's host is away now, or you were taken off"),
        outside(Outside::Known)
    );
    world.board_down(client);
    world.board_up(client);
    let owner = world.client("alice");
    world.submit(owner, task(1));
    world.board_event(owner, BoardEvent::Misrouted { retry_in: SOON });
    assert_eq!(words(world.waiting(owner), "nobody hosts your cluster"), outside(Outside::Owner));
    world.kill(owner);
    world.worker_with("bob", offer(1, &["other"]), None);
    world.run_for(SOON);
    let nobody = unoffered(1);
    assert_eq!(words(world.waiting(client), "no worker here offers to run R"), nobody);
    world.refuse_links = true;
    let worker = world.worker("bob", 1);
    world.run_until(SOON, |world| world.waiting(client) != Some(nobody.clone()));
    let connecting = Waiting::Connecting(vec![world.me_of(worker).name.clone()]);
    assert_eq!(words(world.waiting(client), "connecting to bob@box"), connecting);
    world.run_for(Duration::from_secs(1));
    world.run_until(SOON, |world| world.waiting(client) == Some(Waiting::Connecting(Vec::new())));
    words(world.waiting(client), "could not be reached");
    world.refuse_links = false;
    world.run_until(Duration::from_secs(120), |world| world.running(worker) == 1);
    assert_eq!(world.waiting(client), None);
    world.submit(client, task(1));
    assert_eq!(words(world.waiting(client), "all 1 slots are busy"), Waiting::Busy { slots: 1 });
    let failed = BoardError::Auth("no key fits; make one".to_owned());
    world.client_input(client, ClientInput::Cancel(id));
    world.run_for(SOON);
    world.submit(client, TaskSpec { runtime: "none".to_owned(), ..task(1) });
    world.board_event(client, BoardEvent::Failed(failed.clone()));
    assert_eq!(words(world.waiting(client), "no key fits"), Waiting::Failed(failed));
    for (why, part) in [
        (DenyReason::OtherKey, "another machine"),
        (DenyReason::BadCertificate, "clocks"),
        (DenyReason::Other, "this version does not know"),
    ] {
        words(Some(Waiting::Denied(name(), why)), part);
    }
    words(Some(unoffered(4)), "with 4 slots");
}
