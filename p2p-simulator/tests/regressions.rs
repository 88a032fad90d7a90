//! What the simulator has found, each as short as the shrinker left it.

use std::time::Duration;

use p2p_proto::task::TaskSpec;
use p2p_scheduler::machine::client::ClientInput;
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
