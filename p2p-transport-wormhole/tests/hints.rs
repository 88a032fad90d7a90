//! Which addresses are offered and which are dialled (L-07).

use std::net::{IpAddr, SocketAddr};

use p2p_proto::limits;
use p2p_proto::link::{Hint, Hints};
use p2p_transport_wormhole::RelayAddress;
use p2p_transport_wormhole::hints::Policy;

fn own(addresses: &[&str]) -> Vec<(IpAddr, u8)> {
    let parse = |address: &&str| {
        let (ip, prefix) = address.split_once('/').unwrap();
        (ip.parse().unwrap(), prefix.parse().unwrap())
    };
    addresses.iter().map(parse).collect()
}

const LOOPBACK: [&str; 2] = ["127.0.0.1/8", "::1/128"];
const HOME: [&str; 6] =
    ["127.0.0.1/8", "::1/128", "192.168.1.10/24", "fd12:3456::10/64", "2a01:4f8::10/64", "fe80::10/64"];

fn home() -> Policy {
    Policy { own: own(&HOME), direct: true, relays: vec![relay("tcp:relay.example.org:4001")], ..Policy::default() }
}

fn alone() -> Policy {
    Policy { own: own(&LOOPBACK), direct: true, ..Policy::default() }
}

fn relay(text: &str) -> RelayAddress {
    text.parse().unwrap()
}

fn direct(addresses: &[&str]) -> Hints {
    Hints(addresses.iter().map(|address| Hint::Direct(address.parse().unwrap())).collect())
}

fn dialled(policy: &Policy, address: &str) -> bool {
    let dials = policy.judge(&direct(&[address]));
    assert_eq!(dials.direct.len() + dials.refused.len(), 1, "{address}");
    !dials.direct.is_empty()
}

#[test]
fn what_is_dialled() {
    let home = home();
    let lan = Policy { lan: true, ..home.clone() };
    let anything = Policy { lan: true, loopback: true, ..home.clone() };
    // Address; at home; at home with --lan; with loopback allowed too.
    let table = [
        ("8.8.8.8:1000", true, true, true),
        ("[2001:4860::8888]:1000", true, true, true),
        ("[2a01:4f8::99]:1000", true, true, true),
        // In our own subnets, and our own addresses.
        ("192.168.1.99:1000", true, true, true),
        ("192.168.1.10:1000", true, true, true),
        ("[fd12:3456::99]:1000", true, true, true),
        ("[::ffff:192.168.1.99]:1000", true, true, true),
        // Private elsewhere.
        ("192.168.2.99:1000", false, true, true),
        ("10.0.0.1:1000", false, true, true),
        ("172.16.0.1:1000", false, true, true),
        ("172.31.255.254:1000", false, true, true),
        ("100.64.0.1:1000", false, true, true),
        ("198.18.0.1:1000", false, true, true),
        ("192.0.2.1:1000", false, true, true),
        ("[fd99::1]:1000", false, true, true),
        ("[fec0::1]:1000", false, true, true),
        ("[2001:db8::1]:1000", false, true, true),
        ("[::ffff:10.0.0.1]:1000", false, true, true),
        // Around private ranges.
        ("172.15.0.1:1000", true, true, true),
        ("172.32.0.1:1000", true, true, true),
        ("100.128.0.1:1000", true, true, true),
        ("192.167.255.255:1000", true, true, true),
        // Loopback.
        ("127.0.0.1:1000", false, false, true),
        ("127.1.2.3:1000", false, false, true),
        ("[::1]:1000", false, false, true),
        ("[::ffff:127.0.0.1]:1000", false, false, true),
        // Never.
        ("0.0.0.0:1000", false, false, false),
        ("0.1.2.3:1000", false, false, false),
        ("[::]:1000", false, false, false),
        ("[::ffff:0.0.0.0]:1000", false, false, false),
        ("224.0.0.1:1000", false, false, false),
        ("239.255.255.255:1000", false, false, false),
        ("[ff02::1]:1000", false, false, false),
        ("255.255.255.255:1000", false, false, false),
        ("192.168.1.255:1000", false, false, false),
        ("240.0.0.1:1000", false, false, false),
        ("169.254.169.254:1000", false, false, false),
        ("169.254.1.1:1000", false, false, false),
        ("[fe80::1]:1000", false, false, false),
        ("[fd00:ec2::254]:1000", false, false, false),
        ("[fd20:ce::254]:1000", false, false, false),
        ("100.100.100.200:1000", false, false, false),
        ("168.63.129.16:1000", false, false, false),
        ("[::ffff:169.254.169.254]:1000", false, false, false),
        ("[::ffff:100.100.100.200]:1000", false, false, false),
        ("[64:ff9b::8.8.8.8]:1000", true, true, true),
        ("[64:ff9b::169.254.169.254]:1000", false, false, false),
        ("[64:ff9b::10.0.0.1]:1000", false, false, false),
        ("[2002:808:808::1]:1000", true, true, true),
        ("[2002:7f00:1::1]:1000", false, false, false),
        ("[2001:0:1234::1]:1000", false, false, false),
        ("[::8.8.8.8]:1000", false, false, false),
        ("8.8.8.8:0", false, false, false),
    ];
    for (address, at_home, with_lan, with_all) in table {
        let found = (dialled(&home, address), dialled(&lan, address), dialled(&anything, address));
        assert_eq!(found, (at_home, with_lan, with_all), "{address}");
    }
}

