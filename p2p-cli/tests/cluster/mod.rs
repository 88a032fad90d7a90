//! A cluster of real processes on this machine, for tests of the whole program: a hub, the host alice, and as many workers as asked for.
//!
//! ```ignore
//! mod cluster;
//! use cluster::Cluster;
//!
//! let cluster = Cluster::start();              // the hub, and alice as host of alice/friends with bob and carol on her list
//! let mut worker = cluster.worker("bob", 2);   // bob's worker with two slots; it is at work when this returns
//! let done = cluster.run("alice", &["run", "--", "true"]);
//! assert_eq!(done.code, Some(0), "{done}");
//! ```
//!
//! Each user has a home folder, a P2P_HOME and an SSH key of her own, and nothing of the person who runs the tests is read or
//! written. `mallory` has an account on the board and is on no list. Every wait ends by itself: at the end of its time the test fails, and
//! the words of all processes are shown. All processes end when the value that stands for them is dropped.

// Each file of tests takes what it needs of this.
#![allow(dead_code, unreachable_pub)]

pub mod relay;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The cluster's name.
pub const CLUSTER: &str = "alice/friends";
/// Accounts on the board; the first one hosts, the last one is not on the list.
pub const USERS: [&str; 4] = ["alice", "bob", "carol", "mallory"];
/// For this long anything may take on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What serves the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// `p2p hub`.
    Hub,
    /// Pico's own pipe, by the program that `P2P_PICO_SERVER` names: docs/pico.md.
    Pico,
}

/// The hub, the host, and where everybody's files are.
pub struct Cluster {
    server: Server,
    host: Option<Background>,
    hub: Background,
    board: String,
    board_key: String,
    folder: TempDir,
}

impl Cluster {
    /// A hub and the host. Returns once the cluster is open.
    pub fn start() -> Self {
        Self::start_on(Server::Hub)
    }

    /// The same on this server.
    pub fn start_on(server: Server) -> Self {
        let mut cluster = Self::without_host_on(server);
        cluster.start_host();
        cluster
    }

    /// Only a hub.
    pub fn without_host() -> Self {
        Self::without_host_on(Server::Hub)
    }

    /// Only this server.
    pub fn without_host_on(server: Server) -> Self {
        let folder = tempfile::Builder::new().prefix("p2p-test-").tempdir().expect("a temporary folder");
        let users: String = USERS.iter().map(|user| make_user(folder.path(), user)).collect();
        fs::write(folder.path().join("users"), users).expect("the file of users");
        let (hub, said) = start_hub(server, folder.path(), "127.0.0.1:0");
        let board = format!("ssh://{}", said["address"].as_str().expect("the hub's address"));
        let board_key = said["fingerprint"].as_str().expect("the hub's key").to_owned();
        Self { server, host: None, hub, board, board_key, folder }
    }

    /// Starts the host, alice, with bob and carol on her list. Returns once the cluster is open.
    pub fn start_host(&mut self) {
        // Nobody sits here to compare words, as pico.sh would have it.
        let admit = ["--admit", "auto"];
        let mut words = vec!["host", "--users", "bob,carol", "--duration", "20m"];
        words.extend(admit.iter().filter(|_| self.server == Server::Pico));
        let command = self.command("alice", &words);
        let mut host = Background::start("host", command, self.folder.path());
        host.wait_for("is open for");
        self.host = Some(host);
    }

    /// Ends the hub, as a power cut would.
    pub fn stop_hub(&mut self) {
        end(&mut self.hub.child);
    }

    /// Starts the hub again, where it was and with its old key. Returns once it listens.
    pub fn start_hub(&mut self) {
        let address = self.board.trim_start_matches("ssh://");
        (self.hub, _) = start_hub(self.server, self.folder.path(), address);
    }

    /// Ends the host.
    pub fn stop_host(&mut self) {
        self.host = None;
    }

    /// Ends the host, as a power cut would.
    pub fn kill_host(&mut self) {
        self.host.take().expect("there is a host").kill();
    }

    /// A worker. Returns once it is at work.
    pub fn worker(&self, user: &str, slots: u32) -> Background {
        self.worker_with(user, slots, &[])
    }

