//! What pico's pipe does to those who live on it: each oddity on it and on the hub, which has some of them and spares people others.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_std::future::timeout;
use async_std::task::{block_on, sleep};
use futures::future::join_all;
use p2p_proto::board::message::Hello;
use p2p_proto::board::{Board, BoardEvent, Envelope, Line, Message};
use p2p_proto::ids::{PeerName, ProcessKey, Role};
use p2p_proto::trust::{Credentials, Identity, Membership, MembershipClaims, ProcessCertificate};
use p2p_transport_pico::{Listing, PicoBoard, Topic};

use crate::kit::{line, next, until, until_up, wait_until};
use crate::server::Kind;
use crate::site::{Site, TOPIC};

crate::on_both!(
    a_guest_who_leaves_leaves_the_list,
    an_older_client_takes_the_list_along_and_the_host_brings_it_back,
    a_guest_who_is_misrouted_meanwhile_finds_his_way_in_by_himself,
    an_older_session_of_the_host_that_closes_later_is_made_up_for,
    the_owners_own_processes_wait_for_the_host,
    fifty_come_back_each_at_his_own_moment,
    a_client_that_stops_reading_is_survived,
    what_others_leave_half_written_costs_nobody_a_line,
    a_line_that_is_too_long_and_bytes_that_are_no_text_cost_nobody_a_line,
    a_minute_of_silence_is_no_loss,
    the_host_is_told_of_a_stranger_whom_the_server_let_in,
    a_side_topic_shows_who_is_there_by_the_servers_own_login,
    a_key_without_an_account_is_told_so,
);

/// Nobody says a word when an older program enters and leaves: only her looks, which are rare then, tell the host. The hub keeps the list.
#[test]
#[ignore = "needs P2P_PICO_SERVER: docs/pico.md"]
fn a_list_that_goes_unseen_is_back_within_half_a_minute() {
    let site = Site::start(Kind::Pico);
    block_on(async {
        let (host, guest) = (site.host(&["bob", "carol"]), site.guest("carol"));
        until_up(&host).await;
        until_up(&guest).await;
        // By now she looks rarely; and she has just looked.
        sleep(Duration::from_secs(40)).await;
        drop(site.ssh("bob", &format!("pipe {TOPIC} -c"), Stdio::null()).wait());
        let left = Instant::now();
        site.settled(2, &[]).await;
        until(&host, |event| matches!(event, BoardEvent::Down { reason, .. } if reason.contains("has lost the list")))
            .await;
        until_up(&host).await;
        site.settled(2, &["bob", "carol"]).await;
        assert!(left.elapsed() < Duration::from_secs(30), "the list was back after {:?}", left.elapsed());
    });
}

/// Certificates are pico's only: the hub takes none.
mod certificates {
    use super::*;

    #[test]
    #[ignore = "needs P2P_PICO_SERVER: docs/pico.md"]
    fn a_certificate_that_imitates_the_list_deceives_nobody() {
        let site = Site::start(Kind::Pico);
        block_on(async {
            let host = site.host(&["bob", "carol"]);
            until_up(&host).await;
            let guest = site.guest("bob");
            until_up(&guest).await;
            let header = format!("- {TOPIC}: (Access List: bob)");
            let id = format!("x@1.1.1.1:1)\r\n{header}\r\n  Pipes:\r\n  - 0a (carol@1.1.1.1:2)\r\n  - 0b (alice");
            site.sign("mallory", "stranger", &id);
            let _stranger = site.plain("stranger", &format!("{TOPIC} -c"));
            // He is in, by the server's fault, under a name that forges a second topic.
            let warned = until(&host, |event| matches!(event, BoardEvent::Warning(_))).await;
            let BoardEvent::Warning(text) = warned else { unreachable!() };
            assert!(text.contains("listed twice") && text.contains("imitates"), "{text}");
            // Nobody is thrown out for it.
            guest.publish(line(1)).unwrap();
            assert_eq!(until(&host, |event| !matches!(event, BoardEvent::Warning(_))).await, BoardEvent::Line(line(1)));
        });
    }

