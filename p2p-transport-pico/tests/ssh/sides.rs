//! Side topics (T-02): the server's own word on who is there, and the owner's list that may change.

use std::time::Duration;

use async_std::future::timeout;
use async_std::task::{self, block_on};
use p2p_proto::board::{Board, BoardEvent, Sighting, Watch, Witness};
use p2p_transport_pico::{OwnerBoard, PicoBoard, Topic};
use std::sync::Arc;

use crate::kit::{DEADLINE, next, until, until_up, wait_until};
use crate::server::Kind;
use crate::site::{Site, TOPIC};

const SIDE: &str = "alice/friends/admit/bob/0123456789abcdef0123456789abcdef/0123456789abcdef";
/// For this long nobody is seen who is not there.
const A_WHILE: Duration = Duration::from_secs(2);

crate::on_both!(
    a_guest_is_seen_by_his_login,
    somebody_else_is_seen_and_named,
    a_second_session_spoils_it,
    the_owner_is_a_guest_in_a_newcomers_topic,
    only_a_hubs_login_is_a_proof_unless_she_says_so,
    the_owners_list_changes_while_members_stay,
);

/// What this user can have the server say.
fn witness(site: &Site, user: &str, believe_logins: bool) -> (PicoBoard, Arc<dyn Witness>) {
    let mut config = site.config(user);
    config.believe_logins = believe_logins;
    let topic = Topic { name: format!("{user}/elsewhere"), access: None, twin: None, after_host: false };
    let board = PicoBoard::join(config, topic);
    let witness = board.witness().expect("this board has a witness");
    (board, witness)
}

async fn open(site: &Site, user: &str, topic: &str, guest: &str) -> Box<dyn Watch> {
    let (_board, witness) = witness(site, user, true);
    let opened = timeout(DEADLINE, witness.open(topic, &guest.parse().unwrap())).await.expect("it opens in time");
    opened.map_err(|seen| format!("{seen:?}")).unwrap()
}

/// Goes to a topic and stays there.
fn attend(site: &Site, user: &str, topic: &'static str) -> task::JoinHandle<()> {
    let (_board, witness) = witness(site, user, true);
    task::spawn(async move { witness.attend(topic).await })
}

async fn seen(watch: &mut Box<dyn Watch>) -> Sighting {
    timeout(DEADLINE, watch.sighting()).await.expect("somebody is seen in time")
}

fn a_guest_is_seen_by_his_login(site: Site) {
    block_on(async {
        let mut watch = open(&site, "alice", SIDE, "bob").await;
        assert!(timeout(A_WHILE, watch.sighting()).await.is_err(), "nobody is there yet");
        let guest = attend(&site, "bob", SIDE);
        assert_eq!(seen(&mut watch).await, Sighting::Guest);
        guest.cancel().await;
        // The same again, as after a proof that failed.
        drop(watch);
        let mut watch = open(&site, "alice", SIDE, "bob").await;
        let guest = attend(&site, "bob", SIDE);
        assert_eq!(seen(&mut watch).await, Sighting::Guest);
        guest.cancel().await;
    });
}

fn somebody_else_is_seen_and_named(site: Site) {
    block_on(async {
        let mut watch = open(&site, "alice", SIDE, "bob").await;
        let eve = attend(&site, "mallory", SIDE);
        if site.kind == Kind::Hub {
            // She is somewhere else.
            assert!(timeout(A_WHILE, watch.sighting()).await.is_err(), "she is in");
        } else {
            // Let in by the server's fault, as everybody is once.
            let Sighting::Others(names) = seen(&mut watch).await else { panic!("she passes as bob") };
            assert!(names.len() == 1 && names[0].starts_with("mallory"), "{names:?}");
        }
        eve.cancel().await;
    });
}

