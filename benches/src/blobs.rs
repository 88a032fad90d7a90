//! Large files as inputs of tasks on a cluster of real processes, beside what link and disk can do and the programs that people use for files.
//!
//! A time is that of `p2p run --in FILE -- true` less that of the same command without the file, which runs right before it: it is how
//! long a task waits for its input. Reading the file to name it is part of it, and so is putting it into the task's folder.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::meeting::OWNER;
use crate::peers::{Rsync, William, tar};
use crate::stats::{Pairs, median};
use crate::table::{Bound, Row, Unit};
use crate::{Result, links};

const MIB: usize = 1024 * 1024;
/// Files whose names are not kept yet are read again: this much later they are.
const AT_REST: Duration = Duration::from_secs(4);
/// ext4 avoids inodes that were freed in the last minute, and takes long to step over thousands of them (`recently_deleted` in Linux's
/// `fs/ext4/ialloc.c`): a task's folder that was removed would slow down whoever makes files next.
const FREED_FOR: Duration = Duration::from_secs(65);
/// Between two looks at a process's memory.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Sizes of the files, MiB, and how often each is sent.
    pub files: Vec<(usize, usize)>,
    /// What is written to find out what the disk can do, MiB.
    pub disk: usize,
    /// Files of 4 KiB in a folder.
    pub small: usize,
    /// How often the folder is sent.
    pub small_rounds: usize,
    /// Between removing many files and making new ones.
    pub freed_for: Duration,
    /// The link that is measured beside.
    pub links: links::Sizes,
}

impl Sizes {
    /// What the table shows.
    pub fn full() -> Self {
        Self {
            files: vec![(64, 5), (1024, 3)],
            disk: 1024,
            small: 10_000,
            small_rounds: 3,
            freed_for: FREED_FOR,
            links: links::Sizes::FULL,
        }
    }
}

/// The rows. `this` is the program that plays the other end of a link.
///
/// # Errors
/// When the cluster does not come up, or a command fails on it.
pub fn measure(this: &Path, p2p: &Path, sizes: &Sizes) -> Result<Vec<Row>> {
    let cluster = Cluster::start_with(p2p, 1, &["--relay", "none"], &["--cache-size", "6GiB"])?;
    let bench = Bench { cluster: &cluster, folder: cluster.folder().join("files"), this, sizes };
    fs::create_dir(&bench.folder)?;
    let mut rows = bench.folder()?;
    for &(mebibytes, rounds) in &sizes.files {
        rows.extend(bench.file(mebibytes, rounds)?);
    }
    Ok(rows)
}

struct Bench<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
    this: &'a Path,
    sizes: &'a Sizes,
}