    /// A worker with more options. Returns once it is at work.
    pub fn worker_with(&self, user: &str, slots: u32, options: &[&str]) -> Background {
        let slots = slots.to_string();
        let mut words = vec!["worker", "--slots", &slots, "--duration", "20m"];
        words.extend(options);
        let mut worker = Background::start(&format!("worker-{user}"), self.command(user, &words), self.folder.path());
        worker.wait_for("at work for");
        worker
    }

    /// The program with these words, as this user, in the user's [`Self::work`] folder. Stdin is empty.
    pub fn command<S: AsRef<OsStr>>(&self, user: &str, words: &[S]) -> Command {
        let mut command = clean_command(&self.folder.path().join(user));
        command
            .args(words)
            .current_dir(self.work(user))
            .env("P2P_BOARD", &self.board)
            .env("P2P_BOARD_KEY", &self.board_key)
            .env("P2P_CLUSTER", CLUSTER)
            .env("P2P_RELAY", "none")
            .env("P2P_IDENTITY", self.folder.path().join(user).join("key"));
        command
    }

    /// Runs the program to its end.
    pub fn run<S: AsRef<OsStr>>(&self, user: &str, words: &[S]) -> Done {
        Running::start(self.command(user, words)).done()
    }

    /// Runs the program to its end, with this as its stdin.
    pub fn run_with<S: AsRef<OsStr>>(&self, user: &str, words: &[S], stdin: &[u8]) -> Done {
        let mut running = Running::start(self.command(user, words));
        running.write(stdin);
        running.done()
    }

    /// Where everybody's files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder in which a user's commands start.
    pub fn work(&self, user: &str) -> PathBuf {
        self.folder.path().join(user).join("work")
    }

    /// A user's P2P_HOME.
    pub fn home(&self, user: &str) -> PathBuf {
        self.folder.path().join(user).join("p2p")
    }

    /// The board's address, as `--board` takes it.
    pub fn board(&self) -> &str {
        &self.board
    }

    /// Waits until the host has said this.
    pub fn wait_for_host(&mut self, words: &str) {
        self.host.as_mut().expect("there is a host").wait_for(words);
    }

    /// What the host has said so far.
    pub fn host_log(&self) -> String {
        self.host.as_ref().map(Background::log).unwrap_or_default()
    }
}

/// A process in the background whose stderr goes to a file: a hub, a host, a worker. It ends when this is dropped.
pub struct Background {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts a command; its words on stderr are kept under `name` in `folder`.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Self {
        let log = tempfile::Builder::new().prefix(&format!("{name}-")).suffix(".log").tempfile_in(folder);
        let (file, log) = log.and_then(|file| Ok(file.keep()?)).expect("a file for what a process says");
        let child = command.stdin(Stdio::null()).stderr(file).spawn().expect("the program starts");
        Self { name: name.to_owned(), child, log }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until it has said this.
    pub fn wait_for(&mut self, words: &str) {
        let name = self.name.clone();
        let came = within(PATIENCE, || {
            // Looked at before its words are read: what it said last is not missed.
            let over = self.child.try_wait().ok().flatten();
            match (self.log().contains(words), over) {
                (true, _) => Some(Ok(())),
                (false, Some(status)) => Some(Err(status)),
                (false, None) => None,
            }
        });
        match came {
            Some(Ok(())) => {}
            Some(Err(status)) => {
                panic!("{name} ended with {status} before it said {words:?}; it said:\n{}", self.log())
            }
            None => panic!("{name} did not say {words:?} in time; it said:\n{}", self.log()),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(&self.child, signal);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("a process can be waited for").is_some()
    }

    /// As a power cut would.
    pub fn kill(mut self) {
        self.child.kill().expect("a process can be killed");
        self.child.wait().expect("a killed process ends");
    }

    /// Waits for its end; its exit code, if it ended by itself.
    pub fn wait(&mut self) -> Option<i32> {
        let status = within(PATIENCE, || self.child.try_wait().expect("a process can be waited for"));
        status.unwrap_or_else(|| panic!("{} did not end in time; it said:\n{}", self.name, self.log())).code()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- {} said:\n{}", self.name, self.log());
        }
        // Twice, so that a worker kills what it runs: a killed worker could not.
        for _ in 0..2 {
            if matches!(self.child.try_wait(), Ok(None)) {
                send(&self.child, Signal::TERM);
                within(Duration::from_secs(2), || self.child.try_wait().ok().flatten());
            }
        }
        end(&mut self.child);
    }
}

/// A process in the foreground: its output is read while it runs. It ends when this is dropped.
pub struct Running {
    child: Child,
    shown: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts a command with stdin, stdout and stderr as pipes.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().map(reader);
        let stderr = child.stderr.take().map(reader);
        Self { child, shown: format!("{command:?}"), stdout, stderr }
    }

