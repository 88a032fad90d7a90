//! Logging in to OpenSSH's server: keys, passphrases, agents, host keys.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use async_std::task::block_on;
use p2p_proto::board::{Board, BoardError, BoardEvent};
use p2p_transport_pico::{Agent, PicoBoard, PicoConfig, Session, Topic};
use tempfile::TempDir;

use crate::kit::{DEADLINE, Person, config, line, make_key, next, public_half, tool, until, until_up};
use crate::sshd::Sshd;

/// A server with one user, whose key is of this kind, and how to log in to it.
fn site(kind: &str, passphrase: &str) -> (Sshd, PicoConfig) {
    let dir = TempDir::new().unwrap();
    let key = make_key(dir.path(), "alice", kind, passphrase);
    let sshd = Sshd::start(&[&key], dir);
    fs::write(sshd.dir.path().join("known_hosts"), sshd.known_hosts_line()).unwrap();
    let config = config(&sshd.url(), sshd.dir.path(), &[&key]);
    (sshd, config)
}

fn enter(config: &PicoConfig) -> Result<Session, BoardError> {
    block_on(Session::connect(config))
}

fn host_key_fault(config: &PicoConfig) -> String {
    match enter(config) {
        Err(BoardError::HostKey(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the host key was accepted"),
    }
}

fn auth_fault(config: &PicoConfig) -> String {
    match enter(config) {
        Err(BoardError::Auth(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("the key was accepted"),
    }
}

#[test]
fn key_files_of_every_usual_kind_log_in() {
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let (_sshd, config) = site(kind, "");
        block_on(async {
            let mut session = Session::connect(&config).await.unwrap_or_else(|fault| panic!("{kind}: {fault}"));
            assert_eq!(session.user().await.unwrap().as_str(), "alice");
            assert_eq!(session.ls().await.unwrap(), "no pubsub channels found\n");
        });
    }
}

#[test]
fn commands_fail_in_words_and_are_bounded() {
    let (_sshd, config) = site("ed25519", "");
    block_on(async {
        let mut session = Session::connect(&config).await.unwrap();
        let output = session.run("nonsense").await.unwrap();
        assert_eq!((output.status, output.stderr.as_str()), (1, "unknown command\n"));
        assert!(output.whole);
        let much = session.run("much").await.unwrap();
        assert_eq!((much.stdout.len(), much.whole), (1024 * 1024, false));
        assert_eq!(session.user().await.unwrap().as_str(), "alice");
    });
}

#[test]
fn a_board_runs_over_opensshs_server() {
    let (_sshd, config) = site("ed25519", "");
    block_on(async {
        let topic =
            Topic { name: "alice/x".to_owned(), access: None, twin: Some("bob/alice/x".to_owned()), after_host: false };
        assert_eq!(next(&PicoBoard::join(config.clone(), topic.clone())).await, BoardEvent::Up);
        let board = PicoBoard::join(config, Topic { twin: None, ..topic });
        assert_eq!(next(&board).await, BoardEvent::Up);
        board.publish(line(1)).unwrap();
        assert_eq!(next(&board).await, BoardEvent::Line(line(1)));
        board.close().await;
        assert_eq!(board.publish(line(2)), Err(BoardError::Closed));
    });
}

#[test]
fn a_topic_that_is_refused_again_and_again_fails_with_the_servers_words() {
    let (_sshd, config) = site("ed25519", "");
    block_on(async {
        let board =
            PicoBoard::join(config, Topic { name: "refused".to_owned(), access: None, twin: None, after_host: false });
        let failed = until(&board, |event| matches!(event, BoardEvent::Failed(_))).await;
        let BoardEvent::Failed(BoardError::Refused(text)) = failed else { panic!("{failed:?}") };
        assert!(text.contains("no such place"), "{text}");
    });
}

#[test]
fn a_passphrase_is_asked_for_once_and_may_be_mistyped() {
    for kind in ["ed25519", "rsa"] {
        let (_sshd, mut config) = site(kind, "open sesame");
        let person = Arc::new(Person { passphrases: vec!["open sesame", "typo"].into(), ..Person::default() });
        config.prompt = Some(person.clone());
        enter(&config).unwrap_or_else(|fault| panic!("{kind}: {fault}"));
        enter(&config).unwrap_or_else(|fault| panic!("{kind}: {fault}"));
        assert_eq!(person.asked.lock().unwrap().len(), 2, "{kind}");
    }
}

#[test]
fn without_a_terminal_an_encrypted_key_is_passed_over_and_said_so() {
    let (_sshd, config) = site("ed25519", "open sesame");
    let text = auth_fault(&config);
    assert!(text.contains("alice needs a passphrase") && text.contains("ssh-add"), "{text}");
}

#[test]
fn a_key_that_the_server_does_not_know_is_named() {
    let (sshd, mut config) = site("ed25519", "");
    let stranger = make_key(sshd.dir.path(), "stranger", "ed25519", "");
    config.identities = vec![stranger, sshd.dir.path().join("missing")];
    let text = auth_fault(&config);
    assert!(text.contains("stranger: not known to the server") && text.contains("missing cannot be read"), "{text}");
}

#[test]
fn the_usual_files_come_last_and_missing_ones_do_not_matter() {
    let (sshd, mut config) = site("ed25519", "");
    let stranger = make_key(sshd.dir.path(), "stranger", "ed25519", "");
    config.default_identities = vec![sshd.dir.path().join("missing"), config.identities[0].clone()];
    config.identities = vec![stranger];
    enter(&config).unwrap();
}

/// An agent of this test alone.
pub(crate) struct TestAgent {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl TestAgent {
    pub(crate) fn start(folder: &Path) -> Self {
        let socket = folder.join("agent");
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        let child = agent.spawn().expect("cannot run ssh-agent; install the package openssh-client");
        let begun = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(begun.elapsed() < DEADLINE, "ssh-agent does not listen on {}", socket.display());
            std::thread::yield_now();
        }
        Self { child, socket }
    }

    pub(crate) fn add(&self, key: &Path) {
        let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).status();
        assert!(added.expect("cannot run ssh-add; install the package openssh-client").success());
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_agents_keys_log_in() {
    let (sshd, mut config) = site("ed25519", "");
    let agent = TestAgent::start(sshd.dir.path());
    agent.add(&make_key(sshd.dir.path(), "other", "rsa", ""));
    agent.add(&config.identities[0]);
    config.identities.clear();
    config.agent = Agent::Socket(agent.socket.clone());
    enter(&config).unwrap();
}

#[test]
fn a_named_key_that_the_agent_holds_needs_no_passphrase() {
    let (sshd, mut config) = site("ed25519", "open sesame");
    let agent = TestAgent::start(sshd.dir.path());
    let key = config.identities[0].clone();
    let unlocked = sshd.dir.path().join("unlocked");
    fs::copy(&key, &unlocked).unwrap();
    let file = unlocked.to_str().unwrap();
    tool("openssh-client", "ssh-keygen", &["-q", "-p", "-P", "open sesame", "-N", "", "-f", file]);
    agent.add(&unlocked);
    config.agent = Agent::Socket(agent.socket.clone());
    enter(&config).unwrap();
    config.identities = vec![key.with_extension("pub")];
    enter(&config).unwrap();
}

#[test]
fn an_agent_that_is_gone_does_not_keep_key_files_out() {
    let (sshd, mut config) = site("ed25519", "");
    config.agent = Agent::Socket(sshd.dir.path().join("nobody"));
    enter(&config).unwrap();
}

#[test]
fn hashed_names_are_recognised() {
    let (sshd, config) = site("ed25519", "");
    tool("openssh-client", "ssh-keygen", &["-q", "-H", "-f", config.known_hosts.to_str().unwrap()]);
    let text = fs::read_to_string(&config.known_hosts).unwrap();
    assert!(text.starts_with("|1|") && !text.contains(&sshd.address.to_string()), "{text}");
    enter(&config).unwrap();
}

#[test]
fn a_server_with_several_host_keys_is_recognised_by_the_one_that_is_known() {
    let (sshd, config) = site("ed25519", "");
    let other = public_half(&sshd.dir.path().join("host_ecdsa"));
    let line = sshd.known_hosts_line();
    let (name, _) = line.split_once(' ').unwrap();
    fs::write(&config.known_hosts, format!("{name} {other}\n")).unwrap();
    enter(&config).unwrap();
}

#[test]
fn at_first_contact_a_person_decides() {
    let (sshd, mut config) = site("ed25519", "");
    fs::write(&config.known_hosts, "# no newline at the end").unwrap();
    let person = Arc::new(Person::default());
    config.prompt = Some(person.clone());
    assert!(host_key_fault(&config).contains("was not accepted"));
    assert_eq!(fs::read_to_string(&config.known_hosts).unwrap(), "# no newline at the end");

    let person = Arc::new(Person { accepts: true, ..Person::default() });
    config.prompt = Some(person.clone());
    enter(&config).unwrap();
    enter(&config).unwrap();
    let asked = person.asked.lock().unwrap();
    assert!(asked.len() == 1 && asked[0].contains(&sshd.fingerprint()), "{asked:?}");
    let noted = fs::read_to_string(&config.known_hosts).unwrap();
    assert_eq!(noted, format!("# no newline at the end\n{}", sshd.known_hosts_line()));
}

#[test]
fn at_first_contact_without_a_person_the_refusal_says_how_to_accept() {
    let (sshd, mut config) = site("ed25519", "");
    config.known_hosts = sshd.dir.path().join("new").join("known_hosts");
    let text = host_key_fault(&config);
    let command = format!("ssh -p {} 127.0.0.1", sshd.address.port());
    assert!(text.contains(&sshd.fingerprint()) && text.contains(&command), "{text}");

    config.accept_host_key = Some(sshd.fingerprint());
    enter(&config).unwrap();
    config.accept_host_key = Some("SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned());
    assert!(host_key_fault(&config).contains(&sshd.fingerprint()));
}

#[test]
fn a_changed_host_key_is_refused_and_never_asked_about() {
    let (sshd, mut config) = site("ed25519", "");
    let impostor = make_key(sshd.dir.path(), "impostor", "ed25519", "");
    let line = sshd.known_hosts_line();
    let (name, _) = line.split_once(' ').unwrap();
    fs::write(&config.known_hosts, format!("# ours\n{name} {}\n", public_half(&impostor))).unwrap();
    let person = Arc::new(Person { accepts: true, ..Person::default() });
    config.prompt = Some(person.clone());
    let text = host_key_fault(&config);
    assert!(text.contains("HAS CHANGED") && text.contains("known_hosts, line 2"), "{text}");
    assert!(person.asked.lock().unwrap().is_empty());

    block_on(async {
        let board =
            PicoBoard::join(config, Topic { name: "x".to_owned(), access: None, twin: None, after_host: false });
        let BoardEvent::Failed(BoardError::HostKey(_)) = next(&board).await else { panic!("it did not fail") };
    });
}

#[test]
fn nobody_at_the_address_is_no_final_failure() {
    let (sshd, mut config) = site("ed25519", "");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.address = format!("ssh://{free}").parse().unwrap();
    let Err(BoardError::Unreachable(text)) = enter(&config) else { panic!("somebody answered") };
    assert!(text.contains(&free.to_string()), "{text}");
    block_on(async {
        let board = PicoBoard::join(
            config.clone(),
            Topic { name: "x".to_owned(), access: None, twin: None, after_host: false },
        );
        for _ in 0..2 {
            assert!(matches!(next(&board).await, BoardEvent::Down { .. }));
        }
        board.close().await;
    });
    config.address = sshd.url().parse().unwrap();
    config.known_hosts = sshd.dir.path().join("known_hosts");
    block_on(async {
        let board =
            PicoBoard::join(config, Topic { name: "x".to_owned(), access: None, twin: None, after_host: false });
        until_up(&board).await;
    });
}
