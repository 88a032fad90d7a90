//! `p2p map` over a long and lossy way: by a relay behind a proxy that delays and loses, beside the same without delay and loss, and beside
//! what the tasks alone would take.

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
const ROUGH: Weather = Weather { delay: Duration::from_millis(75), loss: 0.01, rate: None, seed: 1 };
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
    let network = |weather| {
        let proxy = Proxy::start(relay.address(), weather);
        let cluster = Cluster::start_by(p2p, SLOTS, &["--relay", &proxy.address(), "--relay-only"])?;
        Result::Ok((cluster, proxy))
    };
    let ((rough, _rough_proxy), (calm, _calm_proxy)) = (network(ROUGH)?, network(Weather::default())?);
    let round_trips_s = ROUND_TRIPS * 2.0 * ROUGH.delay.as_secs_f64();
    let mut rows = Vec::new();
    for command in ["true #", "sleep 0.05 #"] {
        let (mut hidden, mut of_work, mut calm_of_work) = (Pairs::default(), Pairs::default(), Pairs::default());
        for _ in 0..sizes.rounds {
            // In turn: what else this machine does meets both ways.
            let (rough_took, rough_worked) = map(&rough, command, sizes.tasks)?;
            let (calm_took, calm_worked) = map(&calm, command, sizes.tasks)?;
            hidden.push(rough_took, calm_took + round_trips_s);
            of_work.push(rough_took, rough_worked / f64::from(SLOTS) + round_trips_s);
            calm_of_work.push(calm_took, calm_worked / f64::from(SLOTS));
        }
        let tasks = format!("{} x `{}`, {SLOTS} slots", sizes.tasks, command.trim_end_matches(" #"));
        let rough = format!("{tasks}, 150 ms there and back, 1 % loss");
        let calm = format!("{tasks}, no delay, no loss");
        let all_hidden = "no delay, no loss, and 5 round trips";
        rows.push(Row::paired(&rough, &hidden, Unit::Seconds, all_hidden, Bound::AtMostTimes(1.5)));
        rows.push(Row::paired(&rough, &of_work, Unit::Seconds, "work by slots, 5 round trips", Bound::None));
        rows.push(Row::paired(&calm, &calm_of_work, Unit::Seconds, "work by slots", Bound::None));
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
