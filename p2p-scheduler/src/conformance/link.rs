//! The suite for links.

use futures::future::{Either, join, select};
use p2p_proto::ids::{MachineKey, PeerKeys, Role};
use p2p_proto::limits::RECORD_BYTES;
use p2p_proto::link::handshake::{Called, Calling, Parties};
use p2p_proto::link::{
    ConnectPlan, Connected, LinkError, LinkReceiver, LinkSender, LinkTransport, Session, TransitKey,
};
use p2p_proto::trust::ProcessSecret;

use super::soon;

/// What the writer gathers before it flushes, as its trait asks.
const FLUSH_BYTES: usize = 256 * 1024;
/// A link may hold so much that nobody reads, in all buffers on the way, before its writer waits.
const HELD_BYTES: usize = 64 * 1024 * 1024;

/// Runs links through everything that their traits promise. `transports` makes the client's and the worker's transport.
///
/// # Panics
/// Where a link breaks a rule.
pub async fn link(mut transports: impl FnMut() -> [Box<dyn LinkTransport>; 2]) {
    records_of_every_size_pass(connect(transports()).await).await;
    many_records_share_one_flush(connect(transports()).await).await;
    bulk_goes_both_ways_at_once(connect(transports()).await).await;
    waiting_may_be_given_up(connect(transports()).await).await;
    an_orderly_end_is_no_loss(connect(transports()).await).await;
    a_peer_that_is_gone_is_lost(connect(transports()).await).await;
    a_reader_that_does_not_read_holds_the_writer(connect(transports()).await).await;
    links_of_one_transport_are_apart(transports()).await;
}

/// Two sides that have the transit key but not one session must not meet: what the key let through was not the peer (L-02).
///
/// # Panics
/// Where one of them believes that it is connected.
pub async fn other_sessions(mut transports: impl FnMut() -> [Box<dyn LinkTransport>; 2]) {
    let [client, worker] = try_connect(&transports(), [session(1, Role::Client), session(2, Role::Worker)], 1).await;
    assert!(client.is_err(), "a client took somebody else for its worker");
    assert!(worker.is_err(), "a worker took somebody else for its client");
}

async fn records_of_every_size_pass([mut client, mut worker]: [Connected; 2]) {
    for _ in 0..2 {
        for size in [1, 2, 15, 16, 17, 255, 256, 1000, 4096, 16_384, 64_000, RECORD_BYTES - 1, RECORD_BYTES] {
            send(&mut *client.sender, &record(size)).await;
            assert!(
                receive(&mut *worker.receiver, "a record").await == record(size),
                "a record of {size} bytes came changed"
            );
        }
        for bad in [&[] as &[u8], &vec![0; RECORD_BYTES + 1]] {
            let refused = client.sender.feed(bad);
            assert!(matches!(refused, Err(LinkError::Misuse(_))), "a record of {} bytes: {refused:?}", bad.len());
        }
        // The other way round.
        std::mem::swap(&mut client, &mut worker);
    }
    send(&mut *client.sender, b"it still works").await;
    assert_eq!(receive(&mut *worker.receiver, "a record after refused ones").await, b"it still works");
}

async fn many_records_share_one_flush([mut client, mut worker]: [Connected; 2]) {
    assert_eq!(client.sender.buffered(), 0, "a fresh link has something to write");
    for n in 0..5000_u32 {
        feed(&mut *client.sender, &n.to_be_bytes());
    }
    assert!(client.sender.buffered() >= 20_000, "what was fed is buffered");
    let flush = async {
        soon("a flush", client.sender.flush()).await.expect("a flush");
        assert_eq!(client.sender.buffered(), 0, "after a flush nothing waits");
    };
    let read = async {
        for n in 0..5000_u32 {
            assert_eq!(receive(&mut *worker.receiver, "one of many").await, n.to_be_bytes());
        }
    };
    join(flush, read).await;
}

