//! As many links and set-ups as a worker keeps, as many calls as a client makes, and as many lines as either says.

use std::time::Duration;

use p2p_proto::board::message::{Connect, Hello, Offer, Ready, Seek};
use p2p_proto::board::{BoardEvent, Envelope, Line, Message};
use p2p_proto::ids::{PeerKeys, PeerName, Role, SetupId, TaskId};
use p2p_proto::limits;
use p2p_proto::link::handshake::{self, Calling, Parties};
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::link::{Hints, LinkPath, TransitKey};
use p2p_proto::task::TaskSpec;
use p2p_proto::trust::{Credentials, Identity, Membership, MembershipClaims, ProcessCertificate, ProcessSecret};
use p2p_scheduler::machine::client::{ClientInput, ClientMachine, ClientOutput};
use p2p_scheduler::machine::speaker::Speaker;
use p2p_scheduler::machine::worker::{WorkerInput, WorkerMachine, WorkerOffer, WorkerOutput};
use p2p_scheduler::machine::{Me, Now};
use p2p_scheduler::{ConnectionId, HostTrust, MemberKept};

const CLUSTER: &str = "alice/friends";
const UNIX: u64 = 1_800_000_000;
/// What `machine::worker::answers` allows a member.
const MEMBER_BURST: usize = 64;
/// See there.
const MEMBER_PER_S: usize = 10;
/// What `machine::client::calls` tries.
const FORGED_ANSWERS: usize = 8;
/// What `machine::client` waits at the longest.
const SEEK_AGAIN_MAX_S: u64 = 30;
/// What `machine::speaker` keeps.
const WAITING_LINES: u64 = 64;

fn now(at: Duration) -> Now {
    Now { at, unix: UNIX + at.as_secs() }
}

fn host() -> Identity {
    Identity::from_secret(&[1; 32])
}

/// Process `number` of `user`, whose machine is the same each time.
fn me(user: &str, machine: u8, role: Role, number: u32) -> Me {
    let mut process = [7; 32];
    process[..4].copy_from_slice(&number.to_be_bytes());
    let (user, identity) = (user.parse().unwrap(), Identity::from_secret(&[machine; 32]));
    let (name, secret) = (PeerName::new(&user, "box", number), ProcessSecret::from_entropy(process));
    Me { cluster: CLUSTER.parse().unwrap(), name, user, role, identity, secret }
}

fn membership(me: &Me) -> Membership {
    let (host, user, machine) = (host(), me.user.clone(), me.identity.machine_key());
    let (from, until) = (UNIX - 60, UNIX + limits::MEMBERSHIP_TTL.as_secs());
    let claims = MembershipClaims { host: host.machine_key(), user, machine, serial: 1, from, until };
    Membership::sign(&host, &me.cluster, &claims)
}

fn credentials(me: &Me) -> Credentials {
    let until = UNIX + limits::PROCESS_TTL.as_secs();
    let process = me.secret.process_key();
    let certificate = ProcessCertificate::sign(&me.identity, &me.cluster, me.role, process, UNIX, until);
    Credentials { membership: membership(me), certificate }
}

fn kept(me: &Me) -> MemberKept {
    MemberKept { host: Some(host().machine_key()), membership: Some(membership(me)), ..MemberKept::default() }
}

fn line(from: &Me, message: Message) -> BoardEvent {
    let envelope = Envelope { from: from.name.clone(), sequence: 1, time: UNIX, message };
    BoardEvent::Line(Line::encode(&envelope).unwrap())
}

/// A worker on the board, and clients who call it, each of a new process.
struct Called {
    machine: WorkerMachine,
    keys: PeerKeys,
    at: Duration,
    calls: u32,
}

impl Called {
    fn new() -> Self {
        let bob = me("bob", 2, Role::Worker, 0);
        let (keys, kept) = (bob.keys(), kept(&bob));
        let offer =
            WorkerOffer { offer: Offer { slots: 1, ..Offer::default() }, allow: None, weights: Default::default() };
        let mut machine = WorkerMachine::new(bob, offer, now(Duration::ZERO), HostTrust::Login, kept, [3; 32]);
        machine.handle(now(Duration::ZERO), WorkerInput::Board(BoardEvent::Up), &mut Vec::new());
        Self { machine, keys, at: Duration::ZERO, calls: 0 }
    }

    fn handle(&mut self, input: WorkerInput) -> Vec<WorkerOutput> {
        let mut out = Vec::new();
        self.machine.handle(now(self.at), input, &mut out);
        out
    }

    /// One more process of member `number` calls, not too soon after the last one. Returns the set-up if the worker takes part in it.
    fn call(&mut self, number: u8) -> Option<ConnectionId> {
        self.at += Duration::from_millis(200);
        self.call_at_once(number)
    }

    /// A set-up becomes a link.
    fn connect(&mut self, connection: ConnectionId) {
        self.handle(WorkerInput::Prepared { connection, hints: Ok(Hints::default()) });
        self.handle(WorkerInput::Connected { connection, path: LinkPath::Memory });
    }

