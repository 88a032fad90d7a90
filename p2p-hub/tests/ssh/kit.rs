//! A hub with users, and `ssh` processes that are waited for by what they print, never by time.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use p2p_hub::{HostKeySource, Hub, HubConfig, UserKey, UsersSource};
use tempfile::TempDir;

/// No test takes this long unless something is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// What `ssh` exits with when its session ends without an exit status.
pub(crate) const NO_STATUS: i32 = 255;

/// A hub and its users' keys.
pub(crate) struct Site {
    pub(crate) hub: Hub,
    pub(crate) dir: TempDir,
}

impl Site {
    /// A hub with these users, each with one key.
    pub(crate) fn new(users: &[&str]) -> Site {
        let dir = TempDir::new().unwrap();
        let list =
            users.iter().map(|name| UserKey { name: (*name).to_owned(), key: make_key(dir.path(), name) }).collect();
        make_key(dir.path(), "stranger");
        Site::with(dir, UsersSource::List(list), HostKeySource::Ephemeral)
    }

    pub(crate) fn with(dir: TempDir, users: UsersSource, host_key: HostKeySource) -> Site {
        let hub = Hub::start(HubConfig { listen: ([127, 0, 0, 1], 0).into(), users, host_key }).unwrap();
        std::fs::write(dir.path().join("known_hosts"), hub.known_hosts_line("127.0.0.1")).unwrap();
        Site { hub, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `ssh` with the key of `user`, not started yet.
    pub(crate) fn command(&self, user: &str, options: &[&str]) -> Command {
        let mut ssh = Command::new("ssh");
        // Of two options with one name, ssh takes the first.
        ssh.args(options);
        ssh.args(["-F", "/dev/null", "-T", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", self.path("known_hosts").display()))
            .arg("-i")
            .arg(self.path(user))
            .args(["-p", &self.hub.local_addr().port().to_string()])
            .arg("whoever@127.0.0.1");
        ssh
    }

    /// Starts `ssh HUB LINE` as `user`.
    pub(crate) fn start(&self, user: &str, line: &str) -> Ssh {
        self.start_with(user, line, &[])
    }

    pub(crate) fn start_with(&self, user: &str, line: &str, options: &[&str]) -> Ssh {
        let mut command = self.command(user, options);
        command.arg(line);
        Ssh::spawn(command)
    }

    /// Starts a `pipe`, `pub` or `sub`, and waits until the topic, named in full, shows one client more.
    pub(crate) fn join(&self, user: &str, line: &str, topic: &str) -> Ssh {
        let owner = topic.split('/').next().unwrap();
        let before = self.count(owner, topic);
        let ssh = self.start(user, line);
        wait_until(&format!("{user} joins {topic}"), || self.count(owner, topic) > before);
        ssh
    }

    /// How many clients `ls` shows in a topic.
    pub(crate) fn count(&self, owner: &str, topic: &str) -> usize {
        clients(&self.ls(owner), topic).len()
    }

    pub(crate) fn ls(&self, user: &str) -> String {
        let done = self.run(user, "ls");
        assert_eq!(done.status, Some(0), "{}", done.stderr);
        done.stdout
    }

    /// Runs a command to its end, without input.
    pub(crate) fn run(&self, user: &str, line: &str) -> Done {
        let mut ssh = self.start(user, line);
        ssh.close_input();
        ssh.done()
    }
}

/// The client lines of one topic in the output of `ls`.
pub(crate) fn clients(listing: &str, topic: &str) -> Vec<String> {
    let header = format!("- {topic}:");
    listing
        .split("\r\n")
        .skip_while(|line| !line.starts_with(&header))
        .skip(1)
        .take_while(|line| !line.starts_with("- "))
        .filter(|line| line.starts_with("  - "))
        .map(str::to_owned)
        .collect()
}

/// How a command ended.
pub(crate) struct Done {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running `ssh`.
pub(crate) struct Ssh {
    child: Child,
    input: Option<ChildStdin>,
    pub(crate) stdout: Capture,
    pub(crate) stderr: Capture,
}

impl Ssh {
    pub(crate) fn spawn(mut command: Command) -> Ssh {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Ssh {
            input: child.stdin.take(),
            stdout: Capture::of(child.stdout.take().unwrap()),
            stderr: Capture::of(child.stderr.take().unwrap()),
            child,
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Sends from a thread of its own: more than the pipes between here and the hub hold.
    pub(crate) fn send_in_background(&mut self, bytes: Vec<u8>) {
        let mut input = self.input.take().unwrap();
        thread::spawn(move || {
            // The other side may go before it has taken everything.
            let _ = input.write_all(&bytes);
            // Kept open: the end of input would end a pipe.
            thread::sleep(DEADLINE);
        });
    }

    pub(crate) fn close_input(&mut self) {
        drop(self.input.take());
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end.
    pub(crate) fn done(&mut self) -> Done {
        let mut status = None;
        wait_until("ssh to end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        Done {
            status: status.unwrap().code(),
            stdout: String::from_utf8_lossy(&self.stdout.all()).into_owned(),
            stderr: String::from_utf8_lossy(&self.stderr.all()).into_owned(),
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has printed so far.
#[derive(Clone)]
pub(crate) struct Capture(Arc<(Mutex<Printed>, Condvar)>);

#[derive(Default)]
struct Printed {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    fn of(mut source: impl Read + Send + 'static) -> Capture {
        let capture = Capture(Arc::default());
        let sink = capture.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = source.read(&mut buffer).unwrap_or(0);
                let mut printed = sink.0.0.lock().unwrap();
                printed.bytes.extend_from_slice(&buffer[..count]);
                printed.ended = count == 0;
                sink.0.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        capture
    }

    /// Waits until what was printed fulfils a condition, and returns it.
    pub(crate) fn until(&self, what: &str, reached: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.wait(what, |printed| reached(&printed.bytes))
    }

    pub(crate) fn until_contains(&self, text: &str) -> Vec<u8> {
        self.until(text, |bytes| contains(bytes, text.as_bytes()))
    }

    pub(crate) fn until_len(&self, length: usize) -> Vec<u8> {
        self.until("all bytes", |bytes| bytes.len() >= length)
    }

    pub(crate) fn now(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }

    fn all(&self) -> Vec<u8> {
        self.wait("the end of output", |printed| printed.ended)
    }

    fn wait(&self, what: &str, reached: impl Fn(&Printed) -> bool) -> Vec<u8> {
        let (printed, changed) = &*self.0;
        let printed = printed.lock().unwrap();
        let (printed, timeout) = changed.wait_timeout_while(printed, DEADLINE, |printed| !reached(printed)).unwrap();
        assert!(
            !timeout.timed_out(),
            "waited in vain for {what}; {} bytes so far, last: {}",
            printed.bytes.len(),
            String::from_utf8_lossy(&printed.bytes[printed.bytes.len().saturating_sub(300)..])
        );
        printed.bytes.clone()
    }
}

pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

pub(crate) fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < DEADLINE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes a key pair as `ssh-keygen` does, and returns the public line.
pub(crate) fn make_key(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    line.trim().to_owned()
}

/// The lines of a users file.
pub(crate) fn users_lines(users: &HashMap<&str, Vec<String>>) -> String {
    users.iter().flat_map(|(name, keys)| keys.iter().map(move |key| format!("{name} {key}\n"))).collect()
}
