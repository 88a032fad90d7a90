//! Link set-up against everything that a board and a stranger can do to it (L-01).

use std::time::Duration;

use p2p_proto::board::message::{Connect, Ready, Refuse, RefuseReason};
use p2p_proto::board::{Envelope, Line, Message};
use p2p_proto::ids::{PeerKeys, SetupId};
use p2p_proto::limits;
use p2p_proto::link::Hints;
use p2p_proto::link::handshake::{Calling, Parties};
use p2p_proto::link::setup::Call;
use p2p_scheduler::memory::Faults;
use p2p_scheduler::{ClientReport, Waiting};

use p2p_simulator::world::{CLUSTER, Peer, World, offer, task};

const SOON: Duration = Duration::from_secs(5);

/// A cluster whose worker and client are members; nobody has called yet.
fn members(seed: u64) -> (World, Peer, Peer) {
    let mut world = World::new(seed);
    world.host(&["bob", "dave"]);
    let (worker, client) = (world.worker("bob", 1), world.client("dave"));
    world.run_for(SOON);
    (world, worker, client)
}

fn line(world: &World, from: Peer, message: Message) -> Line {
    let from = world.me_of(from).name.clone();
    Line::encode(&Envelope { from, sequence: 1 << 40, time: world.now().unix, message }).unwrap()
}

/// Message 1 of `client` to `worker`, made as its machine would, with this counter.
fn connect(world: &World, client: Peer, worker: Peer, setup: u64) -> Connect {
    let me = world.me_of(client);
    let membership = &world.kept(client).membership;
    let credentials = me.credentials(membership.as_ref().unwrap(), world.now());
    let callee = world.me_of(worker).keys();
    let parties = Parties { cluster: CLUSTER.parse().unwrap(), caller: me.keys(), callee };
    let call = Call { credentials, epoch: 1, link: SetupId(setup), setup: SetupId(setup), hints: Hints::default() };
    let entropy = [u8::try_from(setup % 256).unwrap(); 32];
    let (_, noise) = Calling::start(&parties, &me.secret, &call.to_cbor(), entropy).unwrap();
    Connect { caller: me.keys(), callee, setup: SetupId(setup), version: p2p_proto::VERSION, noise }
}

/// What `peer` said since `since` lines were said.
fn said(world: &World, peer: Peer, since: usize) -> Vec<Message> {
    let of_peer = world.said[since..].iter().filter(|(_, who, _)| *who == peer);
    of_peer.map(|(_, _, line)| line.decode().unwrap().message).collect()
}

fn readies(world: &World, peer: Peer, since: usize) -> Vec<Ready> {
    let ready = |message| match message {
        Message::Ready(ready) => Some(ready),
        _ => None,
    };
    said(world, peer, since).into_iter().filter_map(ready).collect()
}

fn refusals(world: &World, peer: Peer, since: usize) -> Vec<RefuseReason> {
    let refusal = |message| match message {
        Message::Refuse(refuse) => Some(refuse.why),
        _ => None,
    };
    said(world, peer, since).into_iter().filter_map(refusal).collect()
}

#[test]
fn a_repeat_is_answered_with_the_same_bytes_and_an_older_one_not_at_all() {
    let (mut world, worker, client) = members(1);
    let since = world.said.len();
    for setup in [20, 20, 20, 19, 5] {
        world.inject(worker, line(&world, client, Message::Connect(connect(&world, client, worker, setup))));
        world.run_for(Duration::from_millis(50));
    }
    let answers = readies(&world, worker, since);
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert!(refusals(&world, worker, since).is_empty());
    // A newer one is another set-up.
    world.inject(worker, line(&world, client, Message::Connect(connect(&world, client, worker, 21))));
    world.run_for(Duration::from_millis(50));
    let answers = readies(&world, worker, since);
    assert_eq!(answers.len(), 4);
    assert_ne!(answers[3].noise, answers[0].noise);
    // The connection never came: afterwards a repeat is an old one.
    world.run_for(limits::SETUP_TIMEOUT * 2);
    let since = world.said.len();
    world.inject(worker, line(&world, client, Message::Connect(connect(&world, client, worker, 21))));
    world.run_for(SOON);
    assert!(readies(&world, worker, since).is_empty());
}

#[test]
fn one_member_cannot_take_all_set_ups() {
    let (mut world, worker, client) = members(1);
    let since = world.said.len();
    let most = limits::HALF_OPEN_PER_MEMBER as u64;
    for setup in 1..=most + 1 {
        world.inject(worker, line(&world, client, Message::Connect(connect(&world, client, worker, setup))));
        world.run_for(Duration::from_millis(50));
    }
    assert_eq!(readies(&world, worker, since).len(), limits::HALF_OPEN_PER_MEMBER);
    assert_eq!(refusals(&world, worker, since), [RefuseReason::Busy]);
    // They run out, and there is room again.
    world.run_for(limits::SETUP_TIMEOUT * 2);
    let since = world.said.len();
    world.inject(worker, line(&world, client, Message::Connect(connect(&world, client, worker, most + 2))));
    world.run_for(SOON);
    assert_eq!(readies(&world, worker, since).len(), 1);
}