    fn call_at_once(&mut self, number: u8) -> Option<ConnectionId> {
        self.calls += 1;
        let caller = me(&format!("user{number}"), 100 + number, Role::Client, self.calls);
        let setup = SetupId(1);
        let parties = Parties { cluster: caller.cluster.clone(), caller: caller.keys(), callee: self.keys };
        let call = Call { credentials: credentials(&caller), epoch: 1, link: setup, setup, hints: Hints::default() };
        let (_, noise) = Calling::start(&parties, &caller.secret, &call.to_cbor(), [5; 32]).unwrap();
        let version = p2p_proto::VERSION;
        let connect = Connect { caller: caller.keys(), callee: self.keys, setup, version, noise };
        let out = self.handle(WorkerInput::Board(line(&caller, Message::Connect(connect))));
        out.iter().find_map(|output| match output {
            WorkerOutput::Prepare(link) => Some(*link),
            _ => None,
        })
    }
}

#[test]
fn a_worker_keeps_so_many_set_ups_and_no_more() {
    let mut worker = Called::new();
    let mut open = Vec::new();
    for member in 0..20 {
        // One member has only so many of them.
        let of_member = std::iter::from_fn(|| worker.call(member)).collect::<Vec<_>>();
        assert!(of_member.len() <= limits::HALF_OPEN_PER_MEMBER);
        open.extend(of_member);
        if open.len() == limits::HALF_OPEN {
            break;
        }
    }
    assert_eq!(open.len(), limits::HALF_OPEN);
    assert_eq!(worker.call(99), None, "a newcomer finds no room");
    let error = p2p_proto::link::LinkError::Closed;
    worker.handle(WorkerInput::Disconnected { connection: open[0], error });
    assert!(worker.call(99).is_some(), "room again");
}

#[test]
fn a_worker_keeps_so_many_links_and_no_more() {
    let mut worker = Called::new();
    let mut links = Vec::new();
    for number in 0..limits::WORKER_LINKS {
        let link = worker.call(u8::try_from(number % 32).unwrap()).expect("there is room");
        worker.connect(link);
        links.push(link);
    }
    assert_eq!(worker.call(50), None, "one link more than it keeps");
    let error = p2p_proto::link::LinkError::Closed;
    worker.handle(WorkerInput::Disconnected { connection: links[0], error });
    assert!(worker.call(50).is_some(), "room again");
}

#[test]
fn a_member_has_so_many_links_and_no_more() {
    let mut worker = Called::new();
    for _ in 0..limits::WORKER_LINKS_PER_MEMBER {
        let connection = worker.call(1).expect("there is room");
        worker.connect(connection);
    }
    assert_eq!(worker.call(1), None, "one link more than a member has");
    assert!(worker.call(2).is_some(), "others find room");
}

#[test]
fn a_member_begins_set_ups_so_fast_and_no_faster() {
    let mut worker = Called::new();
    let begun = |worker: &mut Called| {
        let at_once = std::iter::from_fn(|| {
            let link = worker.call_at_once(1)?;
            // Over at once: it takes no room.
            worker.handle(WorkerInput::Disconnected { connection: link, error: p2p_proto::link::LinkError::Closed });
            Some(())
        });
        at_once.count()
    };
    assert_eq!(begun(&mut worker), MEMBER_BURST);
    worker.at += Duration::from_secs(1);
    assert_eq!(begun(&mut worker), MEMBER_PER_S);
    worker.at += Duration::from_secs(3600);
    assert_eq!(begun(&mut worker), MEMBER_BURST);
}

/// A client who knows so many workers with one slot each, and has more tasks than these.
fn client(workers: u32) -> (ClientMachine, Vec<ClientOutput>) {
    let carol = me("carol", 4, Role::Client, 0);
    let kept = kept(&carol);
    let mut machine = ClientMachine::new(carol, now(Duration::ZERO), HostTrust::Login, kept, [6; 32]);
    let mut out = Vec::new();
    machine.handle(now(Duration::ZERO), ClientInput::Board(BoardEvent::Up), &mut out);
    for number in 1..=workers {
        let worker = me("bob", 2, Role::Worker, number);
        let offer = Offer { slots: 1, free: 1, runtimes: vec!["r".to_owned()], ..Offer::default() };
        let (process, version, ttl_s) = (worker.secret.process_key(), p2p_proto::VERSION, 120);
        let credentials = credentials(&worker);
        let hello = Hello { credentials, process, role: Role::Worker, version, offer: Some(offer), ttl_s };
        machine.handle(now(Duration::ZERO), ClientInput::Board(line(&worker, Message::Hello(hello))), &mut out);
    }
    let spec = TaskSpec { runtime: "r".to_owned(), ..TaskSpec::default() };
    let tasks = (0..1000).map(|task| (TaskId(task), spec.clone())).collect();
    machine.handle(now(Duration::ZERO), ClientInput::Submit(tasks), &mut out);
    (machine, out)
}

fn prepared(out: &[ClientOutput]) -> Vec<ConnectionId> {
    let link = |output: &ClientOutput| match output {
        ClientOutput::Prepare(link) => Some(*link),
        _ => None,
    };
    out.iter().filter_map(link).collect()
}

