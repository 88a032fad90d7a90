//! Tasks go where their large inputs are, and do not wait for that (D-01, S-02).

use std::time::Duration;

use p2p_proto::blob::{BlobId, BlobRef};
use p2p_proto::task::{Content, File, TaskSpec};

use p2p_simulator::world::{Peer, World, task};

const SOON: Duration = Duration::from_secs(5);

/// A client that knows two workers with one slot each, on machines of their own.
fn cluster(seed: u64) -> (World, [Peer; 2], Peer) {
    let mut world = World::new(seed);
    world.host(&["bob", "carol", "dave"]);
    let peers = [world.worker("bob", 1), world.worker("carol", 1)];
    let client = world.client("dave");
    world.client_input(client, p2p_scheduler::machine::client::ClientInput::Survey);
    world.run_until(SOON, |world| world.links(client) == 2);
    (world, peers, client)
}

/// A task with one large input.
fn with_input(id: u8, time_ms: u64) -> TaskSpec {
    let content = Content::Blob(BlobRef { id: BlobId([id; 32]), size: 1 << 30, chunks: 4096 });
    let input = File { name: "big.db".into(), content, executable: false, folder: false };
    TaskSpec { inputs: vec![input], ..task(time_ms) }
}

fn run(world: &mut World, client: Peer, spec: TaskSpec) {
    world.submit(client, spec);
    world.run_until(SOON, World::all_done);
    // The credit for the next one.
    world.run_for(Duration::from_secs(1));
}

#[test]
fn tasks_one_after_the_other_go_where_their_input_is() {
    for seed in 0..10 {
        let (mut world, workers, client) = cluster(seed);
        let counts = |world: &World| workers.map(|worker| world.runs_of(worker));
        // Both at a time, so that each has one of the inputs.
        world.submit_all(client, vec![with_input(1, 1000), with_input(2, 1000)]);
        world.run_until(SOON, World::all_done);
        world.run_for(Duration::from_secs(1));
        let before = counts(&world);
        assert_eq!(before, [1, 1], "seed {seed}");
        run(&mut world, client, with_input(1, 10));
        let first = usize::from(counts(&world)[0] == 1);
        for id in [1, 1, 2, 2, 2, 1, 2, 1, 1, 2] {
            let before = counts(&world);
            run(&mut world, client, with_input(id, 10));
            let there = if id == 1 { first } else { 1 - first };
            assert_eq!(counts(&world)[there], before[there] + 1, "seed {seed}");
        }
    }
}

#[test]
fn a_task_does_not_wait_for_who_has_its_input() {
    let (mut world, workers, client) = cluster(1);
    run(&mut world, client, with_input(1, 10));
    let has_it = workers.into_iter().find(|worker| world.runs_of(*worker) == 1).unwrap();
    world.submit(client, with_input(1, 1_000_000));
    world.run_until(SOON, |world| world.running(has_it) == 1);
    let quick = world.submit(client, with_input(1, 10));
    world.run_until(SOON, |world| world.outcome(quick).is_some());
    let other = workers.into_iter().find(|worker| *worker != has_it).unwrap();
    assert_eq!(world.runs_of(other), 1);
}
