//! Who belongs: first sight, other keys, refusals, renewal, and a start with what was kept (T-01, T-03).

use std::time::Duration;

use p2p_proto::board::message::{Beat, DenyReason};
use p2p_proto::board::{Envelope, Line, Message};
use p2p_proto::limits;
use p2p_proto::trust::{Identity, Membership, MembershipClaims};
use p2p_scheduler::ClientReport;
use p2p_scheduler::machine::admission::AdmissionEvent;
use p2p_scheduler::machine::host::{HostInput, HostReport};
use p2p_scheduler::{Waiting, WorkerReport};

use p2p_simulator::world::{CLUSTER, Peer, World, offer, task};

const SOON: Duration = Duration::from_secs(5);

fn admissions(world: &World, worker: Peer) -> Vec<AdmissionEvent> {
    let event = |report: &WorkerReport| match report {
        // A hint for programs.
        WorkerReport::Admission(AdmissionEvent::HostHeard { .. }) => None,
        WorkerReport::Admission(event) => Some(event.clone()),
        _ => None,
    };
    world.worker_reports(worker).iter().filter_map(event).collect()
}

fn claims(world: &World, from: Peer) -> usize {
    let is_claim = |line: &Line| matches!(line.decode().unwrap().message, Message::Claim(_));
    world.said.iter().filter(|(_, who, line)| *who == from && is_claim(line)).count()
}

/// A beat that somebody signs as host with a key of his own.
fn foreign_beat(world: &World, peers: u32) -> Line {
    let stranger = Identity::from_secret(&[77; 32]);
    let time = world.now().unix;
    let beat = Beat {
        host: stranger.machine_key(),
        peers,
        serial: 9,
        removals: Vec::new(),
        roster: None,
        time,
        since: 0,
        rival: None,
        leaving: false,
    };
    let message = Message::Beat(beat.sign(&stranger, &CLUSTER.parse().unwrap()));
    Line::encode(&Envelope { from: "alice@box:99".parse().unwrap(), sequence: 1, time, message }).unwrap()
}

#[test]
fn the_first_host_is_pinned_and_another_key_reported_once_and_ignored() {
    let mut world = World::new(1);
    let host = world.host(&["bob"]);
    let worker = world.worker("bob", 1);
    world.run_for(SOON);
    let key = world.me_of(host).keys().machine;
    let seen = admissions(&world, worker);
    assert!(
        matches!(&seen[..], [AdmissionEvent::Admitted { host, first_sight: true, .. }] if *host == key),
        "{seen:?}"
    );
    for _ in 0..3 {
        world.inject(worker, foreign_beat(&world, 1));
    }
    let seen = admissions(&world, worker);
    assert!(matches!(&seen[1..], [AdmissionEvent::OtherHost { pinned, .. }] if pinned.fits(key)), "{seen:?}");
    assert_eq!(world.kept(worker).host, Some(key), "the pin has moved");
}

#[test]
fn a_stranger_who_signs_as_host_silences_nobody() {
    let mut world = World::new(1);
    let worker = world.worker("bob", 1);
    world.run_for(SOON);
    world.inject(worker, foreign_beat(&world, u32::MAX));
    let before = claims(&world, worker);
    world.run_for(Duration::from_secs(120));
    assert!(claims(&world, worker) > before + 2, "a forged number of peers keeps a worker from claiming");
}

#[test]
fn who_is_not_listed_is_told_so_and_let_in_once_he_is() {
    let mut world = World::new(1);
    let first = world.host(&["bob"]);
    let client = world.client("dave");
    world.submit(client, task(1));
    world.run_for(SOON);
    assert_eq!(world.waiting(client), Some(Waiting::Denied(CLUSTER.parse().unwrap(), DenyReason::NotListed)));
    let denied = |report: &&ClientReport| matches!(report, ClientReport::Admission(AdmissionEvent::Denied(_)));
    world.run_for(Duration::from_secs(100));
    assert_eq!(world.client_reports(client).iter().filter(denied).count(), 1, "one refusal is told once");
    let refused = |report: &&HostReport| matches!(report, HostReport::Refused { why: DenyReason::NotListed, .. });
    assert!(world.host_reports(first).iter().filter(refused).count() >= 1);
    // She starts again with his name on the list.
    world.host_input(first, HostInput::Leave);
    world.kill(first);
    world.host(&["bob", "dave"]);
    world.run_for(Duration::from_secs(35));
    assert_eq!(world.waiting(client), Some(Waiting::NoWorkers(CLUSTER.parse().unwrap())));
}

