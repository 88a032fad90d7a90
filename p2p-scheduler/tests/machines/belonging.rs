//! Who belongs while somebody tries to: eve gets onto the board's topics by the server's fault, carol by being on the list; both know every line
//! that was ever said (T-01 to T-03). And how membership ends: removal, expiry, a narrower list.

use std::time::Duration;

use p2p_proto::board::message::{Beat, Claim, DenyReason, Hello, Prove, Summon};
use p2p_proto::board::{Envelope, Line, Message};
use p2p_proto::ids::{ClusterName, Fingerprint, MachineKey, ProcessKey, Role};
use p2p_proto::limits;
use p2p_proto::link::LinkError;
use p2p_proto::trust::{Identity, ProcessCertificate, ProcessSecret, UnixTime};
use p2p_scheduler::machine::admission::AdmissionEvent;
use p2p_scheduler::machine::host::{HostInput, HostReport};
use p2p_scheduler::machine::worker::WorkerInput;
use p2p_scheduler::{AdmitBy, ClientReport, HostConfig, HostKept, HostTrust, MemberKept, WorkerReport};

use p2p_simulator::world::{CLUSTER, Peer, World, offer, task};

const SOON: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);
/// A removal ends links within this time of being heard.
const CUT: Duration = Duration::from_secs(5);

fn admissions(world: &World, worker: Peer) -> Vec<AdmissionEvent> {
    let event = |report: &WorkerReport| match report {
        WorkerReport::Admission(event) => Some(event.clone()),
        _ => None,
    };
    world.worker_reports(worker).iter().filter_map(event).collect()
}

fn is_member(world: &World, peer: Peer) -> bool {
    world.kept(peer).membership.is_some()
}

/// A worker of somebody who says that she is bob, with a key of her own, logged in as who she is.
fn poser(world: &mut World, login: &str) -> Peer {
    world.new_machine("bob");
    let poser = world.worker("bob", 1);
    world.log_in_as(poser, login);
    poser
}

/// Bob himself, at a machine of his own.
fn bob(world: &mut World) -> Peer {
    world.new_machine("bob");
    world.worker("bob", 1)
}

fn admit_topic(world: &World, peer: Peer) -> String {
    let me = world.me_of(peer);
    me.cluster.admit_topic(&me.user, me.keys())
}

fn intruders(world: &World, host: Peer) -> usize {
    let intruder = |report: &&HostReport| matches!(report, HostReport::Intruder { .. });
    world.host_reports(host).iter().filter(intruder).count()
}

#[test]
fn who_claims_to_be_bob_before_while_or_after_him_gets_nothing() {
    for login in ["eve", "carol"] {
        let mut world = World::new(1);
        let host = world.host(&["bob", "carol"]);
        let client = world.client("carol");
        let before = poser(&mut world, login);
        world.run_for(Duration::from_secs(2));
        // The server's fault lets her into the side topic of her key, where bob should be.
        world.intrude(before, &admit_topic(&world, before));
        world.run_for(MINUTE);
        assert!(!is_member(&world, before), "{login}, before him");
        assert!(intruders(&world, host) >= 1, "alice was not told: {:?}", world.host_reports(host));

        let honest = bob(&mut world);
        let during = poser(&mut world, login);
        world.run_for(Duration::from_millis(300));
        world.intrude(during, &admit_topic(&world, during));
        world.run_for(MINUTE);
        assert!(is_member(&world, honest), "{login} keeps him out: {:?}", admissions(&world, honest));
        assert!(!is_member(&world, during), "{login}, while he arrives");

        let after = poser(&mut world, login);
        world.run_for(MINUTE);
        assert!(!is_member(&world, after), "{login}, after him");

        // No task, no call, no address: nobody has a link to any of them, or has called one.
        let tasks = world.submit_all(client, (0..20).map(|_| task(10)).collect());
        world.run_until(MINUTE, |world| tasks.iter().all(|task| world.outcome(*task).is_some()));
        for peer in [before, during, after] {
            assert_eq!(world.links(peer), 0, "{login}");
            let keys = world.me_of(peer).keys();
            let calls =
                |line: &Line| matches!(line.decode().unwrap().message, Message::Connect(call) if call.callee == keys);
            assert!(!world.said.iter().any(|(_, _, line)| calls(line)), "{login} was called");
        }
        assert!(world.links(honest) > 0);
    }
}

