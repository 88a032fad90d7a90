//! Members who keep no rule: whatever they send, nobody panics, and the tasks of others are not harmed (I-10).

use std::time::Duration;

use p2p_proto::ids::AttemptId;
use p2p_proto::limits;
use p2p_proto::link::item::{Finished, Note, Open, Pong, Returned, Standby, Submit, Want};
use p2p_proto::link::{ToClient, ToWorker};
use p2p_proto::task::{Content, Ended, ReturnReason, TaskSpec};
use p2p_scheduler::Outcome;
use p2p_scheduler::machine::client::ClientInput;
use p2p_scheduler::machine::worker::WorkerInput;

use p2p_simulator::world::{World, task};

const SOON: Duration = Duration::from_secs(5);

fn attempt(world: &mut World) -> AttemptId {
    AttemptId(match world.random(4) {
        0 => 0,
        1 => u64::MAX,
        _ => world.random(400),
    })
}

fn number(world: &mut World) -> u32 {
    match world.random(3) {
        0 => u32::MAX,
        1 => 0,
        _ => u32::try_from(world.random(100)).unwrap(),
    }
}

fn open(world: &mut World) -> Open {
    let version = if world.random(20) == 0 { u16::MAX } else { p2p_proto::VERSION };
    let name = "mallory@box:1".parse().unwrap();
    let slots = number(world);
    Open { version, name, capabilities: Vec::new(), slots, received: None, grace_s: number(world) }
}

fn standby(world: &mut World) -> Standby {
    let noise = vec![7; usize::try_from(world.random(400)).unwrap()];
    Standby { setup: p2p_proto::ids::SetupId(world.random(u64::MAX)), noise }
}

fn to_worker(world: &mut World) -> ToWorker {
    match world.random(7) {
        5 => ToWorker::Standby(standby(world)),
        0 => ToWorker::Open(open(world)),
        1 => ToWorker::Want(Want { tasks: number(world), round_trip_us: number(world) }),
        2 => {
            let spec = TaskSpec { extra_cpus: number(world), timeout_ms: u64::MAX, ..task(world.random(50)) };
            ToWorker::Submit(Submit { attempt: attempt(world), task: spec, alone: false })
        }
        3 => ToWorker::Cancel(attempt(world)),
        4 => ToWorker::Ping(world.random(u64::MAX)),
        _ => ToWorker::Submit(Submit { attempt: attempt(world), task: task(world.random(50)), alone: true }),
    }
}

fn to_client(world: &mut World) -> ToClient {
    let attempt = attempt(world);
    match world.random(11) {
        9 => ToClient::Standby(standby(world)),
        0 => ToClient::Open(open(world)),
        1 => ToClient::Credit(number(world)),
        2 => ToClient::Revoke(number(world)),
        3 => ToClient::Started(attempt),
        4 => ToClient::Note(Note { attempt, text: "x".repeat(2000) }),
        5 => {
            let (value, outputs) = (Content::Streamed(u64::MAX), Vec::new());
            ToClient::Finished(Finished { attempt, ended: Ended::Exit(-1), value, outputs, ran_us: u64::MAX })
        }
        6 => ToClient::Returned(Returned { attempt, why: ReturnReason::Other }),
        7 => ToClient::Returned(Returned { attempt, why: ReturnReason::Mismatch }),
        8 => ToClient::Pong(Pong {
            nonce: 0,
            slots: number(world),
            busy: number(world),
            queued: number(world),
            cache: None,
        }),
        _ => ToClient::TooLate(attempt),
    }
}

#[test]
fn a_client_that_keeps_no_rule_harms_no_other() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.host(&["bob", "dave", "mallory"]);
        let (worker, dave, mallory) = (world.worker("bob", 2), world.client("dave"), world.client("mallory"));
        world.run_for(SOON);
        for _ in 0..30 {
            // He has a link while he has tasks of his own.
            world.submit(mallory, task(1));
            let good = world.submit(dave, task(20));
            world.run_for(Duration::from_millis(300));
            for link in world.links_of(worker) {
                if world.other_end(worker, link).0 == mallory {
                    let count = world.random(20);
                    let items = (0..count).map(|_| to_worker(&mut world)).collect();
                    world.forged_input(worker, link, items);
                }
            }
            world.run_until(Duration::from_secs(60), |world| world.outcome(good).is_some());
        }
    }
}

