//! What the simulator has found, each as short as the shrinker left it.

use std::time::Duration;

use p2p_proto::limits;
use p2p_proto::task::TaskSpec;
use p2p_scheduler::machine::client::ClientInput;
use p2p_simulator::plan::Plan;
use p2p_simulator::run::run;
use p2p_simulator::trace::Trace;
use p2p_simulator::world::{World, offer, task};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_host_signs_anew_what_she_signed_while_her_clock_was_wrong() {
    let mut world = World::new(384);
    let host = world.host(&["carol", "dave"]);
    world.worker("carol", 1);
    world.run_for(SOON);
    world.set_skew(host, 1000);
    let client = world.client("dave");
    world.run_for(Duration::from_secs(1));
    world.set_skew(host, 0);
    world.submit(client, task(1));
    world.run_until(Duration::from_secs(60), World::all_done);
}

#[test]
fn a_process_certifies_itself_anew_when_its_clock_is_right_again() {
    let mut world = World::new(2187);
    world.host(&["frank", "dave"]);
    let (worker, client) = (world.worker("frank", 1), world.client("dave"));
    world.run_for(Duration::from_millis(230));
    world.set_skew(worker, 1000);
    world.run_for(SOON);
    world.set_skew(worker, 0);
    world.submit(client, task(1));
    world.run_until(Duration::from_secs(180), World::all_done);
}

#[test]
fn a_client_that_has_left_connects_nothing() {
    let mut world = World::new(272);
    world.host(&["frank", "bob"]);
    let client = world.client("bob");
    world.worker("frank", 1);
    world.run_for(SOON);
    world.submit(client, task(1));
    world.run_for(Duration::from_millis(15));
    world.client_input(client, ClientInput::Leave);
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.connections(), 0);
}

#[test]
fn who_could_run_what_others_crowd_out_is_called() {
    let mut world = World::new(100_080);
    world.host(&["bob", "dave"]);
    let client = world.client("dave");
    let mut large = offer(1, &["r"]);
    large.offer.memory_mib = 4000;
    world.worker_with("bob", large, None);
    world.worker("bob", 1);
    world.run_for(SOON);
    world.submit_all(client, (0..20).map(|_| TaskSpec { memory_mib: 3000, ..task(20_000) }).collect());
    let small = world.submit(client, task(1));
    world.run_until(Duration::from_secs(60), |world| world.outcome(small).is_some());
}

/// Seed 50142401: he had slots enough that this client did not fill, so nobody else was called; but others filled them.
#[test]
fn what_waits_for_slots_that_others_fill_calls_a_worker_with_a_free_one() {
    let mut world = World::new(50_142_401);
    world.host(&["bob", "carol", "dave"]);
    world.worker("bob", 4);
    let (busy, waiting) = (world.client("dave"), world.client("dave"));
    world.run_for(SOON);
    world.submit_all(busy, (0..20).map(|_| TaskSpec { priority: 1, extra_cpus: 3, ..task(60_000) }).collect());
    world.run_for(SOON);
    let small = world.submit(waiting, task(1));
    world.run_for(SOON);
    world.worker("carol", 1);
    world.run_until(Duration::from_secs(120), |world| world.outcome(small).is_some());
}

#[test]
fn a_hundred_clients_that_call_at_once_are_all_answered() {
    let mut world = World::new(100);
    world.only_who_listens = true;
    world.keep_lines = false;
    let users: Vec<String> = (0..100).map(|n| format!("user{n}")).collect();
    world.host(&users.iter().map(String::as_str).chain(["bob"]).collect::<Vec<_>>());
    for _ in 0..10 {
        world.worker("bob", 4);
    }
    let clients: Vec<_> = users.iter().map(|user| world.client(user)).collect();
    world.run_for(Duration::from_secs(240));
    for client in clients {
        world.submit_all(client, (0..20).map(|_| task(10)).collect());
    }
    world.run_until(Duration::from_secs(1800), World::all_done);
}