impl Bench<'_> {
    /// A file that is new, then the same, then changed; rsync and wormhole-william beside.
    fn file(&self, mebibytes: usize, rounds: usize) -> Result<Vec<Row>> {
        let mut path = PathBuf::new();
        let bytes = mebibytes * MIB;
        let megabytes = bytes as f64 / 1e6;
        let (mut rates, mut again, mut written, mut linked) = (Pairs::default(), Vec::new(), Vec::new(), Vec::new());
        let mut peaks = (0.0_f64, 0.0_f64);
        for round in 0..rounds {
            // None is removed before the end: memory that was freed just now is quicker to write to than what a virtual machine has to be
            // given first, and both sides are to have the same.
            path = self.folder.join(format!("file-{mebibytes}-{round}"));
            write_noise(&path, (mebibytes * 1000 + round) as u64, bytes)?;
            written.push(self.disk_rate(&format!("disk-{mebibytes}-{round}"))?);
            linked.push(links::bulk_rate(self.this, self.sizes.links)?);
            let can = written[round].min(linked[round]);
            let (took, memory) = self.waits_for(&path)?;
            peaks = (peaks.0.max(memory.0), peaks.1.max(memory.1));
            rates.push(megabytes / took, can);
            std::thread::sleep(AT_REST);
            if round == 0 {
                // The first look at a file at rest keeps its name.
                self.waits_for(&path)?;
            }
            let before = self.sent()?;
            self.waits_for(&path)?;
            again.push(self.waits_for(&path)?.0);
            if self.sent()? != before {
                return Err("a file that was there was sent again".into());
            }
        }
        eprintln!("{mebibytes} MiB: disk {written:.0?} MB/s, link {linked:.0?} MB/s");
        let what = format!("{mebibytes} MiB to a task");
        let mut rows = vec![
            Row::paired(&what, &rates, Unit::MegabytesPerS, "the slower of disk and link", Bound::AtLeastTimes(0.7))
                .noted(&format!("disk {:.0}, link {:.0}", median(&written), median(&linked))),
            Row::alone(
                &format!("{what}: memory of the client"),
                peaks.0,
                Unit::Mebibytes,
                Bound::AtMost(64e6 / MIB as f64),
            ),
            Row::alone(
                &format!("{what}: memory of the worker"),
                peaks.1,
                Unit::Mebibytes,
                Bound::AtMost(64e6 / MIB as f64),
            ),
            Row::alone(
                &format!("{what} that has it, no byte of it sent"),
                median(&again),
                Unit::Seconds,
                Bound::AtMost(0.3),
            ),
        ];
        let ours = rates.ours();
        rows.extend(self.peers(&path, mebibytes, ours));
        if mebibytes >= 1024 {
            rows.push(self.changed(&path, bytes)?);
        }
        Ok(rows)
    }

    /// The file with a mebibyte more in its middle.
    fn changed(&self, path: &Path, bytes: usize) -> Result<Row> {
        let rsync = Rsync::start(&self.folder.join("rsync-changed"));
        let rsync = rsync.and_then(|rsync| rsync.send(path).map(|_| rsync));
        insert(path, bytes / 2, &noise_of(7, MIB))?;
        let before = self.sent()?;
        let (took, _) = self.waits_for(path)?;
        let sent = (self.sent()? - before) / MIB as f64;
        let row = Row::alone(
            &format!("{} MiB with 1 MiB inserted: sent", bytes / MIB),
            sent,
            Unit::Mebibytes,
            Bound::AtMost(4.0),
        );
        let beside = rsync.and_then(|rsync| {
            let (theirs, sent) = rsync.send(path)?;
            Ok(format!("rsync {:.1} MiB in {theirs:.2} s", sent / MIB as f64))
        });
        Ok(row.noted(&format!("in {took:.2} s")).beside(beside.unwrap_or_else(|fault| fault.to_string())))
    }

    /// What the disk takes for long, megabytes a second: some first tens of mebibytes go into a virtual machine's host at the speed of memory.
    fn disk_rate(&self, name: &str) -> Result<f64> {
        let bytes = self.sizes.disk * MIB;
        Ok(bytes as f64 / 1e6 / write_noise(&self.folder.join(name), 1, bytes)?)
    }

    /// What others take for the same file.
    fn peers(&self, path: &Path, mebibytes: usize, ours: f64) -> Vec<Row> {
        let megabytes = (mebibytes * MIB) as f64 / 1e6;
        let what = format!("the same {mebibytes} MiB");
        let rsync = Rsync::start(&self.folder.join(format!("rsync-{mebibytes}"))).and_then(|rsync| {
            let (took, _) = rsync.send(path)?;
            Ok(took)
        });
        let william = William::start(&self.folder.join(format!("william-{mebibytes}")))
            .and_then(|mut william| william.send(path));
        let row = |name: &str, took: Result<f64>| match took {
            Ok(took) => {
                let mut pairs = Pairs::default();
                pairs.push(ours, megabytes / took);
                Row::paired(&what, &pairs, Unit::MegabytesPerS, name, Bound::None)
            }
            Err(fault) => Row::missing(name, &fault.to_string()),
        };
        vec![row("rsync", rsync), row("wormhole-william", william)]
    }

    /// A folder of many small files.
    fn folder(&self) -> Result<Vec<Row>> {
        let count = self.sizes.small;
        let mut pairs = Pairs::default();
        let mut again = 0.0;
        for round in 0..self.sizes.small_rounds {
            let folder = self.folder.join(format!("many-{round}"));
            fs::create_dir(&folder)?;
            for nth in 0..count {
                fs::write(folder.join(format!("{nth}")), noise_of((round * count + nth) as u64, 4096))?;
            }
            self.settle();
            let baseline = tar(&folder, &self.folder.join(format!("untarred-{round}")))?;
            let input = PathBuf::from(format!("{}/", folder.display()));
            let (took, _) = self.waits_for(&input)?;
            // As rates: more is better, as everywhere in this group.
            pairs.push(count as f64 / took, count as f64 / baseline);
            if round + 1 == self.sizes.small_rounds {
                self.settle();
                again = self.waits_for(&input)?.0;
            }
        }
        let what = format!("{count} files of 4 KiB, files");
        Ok(vec![
            Row::paired(&what, &pairs, Unit::PerS, "tar | tar", Bound::AtLeastTimes(0.5)),
            Row::alone("the same folder to a task that has it", again, Unit::Seconds, Bound::None),
        ])
    }

    /// Waits until what was removed before slows nobody down.
    fn settle(&self) {
        rustix::fs::sync();
        std::thread::sleep(self.sizes.freed_for);
    }

    /// How long a task waits for this input, seconds, and the peaks of memory of client and worker, MiB.
    fn waits_for(&self, input: &Path) -> Result<(f64, (f64, f64))> {
        let without = self.run(self.cluster.command(OWNER).args(["run", "--", "true"]))?.0;
        let worker = self.cluster.worker_pid();
        // From here on its peak counts anew.
        fs::write(format!("/proc/{worker}/clear_refs"), "5")?;
        // A task's files have relative names; `DIR/` keeps its slash.
        let input = input.to_str().and_then(|input| input.strip_prefix(self.folder.to_str()?)?.strip_prefix('/'));
        let input = input.ok_or("an input outside the folder of files")?;
        let (with, client) =
            self.run(self.cluster.command(OWNER).args(["run", "--in"]).arg(input).args(["--", "true"]))?;
        Ok(((with - without).max(1e-3), (client, peak(worker).unwrap_or(f64::NAN))))
    }

    /// Seconds, and the peak of memory, MiB.
    fn run(&self, command: &mut Command) -> Result<(f64, f64)> {
        let since = Instant::now();
        let mut child = command.current_dir(&self.folder).spawn()?;
        let pid = child.id();
        let over = AtomicBool::new(false);
        let (status, memory) = std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut most = 0.0_f64;
                while !over.load(Ordering::Relaxed) {
                    most = most.max(peak(pid).unwrap_or(0.0));
                    std::thread::sleep(LOOK_EVERY);
                }
                most
            });
            let status = child.wait();
            let took = since.elapsed();
            over.store(true, Ordering::Relaxed);
            (status.map(|status| (status, took)), looks.join().unwrap_or(f64::NAN))
        });
        let (status, took) = status?;
        if !status.success() {
            return Err(format!("p2p run ended with {status}").into());
        }
        Ok((took.as_secs_f64(), memory))
    }

    /// Bytes of inputs that the worker was sent so far.
    fn sent(&self) -> Result<f64> {
        let said = self.cluster.command(OWNER).args(["--json", "status"]).output()?.stdout;
        let said: serde_json::Value = serde_json::from_slice(&said)?;
        said["workers"][0]["cache"]["sent_bytes"].as_f64().ok_or_else(|| format!("no figure in {said}").into())
    }
}

