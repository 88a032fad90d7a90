//! Real `p2p` processes: a hub, a host and a worker, as people start them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Result;
use crate::meeting::{CLUSTER, GUEST, OWNER, make_keys, public_key};

/// The cluster must work by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between the starts of two of its processes.
const SETTLE: Duration = Duration::from_secs(1);

/// The program under test: `P2P`, or the one that was built beside `this`.
pub fn program(this: &Path) -> PathBuf {
    std::env::var_os("P2P").map_or_else(|| this.with_file_name("p2p"), PathBuf::from)
}

/// A running cluster. Ends with its handle.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    folder: TempDir,
    board: String,
    board_key: String,
    ways: Vec<String>,
    hub: Child,
    host: Option<Child>,
    worker: Option<Child>,
}

#[derive(serde::Deserialize)]
struct HubLine {
    address: String,
    fingerprint: String,
}

impl Cluster {
    /// Starts all three, and waits until a first command has run.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start(program: &Path, slots: u32) -> Result<Self> {
        Self::start_with(program, slots, &["--relay", "none"], &[])
    }

    /// The same, with these options about the ways of its links.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start_by(program: &Path, slots: u32, ways: &[&str]) -> Result<Self> {
        Self::start_with(program, slots, ways, &[])
    }

    /// The same, its worker with these options.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start_with(program: &Path, slots: u32, ways: &[&str], worker: &[&str]) -> Result<Self> {
        if !program.exists() {
            return Err(format!("{} is missing: cargo build --release -p p2p-cli", program.display()).into());
        }
        let folder = tempfile::tempdir()?;
        make_keys(folder.path())?;
        let mut users = String::new();
        for user in [OWNER, GUEST] {
            users += &format!("{user} {}\n", public_key(folder.path(), user)?);
        }
        std::fs::write(folder.path().join("users"), users)?;
        let mut hub = Command::new(program)
            .args(["--json", "--quiet", "hub", "--listen", "127.0.0.1:0", "--home"])
            .arg(folder.path().join("hub"))
            .arg("--users")
            .arg(folder.path().join("users"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(hub.stdout.take().ok_or("a hub without stdout")?).read_line(&mut line)?;
        let HubLine { address, fingerprint } = serde_json::from_str(&line)?;
        let board = format!("ssh://{address}");
        let program = program.to_owned();
        let ways = ways.iter().map(|word| (*word).to_owned()).collect();
        let mut cluster = Self { program, folder, board, board_key: fingerprint, ways, hub, host: None, worker: None };
        cluster.host = Some(cluster.command(OWNER).args(["host", "--users", GUEST]).spawn()?);
        // In turn, as people do it: started all in the same instant, some clusters stay shut for half a minute and more.
        std::thread::sleep(SETTLE);
        cluster.worker =
            Some(cluster.command(GUEST).args(["worker", "--slots", &slots.to_string()]).args(worker).spawn()?);
        std::thread::sleep(SETTLE);
        let since = Instant::now();
        while !cluster.command(OWNER).args(["run", "--", "true"]).status()?.success() {
            if since.elapsed() > PATIENCE {
                return Err("no command runs on the cluster".into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(cluster)
    }

    /// `p2p`, as `user`; the subcommand is still to come.
    pub fn command(&self, user: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--quiet", "--cluster", CLUSTER, "--board", &self.board])
            .args(&self.ways)
            .args(["--board-key", &self.board_key, "--identity"])
            .arg(self.folder.path().join(user))
            .arg("--home")
            .arg(self.folder.path().join(format!("{user}-home")))
            .stdin(Stdio::null());
        command
    }

    /// OpenSSH's client at the same hub, as `user`; the hub's command is still to come.
    pub fn ssh(&self, user: &str) -> Command {
        let address = self.board.trim_start_matches("ssh://");
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "22"));
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR", "-p", port, "-i"])
            .arg(self.folder.path().join(user))
            .arg(host)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// A folder for files, on the disk where its worker keeps what it is sent.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its host's process.
    pub fn host_pid(&self) -> u32 {
        self.host.as_ref().map_or(0, Child::id)
    }

    /// Its worker's process.
    pub fn worker_pid(&self) -> u32 {
        self.worker.as_ref().map_or(0, Child::id)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in [self.worker.as_mut(), self.host.as_mut(), Some(&mut self.hub)].into_iter().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