#[test]
fn a_second_guest_spoils_a_proof_and_the_next_one_holds() {
    let mut world = World::new(1);
    let host = world.host(&["bob"]);
    let honest = world.worker("bob", 1);
    let eve = poser(&mut world, "eve");
    world.run_for(Duration::from_millis(500));
    let topic = admit_topic(&world, honest);
    world.intrude(eve, &topic);
    world.run_for(SOON);
    let spoiled = intruders(&world, host);
    world.kill(eve);
    world.run_for(MINUTE * 2);
    assert!(is_member(&world, honest), "{spoiled} {:?}", admissions(&world, honest));
}

#[test]
fn old_lines_of_bob_open_nothing() {
    let mut world = World::new(1);
    let host = world.host(&["bob", "carol"]);
    let honest = world.worker("bob", 1);
    let client = world.client("carol");
    let done = world.submit(client, task(10));
    world.run_until(MINUTE, |world| world.outcome(done).is_some());
    let lines: Vec<Line> =
        world.said.iter().filter(|(_, who, _)| *who == honest).map(|(_, _, line)| line.clone()).collect();
    let calls: Vec<Line> =
        world.said.iter().filter(|(_, who, _)| *who == client).map(|(_, _, line)| line.clone()).collect();
    world.kill(honest);
    world.run_for(limits::HELLO_TTL_MAX);
    let eve = poser(&mut world, "eve");
    let waits = world.submit(client, task(10));
    for line in lines.iter().chain(&calls) {
        for peer in [host, client, eve] {
            world.inject(peer, line.clone());
        }
    }
    world.run_for(MINUTE * 3);
    assert_eq!(world.outcome(waits), None, "nobody may have run it");
    assert!(!is_member(&world, eve));
    assert_eq!(world.links(eve), 0);
    // What she heard of calls is sealed for him.
    let back = world.worker_with("bob", offer(1, &["r"]), Some(honest));
    world.run_until(MINUTE, |world| world.outcome(waits).is_some());
    assert!(world.links(back) > 0);
}

/// A claim in bob's name with a key that nobody has used before.
fn fresh_claim(number: u64, unix: UnixTime) -> Line {
    claim_as("bob", fresh_secret(number), unix)
}

fn fresh_secret(number: u64) -> [u8; 32] {
    let mut secret = [9; 32];
    secret[..8].copy_from_slice(&number.to_be_bytes());
    secret
}

/// A claim in this name with these keys.
fn claim_as(user: &str, secret: [u8; 32], unix: UnixTime) -> Line {
    let (identity, process) = (Identity::from_secret(&secret), ProcessSecret::from_entropy(secret));
    let cluster = CLUSTER.parse().unwrap();
    let certificate =
        ProcessCertificate::sign(&identity, &cluster, Role::Worker, process.process_key(), unix, unix + 3600);
    let keys = p2p_proto::ids::PeerKeys { machine: identity.machine_key(), process: process.process_key() };
    let claim = Claim { user: user.parse().unwrap(), keys, certificate, role: Role::Worker };
    let from = format!("{user}@box:99").parse().unwrap();
    Line::encode(&Envelope { from, sequence: 1, time: unix, message: Message::Claim(claim) }).unwrap()
}

/// Carol is logged in as herself and claims one key in two names: what is seen of her claim late must not be taken for bob's.
#[test]
fn a_late_sighting_of_a_key_signs_it_in_no_other_name() {
    let mut world = World::new(1);
    let host = world.host(&["bob", "carol"]);
    let carol = world.client("carol");
    world.run_for(SOON);
    let mut number = 0;
    let mut flood = |world: &mut World, user: &str, count: usize| {
        for _ in 0..count {
            number += 1;
            let line = claim_as(user, fresh_secret(number), world.now().unix);
            world.inject(host, line);
        }
    };
    let secret = [77; 32];
    let (machine, process) =
        (Identity::from_secret(&secret).machine_key(), ProcessSecret::from_entropy(secret).process_key());
    let keys = p2p_proto::ids::PeerKeys { machine, process };
    let topic = CLUSTER.parse::<ClusterName>().unwrap().admit_topic(&"carol".parse().unwrap(), keys);
    let unix = world.now().unix;
    flood(&mut world, "carol", 4);
    world.inject(host, claim_as("carol", secret, unix));
    flood(&mut world, "bob", 8);
    world.inject(host, claim_as("bob", secret, unix));
    // The first places are free after 3 s: her key is looked for.
    world.run_for(Duration::from_millis(3100));
    flood(&mut world, "carol", 5);
    // It is no more after 6 s; she goes there just before.
    world.run_for(Duration::from_millis(2750));
    world.intrude(carol, &topic);
    world.run_for(MINUTE);
    let members = world.roster(host).members;
    let mut bound = members.iter().filter(|(_, bound)| *bound == machine).map(|(user, _)| user.as_str());
    assert!(bound.all(|user| user == "carol"), "her key is signed as another one's: {members:?}");
}

