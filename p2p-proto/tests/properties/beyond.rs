//! What is at its bound is read, and one more is not: whoever sent it.

use p2p_proto::board::Line;
use p2p_proto::board::message::{Beat, Envelope, Hello, Message, Offer, Seek};
use p2p_proto::ids::{ClusterName, PeerName, ProcessKey, Role, UserName};
use p2p_proto::limits;
use p2p_proto::link::setup::Answer;
use p2p_proto::link::{Hint, Hints, TransitKey};
use p2p_proto::trust::{Credentials, Identity, Membership, MembershipClaims, ProcessCertificate};

/// Each makes one thing as large as asked for.
type Sized<T> = fn(usize) -> T;

#[track_caller]
fn bounded(what: &str, limit: usize, reads: impl Fn(usize) -> bool) {
    assert!(reads(limit), "{what}: {limit} are allowed");
    assert!(!reads(limit + 1), "{what}: {limit} are the bound, and one more was read");
}

fn identity() -> Identity {
    Identity::from_secret(&[1; 32])
}

fn cluster() -> ClusterName {
    "alice/friends".parse().unwrap()
}

fn reads(message: Message) -> bool {
    let envelope = Envelope { from: "bob@box:1".parse().unwrap(), sequence: 1, time: 1, message };
    Line::encode(&envelope).is_ok_and(|line| line.decode().is_ok())
}

fn hello(offer: Offer) -> Message {
    let (identity, process) = (identity(), ProcessKey([2; 32]));
    let machine = identity.machine_key();
    let claims =
        MembershipClaims { host: machine, user: "bob".parse().unwrap(), machine, serial: 1, from: 1, until: 2 };
    let membership = Membership::sign(&identity, &cluster(), &claims);
    let certificate = ProcessCertificate::sign(&identity, &cluster(), Role::Worker, process, 1, 2);
    let credentials = Credentials { membership, certificate };
    let (role, version, offer) = (Role::Worker, p2p_proto::VERSION, Some(offer));
    Message::Hello(Hello { credentials, process, role, version, offer, ttl_s: 1 })
}

#[test]
fn an_offer_keeps_its_bounds() {
    let table: [(&str, usize, Sized<Offer>); 5] = [
        ("slots", limits::SLOTS as usize, |n| Offer { slots: u32::try_from(n).unwrap(), ..Offer::default() }),
        ("runtimes", limits::RUNTIMES, |n| Offer { runtimes: vec!["r".to_owned(); n], ..Offer::default() }),
        ("a runtime", limits::RUNTIME_BYTES, |n| Offer { runtimes: vec!["r".repeat(n)], ..Offer::default() }),
        ("labels", limits::LABELS, |n| Offer { labels: vec!["l".to_owned(); n], ..Offer::default() }),
        ("a label", limits::LABEL_BYTES, |n| Offer { labels: vec!["l".repeat(n)], ..Offer::default() }),
    ];
    for (what, limit, offer) in table {
        bounded(what, limit, |size| reads(hello(offer(size))));
    }
    bounded("a runtime that is sought", limits::RUNTIME_BYTES, |size| {
        reads(Message::Seek(Seek { runtime: "r".repeat(size), answers: 1 }))
    });
}

#[test]
fn a_beat_names_so_many_removals() {
    bounded("removals", limits::REMOVALS, |count| {
        let (host, removals) = (identity().machine_key(), vec![(identity().machine_key(), 1); count]);
        let beat =
            Beat { host, peers: 1, serial: 1, removals, roster: None, time: 1, since: 0, rival: None, leaving: false };
        Beat::verify(&beat.sign(&identity(), &cluster()), &cluster()).is_ok()
    });
}

#[test]
fn hints_keep_their_bounds() {
    let reads =
        |hints| Answer::from_cbor(&Answer { hints: Hints(hints), transit_key: TransitKey([0; 32]) }.to_cbor()).is_ok();
    let relay = |size| Hint::Relay { host: "h".repeat(size), port: 1 };
    bounded("hints", limits::HINTS, |count| reads(vec![relay(1); count]));
    bounded("a relay's name", limits::RELAY_HOST_BYTES, |size| reads(vec![relay(size)]));
}

#[test]
fn names_keep_their_bounds() {
    bounded("a user's name", limits::USER_BYTES, |size| "u".repeat(size).parse::<UserName>().is_ok());
    bounded("a cluster's name", limits::CLUSTER_NAME_BYTES, |size| {
        format!("alice/{}", "c".repeat(size)).parse::<ClusterName>().is_ok()
    });
    let long = PeerName::new(&"bob".parse().unwrap(), &"h".repeat(limits::HOSTNAME_BYTES + 1), 1);
    assert_eq!(long.to_string(), format!("bob@{}:1", "h".repeat(limits::HOSTNAME_BYTES)), "it is cut");
}