/// Columns: what is wrong with a `connect`; then: what the worker answers, if anything.
#[test]
fn a_call_that_is_not_right_is_refused_and_tells_nothing() {
    type Spoil = fn(&World, Peer, Connect) -> Connect;
    let table: [(&str, Spoil, Option<RefuseReason>); 8] = [
        ("an older protocol", |_, _, c| Connect { version: 0, ..c }, Some(RefuseReason::Version)),
        ("a newer protocol", |_, _, c| Connect { version: p2p_proto::VERSION + 2, ..c }, Some(RefuseReason::Version)),
        ("garbage", |_, _, c| Connect { noise: vec![7; 300], ..c }, Some(RefuseReason::Handshake)),
        ("no bytes", |_, _, c| Connect { noise: Vec::new(), ..c }, Some(RefuseReason::Handshake)),
        (
            "one bit",
            |_, _, mut c| {
                let at = c.noise.len() / 2;
                c.noise[at] ^= 1;
                c
            },
            Some(RefuseReason::Handshake),
        ),
        (
            "a replay under another process's name",
            |_, _, c| {
                let process = p2p_proto::ids::ProcessKey([9; 32]);
                Connect { caller: PeerKeys { process, ..c.caller }, ..c }
            },
            Some(RefuseReason::Handshake),
        ),
        (
            "a replay under another machine's name",
            |_, _, c| {
                let machine = p2p_proto::ids::MachineKey([9; 32]);
                Connect { caller: PeerKeys { machine, ..c.caller }, ..c }
            },
            Some(RefuseReason::Handshake),
        ),
        (
            "for another worker",
            |_, _, c| {
                let process = p2p_proto::ids::ProcessKey([9; 32]);
                Connect { callee: PeerKeys { process, ..c.callee }, ..c }
            },
            None,
        ),
    ];
    for (what, spoil, expected) in table {
        let (mut world, worker, client) = members(1);
        let since = world.said.len();
        let call = spoil(&world, client, connect(&world, client, worker, 1));
        world.inject(worker, line(&world, client, Message::Connect(call)));
        world.run_for(Duration::from_millis(50));
        assert!(readies(&world, worker, since).is_empty(), "{what}: it was answered");
        assert_eq!(refusals(&world, worker, since), Vec::from_iter(expected), "{what}");
        // Nothing of it counts against the caller whose name it used.
        world.submit(client, task(1));
        world.run_until(SOON, World::all_done);
    }
}

#[test]
fn a_replay_under_a_higher_counter_shuts_nobody_out() {
    let (mut world, worker, client) = members(1);
    let heard = connect(&world, client, worker, 5);
    let since = world.said.len();
    let raised = Connect { setup: SetupId(u64::MAX), ..heard };
    world.inject(worker, line(&world, client, Message::Connect(raised)));
    world.run_for(SOON);
    assert_eq!(refusals(&world, worker, since), [RefuseReason::Handshake]);
    assert!(readies(&world, worker, since).is_empty());
    // The caller's own counter still counts.
    let own = connect(&world, client, worker, 1 << 60);
    world.inject(worker, line(&world, client, Message::Connect(own)));
    world.run_for(SOON);
    assert_eq!(readies(&world, worker, since).len(), 1);
}

#[test]
fn a_stranger_is_refused() {
    let (mut world, worker, client) = members(1);
    // Signed by a host of his own.
    let mut elsewhere = World::new(2);
    elsewhere.new_machine("alice");
    elsewhere.host(&["mallory"]);
    elsewhere.new_machine("mallory");
    let stranger = elsewhere.client("mallory");
    elsewhere.run_for(SOON);
    let me = elsewhere.me_of(stranger).clone();
    let credentials = me.credentials(elsewhere.kept(stranger).membership.as_ref().unwrap(), world.now());
    let callee = world.me_of(worker).keys();
    let parties = Parties { cluster: CLUSTER.parse().unwrap(), caller: me.keys(), callee };
    let call = Call { credentials, epoch: 1, link: SetupId(1), setup: SetupId(1), hints: Hints::default() };
    let (_, noise) = Calling::start(&parties, &me.secret, &call.to_cbor(), [1; 32]).unwrap();
    let connect = Connect { caller: me.keys(), callee, setup: SetupId(1), version: p2p_proto::VERSION, noise };
    let since = world.said.len();
    world.inject(worker, line(&world, client, Message::Connect(connect)));
    world.run_for(SOON);
    assert_eq!(refusals(&world, worker, since), [RefuseReason::Untrusted]);
    assert!(readies(&world, worker, since).is_empty());
}

