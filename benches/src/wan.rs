//! `p2p map` over a long and lossy way: by a relay behind a proxy that delays and loses, beside what the tasks alone would take.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::Result;
use crate::cluster::Cluster;
use crate::meeting::OWNER;
use crate::stats::Pairs;
use crate::table::{Bound, Row, Unit};

// The tests of faults have the same network.
#[path = "../../p2p-cli/tests/faults/proxy.rs"]
#[allow(dead_code, clippy::expect_used)]
mod proxy;
#[path = "../../p2p-cli/tests/cluster/relay.rs"]
#[allow(unreachable_pub, clippy::expect_used)]
mod relay;

use proxy::{Proxy, Weather};
use relay::Relay;

/// Slots of the worker.
const SLOTS: u32 = 4;
/// A long way, as between two continents, on a bad radio link.
const ROUGH: Weather = Weather { delay: Duration::from_millis(75), loss: 0.01, seed: 1 };
/// What no client can do without, in round trips: to find its worker at the relay, to shake hands, to open the link, to send the first task
/// and to hear of the last one.
const ROUND_TRIPS: f64 = 5.0;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tasks of a map.
    pub tasks: usize,
    /// Repetitions.
    pub rounds: usize,
}

impl Sizes {
    /// What the table shows.
    pub const FULL: Self = Self { tasks: 1000, rounds: 3 };
}

/// The rows.
///
/// # Errors
/// When the relay (`twist3`) is missing, the cluster does not come up, or a command fails on it.
pub fn measure(p2p: &Path, sizes: Sizes) -> Result<Vec<Row>> {
    let relay = Relay::try_start()?;
    let ways = [("150 ms there and back, 1 % loss", ROUGH), ("no delay, no loss", Weather::default())];
    let mut networks = Vec::new();
    for (how, weather) in ways {
        let proxy = Proxy::start(relay.address(), weather);
        let cluster = Cluster::start_by(p2p, SLOTS, &["--relay", &proxy.address(), "--relay-only"])?;
        networks.push((how, weather, cluster, proxy));
    }
    let mut rows = Vec::new();
    for command in ["true #", "sleep 0.05 #"] {
        let mut pairs = [Pairs::default(), Pairs::default()];
        for _ in 0..sizes.rounds {
            // In turn: what else this machine does meets both ways.
            for ((_, weather, cluster, _), pairs) in networks.iter().zip(&mut pairs) {
                let (took, worked) = map(cluster, command, sizes.tasks)?;
                let ideal = worked / f64::from(SLOTS) + ROUND_TRIPS * 2.0 * weather.delay.as_secs_f64();
                pairs.push(took, ideal);
            }
        }
        for ((how, ..), pairs) in networks.iter().zip(&pairs) {
            let tasks = sizes.tasks;
            let what = format!("{tasks} x `{}`, {SLOTS} slots, relay, {how}", command.trim_end_matches(" #"));
            rows.push(Row::paired(&what, pairs, Unit::Seconds, "work by slots, 5 round trips", Bound::None));
        }
    }
    Ok(rows)
}

/// Runs a command for each of so many inputs; the wall time, and the time that all of them ran on their slots, seconds.
fn map(cluster: &Cluster, command: &str, tasks: usize) -> Result<(f64, f64)> {
    let list = tempfile::NamedTempFile::new()?;
    let lines: String = (0..tasks).map(|nth| format!("{nth}\n")).collect();
    std::fs::write(list.path(), lines)?;
    let told = tempfile::NamedTempFile::new()?;
    let since = Instant::now();
    let mut map = cluster.command(OWNER);
    map.args(["--json", "map", command]).stdin(File::open(list.path())?).stdout(Stdio::from(told.reopen()?));
    let status = map.status()?;
    let took = since.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("p2p map ended with {status}").into());
    }
    let mut worked = 0.0;
    for line in std::fs::read_to_string(told.path())?.lines() {
        let task: serde_json::Value = serde_json::from_str(line)?;
        worked += task["ran_s"].as_f64().ok_or("a task that does not tell how long it ran")?;
    }
    Ok((took, worked))
}