/// With the host's key named, and at first sight of it.
#[test]
fn a_hello_in_somebody_elses_name_is_not_believed() {
    for named in [true, false] {
        let mut world = World::new(1);
        let host = world.host(&["bob", "carol", "dave"]);
        let carol = world.worker("carol", 1);
        world.run_for(SOON);
        let hello = world.said.iter().rev().find_map(|(_, who, line)| match line.decode().unwrap().message {
            Message::Hello(hello) if *who == carol => Some(hello),
            _ => None,
        });
        world.kill(carol);
        world.run_for(limits::HELLO_TTL_MAX);
        let key = Fingerprint::from(world.me_of(host).keys().machine);
        let trust = if named { HostTrust::Named(key) } else { HostTrust::FirstSight };
        let client = world.client_trusting("dave", MemberKept::default(), 0, trust);
        world.submit(client, task(1));
        world.run_for(SOON);
        let say = |world: &mut World, name: &str| {
            let hello = Message::Hello(hello.clone().unwrap());
            let envelope =
                Envelope { from: name.parse().unwrap(), sequence: 9, time: world.now().unix, message: hello };
            world.inject(client, Line::encode(&envelope).unwrap());
            let now = world.now();
            world.client_machine(client).status(now).workers.len()
        };
        assert_eq!(say(&mut world, "bob@box:77"), 0, "carol's signature stands for bob");
        // In her own name it counts, as a hint, as long as nobody answers.
        assert_eq!(say(&mut world, "carol@box:77"), 1);
    }
}

#[test]
fn a_flood_of_claims_keeps_nobody_out() {
    let mut world = World::new(1);
    world.keep_lines = false;
    let host = world.host(&["bob", "carol"]);
    let mut number = 0;
    let flood = |world: &mut World, seconds: u64, number: &mut u64| {
        for _ in 0..seconds * u64::from(limits::BOARD_LINES_PER_S) {
            *number += 1;
            let line = fresh_claim(*number, world.now().unix);
            world.inject(host, line);
            world.run_for(Duration::from_secs(1) / limits::BOARD_LINES_PER_S);
        }
    };
    flood(&mut world, 30, &mut number);
    let (honest, other) = (world.worker("bob", 1), world.worker("carol", 1));
    flood(&mut world, 40, &mut number);
    assert!(is_member(&world, other), "a flood in bob's name delays carol: {:?}", admissions(&world, other));
    let mut minutes = 0;
    while !is_member(&world, honest) {
        minutes += 1;
        assert!(minutes <= 30, "a flood in his name keeps bob out for ever: {:?}", admissions(&world, honest));
        flood(&mut world, 60, &mut number);
    }
    // And her word lets him in at once, whatever the flood.
    world.new_machine("bob");
    let third = world.worker("bob", 1);
    let key = Fingerprint::from(world.me_of(third).keys().machine);
    world.host_input(host, HostInput::Approve("bob".parse().unwrap(), key));
    flood(&mut world, 40, &mut number);
    assert!(is_member(&world, third), "{:?}", admissions(&world, third));
}

/// The latest beat of a host.
fn last_beat(world: &World, host: Peer) -> (Duration, Beat) {
    let cluster = world.me_of(host).cluster.clone();
    let beat = world.said.iter().rev().filter(|(_, who, _)| *who == host).find_map(|(at, _, line)| {
        let Message::Beat(beat) = line.decode().unwrap().message else { return None };
        Some((*at, Beat::verify(&beat, &cluster).unwrap()))
    });
    beat.unwrap()
}

