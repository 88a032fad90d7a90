//! The board on the hub: what a cluster's members go through.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_std::task::block_on;
use p2p_hub::{HostKeySource, Hub, HubConfig, UserKey, UsersSource};
use p2p_proto::board::{Board, BoardError, BoardEvent};
use p2p_proto::ids::ClusterName;
use p2p_proto::limits;
use p2p_transport_pico::{Listing, PicoBoard, PicoConfig, Session, Topic};
use tempfile::TempDir;

use crate::kit::{config, line, make_key, next, public_half, until, until_up, wait_until};
use crate::relay::Relay;

const TOPIC: &str = "alice/friends/future.p2p";

/// A hub, and the keys of alice, bob and carol.
struct Site {
    hub: Option<Hub>,
    address: SocketAddr,
    dir: TempDir,
}

impl Site {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        for user in ["alice", "bob", "carol"] {
            make_key(dir.path(), user, "ed25519", "");
        }
        let mut site = Self { hub: None, address: (Ipv4Addr::LOCALHOST, 0).into(), dir };
        site.open();
        site
    }

    /// Starts the hub, the second time on the same port with the same key.
    fn open(&mut self) {
        let users =
            ["alice", "bob", "carol"].map(|name| UserKey { name: name.to_owned(), key: public_half(&self.key(name)) });
        let host_key = HostKeySource::File(self.dir.path().join("host_key"));
        let settings = HubConfig { listen: self.address, users: UsersSource::List(users.into()), host_key };
        let hub = Hub::start(settings).unwrap();
        self.address = hub.local_addr();
        let known = hub.known_hosts_line("127.0.0.1") + "\n";
        std::fs::write(self.dir.path().join("known_hosts"), known).unwrap();
        self.hub = Some(hub);
    }

    fn close(&mut self) {
        self.hub.take().unwrap().stop();
    }

    fn key(&self, user: &str) -> PathBuf {
        self.dir.path().join(user)
    }

    fn config(&self, user: &str) -> PicoConfig {
        config(&format!("ssh://{}", self.address), self.dir.path(), &[&self.key(user)])
    }

    /// Alice on her own topic, with this list.
    fn host(&self, users: &[&str]) -> PicoBoard {
        let access = Some(users.iter().map(|user| user.parse().unwrap()).collect());
        PicoBoard::join(self.config("alice"), Topic { name: TOPIC.to_owned(), access, twin: None, after_host: false })
    }

    fn guest(&self, user: &str) -> PicoBoard {
        let cluster: ClusterName = "alice/friends".parse().unwrap();
        let twin = Some(cluster.twin_topic(&user.parse().unwrap()));
        PicoBoard::join(self.config(user), Topic { name: cluster.topic(), access: None, twin, after_host: false })
    }

    /// What `ls` shows to this user.
    async fn listing(&self, user: &str) -> Listing {
        let mut session = Session::connect(&self.config(user)).await.unwrap();
        Listing::parse(&session.ls().await.unwrap()).unwrap()
    }

    /// Waits until the topic has so many members and this list.
    async fn settled(&self, members: usize, list: &[&str]) {
        wait_until(&format!("{members} members and the list {list:?}"), || async {
            let listing = self.listing("alice").await;
            let topic = listing.topic(TOPIC);
            topic.is_some_and(|topic| {
                topic.pipes.len() == members && topic.access.as_deref().unwrap_or_default() == list
            })
        })
        .await;
    }

    /// The system's `ssh` on the topic, with this as its input.
    fn ssh(&self, user: &str, input: Stdio) -> Child {
        let (known_hosts, port) = (self.dir.path().join("known_hosts"), self.address.port().to_string());
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "/dev/null", "-T", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
        ssh.arg("-i").arg(self.key(user)).args(["-p", &port, "127.0.0.1", "pipe", TOPIC]);
        ssh.stdin(input).stdout(Stdio::null()).spawn().expect("cannot run ssh; install the package openssh-client")
    }
}

#[test]
fn the_account_is_told() {
    let site = Site::start();
    block_on(async {
        let mut session = Session::connect(&site.config("bob")).await.unwrap();
        assert_eq!(session.user().await.unwrap().as_str(), "bob");
    });
}

#[test]
fn members_hear_each_other_and_not_themselves() {
    let site = Site::start();
    block_on(async {
        let host = site.host(&["bob"]);
        assert_eq!(next(&host).await, BoardEvent::Up);
        let guest = site.guest("bob");
        assert_eq!(next(&guest).await, BoardEvent::Up);
        host.publish(line(1)).unwrap();
        assert_eq!(next(&guest).await, BoardEvent::Line(line(1)));
        for number in 2..100 {
            guest.publish(line(number)).unwrap();
        }
        for number in 2..100 {
            assert_eq!(next(&host).await, BoardEvent::Line(line(number)));
        }
        host.publish(line(100)).unwrap();
        assert_eq!(next(&guest).await, BoardEvent::Line(line(100)));
    });
}

