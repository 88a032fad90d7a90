//! What a link does with records: order, size, keepalive, silence, ends.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use async_io::Timer;
use futures::FutureExt as _;
use futures::future::{self, Either};
use p2p_proto::ids::Role;
use p2p_proto::limits::RECORD_BYTES;
use p2p_proto::link::{Connected, Hints, LinkError};
use p2p_transport_wormhole::procedure::{Lines, Side};
use p2p_transport_wormhole::{Timing, WormholeConfig};
use support::*;

fn timed(keepalive: Duration, silence: Duration) -> WormholeConfig {
    WormholeConfig { timing: Timing { keepalive, silence, ..Timing::default() }, ..direct() }
}

const SECOND: Duration = Duration::from_secs(1);
const NEVER: Duration = Duration::from_secs(3600);

#[test]
fn records_of_every_size_arrive_in_order() {
    run(async {
        let (mut client, mut worker) = connect(direct()).await;
        let sizes = [1, 2, 15, 16, 17, 200, 4077, 4078, 4079, 16_384, 64_000, RECORD_BYTES - 1, RECORD_BYTES];
        let record = |nth: usize| vec![nth as u8; sizes[nth]];
        for nth in 0..sizes.len() {
            client.sender.feed(&record(nth)).unwrap();
        }
        assert!(client.sender.buffered() > sizes.iter().sum());
        // The system takes little that it cannot send at once: without a reader, this much is not flushed.
        let receive = async {
            for nth in 0..sizes.len() {
                assert!(worker.receiver.receive().await.unwrap() == record(nth), "record {nth}");
            }
        };
        let (flushed, ()) = future::join(client.sender.flush(), receive).await;
        flushed.unwrap();
        assert_eq!(client.sender.buffered(), 0);
    });
}

#[test]
fn many_tiny_records_share_writes() {
    run(async {
        let (mut client, mut worker) = connect(direct()).await;
        let send = async {
            for nth in 0..100_000_u32 {
                client.sender.feed(&nth.to_be_bytes()).unwrap();
                if client.sender.buffered() > 256 * 1024 {
                    client.sender.flush().await.unwrap();
                }
            }
            client.sender.flush().await.unwrap();
        };
        let receive = async {
            for nth in 0..100_000_u32 {
                assert_eq!(worker.receiver.receive().await.unwrap(), nth.to_be_bytes());
            }
        };
        future::join(send, receive).await;
    });
}

#[test]
fn records_that_cannot_be_sent_are_refused() {
    run(async {
        let (mut client, mut worker) = connect(direct()).await;
        let too_large = vec![0; RECORD_BYTES + 1];
        for record in [&[][..], &[0xff], &too_large] {
            assert!(matches!(client.sender.feed(record), Err(LinkError::Misuse(_))), "{} bytes", record.len());
        }
        // Without a flush the buffer has an end, and what was refused leaves no trace in the stream.
        let record = vec![7; RECORD_BYTES];
        let fed = (0..1000).take_while(|_| client.sender.feed(&record).is_ok()).count();
        assert!((4..100).contains(&fed), "{fed}");
        let receive = async {
            for _ in 0..fed {
                assert!(worker.receiver.receive().await.unwrap() == record);
            }
        };
        let (flushed, ()) = future::join(client.sender.flush(), receive).await;
        flushed.unwrap();
        greet(&mut client, &mut worker).await;
    });
}

#[test]
fn a_receive_that_was_dropped_loses_nothing() {
    run(async {
        let (mut client, mut worker) = connect(direct()).await;
        let send = async {
            for nth in 0..200_u8 {
                let record = vec![nth; 1 + usize::from(nth) * 300];
                client.sender.feed(&record).unwrap();
                client.sender.flush().await.unwrap();
                async_std::task::yield_now().await;
            }
        };
        let receive = async {
            let mut nth = 0_u8;
            while nth < 200 {
                // Polls once, and drops the future.
                if let Some(record) = worker.receiver.receive().now_or_never() {
                    assert!(record.unwrap() == vec![nth; 1 + usize::from(nth) * 300], "record {nth}");
                    nth += 1;
                } else {
                    async_std::task::yield_now().await;
                }
            }
        };
        future::join(send, receive).await;
    });
}

#[test]
fn a_reader_who_waits_makes_the_writer_wait() {
    run(async {
        let (mut client, mut worker) = connect(timed(SECOND / 5, 3 * SECOND)).await;
        let record = vec![9; 64_000];
        // More than all buffers of two sockets hold.
        const RECORDS: usize = 2000;
        let send = async {
            for _ in 0..RECORDS {
                client.sender.feed(&record).unwrap();
                client.sender.flush().await.unwrap();
            }
        };
        // Longer than the silence: who does not read has not heard nothing.
        let Either::Right(((), send)) = future::select(Box::pin(send), Box::pin(sleep(5 * SECOND))).await else {
            panic!("the writer did not wait")
        };
        let receive = async {
            for nth in 0..RECORDS {
                assert!(worker.receiver.receive().await.unwrap() == record, "record {nth}");
            }
        };
        future::join(send, receive).await;
        greet(&mut client, &mut worker).await;
    });
}

#[test]
fn keepalives_keep_an_idle_link() {
    run(async {
        let (mut client, mut worker) = connect(timed(SECOND / 5, 4 * SECOND)).await;
        let idle = future::select(client.receiver.receive(), worker.receiver.receive());
        assert!(matches!(future::select(idle, Box::pin(sleep(6 * SECOND))).await, Either::Right(_)));
        greet(&mut client, &mut worker).await;
    });
}