/// Carol's machine claims for, and greets with, one fresh process after the other; a stranger can do as much with what hers once said.
#[test]
fn processes_of_one_machine_without_number_cost_one_signature_and_silence_nobody() {
    let mut world = World::new(1);
    let host = world.host(&["bob", "carol"]);
    let carol = world.worker("carol", 1);
    world.run_for(SOON);
    let (me, membership) = (world.me_of(carol).clone(), world.kept(carol).membership.clone().unwrap());
    let serial = world.roster(host).serial;
    for number in 0..600 {
        let secret = ProcessSecret::from_entropy(fresh_secret(number));
        let fresh = p2p_scheduler::machine::Me { secret, ..me.clone() };
        let (keys, now) = (fresh.keys(), world.now());
        let claim = Claim { user: fresh.user.clone(), keys, certificate: fresh.certificate(now), role: Role::Worker };
        let hello = Hello {
            credentials: fresh.credentials(&membership, now),
            process: keys.process,
            role: Role::Worker,
            version: p2p_proto::VERSION,
            offer: Some(Default::default()),
            ttl_s: u32::MAX,
        };
        for message in [Message::Claim(claim), Message::Hello(hello)] {
            let from = "carol@box:99".parse().unwrap();
            let line = Line::encode(&Envelope { from, sequence: 1, time: now.unix, message }).unwrap();
            world.inject(host, line);
        }
        world.run_for(Duration::from_secs(1) / limits::BOARD_LINES_PER_S);
    }
    assert_eq!(world.roster(host).serial, serial, "each process costs a signature");
    let (at, beat) = last_beat(&world, host);
    assert!(world.at - at <= limits::BEAT_INTERVAL, "no beat since {at:?}");
    let most = 1 + u32::try_from(limits::PROCESSES_PER_MACHINE).unwrap();
    assert!(beat.peers <= most, "{} peers", beat.peers);
    // Others get in all the same, carol's own next process, too.
    let (honest, again) = (world.worker("bob", 1), world.worker("carol", 1));
    world.run_for(MINUTE);
    assert!(is_member(&world, honest) && is_member(&world, again));
}

/// What the last claim of a peer was.
fn last_claim(world: &World, peer: Peer) -> Option<(Envelope, Claim, Line)> {
    world.said.iter().rev().filter(|(_, who, _)| *who == peer).find_map(|(_, _, line)| {
        let envelope = line.decode().unwrap();
        let Message::Claim(claim) = &envelope.message else { return None };
        Some((envelope.clone(), claim.clone(), line.clone()))
    })
}

/// Two fresh claims a second fill bob's queue; his own, said again by a stranger, or his keys in another name, must not put him back in it.
#[test]
fn bobs_own_claim_said_again_by_strangers_does_not_keep_him_out() {
    for trick in ["again", "in another name"] {
        let mut world = World::new(1);
        let host = world.host(&["bob", "carol"]);
        world.run_for(SOON);
        let mut number = 0;
        let mut honest = None;
        for second in 0..600 {
            if second == 10 {
                honest = Some(world.worker("bob", 1));
            }
            for _ in 0..2 {
                number += 1;
                let line = fresh_claim(number, world.now().unix);
                world.inject(host, line);
            }
            let said = honest.and_then(|honest| last_claim(&world, honest));
            match said {
                Some((_, _, line)) if trick == "again" => world.inject(host, line),
                Some((envelope, claim, _)) => {
                    let message = Message::Claim(Claim { user: "carol".parse().unwrap(), ..claim });
                    let envelope = Envelope { from: "carol@box:9".parse().unwrap(), message, ..envelope };
                    world.inject(host, Line::encode(&envelope).unwrap());
                }
                None => {}
            }
            if honest.is_some_and(|honest| is_member(&world, honest)) {
                break;
            }
            world.run_for(Duration::from_secs(1));
        }
        assert!(honest.is_some_and(|honest| is_member(&world, honest)), "{trick}");
    }
}

#[test]
fn calls_to_side_topics_that_nobody_opened_cost_little_and_show_nothing() {
    let mut world = World::new(1);
    let host = world.host(&["bob"]);
    let worker = world.worker("bob", 1);
    world.run_for(SOON);
    let me = world.me_of(host).clone();
    for number in 0..200_u8 {
        let summon =
            Summon { user: "bob".parse().unwrap(), host: me.keys().machine, process: ProcessKey([number; 32]) };
        world.inject(host, said(Message::Summon(summon), &world));
        let prove = Prove { process: world.me_of(worker).keys().process, host: MachineKey([number; 32]) };
        world.inject(worker, said(Message::Prove(prove), &world));
    }
    world.run_for(MINUTE * 10);
    assert!(is_member(&world, worker));
    // A newcomer still gets in afterwards.
    let late = world.worker("bob", 1);
    world.run_for(MINUTE);
    assert!(is_member(&world, late));
}

fn said(message: Message, world: &World) -> Line {
    let from = "eve@box:99".parse().unwrap();
    Line::encode(&Envelope { from, sequence: 1, time: world.now().unix, message }).unwrap()
}

