//! Commands on a cluster of real processes, beside the programs that people use for the same on one machine.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::cluster::Cluster;
use crate::meeting::OWNER;
use crate::stats::{Pairs, quantile};
use crate::table::{Bound, Row, Unit};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Inputs of a map.
    pub inputs: usize,
    /// Repetitions of a map.
    pub rounds: usize,
    /// Repetitions of a single command.
    pub runs: usize,
    /// Between two of them, where they are not to follow at once.
    pub pause: Duration,
}

impl Sizes {
    /// What the table shows.
    pub const FULL: Self = Self { inputs: 2000, rounds: 5, runs: 11, pause: Duration::from_secs(3) };
    /// Whether it works at all.
    pub const SMOKE: Self = Self { inputs: 10, rounds: 1, runs: 1, pause: Duration::ZERO };
}

/// The rows.
///
/// # Errors
/// When the cluster does not come up, or a command fails on it.
pub fn measure(p2p: &Path, sizes: Sizes) -> Result<Vec<Row>> {
    let cluster = Cluster::start(p2p, 2)?;
    let mut rows = map(&cluster, sizes).unwrap_or_else(|fault| vec![Row::missing("p2p map", &fault.to_string())]);
    rows.extend(run(&cluster, sizes)?);
    Ok(rows)
}

fn map(cluster: &Cluster, sizes: Sizes) -> Result<Vec<Row>> {
    let list = tempfile::NamedTempFile::new()?;
    let lines: String = (0..sizes.inputs).map(|nth| format!("{nth}\n")).collect();
    std::fs::write(list.path(), lines)?;
    let timed = |command: &mut Command| -> Result<f64> {
        let since = Instant::now();
        let status = command.stdin(File::open(list.path())?).stdout(Stdio::null()).status()?;
        if !status.success() {
            return Err(format!("{} ended with {status}", command.get_program().display()).into());
        }
        Ok(since.elapsed().as_secs_f64())
    };
    let xargs = || timed(Command::new("xargs").args(["-P2", "-n1", "true"]));
    let ours = || timed(cluster.command(OWNER).args(["map", "true"]));
    let mut pairs = Pairs::default();
    for _ in 0..sizes.rounds {
        let baseline = xargs()?;
        pairs.push(ours()?, baseline);
    }
    let what = format!("p2p map true over {} inputs, 2 slots", sizes.inputs);
    let mut rows = vec![Row::paired(&what, &pairs, Unit::Seconds, "xargs -P2 -n1", Bound::AtMostTimes(1.3))];

    // Once is enough for what takes ten times as long.
    let parallel = timed(Command::new("parallel").args(["--will-cite", "-j2", "true"]).stderr(Stdio::null()));
    let what = "the same";
    rows.push(match parallel {
        Ok(parallel) => {
            let mut pairs = Pairs::default();
            pairs.push(ours()?, parallel);
            Row::paired(what, &pairs, Unit::Seconds, "GNU parallel -j2", Bound::None)
        }
        Err(_) => Row::missing("GNU parallel", "it is not installed (Debian: apt install parallel)"),
    });
    Ok(rows)
}

/// Single commands, as a person starts them with pauses and as a script does without; each with its slowest run, because a median hides
/// the waits of a second that a command may meet on the board.
fn run(cluster: &Cluster, sizes: Sizes) -> Result<Vec<Row>> {
    let timed = |command: &mut Command| -> Result<f64> {
        let since = Instant::now();
        if !command.status()?.success() {
            return Err(format!("{} failed", command.get_program().display()).into());
        }
        Ok(since.elapsed().as_secs_f64())
    };
    let mut rows = Vec::new();
    for (how, pause) in [("with pauses", sizes.pause), ("back to back", Duration::ZERO)] {
        let mut times = Vec::new();
        let mut ssh = Vec::new();
        std::thread::sleep(sizes.pause);
        for _ in 0..sizes.runs {
            times.push(timed(cluster.command(OWNER).args(["run", "--", "true"]))?);
            std::thread::sleep(pause);
        }
        // Apart from ours: two programs that take turns at one hub would change each other's pauses.
        for _ in 0..sizes.runs {
            ssh.extend(timed(cluster.ssh(OWNER).arg("help")).ok());
        }
        let bound = Bound::AtMost(0.5);
        let what = format!("p2p run -- true, {how}");
        eprintln!("{what}: {times:.3?}, ssh HUB help: {ssh:.3?}");
        let beside = |q| (!ssh.is_empty()).then(|| format!("ssh HUB help {:.3} s", quantile(&ssh, q)));
        for (word, q) in [("p50", 0.5), ("slowest", 1.0)] {
            let row = Row::alone(&format!("{what}, {word}"), quantile(&times, q), Unit::Seconds, bound);
            rows.push(row.beside(beside(q).unwrap_or_default()));
        }
    }
    Ok(rows)
}
