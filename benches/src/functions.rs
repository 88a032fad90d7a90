//! Functions as tasks: a client in this process, a worker in another one, a real link between them.
//!
//! Hub and host are a third process and have nothing to do once the link is there.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_std::task::block_on;
use p2p_proto::board::message::Offer;
use p2p_scheduler::{Client, Forgetful, Functions, Outcome, Task, Worker, WorkerOffer};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::child::{self, Child, Role};
use crate::links::transport;
use crate::meeting::{GUEST, OWNER, Place, member};
use crate::raw::Raw;
use crate::stats::{Pairs, median};
use crate::table::{Bound, Row, Unit};

/// The worker's slots.
const SLOTS: u32 = 2;
/// How long a sleeping function sleeps.
const NAP: Duration = Duration::from_millis(10);
/// A link must be there by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Functions submitted at once.
    pub burst: usize,
    /// Repetitions of everything.
    pub rounds: usize,
    /// Functions called one at a time, in a block; a tenth more before it to warm up.
    pub calls: usize,
    /// Sleeping functions.
    pub naps: usize,
    /// Tasks of [`Sizes::payload_bytes`] each.
    pub payloads: usize,
    /// What each of them brings along.
    pub payload_bytes: usize,
}

impl Sizes {
    /// What the table shows.
    pub const FULL: Self =
        Self { burst: 10_000, rounds: 7, calls: 1000, naps: 200, payloads: 4, payload_bytes: 64 << 20 };
    /// Whether it works at all.
    pub const SMOKE: Self = Self { burst: 100, rounds: 1, calls: 10, naps: 4, payloads: 1, payload_bytes: 1 << 20 };
}

#[derive(Serialize, Deserialize)]
enum Order {
    EchoRaw(usize),
    TakeRaw(usize),
}

/// The rows.
///
/// # Errors
/// When something does not come up, or a function fails.
pub fn measure(program: &Path, sizes: Sizes) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let (_meeting, place) = Place::open(program, folder.path())?;
    let mut worker = Child::start(program, &Role::Worker { place: place.clone(), slots: SLOTS })?;
    let mut raw = Raw::connect(worker.hear::<SocketAddr>()?)?;
    let board = Arc::new(place.board(OWNER)?);
    let client = Client::join(&member(OWNER)?, board, Arc::new(transport()), Arc::new(Forgetful))?;
    let linked = block_on(async_std::future::timeout(PATIENCE, call(&client, noop())));
    linked.map_err(|_| format!("no worker was linked: {:?}", client.waiting()))??;

    let mut rows = vec![burst(&client, sizes)?, one_by_one(&client, &mut worker, &mut raw, sizes)?];
    rows.push(naps(&client, sizes)?);
    rows.push(payloads(&client, &mut worker, &mut raw, sizes)?);
    block_on(client.close());
    Ok(rows)
}

fn burst(client: &Client, sizes: Sizes) -> Result<Row> {
    let what = format!("{} no-op functions submitted at once", sizes.burst);
    let mut rates = Vec::new();
    let mut pairs = Pairs::default();
    // The first round warms up, and is not counted.
    for round in 0..=sizes.rounds {
        let since = Instant::now();
        block_on(all(client, (0..sizes.burst).map(|_| noop())))?;
        let ours = sizes.burst as f64 / since.elapsed().as_secs_f64();
        if round > 0 {
            rates.push(ours);
            if let Some(pool) = python_pool(sizes.burst) {
                pairs.push(ours, pool);
            }
        }
    }
    let bound = Bound::AtLeast(50_000.0);
    if pairs.baseline() == 0.0 {
        return Ok(Row::alone(&what, median(&rates), Unit::PerS, bound));
    }
    Ok(Row::paired(&what, &pairs, Unit::PerS, "multiprocessing.Pool(2), no network:", bound))
}

fn one_by_one(client: &Client, worker: &mut Child, raw: &mut Raw, sizes: Sizes) -> Result<Row> {
    let mut pairs = Pairs::default();
    let warm_up = sizes.calls / 10;
    for _ in 0..sizes.rounds {
        worker.tell(&Order::EchoRaw(warm_up + sizes.calls))?;
        let baseline = block_on(raw.ping(warm_up + sizes.calls))?;
        let ours = block_on(async {
            let mut times = Vec::with_capacity(sizes.calls);
            for _ in 0..warm_up + sizes.calls {
                let since = Instant::now();
                call(client, noop()).await?;
                times.push(since.elapsed().as_secs_f64() * 1e6);
            }
            Ok::<_, Box<dyn std::error::Error>>(times)
        })?;
        pairs.push(median(&ours[warm_up..]), median(&baseline[warm_up..]));
    }
    Ok(Row::paired("one no-op function at a time, p50", &pairs, Unit::Micros, "raw TCP", Bound::AtMostTimes(3.0)))
}