/// Each call lets bob leave and enter his topic; the host needs him to stay there for a while.
#[test]
fn a_stranger_who_calls_bob_all_the_time_does_not_keep_him_moving() {
    let mut world = World::new(1);
    let mut host = world.host(&["bob"]);
    let worker = world.worker("bob", 1);
    world.run_for(SOON);
    let (key, cluster) = (world.me_of(host).keys().machine, world.me_of(host).cluster.clone());
    world.kill(host);
    // A machine of his that knows her key, and has no word of hers.
    world.new_machine("bob");
    let kept = MemberKept { host: Some(key), ..MemberKept::default() };
    let client = world.client_trusting("bob", kept, 0, HostTrust::Login);
    let (process, topic) = (world.me_of(client).keys().process, admit_topic(&world, client));
    assert!(topic.starts_with(&format!("{cluster}/admit/bob/")) && is_member(&world, worker));
    let mut entered = Vec::new();
    for second in 0..120 {
        let before = world.attended(&topic);
        world.inject(client, said(Message::Prove(Prove { process, host: key }), &world));
        if world.attended(&topic) > before {
            entered.push(second);
        }
        world.run_for(Duration::from_secs(1));
    }
    let longest = entered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest >= 8 && entered.len() <= 30, "he enters at {entered:?}");
    host = world.host(&["bob"]);
    for _ in 0..60 {
        world.inject(client, said(Message::Prove(Prove { process, host: key }), &world));
        world.run_for(Duration::from_secs(1));
    }
    assert!(is_member(&world, client), "{:?}", world.host_reports(host));
}

/// Somebody tells bob of one more host after the other, faster than he can look, and of many whenever the real one calls him.
#[test]
fn a_flood_of_supposed_hosts_hides_the_real_one_for_two_minutes_at_most() {
    let mut world = World::new(1);
    let newcomer = world.worker("bob", 1);
    let process = world.me_of(newcomer).keys().process;
    let mut number = 0;
    let mut invent = |world: &mut World, count: usize| {
        for _ in 0..count {
            number += 1;
            let host = Identity::from_secret(&fresh_secret(number)).machine_key();
            world.inject(newcomer, said(Message::Prove(Prove { process, host }), world));
        }
    };
    let mut heard = 0;
    for step in 0..150 * limits::BOARD_LINES_PER_S {
        if step == 30 * limits::BOARD_LINES_PER_S {
            world.host(&["bob"]);
        }
        world.run_for(Duration::from_secs(1) / limits::BOARD_LINES_PER_S);
        let prove = |(_, _, line): &&(_, _, Line)| matches!(line.decode().unwrap().message, Message::Prove(_));
        let called = world.said[heard..].iter().filter(prove).count();
        heard = world.said.len();
        invent(&mut world, 1 + 40 * called);
    }
    assert!(is_member(&world, newcomer), "{:?}", admissions(&world, newcomer));
}

#[test]
fn a_beat_tells_who_hosts_before_anybody_is_believed() {
    let mut world = World::new(1);
    // A key that the board does not vouch for.
    world.new_machine("alice");
    let eve = world.host(&["bob"]);
    world.log_in_as(eve, "eve");
    let newcomer = world.worker("bob", 1);
    world.run_for(MINUTE * 3);
    let key = world.me_of(eve).keys().machine;
    let heard = |world: &World| {
        let key = |event: AdmissionEvent| if let AdmissionEvent::HostHeard { key } = event { Some(key) } else { None };
        admissions(world, newcomer).into_iter().filter_map(key).collect::<Vec<_>>()
    };
    assert_eq!(heard(&world), [key], "once, however many beats there are");
    // As many keys as somebody likes: a few are told of.
    let cluster = world.me_of(eve).cluster.clone();
    let (_, beat) = last_beat(&world, eve);
    for number in 0..100 {
        let identity = Identity::from_secret(&fresh_secret(number));
        let beat = Beat { host: identity.machine_key(), time: world.now().unix, ..beat.clone() };
        world.inject(newcomer, said(Message::Beat(beat.sign(&identity, &cluster)), &world));
    }
    assert_eq!(heard(&world).len(), limits::HOSTS_WAITING);
    assert_eq!(world.kept(newcomer).host, None);
}

#[test]
fn who_poses_as_the_host_is_not_believed_by_newcomers() {
    let mut world = World::new(1);
    world.new_machine("alice");
    let eve = world.host(&["bob"]);
    world.log_in_as(eve, "eve");
    let newcomer = world.worker("bob", 1);
    world.run_for(Duration::from_secs(3));
    // Even where the server lets her into his side topic.
    let (me, host) = (world.me_of(newcomer).clone(), world.me_of(eve).keys().machine);
    world.intrude(eve, &me.cluster.host_topic(&me.user, host, me.keys().process));
    world.run_for(MINUTE);
    assert_eq!((is_member(&world, newcomer), world.kept(newcomer).host), (false, None));
    let imposter = |event: &AdmissionEvent| matches!(event, AdmissionEvent::Imposter { key, .. } if *key == host);
    assert!(admissions(&world, newcomer).iter().any(imposter), "{:?}", admissions(&world, newcomer));
    // When alice comes, he finds her beside eve.
    world.new_machine("alice");
    let alice = world.host(&["bob"]);
    world.run_for(MINUTE * 2);
    assert_eq!(
        world.kept(newcomer).host,
        Some(world.me_of(alice).keys().machine),
        "{:?}",
        admissions(&world, newcomer)
    );
}