#[test]
fn metadata_services_are_not_dialled_even_inside_a_subnet() {
    let cloud = own(&["fd00:ec2::1/32", "169.254.169.1/16", "100.100.100.1/24"]);
    let policy = Policy { own: cloud, lan: true, loopback: true, ..home() };
    for address in ["[fd00:ec2::254]:80", "169.254.169.254:80", "100.100.100.200:80"] {
        assert!(!dialled(&policy, address), "{address}");
    }
}

#[test]
fn loopback_is_for_machines_that_have_nothing_else() {
    assert!(dialled(&alone(), "127.0.0.1:1000"));
    assert!(dialled(&alone(), "[::1]:1000"));
    // A peer who has other addresses is on another machine.
    let mixed = alone().judge(&direct(&["127.0.0.1:1000", "8.8.8.8:1000"]));
    assert_eq!(mixed.direct, ["8.8.8.8:1000".parse().unwrap()]);
    // A link-local address is nothing that one could offer.
    let nearly = Policy { own: own(&["127.0.0.1/8", "fe80::1/64"]), ..alone() };
    assert!(dialled(&nearly, "127.0.0.1:1000"));
}

#[test]
fn nothing_is_dialled_directly_when_that_is_off() {
    let policy = Policy { direct: false, ..home() };
    assert!(!dialled(&policy, "8.8.8.8:1000"));
    assert!(policy.offer(Some(1), Some(2)).direct().next().is_none());
    assert_eq!(policy.offer(Some(1), Some(2)).relays().count(), 1);
}

#[test]
fn only_relays_of_our_own_list_are_used() {
    let relays =
        [("relay.example.org", 4001), ("RELAY.example.org", 4001), ("relay.example.org", 22), ("10.0.0.1", 4001)];
    let hints = relays.map(|(host, port)| Hint::Relay { host: host.to_owned(), port });
    let dials = home().judge(&Hints(hints.to_vec()));
    assert_eq!(dials.relays, [relay("tcp:relay.example.org:4001")]);
    assert_eq!(dials.refused.len(), 2);
}

#[test]
fn a_list_that_is_too_long_is_cut() {
    let many: Vec<Hint> = (1..=100).map(|port| Hint::Direct(SocketAddr::from(([8, 8, 8, 8], port)))).collect();
    assert_eq!(home().judge(&Hints(many)).direct.len(), limits::HINTS);
}

#[test]
fn the_same_address_is_dialled_once() {
    let dials = home().judge(&direct(&["8.8.8.8:1000", "[::ffff:8.8.8.8]:1000", "8.8.8.8:1000"]));
    assert_eq!(dials.direct.len(), 1);
}

#[test]
fn own_addresses_are_offered_public_first_and_loopback_only_alone() {
    let offered = home().offer(Some(4), Some(6));
    let expected =
        ["[2a01:4f8::10]:6", "192.168.1.10:4", "[fd12:3456::10]:6"].map(|a| a.parse::<SocketAddr>().unwrap());
    assert!(offered.direct().eq(expected), "{offered:?}");
    assert!(offered.relays().eq([("relay.example.org", 4001)]));
    assert!(offered.checked().is_ok());

    let expected = ["127.0.0.1:4", "[::1]:6"].map(|a| a.parse::<SocketAddr>().unwrap());
    assert!(alone().offer(Some(4), Some(6)).direct().eq(expected));
    // A port that is not open is not offered.
    assert!(alone().offer(None, Some(6)).direct().eq(expected.into_iter().skip(1)));
    assert_eq!(Policy { loopback: true, ..home() }.offer(Some(4), Some(6)).direct().count(), 5);
}

#[test]
fn offers_keep_the_bounds() {
    let many: Vec<_> = (0..100).map(|nth| (IpAddr::from([8, 8, 8, nth]), 24)).collect();
    let relays: Vec<_> = (1..100).map(|port| RelayAddress::new("relay.example.org", port).unwrap()).collect();
    let offered = Policy { own: many, relays, ..home() }.offer(Some(4), Some(6));
    assert_eq!(offered.0.len(), limits::HINTS);
    assert_eq!(offered.relays().count(), 4);
    assert!(offered.checked().is_ok());
}