    #[test]
    #[ignore = "needs P2P_PICO_SERVER: docs/pico.md"]
    fn the_account_behind_a_certificate_is_named() {
        let site = Site::start(Kind::Pico);
        block_on(async {
            let host = site.host(&["bob"]);
            until_up(&host).await;
            site.sign("mallory", "stranger", "bob");
            let _stranger = site.plain("stranger", &format!("{TOPIC} -c"));
            let warned = until(&host, |event| matches!(event, BoardEvent::Warning(_))).await;
            let BoardEvent::Warning(text) = warned else { unreachable!() };
            assert!(text.starts_with("mallory-bob (from 127.0.0.1:"), "{text}");
        });
    }
}

fn a_guest_who_leaves_leaves_the_list(site: Site) {
    block_on(async {
        let host = site.host(&["bob", "carol"]);
        until_up(&host).await;
        let stays = site.guest("carol");
        until_up(&stays).await;
        for _ in 0..3 {
            let guest = site.guest("bob");
            until_up(&guest).await;
            site.settled(3, &["bob", "carol"]).await;
            guest.close().await;
            site.settled(2, &["bob", "carol"]).await;
        }
        // Nor did the host have to do anything about it.
        stays.publish(line(1)).unwrap();
        assert_eq!(next(&host).await, BoardEvent::Line(line(1)), "something happened to the host");
        host.publish(line(2)).unwrap();
        assert_eq!(next(&stays).await, BoardEvent::Line(line(2)), "something happened to the guest who stays");
    });
}

fn an_older_client_takes_the_list_along_and_the_host_brings_it_back(site: Site) {
    block_on(async {
        let host = site.host(&["bob", "carol"]);
        until_up(&host).await;
        let stays = site.guest("carol");
        until_up(&stays).await;
        let mut probe = site.plain("bob", &format!("{TOPIC} -c"));
        site.settled(3, &["bob", "carol"]).await;
        probe.write(b"when=2026-08-01T00:00:00,type=client,from=bob@h:1\n");
        let left = Instant::now();
        drop(probe);
        if site.kind == Kind::Pico {
            let down = until(&host, |event| matches!(event, BoardEvent::Down { .. })).await;
            let BoardEvent::Down { reason, retry_in } = down else { unreachable!() };
            assert!(reason.contains("has lost the list") && retry_in.is_zero(), "{reason}, {retry_in:?}");
            until_up(&host).await;
        }
        site.settled(2, &["bob", "carol"]).await;
        assert!(left.elapsed() < Duration::from_secs(5), "the list was back after {:?}", left.elapsed());
        let guest = site.guest("bob");
        until_up(&guest).await;
        site.settled(3, &["bob", "carol"]).await;
    });
}

fn a_guest_who_is_misrouted_meanwhile_finds_his_way_in_by_himself(site: Site) {
    block_on(async {
        // A host that does not look after its list, so that the time without one does not end by itself.
        let mut plain = site.plain("alice", &format!("{TOPIC} -c -a bob,carol"));
        site.settled(1, &["bob", "carol"]).await;
        let stays = site.guest("carol");
        until_up(&stays).await;
        drop(site.plain("bob", &format!("{TOPIC} -c")));
        if site.kind == Kind::Pico {
            let mut probe = site.plain("bob", &format!("{TOPIC} -c"));
            site.settled(3, &["bob", "carol"]).await;
            probe.input = None;
            drop(probe);
            site.settled(2, &[]).await;
        } else {
            plain.input = None;
            drop(plain);
            plain = site.plain("alice", &format!("{TOPIC} -c"));
            wait_until("no list is left", || async {
                site.listing("alice").await.topic(TOPIC).is_some_and(|topic| topic.access.is_none())
            })
            .await;
        }
        let came = Instant::now();
        let guest = site.guest("bob");
        assert!(matches!(next(&guest).await, BoardEvent::Misrouted { .. }));
        assert!(came.elapsed() < Duration::from_secs(2), "he knows it after {:?}", came.elapsed());
        drop(plain);
        let host = site.host(&["bob", "carol"]);
        until_up(&guest).await;
        host.publish(line(1)).unwrap();
        assert_eq!(until(&guest, is_line).await, BoardEvent::Line(line(1)));
    });
}

fn an_older_session_of_the_host_that_closes_later_is_made_up_for(site: Site) {
    block_on(async {
        let first = site.plain("alice", &format!("{TOPIC} -c -a bob,carol"));
        site.settled(1, &["bob", "carol"]).await;
        let host = site.host(&["bob", "carol"]);
        until_up(&host).await;
        let guest = site.guest("bob");
        until_up(&guest).await;
        site.settled(3, &["bob", "carol"]).await;
        // The list goes with the session that brought it.
        let left = Instant::now();
        drop(first);
        let down = until(&host, |event| matches!(event, BoardEvent::Down { .. })).await;
        let BoardEvent::Down { reason, .. } = down else { unreachable!() };
        assert!(reason.contains("has lost the list"), "{reason}");
        until_up(&host).await;
        site.settled(2, &["bob", "carol"]).await;
        assert!(left.elapsed() < Duration::from_secs(5), "the list was back after {:?}", left.elapsed());
    });
}