fn naps(client: &Client, sizes: Sizes) -> Result<Row> {
    let mut pairs = Pairs::default();
    for _ in 0..sizes.rounds.min(3) {
        let since = Instant::now();
        let sleepers: Vec<_> = (0..SLOTS as usize)
            .map(|_| std::thread::spawn(move || (0..sizes.naps / SLOTS as usize).for_each(|_| std::thread::sleep(NAP))))
            .collect();
        for sleeper in sleepers {
            sleeper.join().map_err(|_| "a thread that only sleeps failed")?;
        }
        let baseline = since.elapsed().as_secs_f64();
        let since = Instant::now();
        block_on(all(client, (0..sizes.naps).map(|_| Task::function("nap", Vec::new()))))?;
        pairs.push(since.elapsed().as_secs_f64(), baseline);
    }
    let what = format!("{} functions that sleep 10 ms, 2 slots", sizes.naps);
    Ok(Row::paired(&what, &pairs, Unit::Seconds, "2 threads that sleep", Bound::AtMost(1.1)))
}

/// Everything that a payload goes through: chunks, windows, acknowledgements, and gathering it at the other end.
fn payloads(client: &Client, worker: &mut Child, raw: &mut Raw, sizes: Sizes) -> Result<Row> {
    let mut pairs = Pairs::default();
    let bytes = sizes.payloads * sizes.payload_bytes;
    let rate = |since: Instant| bytes as f64 / 1e6 / since.elapsed().as_secs_f64();
    for _ in 0..sizes.rounds.min(3) {
        worker.tell(&Order::TakeRaw(bytes))?;
        let since = Instant::now();
        block_on(raw.send(bytes))?;
        let baseline = rate(since);
        let tasks: Vec<Task> =
            (0..sizes.payloads).map(|_| Task::function("size", vec![7; sizes.payload_bytes])).collect();
        let since = Instant::now();
        block_on(all(client, tasks))?;
        pairs.push(rate(since), baseline);
    }
    let what = format!("payloads of {} tasks, {} MiB each", sizes.payloads, sizes.payload_bytes >> 20);
    Ok(Row::paired(&what, &pairs, Unit::MegabytesPerS, "raw TCP", Bound::None))
}

fn noop() -> Task {
    Task::function("noop", Vec::new())
}

async fn call(client: &Client, task: Task) -> Result<()> {
    check(&client.submit(task).await.outcome().await)
}

async fn all(client: &Client, tasks: impl IntoIterator<Item = Task>) -> Result<()> {
    for handle in client.submit_all(tasks).await {
        check(&handle.outcome().await)?;
    }
    Ok(())
}

fn check(outcome: &Outcome) -> Result<()> {
    if outcome.is_success() { Ok(()) } else { Err(format!("a function did not return: {outcome:?}").into()) }
}

/// Calls of nothing a second by Python's process pool on this machine, without any network.
fn python_pool(count: usize) -> Option<f64> {
    let script = "import multiprocessing as m, os, sys, time\n\
                  count = int(sys.argv[1])\n\
                  with m.Pool(2) as pool:\n    \
                      pool.map(abs, range(100), 1)\n    \
                      since = time.time()\n    \
                      pool.map(abs, range(count), 1)\n    \
                      print(count / (time.time() - since))\n";
    let output =
        Command::new("python3").args(["-c", script, &count.to_string()]).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// The worker.
///
/// # Errors
/// When it does not come up.
pub fn play(place: &Place, slots: u32) -> Result<()> {
    let (listener, address) = Raw::listen()?;
    let functions = Functions::new()
        .register("noop", |_| Ok(Vec::new()))
        .register("nap", |_| {
            std::thread::sleep(NAP);
            Ok(Vec::new())
        })
        .register("size", |input| Ok(input.len().to_string().into_bytes()));
    let offer = WorkerOffer {
        offer: Offer { slots, free: slots, ..Offer::default() },
        allow: None,
        weights: Default::default(),
    };
    let board = Arc::new(place.board(GUEST)?);
    let transport = Arc::new(transport());
    let worker = Worker::join(&member(GUEST)?, offer, Arc::new(functions), board, transport, Arc::new(Forgetful))?;
    child::answer(&address)?;
    let mut raw = Raw::accept(&listener)?;
    while let Some(order) = child::told()? {
        match order {
            Order::EchoRaw(count) => block_on(raw.echo(count))?,
            Order::TakeRaw(bytes) => block_on(raw.take(bytes))?,
        }
    }
    drop(worker);
    Ok(())
}
