//! Records over a real link between two processes, beside raw TCP between the same two.
//!
//! Both connections exist all the time, and blocks of the one and the other take turns. The set-up messages are made on both sides
//! from the same entropy, so only hints travel beside the link: it is the link that is measured, not its set-up.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use async_std::task::block_on;
use p2p_proto::ids::{ClusterName, MachineKey, PeerKeys, Role as PeerRole};
use p2p_proto::limits::RECORD_BYTES;
use p2p_proto::link::handshake::{Called, Calling, Parties};
use p2p_proto::link::{ConnectPlan, Connected, Hints, LinkTransport as _, PendingLink, Session, TransitKey};
use p2p_proto::trust::ProcessSecret;
use p2p_transport_wormhole::{WormholeConfig, WormholeTransport};
use serde::{Deserialize, Serialize};

use crate::child::{self, Child, Role};
use crate::raw::{PING_BYTES, Raw};
use crate::stats::{Pairs, median};
use crate::table::{Bound, Row, Unit};
use crate::{Result, raw};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Pairs of blocks.
    pub rounds: usize,
    /// Round trips in a block; a tenth more before it to warm up.
    pub pings: usize,
    /// Bytes one way.
    pub bulk_bytes: usize,
    /// Pairs of bulk runs.
    pub bulk_rounds: usize,
}

impl Sizes {
    /// What the table shows.
    pub const FULL: Self = Self { rounds: 9, pings: 2000, bulk_bytes: 256 << 20, bulk_rounds: 5 };
    /// Whether it works at all.
    pub const SMOKE: Self = Self { rounds: 1, pings: 20, bulk_bytes: 1 << 20, bulk_rounds: 1 };
}

#[derive(Serialize, Deserialize)]
struct Ways {
    raw: SocketAddr,
    hints: Hints,
}

#[derive(Serialize, Deserialize)]
enum Order {
    EchoRaw(usize),
    EchoLink(usize),
    TakeRaw(usize),
    TakeLink(usize),
}

/// What one link carries one way, megabytes a second: the median of some runs.
///
/// # Errors
/// When a connection breaks.
pub fn bulk_rate(program: &Path, sizes: Sizes) -> Result<f64> {
    let mut child = Child::start(program, &Role::Link)?;
    let theirs: Ways = child.hear()?;
    let _raw = Raw::connect(theirs.raw)?;
    let pending = block_on(transport().prepare())?;
    child.tell(&pending.hints())?;
    let mut link = connect(pending, PeerRole::Client, theirs.hints)?;
    let mut rates = Vec::new();
    for _ in 0..sizes.bulk_rounds {
        child.tell(&Order::TakeLink(sizes.bulk_bytes))?;
        let since = Instant::now();
        block_on(send(&mut link, sizes.bulk_bytes))?;
        rates.push(sizes.bulk_bytes as f64 / 1e6 / since.elapsed().as_secs_f64());
    }
    Ok(median(&rates))
}

/// The two rows.
///
/// # Errors
/// When a connection breaks.
pub fn measure(program: &Path, sizes: Sizes) -> Result<Vec<Row>> {
    let mut child = Child::start(program, &Role::Link)?;
    let theirs: Ways = child.hear()?;
    let mut raw = Raw::connect(theirs.raw)?;
    let pending = block_on(transport().prepare())?;
    child.tell(&pending.hints())?;
    let mut link = connect(pending, PeerRole::Client, theirs.hints)?;

    let mut trips = Pairs::default();
    let warm_up = sizes.pings / 10;
    for _ in 0..sizes.rounds {
        child.tell(&Order::EchoRaw(warm_up + sizes.pings))?;
        let baseline = block_on(raw.ping(warm_up + sizes.pings))?;
        child.tell(&Order::EchoLink(warm_up + sizes.pings))?;
        let ours = block_on(ping(&mut link, warm_up + sizes.pings))?;
        trips.push(median(&ours[warm_up..]), median(&baseline[warm_up..]));
    }

    let mut bulk = Pairs::default();
    let rate = |since: Instant| sizes.bulk_bytes as f64 / 1e6 / since.elapsed().as_secs_f64();
    for _ in 0..sizes.bulk_rounds {
        child.tell(&Order::TakeRaw(sizes.bulk_bytes))?;
        let since = Instant::now();
        block_on(raw.send(sizes.bulk_bytes))?;
        let baseline = rate(since);
        child.tell(&Order::TakeLink(sizes.bulk_bytes))?;
        let since = Instant::now();
        block_on(send(&mut link, sizes.bulk_bytes))?;
        bulk.push(rate(since), baseline);
    }
    let mebibytes = sizes.bulk_bytes >> 20;
    Ok(vec![
        Row::paired("link, 200 bytes there and back, p50", &trips, Unit::Micros, "raw TCP", Bound::AtMostTimes(1.5)),
        Row::paired(
            &format!("link, {mebibytes} MiB one way"),
            &bulk,
            Unit::MegabytesPerS,
            "raw TCP",
            Bound::AtLeastTimes(0.35),
        ),
    ])
}