/// A certificate says what it likes about itself: beside the account's name, or as lines of the answer. The hub takes none.
#[test]
#[ignore = "needs P2P_PICO_SERVER: docs/pico.md"]
fn a_certificate_passes_as_nobody_else() {
    for id in ["bob", "x@1.1.1.1:1)\r\n  - 0a (bob", "x@1.1.1.1:1)\r\n- elsewhere:\r\n  Pipes:\r\n  - 0b (bob"] {
        let site = Site::start(Kind::Pico);
        block_on(async {
            let mut watch = open(&site, "alice", SIDE, "bob").await;
            site.sign("mallory", "stranger", id);
            let _stranger = site.plain("stranger", &format!("{SIDE} -c"));
            let sighting = seen(&mut watch).await;
            assert_ne!(sighting, Sighting::Guest, "mallory passes as bob by the key id {id:?}");
            let told = format!("{sighting:?}");
            assert!(told.contains("mallory") || told.contains("imitates"), "{id:?}: {told}");
        });
    }
}

fn a_second_session_spoils_it(site: Site) {
    // A hub lets in nobody who is not on the list, but him as often as he likes.
    let second = if site.kind == Kind::Hub { "bob" } else { "mallory" };
    block_on(async {
        let mut watch = open(&site, "alice", SIDE, "bob").await;
        let (guest, other) = (attend(&site, "bob", SIDE), attend(&site, second, SIDE));
        wait_until("both are there", async || {
            site.listing("alice").await.topic(SIDE).is_some_and(|topic| topic.clients().count() == 3)
        })
        .await;
        for _ in 0..5 {
            let Sighting::Others(names) = seen(&mut watch).await else { panic!("bob is believed beside another") };
            assert!(names.len() == 2 && names.iter().any(|name| name.starts_with(second)), "{names:?}");
        }
        other.cancel().await;
        guest.cancel().await;
    });
}

fn the_owner_is_a_guest_in_a_newcomers_topic(site: Site) {
    const HERS: &str = "bob/alice/friends/host/0123456789abcdef0123456789abcdef/0123456789abcdef";
    block_on(async {
        let mut watch = open(&site, "bob", HERS, "alice").await;
        let host = attend(&site, "alice", HERS);
        assert_eq!(seen(&mut watch).await, Sighting::Guest);
        host.cancel().await;
    });
}

fn only_a_hubs_login_is_a_proof_unless_she_says_so(site: Site) {
    block_on(async {
        let (_board, witness) = witness(&site, "alice", false);
        let opened = timeout(DEADLINE, witness.open(SIDE, &"bob".parse().unwrap())).await.expect("an answer in time");
        match (site.kind, opened) {
            (Kind::Hub, Ok(_)) => {}
            (Kind::Pico, Err(Sighting::Unavailable(why))) => assert!(why.contains("not a hub"), "{why}"),
            (_, Ok(_)) => panic!("any server is believed"),
            (_, Err(seen)) => panic!("{seen:?}"),
        }
    });
}

fn the_owners_list_changes_while_members_stay(site: Site) {
    block_on(async {
        let users = |names: &[&str]| names.iter().map(|user| user.parse().unwrap()).collect::<Vec<_>>();
        let host = OwnerBoard::open(site.config("alice"), TOPIC.to_owned(), users(&["bob"]));
        assert_eq!(next(&host).await, BoardEvent::Up);
        let (guest, other) = (site.guest("bob"), site.guest("carol"));
        until_up(&guest).await;
        until(&other, |event| matches!(event, BoardEvent::Misrouted { .. })).await;
        host.set_users(users(&["bob", "carol"])).await;
        until_up(&host).await;
        until_up(&other).await;
        site.settled(3, &["bob", "carol"]).await;
        drop(other);
        host.set_users(users(&["bob"])).await;
        until_up(&host).await;
        site.settled(2, &["bob"]).await;
        let other = site.guest("carol");
        until(&other, |event| matches!(event, BoardEvent::Misrouted { .. })).await;
    });
}
