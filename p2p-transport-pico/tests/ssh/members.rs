//! What a cluster's members go through on the board, on the hub and on pico's pipe.

use std::process::Stdio;
use std::time::{Duration, Instant};

use async_std::task::block_on;
use p2p_proto::board::{Board, BoardError, BoardEvent};
use p2p_proto::limits;
use p2p_transport_pico::{PicoBoard, Session, Topic};

use crate::kit::{line, next, until, until_up, wait_until};
use crate::relay::Relay;
use crate::site::{Site, TOPIC};

crate::on_both!(
    the_account_is_told,
    members_hear_each_other_and_not_themselves,
    a_guest_who_is_not_listed_learns_it_and_gets_in_once_he_is,
    nobody_is_home,
    the_twin_is_closed_again,
    many_processes_of_one_user_get_in_side_by_side,
    a_host_left_alone_comes_back_with_her_list,
    a_host_whose_other_session_holds_the_topic_without_a_list_says_so_and_heals,
    members_find_each_other_again_after_the_hub_was_away,
    a_dead_line_is_noticed_and_left,
    fifty_megabytes_of_foreign_text_harm_nobody,
    a_flood_that_nobody_reads_is_counted_and_bounded,
    what_cannot_be_sent_is_bounded_and_what_is_sent_before_leaving_arrives,
);

fn the_account_is_told(site: Site) {
    block_on(async {
        let mut session = Session::connect(&site.config("bob")).await.unwrap();
        assert_eq!(session.user().await.unwrap().as_str(), "bob");
    });
}

fn members_hear_each_other_and_not_themselves(site: Site) {
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

fn a_guest_who_is_not_listed_learns_it_and_gets_in_once_he_is(site: Site) {
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

fn nobody_is_home(site: Site) {
    block_on(async {
        assert!(matches!(next(&site.guest("bob")).await, BoardEvent::Misrouted { .. }));
    });
}

fn the_twin_is_closed_again(site: Site) {
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

fn many_processes_of_one_user_get_in_side_by_side(site: Site) {
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

fn a_host_left_alone_comes_back_with_her_list(site: Site) {
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
        let thrown_out = Instant::now();
        assert_eq!(next(&host).await, BoardEvent::Up);
        site.settled(1, &["bob", "carol"]).await;
        let away = thrown_out.elapsed();
        assert!(away < Duration::from_secs(2), "she was away with her list for {away:?}");
        let guest = site.guest("carol");
        assert_eq!(next(&guest).await, BoardEvent::Up);
    });
}

fn a_host_whose_other_session_holds_the_topic_without_a_list_says_so_and_heals(site: Site) {
    block_on(async {
        let plain = PicoBoard::join(
            site.config("alice"),
            Topic { name: TOPIC.to_owned(), access: None, twin: None, after_host: false },
        );
        until_up(&plain).await;
        let host = site.host(&["bob"]);
        // On pico the two may throw each other out first.
        let told = |event: &BoardEvent| matches!(event, BoardEvent::Down { reason, .. } if reason.contains("another session of yours"));
        until(&host, told).await;
        drop(plain);
        site.settled(1, &["bob"]).await;
        until_up(&host).await;
    });
}

fn members_find_each_other_again_after_the_hub_was_away(mut site: Site) {
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

fn a_dead_line_is_noticed_and_left(site: Site) {
    let relay = Relay::start(site.address);
    let mut config = site.config("alice");
    config.address = format!("ssh://{}", relay.address).parse().unwrap();
    config.accept_host_key = site.server.as_ref().map(|server| server.fingerprint.clone());
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

fn fifty_megabytes_of_foreign_text_harm_nobody(site: Site) {
    block_on(async {
        let host = site.host(&["bob", "carol"]);
        until_up(&host).await;
        let guest = site.guest("bob");
        until_up(&guest).await;
        let mut talker = site.ssh("carol", &format!("pipe {TOPIC}"), Stdio::piped());
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

fn a_flood_that_nobody_reads_is_counted_and_bounded(site: Site) {
    const FLOOD: u64 = 5000;
    block_on(async {
        let host = site.host(&["bob", "carol"]);
        until_up(&host).await;
        let guest = site.guest("bob");
        until_up(&guest).await;
        let mut talker = site.ssh("carol", &format!("pipe {TOPIC}"), Stdio::piped());
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

fn what_cannot_be_sent_is_bounded_and_what_is_sent_before_leaving_arrives(mut site: Site) {
    block_on(async {
        let (host, guest) = (site.host(&["bob", "carol"]), site.guest("bob"));
        until_up(&guest).await;
        until_up(&host).await;
        // With nobody else there, pico would send the host away together with what the guest has said last.
        let other = site.guest("carol");
        until_up(&other).await;
        site.settled(3, &["bob", "carol"]).await;
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