/// The worker's end.
///
/// # Errors
/// When a connection breaks.
pub fn play() -> Result<()> {
    let (listener, raw) = raw::Raw::listen()?;
    let pending = block_on(transport().prepare())?;
    child::answer(&Ways { raw, hints: pending.hints() })?;
    let mut raw = Raw::accept(&listener)?;
    let Some(theirs) = child::told()? else { return Ok(()) };
    let mut link = connect(pending, PeerRole::Worker, theirs)?;
    while let Some(order) = child::told()? {
        match order {
            Order::EchoRaw(count) => block_on(raw.echo(count))?,
            Order::TakeRaw(bytes) => block_on(raw.take(bytes))?,
            Order::EchoLink(count) => block_on(echo(&mut link, count))?,
            Order::TakeLink(bytes) => block_on(take(&mut link, bytes))?,
        }
    }
    Ok(())
}

/// A transport for two processes on one machine.
pub fn transport() -> WormholeTransport {
    WormholeTransport::new(WormholeConfig { relays: Vec::new(), loopback: true, ..WormholeConfig::default() })
}

fn connect(pending: Box<dyn PendingLink>, role: PeerRole, theirs: Hints) -> Result<Connected> {
    let (client, worker) = sessions();
    let session = if role == PeerRole::Client { client } else { worker };
    Ok(block_on(pending.connect(ConnectPlan {
        role,
        transit_key: TransitKey([42; 32]),
        theirs,
        session,
        patient: false,
    }))?)
}

/// Both ends of one session; each process uses one of them.
pub fn sessions() -> (Session, Session) {
    let client = ProcessSecret::from_entropy([1; 32]);
    let worker = ProcessSecret::from_entropy([2; 32]);
    let keys = |secret: &ProcessSecret| PeerKeys { machine: MachineKey([3; 32]), process: secret.process_key() };
    let cluster: ClusterName = "alice/friends".parse().expect("a good name");
    let parties = Parties { cluster, caller: keys(&client), callee: keys(&worker) };
    let (calling, message) = Calling::start(&parties, &client, b"", [4; 32]).expect("message 1");
    let (called, _) = Called::open(&parties, &worker, &message, [5; 32]).expect("message 1 opens");
    let (theirs, message) = called.answer(b"").expect("message 2");
    let (ours, _) = calling.finish(&message).expect("message 2 opens");
    (ours, theirs)
}

async fn ping(link: &mut Connected, count: usize) -> Result<Vec<f64>> {
    let record = [7; PING_BYTES];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let since = Instant::now();
        link.sender.feed(&record)?;
        link.sender.flush().await?;
        let size = link.receiver.receive().await?.len();
        assert_eq!(size, PING_BYTES);
        times.push(since.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

async fn echo(link: &mut Connected, count: usize) -> Result<()> {
    for _ in 0..count {
        let record = link.receiver.receive().await?;
        link.sender.feed(record)?;
        link.sender.flush().await?;
    }
    Ok(())
}

async fn send(link: &mut Connected, bytes: usize) -> Result<()> {
    let record = vec![7; RECORD_BYTES];
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(record.len());
        link.sender.feed(&record[..piece])?;
        if link.sender.buffered() >= 256 * 1024 {
            link.sender.flush().await?;
        }
        left -= piece;
    }
    link.sender.flush().await?;
    link.receiver.receive().await?;
    Ok(())
}

async fn take(link: &mut Connected, bytes: usize) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        left = left.saturating_sub(link.receiver.receive().await?.len());
    }
    link.sender.feed(&[1])?;
    Ok(link.sender.flush().await?)
}