async fn bulk_goes_both_ways_at_once([mut client, mut worker]: [Connected; 2]) {
    const RECORDS: usize = 200;
    let (mut to_worker, mut to_client) = (client.sender, worker.sender);
    let writes = join(write_bulk(&mut *to_worker, RECORDS), write_bulk(&mut *to_client, RECORDS));
    let reads = join(read_bulk(&mut *client.receiver, RECORDS), read_bulk(&mut *worker.receiver, RECORDS));
    join(writes, reads).await;
}

async fn waiting_may_be_given_up([mut client, mut worker]: [Connected; 2]) {
    let write = async {
        for n in 0..200_usize {
            send(&mut *client.sender, &record(1 + n * 300)).await;
            async_std::task::yield_now().await;
        }
    };
    let read = async {
        for n in 0..200 {
            let size = loop {
                let received = std::pin::pin!(worker.receiver.receive());
                match select(received, std::pin::pin!(async_std::task::yield_now())).await {
                    Either::Left((record, _)) => break record.expect("a record").len(),
                    Either::Right(_) => {}
                }
            };
            assert_eq!(size, 1 + n * 300, "a record was lost with a reader that gave up waiting");
        }
    };
    soon("records for a reader that gives up again and again", join(write, read)).await;
}

async fn an_orderly_end_is_no_loss([mut client, mut worker]: [Connected; 2]) {
    for size in [1, 1000, RECORD_BYTES] {
        feed(&mut *client.sender, &record(size));
    }
    let close = async {
        soon("a flush", client.sender.flush()).await.expect("a flush");
        soon("an orderly end", client.sender.close()).await;
    };
    let read = async {
        for size in [1, 1000, RECORD_BYTES] {
            assert_eq!(receive(&mut *worker.receiver, "what was sent before the end").await.len(), size);
        }
        for _ in 0..2 {
            let end = soon("the end", worker.receiver.receive()).await.map(<[u8]>::len);
            assert_eq!(end, Err(LinkError::Closed), "an orderly end");
        }
    };
    join(close, read).await;
}

async fn a_peer_that_is_gone_is_lost([client, mut worker]: [Connected; 2]) {
    drop(client);
    let end = soon("a loss", worker.receiver.receive()).await.map(<[u8]>::len);
    assert!(matches!(end, Err(LinkError::Lost(_))), "a peer that is gone without a word: {end:?}");
    let refused = soon("a flush to nobody fails in the end", async {
        loop {
            feed(&mut *worker.sender, &record(RECORD_BYTES));
            if let Err(error) = worker.sender.flush().await {
                return error;
            }
        }
    });
    let error = refused.await;
    assert!(matches!(error, LinkError::Lost(_) | LinkError::Closed), "a flush to nobody: {error:?}");
}

async fn a_reader_that_does_not_read_holds_the_writer([mut client, mut worker]: [Connected; 2]) {
    // How fast it is does not matter: a flush that is slow is taken for one that waits, and then everything must come all the same.
    let slow = std::time::Duration::from_secs(1);
    let mut sent = 0;
    loop {
        while client.sender.buffered() < FLUSH_BYTES {
            feed(&mut *client.sender, &record(RECORD_BYTES));
            sent += 1;
        }
        assert!(sent * RECORD_BYTES < HELD_BYTES, "{HELD_BYTES} bytes were taken though nobody reads");
        let mut flush = client.sender.flush();
        if let Ok(flushed) = async_std::future::timeout(slow, &mut flush).await {
            flushed.expect("a flush");
            continue;
        }
        let read = read_bulk(&mut *worker.receiver, sent);
        let (flushed, ()) = soon("a writer that waited goes on", join(flush, read)).await;
        flushed.expect("a flush that waited");
        return;
    }
}

async fn links_of_one_transport_are_apart(transports: [Box<dyn LinkTransport>; 2]) {
    let sessions = |seed| [session(seed, Role::Client), session(seed, Role::Worker)];
    let (first, second) =
        join(try_connect(&transports, sessions(1), 1), try_connect(&transports, sessions(2), 2)).await;
    let mut first = first.map(|end| end.expect("the first of two links"));
    let mut second = second.map(|end| end.expect("the second of two links"));
    send(&mut *first[0].sender, b"first").await;
    send(&mut *second[0].sender, b"second").await;
    assert_eq!(receive(&mut *first[1].receiver, "a record of the first link").await, b"first");
    drop(first);
    assert_eq!(receive(&mut *second[1].receiver, "a record of the second link").await, b"second");
}

