//! What a worker and a host cost while nothing happens: processor time, wake-ups, memory.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::cluster::Cluster;
use crate::table::{Bound, Row, Unit};

/// How long is looked.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// What the last command left behind settles within this time.
    pub settle: Duration,
    /// The time that is measured.
    pub watch: Duration,
}

impl Sizes {
    /// What the table shows.
    pub const FULL: Self = Self { settle: Duration::from_secs(5), watch: Duration::from_secs(30) };
    /// Whether it works at all.
    pub const SMOKE: Self = Self { settle: Duration::from_millis(100), watch: Duration::from_millis(500) };
}

/// What a process has used since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Time on a processor, nanoseconds, by the scheduler's own clock.
    pub cpu_ns: u64,
    /// Times that a thread slept and was woken.
    pub wakes: u64,
    /// Resident memory, KiB.
    pub resident_kib: u64,
}

impl Usage {
    /// Of all threads of a process.
    ///
    /// # Errors
    /// When it is gone, or this is no Linux.
    pub fn of(pid: u32) -> Result<Self> {
        let mut usage = Self::default();
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path();
            let schedstat = std::fs::read_to_string(thread.join("schedstat"))?;
            usage.cpu_ns += schedstat.split(' ').next().unwrap_or_default().parse::<u64>()?;
            usage.wakes += field(&std::fs::read_to_string(thread.join("status"))?, "voluntary_ctxt_switches:")?;
        }
        usage.resident_kib = field(&std::fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS:")?;
        Ok(usage)
    }
}

fn field(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The rows.
///
/// # Errors
/// When the cluster does not come up.
pub fn measure(p2p: &Path, sizes: Sizes) -> Result<Vec<Row>> {
    let cluster = Cluster::start(p2p, 2)?;
    std::thread::sleep(sizes.settle);
    let pids = [("worker", cluster.worker_pid()), ("host", cluster.host_pid())];
    let since = Instant::now();
    let mut before = Vec::new();
    for (_, pid) in pids {
        before.push(Usage::of(pid)?);
    }
    std::thread::sleep(sizes.watch);
    let mut rows = Vec::new();
    for ((role, pid), before) in pids.into_iter().zip(before) {
        let after = Usage::of(pid)?;
        let seconds = since.elapsed().as_secs_f64();
        let percent = (after.cpu_ns - before.cpu_ns) as f64 / 1e7 / seconds;
        let wakes = (after.wakes.saturating_sub(before.wakes)) as f64 / seconds;
        rows.push(Row::alone(&format!("idle {role}, of a core"), percent, Unit::CorePercent, Bound::AtMost(0.2)));
        rows.push(Row::alone(&format!("idle {role}, wake-ups"), wakes, Unit::PerS, Bound::None));
        let bound = if role == "worker" { Bound::AtMost(30.0) } else { Bound::None };
        let resident = after.resident_kib as f64 / 1024.0;
        rows.push(Row::alone(&format!("idle {role}, resident memory"), resident, Unit::Mebibytes, bound));
    }
    Ok(rows)
}