fn the_owners_own_processes_wait_for_the_host(site: Site) {
    block_on(async {
        let topic = Topic { name: TOPIC.to_owned(), access: None, twin: None, after_host: true };
        let worker = PicoBoard::join(site.config("alice"), topic);
        assert!(matches!(next(&worker).await, BoardEvent::Misrouted { .. }));
        let host = site.host(&["bob"]);
        until_up(&host).await;
        until_up(&worker).await;
        site.settled(2, &["bob"]).await;
    });
}

fn fifty_come_back_each_at_his_own_moment(mut site: Site) {
    const PEERS: usize = 49;
    block_on(async {
        let host = site.host(&["bob", "carol"]);
        until_up(&host).await;
        let guests: Vec<PicoBoard> =
            (0..PEERS).map(|number| site.guest(if number % 2 == 0 { "bob" } else { "carol" })).collect();
        join_all(guests.iter().map(until_up)).await;
        site.settled(PEERS + 1, &["bob", "carol"]).await;
        for (number, guest) in guests.iter().enumerate() {
            // Not the process that says goodbye in `line`.
            guest.publish(hello(100 + number as u8)).unwrap();
        }
        // What comes after the last of these comes after all of them, for everybody.
        for _ in 0..PEERS {
            until(&host, is_line).await;
        }
        host.publish(line(7)).unwrap();
        join_all(guests.iter().map(|guest| until(guest, |event| *event == BoardEvent::Line(line(7))))).await;

        site.close();
        let moment = async |peer: &PicoBoard| {
            // A topic that is closed is opened again at once, over the same connection; that tells whether the server is gone.
            let gone = |event: &BoardEvent| matches!(event, BoardEvent::Down { reason, .. } if !reason.contains("closed the topic"));
            let BoardEvent::Down { retry_in, .. } = until(peer, gone).await else { unreachable!() };
            Instant::now() + retry_in
        };
        let lost = Instant::now();
        let mut moments = join_all(guests.iter().chain([&host]).map(moment)).await;
        moments.sort();
        let apart = moments.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
        assert!(
            apart >= Duration::from_millis(50),
            "two come back {apart:?} apart: {:?}",
            moments.iter().map(|at| *at - lost).collect::<Vec<_>>()
        );
        site.open();
        let back = Instant::now();
        let came = async |peer: &PicoBoard| {
            until_up(peer).await;
            back.elapsed()
        };
        let mut times = join_all(guests.iter().chain([&host]).map(came)).await;
        times.sort();
        assert!(times[PEERS] < Duration::from_secs(15), "the last was back after {:?} only", times[PEERS]);
        site.settled(PEERS + 1, &["bob", "carol"]).await;
        let closest = times.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
        eprintln!("the last was back {:?} after the server; the closest two came {closest:?} apart", times[PEERS]);
    });
}