#[test]
fn a_guest_who_is_not_listed_learns_it_and_gets_in_once_he_is() {
    let site = Site::start();
    block_on(async {
        let host = site.host(&["bob"]);
        until_up(&host).await;
        let guest = site.guest("carol");
        for _ in 0..2 {
            assert!(matches!(next(&guest).await, BoardEvent::Misrouted { .. }));
        }
        host.close().await;
        let host = site.host(&["bob", "carol"]);
        until_up(&guest).await;
        until_up(&host).await;
        site.settled(2, &["bob", "carol"]).await;
        guest.publish(line(1)).unwrap();
        assert_eq!(until(&host, |event| matches!(event, BoardEvent::Line(_))).await, BoardEvent::Line(line(1)));
    });
}

#[test]
fn nobody_is_home() {
    let site = Site::start();
    block_on(async {
        assert!(matches!(next(&site.guest("bob")).await, BoardEvent::Misrouted { .. }));
    });
}

#[test]
fn the_twin_is_closed_again() {
    let site = Site::start();
    block_on(async {
        let host = site.host(&["bob"]);
        until_up(&host).await;
        let guest = site.guest("bob");
        until_up(&guest).await;
        wait_until("bob's private topic is gone", || async { site.listing("bob").await.topics.is_empty() }).await;
        guest.publish(line(1)).unwrap();
        assert_eq!(next(&host).await, BoardEvent::Line(line(1)));
    });
}

#[test]
fn many_processes_of_one_user_get_in_side_by_side() {
    let site = Site::start();
    block_on(async {
        let host = site.host(&["bob"]);
        until_up(&host).await;
        let guests: Vec<PicoBoard> = (0..8).map(|_| site.guest("bob")).collect();
        for guest in &guests {
            until_up(guest).await;
        }
        site.settled(9, &["bob"]).await;
    });
}

#[test]
fn a_host_left_alone_comes_back_with_her_list() {
    let site = Site::start();
    block_on(async {
        let host = site.host(&["bob", "carol"]);
        assert_eq!(next(&host).await, BoardEvent::Up);
        let guest = site.guest("bob");
        until_up(&guest).await;
        // Thrown out within the first second she would wait a little instead.
        async_std::task::sleep(Duration::from_millis(1100)).await;
        guest.close().await;
        let BoardEvent::Down { retry_in, .. } = next(&host).await else { panic!("she was not thrown out") };
        assert!(retry_in.is_zero());
        assert_eq!(next(&host).await, BoardEvent::Up);
        site.settled(1, &["bob", "carol"]).await;
        let guest = site.guest("carol");
        assert_eq!(next(&guest).await, BoardEvent::Up);
    });
}

#[test]
fn a_host_whose_other_session_holds_the_topic_without_a_list_says_so_and_heals() {
    let site = Site::start();
    block_on(async {
        let plain = PicoBoard::join(
            site.config("alice"),
            Topic { name: TOPIC.to_owned(), access: None, twin: None, after_host: false },
        );
        until_up(&plain).await;
        let host = site.host(&["bob"]);
        let down = until(&host, |event| matches!(event, BoardEvent::Down { .. })).await;
        let BoardEvent::Down { reason, .. } = down else { unreachable!() };
        assert!(reason.contains("another session of yours"), "{reason}");
        drop(plain);
        site.settled(1, &["bob"]).await;
        until_up(&host).await;
    });
}

#[test]
fn members_find_each_other_again_after_the_hub_was_away() {
    let mut site = Site::start();
    block_on(async {
        let (host, guest) = (site.host(&["bob"]), site.guest("bob"));
        until_up(&host).await;
        until_up(&guest).await;
        site.close();
        for board in [&host, &guest] {
            until(board, |event| matches!(event, BoardEvent::Down { .. })).await;
        }
        // Not lost: it is written once the board is up again.
        host.publish(line(1)).unwrap();
        site.open();
        until_up(&host).await;
        until_up(&guest).await;
        site.settled(2, &["bob"]).await;
        guest.publish(line(2)).unwrap();
        assert_eq!(until(&host, |event| matches!(event, BoardEvent::Line(_))).await, BoardEvent::Line(line(2)));
    });
}