/// The most memory that a process had, MiB.
fn peak(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(|kib: f64| kib / 1024.0)
}

/// Bytes without patterns.
fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn noise_of(seed: u64, bytes: usize) -> Vec<u8> {
    let mut next = noise(seed);
    std::iter::repeat_with(|| next().to_le_bytes()).take(bytes.div_ceil(8)).flatten().take(bytes).collect()
}

/// Writes a file of noise. Returns the seconds until all of it is on the disk; making the noise does not count.
fn write_noise(path: &Path, seed: u64, bytes: usize) -> Result<f64> {
    let mut file = File::create_new(path)?;
    let mut took = Duration::ZERO;
    for (nth, at) in (0..bytes).step_by(MIB).enumerate() {
        let piece = noise_of(seed << 20 | nth as u64, MIB.min(bytes - at));
        let since = Instant::now();
        file.write_all(&piece)?;
        took += since.elapsed();
    }
    let since = Instant::now();
    file.sync_data()?;
    Ok((took + since.elapsed()).as_secs_f64())
}

/// Puts bytes into the middle of a file.
fn insert(path: &Path, at: usize, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    let mut from = File::open(path)?;
    let mut to = BufWriter::new(OpenOptions::new().write(true).create_new(true).open(&beside)?);
    std::io::copy(&mut (&from).take(at as u64), &mut to)?;
    to.write_all(bytes)?;
    from.seek(SeekFrom::Start(at as u64))?;
    std::io::copy(&mut from, &mut to)?;
    to.flush()?;
    Ok(fs::rename(&beside, path)?)
}