#[test]
fn what_is_sent_ahead_calls_a_worker_who_comes_later() {
    let mut world = World::new(1);
    world.host(&["bob", "dave"]);
    let client = world.client("dave");
    world.worker("bob", 1);
    world.run_for(SOON);
    // One runs, and the other one is queued behind it.
    let tasks = world.submit_all(client, vec![task(1_000_000), task(1)]);
    world.run_for(SOON);
    world.worker("bob", 1);
    world.run_until(Duration::from_secs(60), |world| world.outcome(tasks[1]).is_some());
}

/// Seed 45876: the slots of a worker whose memory is full counted as free for what did not fit there.
#[test]
fn what_waits_for_memory_calls_a_worker_who_has_some() {
    let mut world = World::new(45_876);
    world.host(&["bob", "dave"]);
    let client = world.client("dave");
    let with_memory = |slots, memory_mib| {
        let mut offer = offer(slots, &["r"]);
        offer.offer.memory_mib = memory_mib;
        offer
    };
    world.worker_with("bob", with_memory(4, 4000), None);
    world.run_for(SOON);
    let of = |memory_mib, ms| TaskSpec { memory_mib, ..task(ms) };
    world.submit_all(client, vec![of(3800, 1_000_000); 2]);
    world.run_for(SOON);
    let small = world.submit_all(client, vec![of(500, 1); 2]);
    world.run_for(SOON);
    world.worker_with("bob", with_memory(1, 1000), None);
    world.run_until(Duration::from_secs(60), |world| small.iter().all(|task| world.outcome(*task).is_some()));
}

#[test]
fn what_nobody_here_offers_keeps_nothing_else_from_moving() {
    let mut world = World::new(3);
    world.host(&["bob", "dave"]);
    let client = world.client("dave");
    world.worker("bob", 1);
    world.run_for(SOON);
    world.submit(client, TaskSpec { labels: vec!["gpu".to_owned()], ..task(1) });
    // Short ones show that many can be sent ahead; then a long one blocks what was.
    let tasks: Vec<_> = (0..40).map(|n| task(if n == 20 { 1_000_000 } else { 10 })).collect();
    let tasks = world.submit_all(client, tasks);
    world.run_for(SOON);
    world.worker("bob", 1);
    world.run_until(Duration::from_secs(120), |world| {
        tasks.iter().filter(|task| world.outcome(**task).is_none()).count() <= 1
    });
}

#[test]
fn a_worker_whom_all_links_leave_no_place_is_called_when_nobody_else_will_do() {
    let mut world = World::new(65);
    world.host(&["bob", "dave"]);
    let client = world.client("dave");
    for _ in 0..limits::CLIENT_LINKS {
        world.worker("bob", 1);
    }
    world.run_for(SOON);
    // All of them have something to do for a long time, and more of it waits.
    world.submit_all(client, (0..1000).map(|_| task(100_000)).collect());
    // The board lets a client call only so many at once.
    world.run_until(Duration::from_secs(1200), |world| world.links(client) == limits::CLIENT_LINKS);
    let mut with_gpu = offer(1, &["r"]);
    with_gpu.offer.labels = vec!["gpu".to_owned()];
    world.worker_with("bob", with_gpu, None);
    world.run_for(SOON);
    let rare = TaskSpec { labels: vec!["gpu".to_owned()], priority: 1, ..task(1) };
    let rare = world.submit(client, rare);
    world.run_until(Duration::from_secs(400), |world| world.outcome(rare).is_some());
}

/// Seed 1008973: who comes back within a second of her own last beat took it for another host's, and left.
#[test]
fn beats_of_an_earlier_life_that_are_played_again_make_no_host_go() {
    let mut world = World::new(1_008_973);
    let host = world.host(&["dave"]);
    world.client("dave");
    world.run_for(Duration::from_millis(300));
    let earlier: Vec<_> =
        world.said.iter().filter(|(_, peer, _)| *peer == host).map(|(_, _, line)| line.clone()).collect();
    assert!(!earlier.is_empty());
    let kept = world.roster(host);
    world.kill(host);
    let again = world.host_with(&["dave"], kept);
    world.run_for(Duration::from_millis(300));
    for line in earlier {
        world.inject(again, line);
    }
    let before = world.lines_of(again);
    world.run_for(Duration::from_secs(100));
    assert!(world.lines_of(again) >= before + 3, "she says nothing any more");
}