#[test]
fn a_client_calls_so_many_workers_and_no_more() {
    let few = u32::try_from(limits::CLIENT_LINKS).unwrap();
    assert_eq!(prepared(&client(few - 1).1).len(), limits::CLIENT_LINKS - 1);
    assert_eq!(prepared(&client(2 * few).1).len(), limits::CLIENT_LINKS);
}

#[test]
fn a_call_that_nobody_answers_is_repeated_so_often_and_given_up() {
    let (mut machine, out) = client(1);
    let [link] = prepared(&out)[..] else { panic!("{out:?}") };
    let mut out = Vec::new();
    machine.handle(
        now(Duration::ZERO),
        ClientInput::Prepared { connection: link, hints: Ok(Hints::default()) },
        &mut out,
    );
    let mut calls = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        calls.extend(out.iter().filter_map(connect).map(|_| at));
        if out.iter().any(|output| matches!(output, ClientOutput::Abandon(closed) if *closed == link)) {
            break;
        }
        out.clear();
        at = machine.wake_at().expect("it does not wait for ever").max(at);
        machine.handle(now(at), ClientInput::Tick, &mut out);
    }
    assert_eq!(calls, [&[Duration::ZERO], &limits::CONNECT_RESENDS[..]].concat());
    assert!(at <= limits::SETUP_TIMEOUT, "given up after {at:?}");
}

#[test]
fn answers_that_do_not_verify_are_tried_so_often_and_no_more() {
    for (forged, believed) in [(FORGED_ANSWERS - 1, true), (FORGED_ANSWERS, false)] {
        let (mut machine, out) = client(1);
        let [link] = prepared(&out)[..] else { panic!("{out:?}") };
        let mut out = Vec::new();
        machine.handle(
            now(Duration::ZERO),
            ClientInput::Prepared { connection: link, hints: Ok(Hints::default()) },
            &mut out,
        );
        let connect = out.iter().find_map(connect).expect("it calls");
        let bob = me("bob", 2, Role::Worker, 1);
        let parties = Parties { cluster: bob.cluster.clone(), caller: connect.caller, callee: bob.keys() };
        let (called, _) = handshake::Called::open(&parties, &bob.secret, &connect.noise, [8; 32]).unwrap();
        let answer = Answer { hints: Hints::default(), transit_key: TransitKey([9; 32]) };
        let (_, good) = called.answer(&answer.to_cbor()).unwrap();
        out.clear();
        for noise in std::iter::repeat_n(vec![7; good.len()], forged).chain([good]) {
            let (caller, callee, setup) = (connect.caller.process, connect.callee.process, connect.setup);
            let ready = Message::Ready(Ready { caller, callee, setup, noise });
            machine.handle(now(Duration::ZERO), ClientInput::Board(line(&bob, ready)), &mut out);
        }
        let connects = out.iter().any(|output| matches!(output, ClientOutput::Connect(..)));
        assert_eq!(connects, believed, "after {forged} forged answers");
    }
}

#[test]
fn lines_that_wait_for_their_turn_are_bounded_and_the_newest_are_said() {
    let seek = || Message::Seek(Seek { runtime: String::new(), answers: 1 });
    let mut speaker = Speaker::new("bob@box:1".parse().unwrap());
    let mut out = Vec::new();
    let burst = u64::from(limits::BOARD_BURST_AMONG_FEW);
    let all = burst + WAITING_LINES + 1000;
    for _ in 0..all {
        speaker.say(now(Duration::ZERO), seek(), &mut out);
    }
    while let Some(at) = speaker.wake_at() {
        speaker.on_tick(now(at), &mut out);
    }
    let said: Vec<u64> = out.iter().map(|line| line.decode().unwrap().sequence).collect();
    assert_eq!(said, (1..=burst).chain(all - WAITING_LINES + 1..=all).collect::<Vec<_>>());
}

#[test]
fn a_client_without_workers_seeks_ever_more_rarely_up_to_a_bound() {
    let (mut machine, _) = client(0);
    let mut sought = Vec::new();
    let mut at = Duration::ZERO;
    while at < Duration::from_secs(300) {
        let mut out = Vec::new();
        at = machine.wake_at().expect("it seeks again").max(at);
        machine.handle(now(at), ClientInput::Tick, &mut out);
        sought.extend(out.iter().filter(|output| is_seek(output)).map(|_| at.as_secs()));
    }
    let pauses: Vec<u64> = sought.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..6], [2, 4, 8, 16, SEEK_AGAIN_MAX_S, SEEK_AGAIN_MAX_S]);
    assert!(pauses.iter().all(|pause| *pause <= SEEK_AGAIN_MAX_S), "{pauses:?}");
}

fn is_seek(output: &ClientOutput) -> bool {
    let ClientOutput::Publish(line) = output else { return false };
    matches!(line.decode().unwrap().message, Message::Seek(_))
}

fn connect(output: &ClientOutput) -> Option<Connect> {
    let ClientOutput::Publish(line) = output else { return None };
    match line.decode().unwrap().message {
        Message::Connect(connect) => Some(connect),
        _ => None,
    }
}