#[test]
fn a_dead_line_is_noticed_and_left() {
    let site = Site::start();
    let relay = Relay::start(site.address);
    let mut config = site.config("alice");
    config.address = format!("ssh://{}", relay.address).parse().unwrap();
    config.accept_host_key = site.hub.as_ref().map(|hub| hub.host_key_fingerprint().to_owned());
    // Longer than the hub is ever silent by itself.
    config.silence = Duration::from_secs(8);
    block_on(async {
        let board =
            PicoBoard::join(config, Topic { name: TOPIC.to_owned(), access: None, twin: None, after_host: false });
        until_up(&board).await;
        let down = relay.dead_during(until(&board, |event| matches!(event, BoardEvent::Down { .. }))).await;
        let BoardEvent::Down { reason, .. } = down else { unreachable!() };
        assert!(reason.contains("nothing was heard"), "{reason}");
        until_up(&board).await;
    });
}

#[test]
fn fifty_megabytes_of_foreign_text_harm_nobody() {
    let site = Site::start();
    block_on(async {
        let host = site.host(&["bob", "carol"]);
        until_up(&host).await;
        let guest = site.guest("bob");
        until_up(&guest).await;
        let mut talker = site.ssh("carol", Stdio::piped());
        let mut input = talker.stdin.take().unwrap();
        site.settled(3, &["bob", "carol"]).await;
        let talk = std::thread::spawn(move || {
            let mut text = vec![b'x'; 50_000];
            text.extend_from_slice(b"\nwhen=2026-08-01T00:00:00,type=offer\n~p2p1 !!!\n");
            for _ in 0..1000 {
                std::io::Write::write_all(&mut input, &text).unwrap();
            }
            std::io::Write::write_all(&mut input, line(7).as_bytes()).unwrap();
            input
        });
        assert_eq!(next(&guest).await, BoardEvent::Line(line(7)));
        assert_eq!(next(&host).await, BoardEvent::Line(line(7)));
        guest.publish(line(8)).unwrap();
        assert_eq!(next(&host).await, BoardEvent::Line(line(8)));
        drop(talk.join().unwrap());
        let _ = talker.wait();
    });
}

#[test]
fn a_flood_that_nobody_reads_is_counted_and_bounded() {
    const FLOOD: u64 = 5000;
    let site = Site::start();
    block_on(async {
        let host = site.host(&["bob", "carol"]);
        until_up(&host).await;
        let guest = site.guest("bob");
        until_up(&guest).await;
        let mut talker = site.ssh("carol", Stdio::piped());
        let mut input = talker.stdin.take().unwrap();
        site.settled(3, &["bob", "carol"]).await;
        // One event is read for every flood: sooner or later the rest no longer fits.
        let (mut sent, mut lost, mut lines) = (0, 0, 0);
        while lost == 0 {
            for number in sent..sent + FLOOD {
                std::io::Write::write_all(&mut input, line(number).as_bytes()).unwrap();
            }
            sent += FLOOD;
            until(&guest, |event| *event == BoardEvent::Line(line(sent - 1))).await;
            match next(&host).await {
                BoardEvent::Lagged(count) => lost += count,
                BoardEvent::Line(_) => lines += 1,
                other => panic!("{other:?}"),
            }
        }
        loop {
            match next(&host).await {
                BoardEvent::Lagged(count) => lost += count,
                BoardEvent::Line(found) => {
                    lines += 1;
                    if found == line(sent - 1) {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(lost + lines, sent);
        drop(input);
        let _ = talker.wait();
    });
}

#[test]
fn what_cannot_be_sent_is_bounded_and_what_is_sent_before_leaving_arrives() {
    let mut site = Site::start();
    block_on(async {
        let (host, guest) = (site.host(&["bob"]), site.guest("bob"));
        until_up(&guest).await;
        until_up(&host).await;
        site.settled(2, &["bob"]).await;
        guest.publish(line(1)).unwrap();
        guest.close().await;
        assert_eq!(guest.publish(line(2)), Err(BoardError::Closed));
        assert_eq!(until(&host, |event| matches!(event, BoardEvent::Line(_))).await, BoardEvent::Line(line(1)));
        site.close();
        until(&host, |event| matches!(event, BoardEvent::Down { .. })).await;
        let mut taken = 0;
        while host.publish(line(taken)).is_ok() {
            taken += 1;
        }
        assert_eq!((taken, host.publish(line(0))), (limits::BOARD_OUTBOX as u64, Err(BoardError::Full)));
        let asked = Instant::now();
        host.close().await;
        assert!(asked.elapsed().as_secs() < 60);
    });
}