#[test]
fn with_a_named_key_nobody_else_is_believed_whatever_the_board_shows_and_at_first_sight_anybody_is() {
    let mut world = World::new(1);
    world.new_machine("alice");
    // The board's operator herself: logged in as alice.
    let eve = world.host(&["bob", "carol"]);
    let alice = Identity::from_secret(&[200; 32]).machine_key();
    let named = HostTrust::Named(Fingerprint::from(alice));
    let careful = world.worker_trusting("bob", offer(1, &["r"]), None, named);
    let trusting = world.worker_trusting("carol", offer(1, &["r"]), None, HostTrust::FirstSight);
    world.run_for(MINUTE);
    assert!(!is_member(&world, careful));
    let other = |event: &AdmissionEvent| matches!(event, AdmissionEvent::OtherHost { .. });
    assert!(admissions(&world, careful).iter().any(other), "{:?}", admissions(&world, careful));
    // This is the limit of first sight.
    assert_eq!(world.kept(trusting).host, Some(world.me_of(eve).keys().machine));
}

#[test]
fn where_there_is_no_host_each_machine_signs_for_itself_and_those_of_hosts_are_strangers() {
    let mut world = World::new(1);
    let trusting =
        |world: &mut World, user: &str| world.client_trusting(user, MemberKept::default(), 0, HostTrust::NoHost);
    let worker = world.worker_trusting("bob", offer(1, &["r"]), None, HostTrust::NoHost);
    let client = trusting(&mut world, "dave");
    world.submit(client, task(1));
    world.run_until(SOON, World::all_done);
    // One that waits for a host is believed as little as it believes others.
    let waiting = world.client("carol");
    world.submit(waiting, task(1));
    world.run_for(MINUTE);
    assert!(!world.all_done(), "who was signed by nobody has run something");
    // Now she comes, with one of her own, and signs for those who wait for her.
    world.host(&["bob", "carol"]);
    world.new_machine("bob");
    let hers = world.worker("bob", 1);
    world.run_until(MINUTE, World::all_done);
    assert!(world.worker_reports(hers).iter().any(|report| matches!(report, WorkerReport::Linked { .. })));
    assert!(admissions(&world, worker).is_empty(), "{:?}", admissions(&world, worker));
    // A clock that is set right is followed at once, and signatures are renewed for as long as it lasts.
    for skew in [-100_000, 0] {
        world.set_skew(worker, skew);
        world.run_for(MINUTE);
    }
    world.run_for(limits::MEMBERSHIP_TTL * 2);
    let late = trusting(&mut world, "dave");
    world.submit(late, task(1));
    world.run_until(MINUTE, World::all_done);
}

#[test]
fn who_is_approved_by_hand_gets_in_and_nobody_before() {
    let mut world = World::new(1);
    let config = HostConfig { admit: AdmitBy::Hand, ..HostConfig::of(["bob".parse().unwrap()]) };
    let host = world.host_as(config, HostKept::default());
    let worker = world.worker("bob", 1);
    world.run_for(MINUTE);
    assert!(!is_member(&world, worker));
    let key = world.me_of(worker).keys().machine;
    let asked = |report: &HostReport| matches!(report, HostReport::Asked { machine, .. } if *machine == key);
    assert_eq!(world.host_reports(host).iter().filter(|report| asked(report)).count(), 1);
    let wrong = Fingerprint::from(Identity::from_secret(&[99; 32]).machine_key());
    world.host_input(host, HostInput::Approve("bob".parse().unwrap(), wrong));
    world.run_for(MINUTE);
    assert!(!is_member(&world, worker));
    world.host_input(host, HostInput::Approve("bob".parse().unwrap(), Fingerprint::from(key)));
    world.run_for(MINUTE);
    assert!(is_member(&world, worker));
}

/// Alice, bob's worker and carol's client at work on a long task.
fn at_work() -> (World, Peer, Peer, Peer) {
    let mut world = World::new(1);
    let host = world.host(&["bob", "carol", "dave"]);
    let worker = world.worker("bob", 1);
    let client = world.client("carol");
    world.run_for(SOON);
    world.submit(client, task(1_000_000_000));
    world.run_until(MINUTE, |world| world.links(client) == 1 && world.links(worker) == 1);
    world.run_for(SOON);
    (world, host, worker, client)
}