#[test]
fn every_machine_of_a_user_gets_in_by_his_login_and_is_known_after_a_restart_of_the_host() {
    let mut world = World::new(1);
    let host = world.host(&["bob"]);
    let first = world.worker("bob", 1);
    world.new_machine("bob");
    let second = world.worker("bob", 1);
    world.run_for(SOON);
    for worker in [first, second] {
        assert!(matches!(admissions(&world, worker)[..], [AdmissionEvent::Admitted { .. }]), "{worker}");
    }
    let kept = world.roster(host);
    world.kill(host);
    let host = world.host_with(&["bob"], kept);
    let again = world.worker("bob", 1);
    world.run_for(SOON);
    assert!(matches!(admissions(&world, again)[..], [AdmissionEvent::Admitted { .. }]));
    let first_time = |report: &HostReport| matches!(report, HostReport::Admitted { first_time: true, .. });
    assert!(!world.host_reports(host).iter().any(first_time), "she had to be shown what she knew");
}

#[test]
fn a_claim_is_repeated_ever_more_rarely_until_the_host_comes() {
    let mut world = World::new(1);
    let worker = world.worker("bob", 1);
    world.run_for(Duration::from_secs(300));
    let said = claims(&world, worker);
    assert!((10..20).contains(&said), "{said} claims in five minutes");
    world.host(&["bob"]);
    world.run_for(SOON);
    let seen = admissions(&world, worker);
    assert!(
        matches!(seen[..], [AdmissionEvent::HostAway, AdmissionEvent::Admitted { .. }, ..]),
        "her first beat is answered: {seen:?}"
    );
}

#[test]
fn a_membership_is_renewed_at_half_of_its_life_whether_it_is_new_or_was_kept() {
    let mut world = World::new(1);
    world.host(&["bob"]);
    let first = world.worker("bob", 1);
    world.run_for(SOON);
    // A start with what was kept claims nothing at first.
    let second = world.worker_with("bob", offer(1, &["r"]), Some(first));
    world.run_for(SOON);
    assert_eq!((claims(&world, first), claims(&world, second)), (1, 0));
    world.run_for(limits::MEMBERSHIP_TTL * 6 / 10);
    assert_eq!((claims(&world, first), claims(&world, second)), (2, 1));
    world.run_for(limits::MEMBERSHIP_TTL * 3);
    for worker in [first, second] {
        let membership = &world.kept(worker).membership;
        let held = membership.as_ref().unwrap().verify_first_sight(&CLUSTER.parse().unwrap(), world.now().unix);
        assert!(held.is_ok(), "it ran out: {held:?}");
    }
}

#[test]
fn what_was_kept_and_does_not_hold_any_more_is_not_used() {
    let mut world = World::new(1);
    let host = world.host(&["bob"]);
    let worker = world.worker("bob", 1);
    world.run_for(SOON);
    world.kill(host);
    world.kill(worker);
    world.run_for(limits::MEMBERSHIP_TTL * 2);
    let late = world.client_with("bob", Some(worker));
    world.submit(late, task(1));
    world.run_for(SOON);
    assert_eq!(world.waiting(late), Some(Waiting::Unsigned(CLUSTER.parse().unwrap())));
}

#[test]
fn an_admission_for_somebody_else_or_by_another_host_changes_nothing() {
    let mut world = World::new(1);
    world.host(&["bob"]);
    let worker = world.worker("bob", 1);
    world.run_for(SOON);
    let kept = world.kept(worker).clone();
    let keys = world.me_of(worker).keys();
    let stranger = Identity::from_secret(&[77; 32]);
    let unix = world.now().unix;
    let claims = MembershipClaims {
        host: stranger.machine_key(),
        user: "bob".parse().unwrap(),
        machine: keys.machine,
        serial: 99,
        from: unix,
        until: unix + 1000,
    };
    let membership = Membership::sign(&stranger, &CLUSTER.parse().unwrap(), &claims);
    let admit = p2p_proto::board::message::Admit { process: keys.process, membership };
    let envelope =
        Envelope { from: "alice@box:99".parse().unwrap(), sequence: 1, time: unix, message: Message::Admit(admit) };
    world.inject(worker, Line::encode(&envelope).unwrap());
    assert_eq!(*world.kept(worker), kept);
}