/// Seed 1017403: a signature from the time when two clocks were ahead was kept, and nobody else believed it.
#[test]
fn who_was_signed_while_two_clocks_were_ahead_asks_again_when_they_are_right() {
    let mut world = World::new(1_017_403);
    let host = world.host(&["carol", "dave"]);
    let client = world.client("dave");
    for peer in [host, client] {
        world.set_skew(peer, 1000);
    }
    world.run_for(SOON);
    assert!(world.kept(client).membership.is_some(), "she has signed him");
    for peer in [host, client] {
        world.set_skew(peer, 0);
    }
    world.worker("carol", 1);
    world.submit(client, task(1));
    world.run_until(Duration::from_secs(120), World::all_done);
}

/// Seed 1131786: what a worker holds seemed to be over while his clock was wrong, when the board came back; then nobody heard of him any more.
#[test]
fn who_was_back_while_his_clock_was_wrong_is_heard_of_when_it_is_right() {
    let mut world = World::new(1_131_786);
    world.host(&["carol", "bob"]);
    let (worker, client) = (world.worker("carol", 1), world.client("bob"));
    world.run_for(SOON);
    world.board_down(worker);
    world.set_skew(worker, -1000);
    world.submit(client, task(1));
    world.run_for(Duration::from_secs(20));
    world.board_up(worker);
    world.run_for(Duration::from_millis(500));
    world.set_skew(worker, 0);
    world.run_until(Duration::from_secs(60), World::all_done);
}

/// The board throws out whoever is left alone on it: the host when the last guest leaves, and she is back for the next one.
#[test]
fn whoever_is_thrown_out_because_nobody_else_is_there_is_back_for_the_next() {
    let mut world = World::new(1);
    world.close_for_the_last();
    let host = world.host(&["carol", "bob"]);
    let worker = world.worker("carol", 1);
    world.run_for(SOON);
    let before = world.lines_of(host);
    world.kill(worker);
    world.run_for(SOON);
    assert!(world.lines_of(host) > before, "she was thrown out, and says that she is back");
    let client = world.client("bob");
    world.worker("carol", 1);
    world.submit(client, task(1));
    world.run_until(Duration::from_secs(60), World::all_done);
}

/// Seed 5010438: more than a look's worth of tasks that only one worker takes hid others that the idle one could have had.
#[test]
fn what_only_one_takes_hides_nothing_from_others() {
    let mut world = World::new(5_010_438);
    world.host(&["carol", "frank", "dave"]);
    let mut with_gpu = offer(1, &["r"]);
    with_gpu.offer.labels = vec!["gpu".to_owned()];
    world.worker_with("frank", with_gpu, None);
    let client = world.client("dave");
    let for_gpu = |ms| TaskSpec { labels: vec!["gpu".to_owned()], ..task(ms) };
    for _ in 0..3 {
        world.submit_all(client, (0..50).map(|_| task(0)).collect());
        world.submit_all(client, (0..50).map(|_| for_gpu(0)).collect());
        world.run_until(SOON, World::all_done);
    }
    let long = world.submit_all(client, (0..10).map(|_| task(3000)).collect());
    world.submit_all(client, (0..200).map(|_| for_gpu(0)).collect());
    world.run_for(Duration::from_secs(1));
    world.worker("carol", 1);
    world.run_until(Duration::from_secs(25), |world| long.iter().all(|task| world.outcome(*task).is_some()));
}

/// Whole runs that broke a rule once. 10068474: what was called back from one worker that others fill went to the next one of these, and back.
#[test]
fn seeds_that_once_failed_hold() {
    for seed in [
        1_131_786, 5_010_438, 6_039_443, 10_068_474, 20_046_249, 20_051_337, 30_105_609, 30_193_617, 50_142_401,
        60_065_666,
    ] {
        if let Err(failure) = run(&Plan::new(seed), Trace::off()) {
            panic!("seed {seed} broke {:?}", failure.violation);
        }
    }
}
