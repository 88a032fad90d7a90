//! A cluster whose links all go by a proxy, and what tests ask of its processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::relay::Relay;
use crate::cluster::{Background, Cluster, Done, PATIENCE, Running, within};
use crate::proxy::{Proxy, Weather};

/// What a busy machine may add to a promised time.
pub(crate) const NOISE: Duration = Duration::from_secs(10);

/// Hub, host, relay, and the proxy in front of the relay.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) proxy: Proxy,
    _relay: Relay,
}

impl Stage {
    /// In good weather.
    pub(crate) fn start() -> Self {
        Self::in_weather(Weather::default())
    }

    /// On a network like this.
    pub(crate) fn in_weather(weather: Weather) -> Self {
        let relay = Relay::try_start().expect("a relay");
        let proxy = Proxy::start(relay.address(), weather);
        Self { cluster: Cluster::start(), proxy, _relay: relay }
    }

    /// The program as this user, by the proxy only. The subcommand and its options are `words`.
    pub(crate) fn command(&self, user: &str, words: &[&str]) -> Command {
        let mut command = self.cluster.command(user, words);
        command.env("P2P_RELAY", self.proxy.address());
        command
    }

    /// A worker. Returns once it is at work.
    pub(crate) fn worker(&self, user: &str, slots: u32) -> Worker {
        self.worker_with(user, slots, &["--duration", "20m"])
    }

    /// A worker with these options. Returns once it is at work.
    pub(crate) fn worker_with(&self, user: &str, slots: u32, options: &[&str]) -> Worker {
        let scratch = tempfile::Builder::new().prefix("scratch-").tempdir_in(self.cluster.folder());
        let scratch = scratch.expect("a folder").keep();
        let slots = slots.to_string();
        let mut command = self.command(user, &[&["--relay-only", "worker", "--slots", &slots], options].concat());
        command.env("TMPDIR", &scratch);
        let mut process = Background::start(&format!("worker-{user}"), command, self.cluster.folder());
        process.wait_for("at work for");
        Worker { process, scratch }
    }

    /// Starts a client that reads nothing. The subcommand and its options are `words`.
    pub(crate) fn client(&self, user: &str, words: &[&str]) -> Client {
        let stdout = tempfile::Builder::new().prefix("stdout-").tempfile_in(self.cluster.folder());
        let (file, stdout) = stdout.and_then(|file| Ok(file.keep()?)).expect("a file for what a client prints");
        let mut command = self.command(user, &[&["--relay-only"], words].concat());
        command.stdout(Stdio::from(file));
        Client { process: Background::start("client", command, self.cluster.folder()), stdout }
    }

    /// Runs a client to its end.
    pub(crate) fn run(&self, user: &str, words: &[&str]) -> Done {
        Running::start(self.command(user, &[&["--relay-only"], words].concat())).done()
    }

    /// The cluster's slots that are busy, as `p2p status` sees it.
    pub(crate) fn busy(&self) -> u64 {
        let done = self.run("carol", &["status", "--json"]);
        let said: serde_json::Value = serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{done}"));
        said["busy"].as_u64().unwrap_or_else(|| panic!("{done}"))
    }

    /// A place for what tasks leave as a trace.
    pub(crate) fn trace(&self, name: &str) -> Trace {
        Trace(self.cluster.work("alice").join(name))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What ran on killed workers outlives them.
        for pid in processes_below(self.cluster.folder()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A worker.
pub(crate) struct Worker {
    pub(crate) process: Background,
    scratch: PathBuf,
}

impl Worker {
    /// Waits until none of its tasks has a process or a folder any more.
    pub(crate) fn wait_clean(&self, limit: Duration) {
        let clean = within(limit, || self.left().is_empty().then_some(()));
        clean.unwrap_or_else(|| panic!("the worker left {:?}; it said:\n{}", self.left(), self.process.log()));
    }

    /// The processes and folders of attempts that are there.
    fn left(&self) -> Vec<String> {
        let homes = folders(&self.scratch);
        let mut left: Vec<String> =
            homes.iter().flat_map(|home| folders(home)).map(|path| path.display().to_string()).collect();
        left.extend(processes_below(&self.scratch).iter().map(|pid| format!("process {}", pid.as_raw_nonzero())));
        left
    }
}

/// A client whose output is read while it runs.
pub(crate) struct Client {
    pub(crate) process: Background,
    stdout: PathBuf,
}

impl Client {
    /// What it has printed so far.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(&self.stdout).expect("what a client prints is UTF-8 here")
    }

    /// Waits until it has printed so many lines.
    pub(crate) fn wait_for_lines(&mut self, count: usize) {
        let enough = within(PATIENCE, || {
            let over = self.process.is_over();
            (over || self.printed().lines().count() >= count).then_some(())
        });
        let lines = self.printed().lines().count();
        assert!(enough.is_some() && lines >= count, "{lines} lines of {count}; it said:\n{}", self.process.log());
    }

    /// Waits for its end.
    pub(crate) fn done(&mut self) -> Done {
        let started = std::time::Instant::now();
        let code = self.process.wait();
        Done { code, stdout: self.printed(), stderr: self.process.log(), took: started.elapsed() }
    }
}

/// A file to which tasks append lines, and which they may wait for.
pub(crate) struct Trace(PathBuf);

impl Trace {
    /// A command line that appends these words. An append of one short line is never mixed with another one's.
    pub(crate) fn append(&self, words: &str) -> String {
        format!("echo {words} >> '{}'", self.0.display())
    }

    /// A command that says whether the file is there.
    pub(crate) fn exists(&self) -> String {
        format!("[ -e '{}' ]", self.0.display())
    }

    /// A command line that waits until the file is there.
    pub(crate) fn wait(&self) -> String {
        format!("until {}; do sleep 0.05; done", self.exists())
    }

    /// Lets everybody who waits for it go on.
    pub(crate) fn make(&self) {
        fs::write(&self.0, "").expect("a file");
    }

    /// Begins anew.
    pub(crate) fn forget(&self) {
        fs::remove_file(&self.0).expect("a file that is there");
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.0).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits until there are so many lines.
    pub(crate) fn wait_for(&self, count: usize) {
        self.wait_for_within(count, PATIENCE);
    }

    /// Waits until there are so many lines, at most so long.
    pub(crate) fn wait_for_within(&self, count: usize, limit: Duration) {
        let came = within(limit, || (self.lines().len() >= count).then_some(()));
        came.unwrap_or_else(|| panic!("{:?} instead of {count} lines after {limit:?}", self.lines()));
    }
}

/// The processes of attempts with this folder in their environment.
fn processes_below(folder: &Path) -> Vec<Pid> {
    let needle = folder.to_str().expect("UTF-8");
    let entries = fs::read_dir("/proc").expect("this test needs /proc").flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        environment.contains(needle) && environment.contains("P2P_ATTEMPT=")
    })
    .collect()
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