fn untrusted_at_client(world: &World, client: Peer) -> bool {
    let ended = |report: &ClientReport| matches!(report, ClientReport::Unlinked { error: LinkError::Untrusted(_), .. });
    world.client_reports(client).iter().any(ended)
}

fn untrusted_at_worker(world: &World, worker: Peer) -> bool {
    let ended = |report: &WorkerReport| matches!(report, WorkerReport::Unlinked { error: LinkError::Untrusted(_), .. });
    world.worker_reports(worker).iter().any(ended)
}

#[test]
fn a_removal_ends_links_within_five_seconds_on_both_sides() {
    // The client is taken off: his worker lets go. And the other way round.
    for stays in ["bob", "carol"] {
        let (mut world, host, worker, client) = at_work();
        world.host_input(host, HostInput::Users(vec![stays.parse().unwrap()]));
        world.run_until(CUT, |world| world.links(worker) == 0 && world.links(client) == 0);
        let told = |world: &World| match stays {
            "bob" => untrusted_at_worker(world, worker),
            _ => untrusted_at_client(world, client),
        };
        assert!(told(&world), "{stays}");
        let removed = if stays == "bob" { client } else { worker };
        assert!(!is_member(&world, removed), "whoever was removed keeps nothing");
        world.run_for(MINUTE * 10);
        assert_eq!(world.links(worker), 0, "it came back");
    }
}

#[test]
fn who_was_removed_and_hears_nothing_of_it_is_let_go_all_the_same() {
    let (mut world, host, worker, client) = at_work();
    // The client does not hear the board any more.
    world.set_group(client, 1);
    world.host_input(host, HostInput::Users(vec!["bob".parse().unwrap()]));
    world.run_until(CUT, |world| world.links(worker) == 0);
    assert!(untrusted_at_worker(&world, worker));
}

#[test]
fn one_machine_of_a_user_is_removed_and_the_other_stays() {
    let mut world = World::new(1);
    let host = world.host(&["bob"]);
    let first = world.worker("bob", 1);
    let second = bob(&mut world);
    world.run_for(SOON);
    let key = Fingerprint::from(world.me_of(first).keys().machine);
    world.host_input(host, HostInput::Forget("bob".parse().unwrap(), Some(key)));
    world.run_for(CUT);
    assert!(admissions(&world, first).contains(&AdmissionEvent::Removed));
    assert!(!admissions(&world, second).contains(&AdmissionEvent::Removed));
    assert!(is_member(&world, second));
}

#[test]
fn a_removal_is_remembered_by_all_after_any_restart_and_old_beats_undo_nothing() {
    let (mut world, host, worker, client) = at_work();
    let beats: Vec<Line> =
        world.said.iter().filter(|(_, who, _)| *who == host).map(|(_, _, line)| line.clone()).collect();
    let membership = world.kept(client).membership.clone();
    world.host_input(host, HostInput::Users(vec!["bob".parse().unwrap()]));
    world.run_for(CUT);
    // Carol keeps what was signed for her before, and so does whoever stole it.
    let mut stolen = world.kept(client).clone();
    stolen.membership = membership;
    stolen.removals.clear();
    stolen.serial = 0;
    let kept = world.roster(host);
    assert!(kept.removals.iter().any(|removal| removal.machine == world.me_of(client).keys().machine));
    world.kill(host);
    world.kill(client);
    world.kill(worker);
    let again = world.worker_with("bob", offer(1, &["r"]), Some(worker));
    world.run_for(SOON);
    for line in &beats {
        world.inject(again, line.clone());
    }
    let carol = world.client_keeping("carol", stolen, 0);
    world.submit(carol, task(1));
    world.run_for(MINUTE * 3);
    assert_eq!(world.links(again), 0, "a removed member was served");
    // A host who starts from an older copy of her folder counts on from the calendar.
    let old = HostKept { serial: 1, ..kept };
    let host = world.host_with(&["bob"], old);
    world.run_for(MINUTE);
    let late = bob(&mut world);
    world.run_for(MINUTE);
    assert!(is_member(&world, late) && is_member(&world, again));
    assert!(world.roster(host).serial >= world.now().unix - 600);
}

#[test]
fn a_membership_that_ends_ends_its_links_and_is_told_from_half_time() {
    let (mut world, host, worker, client) = at_work();
    world.kill(host);
    world.run_for(limits::HOST_AWAY + SOON);
    assert!(admissions(&world, worker).contains(&AdmissionEvent::HostAway));
    world.run_for(limits::MEMBERSHIP_TTL / 2);
    let ending = |event: &AdmissionEvent| matches!(event, AdmissionEvent::Ending { .. });
    assert!(admissions(&world, worker).iter().any(ending), "{:?}", admissions(&world, worker));
    assert_eq!(world.links(client), 1, "running links go on while she is away");
    world.run_for(limits::MEMBERSHIP_TTL / 2 + limits::CLOCK_SKEW + MINUTE);
    assert_eq!((world.links(worker), world.links(client)), (0, 0));
    assert!(untrusted_at_worker(&world, worker) || untrusted_at_client(&world, client));
}