async fn connect(transports: [Box<dyn LinkTransport>; 2]) -> [Connected; 2] {
    let ends = try_connect(&transports, [session(1, Role::Client), session(1, Role::Worker)], 1).await;
    ends.map(|end| end.unwrap_or_else(|error| panic!("no link came about: {error}")))
}

async fn try_connect(
    transports: &[Box<dyn LinkTransport>; 2],
    sessions: [Session; 2],
    key: u8,
) -> [Result<Connected, LinkError>; 2] {
    let [client, worker] = transports;
    let client = soon("a client prepares", client.prepare()).await.expect("a client prepares");
    let worker = soon("a worker prepares", worker.prepare()).await.expect("a worker prepares");
    let plan = |role, theirs, session| {
        let transit_key = TransitKey([key; 32]);
        ConnectPlan { role, transit_key, theirs, session, patient: false }
    };
    let [ours, theirs] = sessions;
    let (to_worker, to_client) = (plan(Role::Client, worker.hints(), ours), plan(Role::Worker, client.hints(), theirs));
    let ends = join(client.connect(to_worker), worker.connect(to_client));
    let (client, worker) = soon("a link comes about, or not", ends).await;
    [client, worker]
}

/// One side of a session; both sides of one seed fit each other.
fn session(seed: u8, role: Role) -> Session {
    let made = (|| {
        let client = ProcessSecret::from_entropy([seed; 32]);
        let worker = ProcessSecret::from_entropy([seed + 100; 32]);
        let keys = |secret: &ProcessSecret, machine| PeerKeys {
            machine: MachineKey([machine; 32]),
            process: secret.process_key(),
        };
        let cluster = "alice/friends".parse().unwrap_or_else(|fault| unreachable!("a valid name: {fault}"));
        let parties = Parties { cluster, caller: keys(&client, 1), callee: keys(&worker, 2) };
        let (calling, message) = Calling::start(&parties, &client, b"", [seed; 32])?;
        let (called, _) = Called::open(&parties, &worker, &message, [seed + 1; 32])?;
        let (theirs, message) = called.answer(b"")?;
        let (ours, _) = calling.finish(&message)?;
        Ok::<_, p2p_proto::error::ProtoError>(if role == Role::Client { ours } else { theirs })
    })();
    made.unwrap_or_else(|fault| unreachable!("a handshake with itself: {fault}"))
}

/// Bytes that show where one is missing.
fn record(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

fn feed(sender: &mut dyn LinkSender, record: &[u8]) {
    sender.feed(record).unwrap_or_else(|error| panic!("a record of {} bytes was refused: {error}", record.len()));
}

async fn send(sender: &mut dyn LinkSender, record: &[u8]) {
    feed(sender, record);
    soon("a flush", sender.flush()).await.unwrap_or_else(|error| panic!("a flush failed: {error}"));
}

async fn receive(receiver: &mut dyn LinkReceiver, what: &str) -> Vec<u8> {
    match soon(what, receiver.receive()).await {
        Ok(record) => record.to_vec(),
        Err(error) => panic!("{what}: the link ended: {error}"),
    }
}

async fn write_bulk(sender: &mut dyn LinkSender, records: usize) {
    for _ in 0..records {
        feed(sender, &record(RECORD_BYTES));
        if sender.buffered() >= FLUSH_BYTES {
            soon("a flush of bulk", sender.flush()).await.expect("a flush of bulk");
        }
    }
    soon("the last flush of bulk", sender.flush()).await.expect("a flush of bulk");
}

async fn read_bulk(receiver: &mut dyn LinkReceiver, records: usize) {
    let expected = record(RECORD_BYTES);
    for n in 0..records {
        assert!(receive(receiver, "bulk").await == expected, "record {n} of bulk came changed");
    }
}