/// The hub cuts the sleeper off; on pico nobody hears anything until his connection is dead, and then everybody goes on.
fn a_client_that_stops_reading_is_survived(site: Site) {
    // More than a window of SSH and the buffers of two sockets hold.
    const FLOOD: usize = 24 << 20;
    block_on(async {
        let (host, guest) = (site.host(&["bob", "carol"]), site.guest("bob"));
        until_up(&host).await;
        until_up(&guest).await;
        let sleeper = site.plain("carol", &format!("{TOPIC} -c"));
        let mut writer = site.plain("alice", &format!("{TOPIC} -c"));
        site.settled(4, &["bob", "carol"]).await;
        let stopped = Command::new("sh").arg("-c").arg(format!("kill -STOP {}", sleeper.child.id())).status();
        assert!(stopped.unwrap().success());
        let written = Arc::new(AtomicUsize::new(0));
        let counter = written.clone();
        let flood = std::thread::spawn(move || {
            let chunk = [[b'x'; 1023].as_slice(), b"\n"].concat().repeat(16);
            while counter.fetch_add(chunk.len(), Ordering::SeqCst) < FLOOD {
                writer.write(&chunk);
            }
            writer.write(line(1).as_bytes());
            writer
        });
        if site.kind == Kind::Pico {
            // The whole topic stands still.
            let mut before = 0;
            wait_until("the writer is stopped", async || {
                sleep(Duration::from_secs(2)).await;
                std::mem::replace(&mut before, written.load(Ordering::SeqCst)) == written.load(Ordering::SeqCst)
            })
            .await;
            assert!(written.load(Ordering::SeqCst) < FLOOD, "nothing held the writer up");
            host.publish(line(2)).unwrap();
            let heard = timeout(Duration::from_secs(3), until(&guest, is_line)).await;
            assert!(heard.is_err(), "{heard:?}");
            drop(sleeper);
            let mut heard = [until(&guest, is_line).await, until(&guest, is_line).await];
            heard.sort_by_key(|event| *event == BoardEvent::Line(line(2)));
            assert_eq!(heard, [1, 2].map(|number| BoardEvent::Line(line(number))));
        } else {
            assert_eq!(until(&guest, is_line).await, BoardEvent::Line(line(1)));
            site.settled(3, &["bob", "carol"]).await;
            host.publish(line(2)).unwrap();
            assert_eq!(until(&guest, is_line).await, BoardEvent::Line(line(2)));
        }
        assert_eq!(until(&host, is_line).await, BoardEvent::Line(line(1)));
        drop(flood.join().unwrap());
    });
}

fn what_others_leave_half_written_costs_nobody_a_line(site: Site) {
    block_on(async {
        let (host, guest) = (site.host(&["bob", "carol"]), site.guest("bob"));
        until_up(&host).await;
        until_up(&guest).await;
        let mut writer = site.plain("carol", &format!("{TOPIC} -c"));
        site.settled(3, &["bob", "carol"]).await;
        let whole = line(9);
        let (head, tail) = whole.as_bytes().split_at(20);
        // Pico says nothing about what has arrived, so the first line is one that does: what follows it came after it.
        writer.write(&[line(1).as_bytes(), head].concat());
        assert_eq!(until(&guest, is_line).await, BoardEvent::Line(line(1)));
        host.publish(line(2)).unwrap();
        assert_eq!(until(&guest, is_line).await, BoardEvent::Line(line(2)), "a line behind half of another one");
        writer.write(&[tail, line(3).as_bytes()].concat());
        assert_eq!(
            until(&guest, is_line).await,
            BoardEvent::Line(line(3)),
            "what was torn is skipped, what follows is not"
        );
    });
}

fn a_line_that_is_too_long_and_bytes_that_are_no_text_cost_nobody_a_line(site: Site) {
    block_on(async {
        let (host, guest) = (site.host(&["bob", "carol"]), site.guest("bob"));
        until_up(&host).await;
        until_up(&guest).await;
        let mut writer = site.plain("carol", &format!("{TOPIC} -c"));
        site.settled(3, &["bob", "carol"]).await;
        let long = [b"~p2p1 ".as_slice(), &vec![b'A'; 40_000], b"\n"].concat();
        let binary: Vec<u8> = (0..=255).cycle().take(10_000).chain(*b"\n").collect();
        let rubbish = b"hello? \x1b[31m is anybody there\r\n~p2p1 !!!\n\n\x00\n".to_vec();
        for (number, bytes) in [long, binary, rubbish].into_iter().enumerate() {
            let number = number as u64;
            writer.write(&[bytes.as_slice(), line(number).as_bytes()].concat());
            for board in [&host, &guest] {
                assert_eq!(until(board, is_line).await, BoardEvent::Line(line(number)));
            }
        }
    });
}

fn a_minute_of_silence_is_no_loss(site: Site) {
    block_on(async {
        let (host, guest) = (site.host(&["bob"]), site.guest("bob"));
        until_up(&host).await;
        until_up(&guest).await;
        site.settled(2, &["bob"]).await;
        sleep(Duration::from_secs(62)).await;
        guest.publish(line(1)).unwrap();
        assert_eq!(next(&host).await, BoardEvent::Line(line(1)), "something happened in the silence");
        host.publish(line(2)).unwrap();
        assert_eq!(next(&guest).await, BoardEvent::Line(line(2)), "something happened in the silence");
    });
}

