//! Keys, configurations, lines, and waiting for events instead of for time.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Duration;

use async_std::future::timeout;
use p2p_proto::board::{Board, BoardEvent, Envelope, Line, Message};
use p2p_proto::ids::{PeerName, ProcessKey};
use p2p_transport_pico::{Agent, PicoConfig, Prompt};

/// No test takes this long unless something is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Runs a program that a test cannot do without.
pub(crate) fn tool(package: &str, program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|fault| panic!("cannot run {program}: {fault}; install the package {package}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Makes a key pair; returns the private file. The public one is beside it, as `.pub`.
pub(crate) fn make_key(folder: &Path, name: &str, kind: &str, passphrase: &str) -> PathBuf {
    let file = folder.join(name);
    let path = file.to_str().unwrap();
    tool("openssh-client", "ssh-keygen", &["-q", "-t", kind, "-N", passphrase, "-C", name, "-f", path]);
    file
}

/// `TYPE BASE64` of a key pair.
pub(crate) fn public_half(private: &Path) -> String {
    let text = std::fs::read_to_string(private.with_extension("pub")).unwrap();
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// A configuration that sees nothing of whoever runs the test.
pub(crate) fn config(address: &str, folder: &Path, identities: &[&Path]) -> PicoConfig {
    let mut config = PicoConfig::new(address.parse().unwrap());
    config.identities = identities.iter().map(|file| file.to_path_buf()).collect();
    config.default_identities = Vec::new();
    config.agent = Agent::Off;
    config.known_hosts = folder.join("known_hosts");
    config.connect_timeout = DEADLINE;
    config.seed = Some(7);
    config
}

/// A line that can be told from others by its number.
pub(crate) fn line(number: u64) -> Line {
    let message = Message::Bye(p2p_proto::board::message::Bye { process: ProcessKey([7; 32]) });
    let from = PeerName::new(&"alice".parse().unwrap(), "test", 1);
    Line::encode(&Envelope { from, sequence: number, time: 0, message }).unwrap()
}

pub(crate) async fn next(board: &impl Board) -> BoardEvent {
    timeout(DEADLINE, board.next()).await.expect("the board said nothing until the deadline")
}

/// Reads on until an event is as wanted.
pub(crate) async fn until(board: &impl Board, wanted: impl Fn(&BoardEvent) -> bool) -> BoardEvent {
    let mut passed = Vec::new();
    let search = async {
        loop {
            let event = board.next().await;
            if wanted(&event) {
                return event;
            }
            passed.push(event);
            passed.truncate(20);
        }
    };
    let found = timeout(DEADLINE, search).await;
    found.unwrap_or_else(|_| panic!("the event did not come; others did: {passed:?}"))
}

pub(crate) async fn until_up(board: &impl Board) {
    until(board, |event| *event == BoardEvent::Up).await;
}

/// Waits until a state that only the server knows is reached.
pub(crate) async fn wait_until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let search = async {
        while !reached().await {
            async_std::task::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, search).await.unwrap_or_else(|_| panic!("until the deadline not: {what}"));
}

/// Somebody at a terminal who gives the same answers each time, and notes the questions.
#[derive(Default)]
pub(crate) struct Person {
    pub(crate) accepts: bool,
    pub(crate) passphrases: Mutex<Vec<&'static str>>,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Prompt for Person {
    fn accept_host_key(&self, question: &str) -> bool {
        self.asked.lock().unwrap().push(question.to_owned());
        self.accepts
    }

    fn passphrase(&self, key_file: &Path) -> Option<String> {
        self.asked.lock().unwrap().push(key_file.display().to_string());
        self.passphrases.lock().unwrap().pop().map(str::to_owned)
    }
}