#[test]
fn a_flood_of_strangers_calls_leaves_the_board_to_members() {
    let (mut world, worker, client) = members(1);
    let since = world.said.len();
    for setup in 0..200 {
        let spoiled = Connect { noise: vec![7; 300], ..connect(&world, client, worker, setup) };
        world.inject(worker, line(&world, client, Message::Connect(spoiled)));
    }
    let refused = refusals(&world, worker, since).len();
    assert!(refused <= limits::BOARD_BURST_AMONG_FEW as usize / 2, "{refused} lines were spent on strangers");
    world.submit(client, task(1));
    world.run_until(Duration::from_secs(20), World::all_done);
}

#[test]
fn forged_answers_spoil_nothing() {
    let (mut world, worker, client) = members(1);
    world.set_faults(Faults { lose: 1000, ..Faults::default() }, 1);
    world.submit(client, task(1));
    let since = world.said.len();
    world.run_for(Duration::from_millis(100));
    let called = said(&world, client, since.min(world.said.len())).into_iter().chain(said(&world, client, 0));
    let mut setup =
        called.filter_map(|message| if let Message::Connect(connect) = message { Some(connect.setup) } else { None });
    let setup = setup.next_back().expect("the client has called");
    let (caller, callee) = (world.me_of(client).keys().process, world.me_of(worker).keys().process);
    for noise in [vec![], vec![7; 48], vec![9; 2000]] {
        let forged = Ready { caller, callee, setup, noise };
        world.inject(client, line(&world, worker, Message::Ready(forged)));
    }
    for wrong in [SetupId(setup.0 + 1), SetupId(0)] {
        let refuse = Refuse { caller, callee, setup: wrong, why: RefuseReason::Draining, version: p2p_proto::VERSION };
        world.inject(client, line(&world, worker, Message::Refuse(refuse)));
    }
    // The right answer still comes, when the board lets it.
    world.set_faults(Faults::default(), 0);
    world.run_until(Duration::from_secs(15), World::all_done);
}

#[test]
fn a_version_that_does_not_fit_is_told_to_the_person_who_can_help() {
    let (mut world, worker, client) = members(1);
    world.set_faults(Faults { lose: 1000, ..Faults::default() }, 1);
    world.submit(client, task(1));
    world.run_for(Duration::from_millis(100));
    let setup = said(&world, client, 0).into_iter().find_map(|message| match message {
        Message::Connect(connect) => Some(connect.setup),
        _ => None,
    });
    let (caller, callee) = (world.me_of(client).keys().process, world.me_of(worker).keys().process);
    let refuse =
        Refuse { caller, callee, setup: setup.unwrap(), why: RefuseReason::Version, version: p2p_proto::VERSION + 5 };
    world.inject(client, line(&world, worker, Message::Refuse(refuse)));
    let told = world
        .client_reports(client)
        .iter()
        .any(|report| matches!(report, ClientReport::CallFailed { why, .. } if why.contains("upgrade this program")));
    assert!(told, "{:?}", world.client_reports(client));
}

#[test]
fn who_is_not_allowed_hears_so_and_the_others_are_served() {
    let mut world = World::new(1);
    world.host(&["bob", "dave", "erin"]);
    let mut choosy = offer(1, &["r"]);
    choosy.allow = Some(["erin".parse().unwrap()].into());
    let worker = world.worker_with("bob", choosy, None);
    let (dave, erin) = (world.client("dave"), world.client("erin"));
    let (refused, served) = (world.submit(dave, task(1)), world.submit(erin, task(1)));
    world.run_until(SOON, |world| world.outcome(served).is_some());
    world.run_for(SOON);
    assert_eq!(world.outcome(refused), None);
    assert_eq!(world.links_of(worker).len(), 1);
    let told = world
        .client_reports(dave)
        .iter()
        .any(|report| matches!(report, ClientReport::CallFailed { why, .. } if why.contains("--allow")));
    assert!(told);
}

#[test]
fn a_worker_that_nobody_reaches_is_called_again_ever_more_rarely() {
    let (mut world, worker, client) = members(1);
    world.refuse_links = true;
    let id = world.submit(client, task(1));
    let since = world.said.len();
    world.run_for(Duration::from_secs(600));
    let calls = said(&world, client, since).iter().filter(|message| matches!(message, Message::Connect(_))).count();
    assert!((5..40).contains(&calls), "{calls} calls in ten minutes");
    assert!(matches!(world.waiting(client), Some(Waiting::Connecting(_))), "{:?}", world.waiting(client));
    world.refuse_links = false;
    world.run_until(Duration::from_secs(120), |world| world.outcome(id).is_some());
    assert_eq!(world.links(worker), 1);
}

#[test]
fn a_new_link_of_a_process_replaces_its_old_one() {
    let (mut world, worker, client) = members(1);
    world.submit(client, task(1));
    world.run_until(SOON, World::all_done);
    let old = world.links_of(worker);
    // The client has lost its end, and the worker has not noticed.
    world.cut_silently(client);
    world.run_for(Duration::from_millis(50));
    let again = world.submit(client, task(1));
    world.run_until(Duration::from_secs(30), |world| world.outcome(again).is_some());
    let new = world.links_of(worker);
    assert_eq!(new.len(), 1);
    assert_ne!(old, new);
}