fn the_host_is_told_of_a_stranger_whom_the_server_let_in(site: Site) {
    block_on(async {
        let host = site.host(&["bob"]);
        until_up(&host).await;
        let mut stranger = site.plain("mallory", &format!("{TOPIC} -c"));
        if site.kind == Kind::Hub {
            // There he is alone, on a topic of his own.
            wait_until("he is somewhere", || async { !site.listing("mallory").await.topics.is_empty() }).await;
            stranger.write(line(1).as_bytes());
            site.settled(1, &["bob"]).await;
            let guest = site.guest("bob");
            until_up(&guest).await;
            guest.publish(line(2)).unwrap();
            assert_eq!(next(&host).await, BoardEvent::Line(line(2)));
            return;
        }
        let warned = until(&host, |event| matches!(event, BoardEvent::Warning(_))).await;
        let BoardEvent::Warning(text) = warned else { unreachable!() };
        assert!(text.starts_with("mallory-laptop (from 127.0.0.1:") && text.contains("is not on your list"), "{text}");
        // Told once, however often she looks.
        let again =
            timeout(Duration::from_secs(5), until(&host, |event| matches!(event, BoardEvent::Warning(_)))).await;
        assert!(again.is_err(), "{again:?}");
    });
}

/// What admission rests on (T-02).
fn a_side_topic_shows_who_is_there_by_the_servers_own_login(site: Site) {
    let side = "alice/friends/admit/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let open = |user: &str, access: Option<&[&str]>| {
        let access = access.map(|users| users.iter().map(|user| user.parse().unwrap()).collect());
        let twin = access.is_none().then(|| format!("{user}/{side}"));
        PicoBoard::join(site.config(user), Topic { name: side.to_owned(), access, twin, after_host: false })
    };
    let shown = async |count: usize| {
        let mut users: Vec<String> = Vec::new();
        wait_until(&format!("{count} are on the side topic"), async || {
            let listing: Listing = site.listing("alice").await;
            let clients = listing.topic(side).map(|topic| topic.clients().map(|client| client.user.clone()).collect());
            users = clients.unwrap_or_default();
            users.sort();
            users.len() == count
        })
        .await;
        users
    };
    block_on(async {
        let host = open("alice", Some(&["bob", "carol"]));
        until_up(&host).await;
        let guest = open("bob", None);
        until_up(&guest).await;
        assert_eq!(shown(2).await, ["alice", "bob"]);
        // Whoever else is on the list may come, too, and is seen.
        let other = open("carol", None);
        until_up(&other).await;
        assert_eq!(shown(3).await, ["alice", "bob", "carol"]);
        other.close().await;
        // A pattern does not reach it.
        let mut pattern = site.plain("carol", "alice/friends/admit/* -c");
        wait_until("the pattern is open, or refused", async || {
            pattern.child.try_wait().unwrap().is_some() || !site.listing("carol").await.topics.is_empty()
        })
        .await;
        assert_eq!(shown(2).await, ["alice", "bob"]);
    });
}

fn a_key_without_an_account_is_told_so(site: Site) {
    block_on(async {
        let mut session = p2p_transport_pico::Session::connect(&site.config("stranger")).await.unwrap();
        let fault = session.user().await.unwrap_err().to_string();
        assert!(
            fault.contains("did not say which account this key belongs to") && fault.contains("ssh pico.sh"),
            "{fault}"
        );
        assert!(session.ls().await.unwrap_err().to_string().contains("access denied"));
    });
}

fn is_line(event: &BoardEvent) -> bool {
    matches!(event, BoardEvent::Line(_))
}

/// A hello of a process of this number; nobody here looks at its signatures.
fn hello(number: u8) -> Line {
    let cluster = "alice/friends".parse().unwrap();
    let (identity, user, process) = (Identity::from_secret(&[7; 32]), "bob".parse().unwrap(), ProcessKey([number; 32]));
    let key = identity.machine_key();
    let claims = MembershipClaims { host: key, user, machine: key, serial: 1, from: 0, until: 1 };
    let certificate = ProcessCertificate::sign(&identity, &cluster, Role::Worker, process, 0, 1);
    let credentials = Credentials { membership: Membership::sign(&identity, &cluster, &claims), certificate };
    let hello = Hello { credentials, process, role: Role::Worker, version: 1, offer: None, ttl_s: 120 };
    let from = PeerName::new(&"bob".parse().unwrap(), "test", number.into());
    Line::encode(&Envelope { from, sequence: 0, time: 0, message: Message::Hello(hello) }).unwrap()
}
