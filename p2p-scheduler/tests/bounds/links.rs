//! As many links and set-ups as a worker keeps, and as many calls as a client makes.

use std::time::Duration;

use p2p_proto::board::message::{Connect, Hello, Offer};
use p2p_proto::board::{BoardEvent, Envelope, Line, Message};
use p2p_proto::ids::{PeerKeys, PeerName, Role, SetupId, TaskId};
use p2p_proto::limits;
use p2p_proto::link::handshake::{Calling, Parties};
use p2p_proto::link::setup::Call;
use p2p_proto::link::{Hints, LinkPath};
use p2p_proto::task::TaskSpec;
use p2p_proto::trust::{Credentials, Identity, Membership, MembershipClaims, ProcessCertificate, ProcessSecret};
use p2p_scheduler::LinkId;
use p2p_scheduler::machine::client::{ClientInput, ClientMachine, ClientOutput};
use p2p_scheduler::machine::worker::{WorkerInput, WorkerMachine, WorkerOffer, WorkerOutput};
use p2p_scheduler::machine::{Me, Now};

const CLUSTER: &str = "alice/friends";
const UNIX: u64 = 1_800_000_000;

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
        let (keys, key, membership) = (bob.keys(), Some(host().machine_key()), Some(membership(&bob)));
        let offer = WorkerOffer { offer: Offer { slots: 1, ..Offer::default() }, allow: None };
        let mut machine = WorkerMachine::new(bob, offer, now(Duration::ZERO), key, membership, [3; 32]);
        machine.handle(now(Duration::ZERO), WorkerInput::Board(BoardEvent::Up), &mut Vec::new());
        Self { machine, keys, at: Duration::ZERO, calls: 0 }
    }

    fn handle(&mut self, input: WorkerInput) -> Vec<WorkerOutput> {
        let mut out = Vec::new();
        self.machine.handle(now(self.at), input, &mut out);
        out
    }

    /// One more process of member `number` calls. Returns the set-up if the worker takes part in it.
    fn call(&mut self, number: u8) -> Option<LinkId> {
        // Calls that come faster than this are ignored: another bound.
        self.at += Duration::from_millis(200);
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
    worker.handle(WorkerInput::LinkDown { link: open[0], error });
    assert!(worker.call(99).is_some(), "room again");
}

#[test]
fn a_worker_keeps_so_many_links_and_no_more() {
    let mut worker = Called::new();
    let mut links = Vec::new();
    for number in 0..limits::WORKER_LINKS {
        let link = worker.call(u8::try_from(number % 32).unwrap()).expect("there is room");
        worker.handle(WorkerInput::Prepared { link, hints: Ok(Hints::default()) });
        worker.handle(WorkerInput::LinkUp { link, path: LinkPath::Memory });
        links.push(link);
    }
    assert_eq!(worker.call(50), None, "one link more than it keeps");
    let error = p2p_proto::link::LinkError::Closed;
    worker.handle(WorkerInput::LinkDown { link: links[0], error });
    assert!(worker.call(50).is_some(), "room again");
}

/// A client who knows so many workers with one slot each, and has more tasks than these.
fn client(workers: u32) -> (ClientMachine, Vec<ClientOutput>) {
    let carol = me("carol", 4, Role::Client, 0);
    let (key, kept) = (Some(host().machine_key()), Some(membership(&carol)));
    let mut machine = ClientMachine::new(carol, now(Duration::ZERO), key, kept, [6; 32]);
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

fn prepared(out: &[ClientOutput]) -> Vec<LinkId> {
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
    machine.handle(now(Duration::ZERO), ClientInput::Prepared { link, hints: Ok(Hints::default()) }, &mut out);
    let mut calls = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        calls.extend(out.iter().filter(|output| is_connect(output)).map(|_| at));
        if out.iter().any(|output| matches!(output, ClientOutput::Close(closed) if *closed == link)) {
            break;
        }
        out.clear();
        at = machine.wake_at().expect("it does not wait for ever").max(at);
        machine.handle(now(at), ClientInput::Tick, &mut out);
    }
    assert_eq!(calls, [&[Duration::ZERO], &limits::CONNECT_RESENDS[..]].concat());
    assert!(at <= limits::SETUP_TIMEOUT, "given up after {at:?}");
}

fn is_connect(output: &ClientOutput) -> bool {
    let ClientOutput::Publish(line) = output else { return false };
    matches!(line.decode().unwrap().message, Message::Connect(_))
}