#[test]
fn a_worker_that_keeps_no_rule_ends_no_task_twice_and_stops_nobody() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.host(&["bob", "dave", "mallory"]);
        let (mallory, client) = (world.worker("mallory", 2), world.client("dave"));
        world.ledger.trust_no_credits_of(mallory);
        world.worker("bob", 2);
        world.run_for(SOON);
        for _ in 0..30 {
            let count = world.random(10);
            world.submit_all(client, (0..count).map(|n| task(n * 10)).collect());
            world.run_for(Duration::from_millis(100));
            for link in world.links_of(client) {
                if world.other_end(client, link).0 == mallory {
                    let count = world.random(20);
                    let items = (0..count).map(|_| to_client(&mut world)).collect();
                    world.client_input(client, ClientInput::Items { link, items });
                }
            }
        }
        // What he has been given and says nothing about comes back when he is gone.
        world.kill(mallory);
        world.run_until(Duration::from_secs(120), World::all_done);
    }
}

#[test]
fn a_worker_that_hands_everything_back_is_left_alone_in_the_end() {
    let mut world = World::new(1);
    world.host(&["bob", "dave", "mallory"]);
    let (mallory, client) = (world.worker("mallory", 1), world.client("dave"));
    world.ledger.trust_no_credits_of(mallory);
    world.run_for(SOON);
    let id = world.submit(client, task(60_000));
    world.run_until(SOON, |world| world.running(mallory) == 1);
    let link = world.links_of(client)[0];
    let mut times = 0;
    let mut attempt = world.last_attempt();
    loop {
        let returned = ToClient::Returned(Returned { attempt, why: ReturnReason::NoCredit });
        world.client_input(client, ClientInput::Items { link, items: vec![returned, ToClient::Credit(1)] });
        if world.last_attempt() == attempt {
            break;
        }
        attempt = world.last_attempt();
        times += 1;
        assert!(times < 1000, "a task goes to and fro for ever");
    }
    world.worker("bob", 1);
    world.run_until(Duration::from_secs(120), |world| world.outcome(id).is_some());
    assert!(world.outcome(id).unwrap().is_success());
}

#[test]
fn a_task_that_ends_every_worker_is_given_up_also_when_none_can_say_that_it_ran() {
    let mut world = World::new(1);
    world.host(&["bob", "dave"]);
    let client = world.client("dave");
    let id = world.submit(client, task(60_000));
    for _ in 0..100 {
        if world.outcome(id).is_some() {
            break;
        }
        let worker = world.worker("bob", 1);
        world.run_until(limits::GRACE * 4, |world| world.running(worker) == 1);
        world.kill(worker);
        world.run_for(limits::GRACE + SOON);
    }
    assert!(matches!(world.outcome(id), Some(Outcome::Lost { .. })), "{:?}", world.outcome(id));
    assert_eq!(world.runs(id), limits::LOSSES);
}

#[test]
fn a_machine_that_hears_of_links_it_never_had_does_nothing() {
    let mut world = World::new(1);
    world.host(&["bob", "dave"]);
    let (worker, client) = (world.worker("bob", 2), world.client("dave"));
    world.run_for(SOON);
    let link = p2p_scheduler::LinkId(999);
    let connection = p2p_scheduler::ConnectionId(999);
    let path = || p2p_proto::link::LinkPath::Memory;
    let error = || p2p_proto::link::LinkError::Closed;
    let hints = || Ok(p2p_proto::link::Hints::default());
    for _ in 0..2 {
        world.worker_input(worker, WorkerInput::Prepared { connection, hints: hints() });
        world.worker_input(worker, WorkerInput::Connected { connection, path: path() });
        world.worker_input(worker, WorkerInput::Disconnected { connection, error: error() });
        let items = vec![to_worker(&mut world), to_worker(&mut world)];
        world.worker_input(worker, WorkerInput::Items { link, items });
        let (ended, value) = (Ended::Exit(0), Content::default());
        let finished = Finished { attempt: AttemptId(1), ended, value, outputs: Vec::new(), ran_us: 1 };
        world.worker_input(worker, WorkerInput::Ended { link, finished });
        world.client_input(client, ClientInput::Prepared { connection, hints: hints() });
        world.client_input(client, ClientInput::Connected { connection, path: path() });
        world.client_input(client, ClientInput::Disconnected { connection, error: error() });
        let items = vec![to_client(&mut world), to_client(&mut world)];
        world.client_input(client, ClientInput::Items { link, items });
    }
    let id = world.submit(client, task(1));
    world.run_until(SOON, |world| world.outcome(id).is_some());
}