#[test]
fn links_live_on_when_memberships_are_renewed() {
    let (mut world, _, worker, client) = at_work();
    world.run_for(limits::MEMBERSHIP_TTL * 3);
    assert_eq!((world.links(worker), world.links(client)), (1, 1));
    let unlinked = |report: &ClientReport| matches!(report, ClientReport::Unlinked { .. });
    assert!(!world.client_reports(client).iter().any(unlinked));
}

#[test]
fn a_worker_that_serves_fewer_lets_the_others_go() {
    let (mut world, _, worker, client) = at_work();
    world.worker_input(worker, WorkerInput::Allow(Some(["dave".parse().unwrap()].into())));
    world.run_until(CUT, |world| world.links(worker) == 0 && world.links(client) == 0);
    assert!(untrusted_at_worker(&world, worker));
    world.worker_input(worker, WorkerInput::Allow(None));
    world.run_until(MINUTE * 10, |world| world.links(worker) == 1);
}

/// More removals at once than a beat has room for.
#[test]
fn many_removals_at_once_are_all_heard_within_seconds() {
    let mut world = World::new(1);
    let machine = |number: u8, user: u8| {
        let mut secret = [8; 32];
        (secret[0], secret[1]) = (number, user);
        Identity::from_secret(&secret).machine_key()
    };
    let users: Vec<String> = (0..3).map(|user| format!("user{user}")).collect();
    let mut members = Vec::new();
    for (at, user) in (0_u8..).zip(&users) {
        members.extend((0..50).map(|number| (user.parse().unwrap(), machine(number, at))));
    }
    let removed: Vec<MachineKey> = members.iter().map(|(_, machine)| *machine).collect();
    assert!(removed.len() > 3 * limits::REMOVALS);
    let kept = HostKept { members, ..HostKept::default() };
    let names: Vec<&str> = users.iter().map(String::as_str).chain(["bob"]).collect();
    let host = world.host_with(&names, kept);
    let worker = world.worker("bob", 1);
    world.run_for(SOON);
    world.host_input(host, HostInput::Users(vec!["bob".parse().unwrap()]));
    world.run_for(CUT);
    let known = world.kept(worker).removals.clone();
    assert!(removed.iter().all(|machine| known.iter().any(|(other, _)| other == machine)), "{} of 150", known.len());
}

#[test]
fn two_rosters_under_one_number_are_noticed() {
    let mut world = World::new(1);
    let host = world.host(&["bob"]);
    let worker = world.worker("bob", 1);
    world.run_for(MINUTE);
    let me = world.me_of(host).clone();
    let signed = world.said.iter().rev().find_map(|(_, who, line)| match line.decode().unwrap().message {
        Message::Beat(beat) if *who == host => Some(beat),
        _ => None,
    });
    let mut beat = p2p_proto::board::message::Beat::verify(&signed.unwrap(), &me.cluster).unwrap();
    beat.roster = Some([1; 32]);
    beat.time = world.now().unix;
    let forked = Message::Beat(beat.sign(&me.identity, &me.cluster));
    world.inject(worker, said(forked, &world));
    assert!(admissions(&world, worker).contains(&AdmissionEvent::Forked), "{:?}", admissions(&world, worker));
}

#[test]
fn a_user_has_so_many_machines_and_no_more() {
    let mut world = World::new(1);
    let members = (0..limits::MACHINES_PER_USER).map(|number| {
        let mut secret = [8; 32];
        secret[0] = u8::try_from(number).unwrap();
        ("bob".parse().unwrap(), Identity::from_secret(&secret).machine_key())
    });
    let kept = HostKept { members: members.collect(), ..HostKept::default() };
    let host = world.host_with(&["bob"], kept);
    let worker = world.worker("bob", 1);
    world.run_for(MINUTE);
    assert!(!is_member(&world, worker));
    let refused = AdmissionEvent::Denied(DenyReason::TooManyMachines);
    assert!(admissions(&world, worker).contains(&refused), "{:?}", admissions(&world, worker));
    world.host_input(host, HostInput::Forget("bob".parse().unwrap(), None));
    world.run_for(MINUTE);
    assert!(is_member(&world, worker));
}