    /// Writes to its stdin. What it does not want to read is dropped.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("its stdin is open");
        if let Err(fault) = stdin.write_all(bytes) {
            assert_eq!(fault.kind(), std::io::ErrorKind::BrokenPipe, "its stdin cannot be written");
        }
    }

    /// Its stdin, to be written by another thread.
    pub fn take_stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("its stdin is open")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(&self.child, signal);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("a process can be waited for").is_some()
    }

    /// Closes its stdin and waits for its end.
    pub fn done(mut self) -> Done {
        drop(self.child.stdin.take());
        let started = Instant::now();
        let status = within(PATIENCE, || self.child.try_wait().expect("a process can be waited for"));
        let code = status.map(|status| status.code());
        end(&mut self.child);
        let all = |reader: Option<JoinHandle<Vec<u8>>>| {
            let bytes = reader.map(|reader| reader.join().expect("its output is read")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let done = Done {
            code: code.flatten(),
            stdout: all(self.stdout.take()),
            stderr: all(self.stderr.take()),
            took: started.elapsed(),
        };
        assert!(code.is_some(), "{} did not end in time: {done}", self.shown);
        done
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Done {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
    /// How long it was waited for.
    pub took: Duration,
}

impl Done {
    /// The lines that it printed, sorted.
    pub fn sorted(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = self.stdout.lines().collect();
        lines.sort_unstable();
        lines
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {:?}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

/// Asks until there is an answer or the time is over.
pub fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        let answer = ask();
        if answer.is_some() || started.elapsed() >= limit {
            return answer;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// All files below a folder with what is in them, by their relative names.
pub fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.expect("a folder can be listed"));
    let files = files.filter(|entry| entry.file_type().is_file());
    files
        .map(|entry| {
            let name = entry.path().strip_prefix(folder).expect("it is below").to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("a file can be read"))
        })
        .collect()
}

/// The program with none of the environment of whoever runs the tests but the search path and the place for temporary files.
pub fn clean_command(user_folder: &Path) -> Command {
    fs::create_dir_all(user_folder).expect("a user's folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p"));
    command.env_clear();
    for name in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("HOME", user_folder).env("P2P_HOME", user_folder.join("p2p"));
    command
}

/// A server of the board, and what it says of itself once it listens.
fn start_hub(server: Server, folder: &Path, address: &str) -> (Background, serde_json::Value) {
    let (mut command, key) = match server {
        Server::Hub => {
            let mut command = clean_command(&folder.join("hub"));
            command.arg("hub");
            (command, "--key")
        }
        Server::Pico => {
            let program = std::env::var_os("P2P_PICO_SERVER");
            let program =
                program.expect("P2P_PICO_SERVER must name a program that serves pico's pipe: see docs/pico.md");
            (Command::new(program), "--host-key")
        }
    };
    command.args(["--listen", address, "--json", "--users"]).arg(folder.join("users"));
    command.arg(key).arg(folder.join("hub-key"));
    command.stdout(Stdio::piped());
    let mut hub = Background::start("hub", command, folder);
    let mut line = String::new();
    let stdout = hub.child.stdout.take().expect("the hub's stdout");
    BufReader::new(stdout).read_line(&mut line).expect("the hub's first line");
    let said = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the hub said {line:?}: {}", hub.log()));
    (hub, said)
}

/// A user's folder and key; her line in the hub's file of users.
fn make_user(folder: &Path, user: &str) -> String {
    let folder = folder.join(user);
    fs::create_dir_all(folder.join("work")).expect("a user's folder");
    let key = folder.join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", user, "-f"]).arg(&key).status();
    let made = made.expect("ssh-keygen is needed by these tests: install the Debian package openssh-client");
    assert!(made.success(), "ssh-keygen failed");
    let public = fs::read_to_string(key.with_extension("pub")).expect("the public key");
    let mut words = public.split_whitespace();
    let (kind, key) = (words.next().expect("a key type"), words.next().expect("a key"));
    format!("{user} {kind} {key}\n")
}

fn reader(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before a fault is worth showing.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}

fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        let _ = child.kill();
        let _ = child.wait();
    }
}