#[test]
fn silence_is_noticed_even_by_short_waits() {
    run(async {
        let (client, worker) = try_connect(timed(SECOND, SECOND), timed(NEVER, NEVER)).await;
        let (mut client, _worker) = (client.unwrap(), worker.unwrap());
        let error = loop {
            let wait = future::select(client.receiver.receive(), Box::pin(sleep(SECOND / 10)));
            if let Either::Left((result, _)) = wait.await {
                break result.map(<[u8]>::len).unwrap_err();
            }
        };
        assert_eq!(error, LinkError::Silent);
        assert_eq!(client.receiver.receive().await.unwrap_err(), LinkError::Silent);
    });
}

#[test]
fn an_orderly_end_is_not_a_loss() {
    run(async {
        let (mut client, mut worker) = connect(direct()).await;
        client.sender.feed(b"last").unwrap();
        client.sender.close().await;
        client.sender.close().await;
        assert!(matches!(client.sender.feed(b"more"), Err(LinkError::Misuse(_))));
        // The other direction goes on until it ends as well.
        send(&mut worker, b"goes on").await;
        assert_eq!(client.receiver.receive().await.unwrap(), b"goes on");
        drop(client);
        assert_eq!(worker.receiver.receive().await.unwrap(), b"last");
        for _ in 0..2 {
            assert_eq!(worker.receiver.receive().await.unwrap_err(), LinkError::Closed);
        }
    });
}

#[test]
fn an_orderly_end_is_heard_by_a_peer_who_is_sending() {
    run(async {
        let (mut client, mut worker) = connect(direct()).await;
        // As much as is flushed without a reader.
        for _ in 0..10 {
            send(&mut worker, &[7; 1_000]).await;
        }
        // Unread bytes must not turn the end into a reset.
        client.sender.close().await;
        drop(client);
        for _ in 0..10 {
            if send_if_open(&mut worker).await.is_err() {
                break;
            }
        }
        assert_eq!(worker.receiver.receive().await.unwrap_err(), LinkError::Closed);
    });
}

#[test]
fn a_cut_is_a_loss() {
    run(async {
        let (mut client, worker) = connect(direct()).await;
        drop(worker);
        let error = client.receiver.receive().await.map(<[u8]>::len).unwrap_err();
        assert!(matches!(error, LinkError::Lost(_)), "{error:?}");
        let error = loop {
            if let Err(error) = send_if_open(&mut client).await {
                break error;
            }
            sleep(SECOND / 20).await;
        };
        assert!(matches!(error, LinkError::Lost(_)), "{error:?}");
        client.sender.close().await;
    });
}

#[test]
fn only_fixed_lines_come_before_sealed_records() {
    run(async {
        let (seen, through) = mpsc::channel();
        let (mut client, mut worker) = connect_through(move |_, bytes| seen.send(bytes.to_vec()).unwrap_or(())).await;
        send(&mut client, b"secret").await;
        assert_eq!(worker.receiver.receive().await.unwrap(), b"secret");
        let sent: Vec<u8> = through.try_iter().flatten().collect();

        let mut expected = Lines::new(&KEY, Side::Leader, [0; 8]).ours;
        expected.extend_from_slice(b"go\n");
        let (lines, records) = sent.split_at(expected.len());
        assert_eq!(String::from_utf8_lossy(lines), String::from_utf8_lossy(&expected));
        // The empty record, then one of six bytes; tags are 16 bytes.
        assert_eq!(records[..2], [0, 16]);
        assert_eq!(records[18..20], [0, 22]);
        assert_eq!(records.len(), 18 + 24);
        assert!(!records.windows(6).any(|window| window == b"secret"));
    });
}

#[test]
fn a_changed_record_breaks_the_link() {
    run(async {
        let before = Lines::new(&KEY, Side::Leader, [0; 8]).ours.len() + 3 + 18;
        let change = move |at: usize, bytes: &mut [u8]| {
            if let Some(byte) = (before + 5).checked_sub(at).and_then(|at| bytes.get_mut(at)) {
                *byte ^= 1;
            }
        };
        let (mut client, mut worker) = connect_through(change).await;
        send(&mut client, b"to be changed").await;
        for _ in 0..2 {
            let error = worker.receiver.receive().await.map(<[u8]>::len).unwrap_err();
            assert!(matches!(error, LinkError::Broken(_)), "{error:?}");
        }
    });
}

async fn sleep(time: Duration) {
    Timer::after(time).await;
}

async fn send_if_open(link: &mut Connected) -> Result<(), LinkError> {
    link.sender.feed(&[7; 60_000])?;
    link.sender.flush().await
}

/// A link whose client reaches its worker only through a proxy, which shows what the client sends, and where in the stream.
async fn connect_through(tap: impl FnMut(usize, &mut [u8]) + Send + 'static) -> (Connected, Connected) {
    let (client, worker) = (prepare(direct()).await, prepare(direct()).await);
    let (ours, theirs) = sessions(10);
    let proxy = proxy(loopback_of(&worker.hints()), tap);
    let to_worker = plan(Role::Client, direct_hints(proxy), ours);
    let to_client = plan(Role::Worker, Hints::default(), theirs);
    let (client, worker) = future::join(client.connect(to_worker), worker.connect(to_client)).await;
    (client.unwrap(), worker.unwrap())
}

/// Forwards one connection to `target`.
fn proxy(target: SocketAddr, mut tap: impl FnMut(usize, &mut [u8]) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(target).unwrap();
        let (back, forth) = ((far.try_clone().unwrap(), near.try_clone().unwrap()), (near, far));
        std::thread::spawn(move || pump(back.0, back.1, |_, _| {}));
        pump(forth.0, forth.1, &mut tap);
    });
    address
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut tap: impl FnMut(usize, &mut [u8])) {
    let mut buffer = vec![0; 4096];
    let mut at = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        tap(at, &mut buffer[..count]);
        at += count;
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
