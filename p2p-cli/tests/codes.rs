//! `p2p send` and `p2p receive` beside the other clients of Magic Wormhole, with a real mailbox server and a real relay: all on loopback.

mod cluster;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use cluster::relay::Relay;
use cluster::{Done, PATIENCE, Running, clean_command, within};
use rustix::process::Signal;
use tempfile::TempDir;

/// A mailbox server, a relay, and two people's folders.
struct Site {
    folder: TempDir,
    mailbox: Child,
    address: SocketAddr,
    relay: Relay,
    /// Where wormhole-william looks for one.
    _public_relay: Relay,
}

/// The relay whose name is compiled into wormhole-william.
const PUBLIC_RELAY: &str = "transit.magic-wormhole.io";
/// Sites have that relay at loopback addresses of their own, as its port is compiled in, too.
static SITES: AtomicU16 = AtomicU16::new(0);

fn public_relay() -> SocketAddr {
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let site = u8::try_from(SITES.fetch_add(1, Ordering::Relaxed) + 64).expect("few tests");
    SocketAddr::from(([127, site, high, low.max(1)], 4001))
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("p2p-codes-").tempdir().expect("a folder");
        for person in ["sender", "receiver"] {
            fs::create_dir(folder.path().join(person)).expect("a folder");
        }
        let address = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port");
        let mailbox = Command::new("twist3")
            .arg("wormhole-mailbox")
            .arg(format!("--port=tcp:{}:interface=127.0.0.1", address.port()))
            .arg(format!("--channel-db={}", folder.path().join("mailbox.sqlite").display()))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the Debian package python3-magic-wormhole-mailbox-server has a mailbox server");
        let (relay, public_relay) = (Relay::try_start(), Relay::try_start_at(public_relay()));
        let public_relay = public_relay.expect("a relay");
        let hosts = format!("127.0.0.1 localhost\n{} {PUBLIC_RELAY}\n", public_relay.address().ip());
        fs::write(folder.path().join("hosts"), hosts).expect("a file");
        let site = Self { folder, mailbox, address, relay: relay.expect("a relay"), _public_relay: public_relay };
        within(PATIENCE, || TcpStream::connect(address).ok()).expect("the mailbox server listens");
        site
    }

    fn mailbox_url(&self) -> String {
        format!("ws://{}/v1", self.address)
    }

    fn sender(&self) -> PathBuf {
        self.folder.path().join("sender")
    }

    fn receiver(&self) -> PathBuf {
        self.folder.path().join("receiver")
    }

    /// This program, in this person's folder.
    fn p2p(&self, person: &Path, words: &[&str]) -> Command {
        let mut command = clean_command(person);
        command.args(words).current_dir(person).env("P2P_MAILBOX", self.mailbox_url());
        command.env("P2P_RELAY", format!("tcp:{}", self.relay.address()));
        command
    }

    /// Python's client.
    fn python(&self, person: &Path, words: &[&str]) -> Command {
        let mut command = Command::new("wormhole");
        command.args(["--relay-url", &self.mailbox_url()]);
        command.args(["--transit-helper", &format!("tcp:{}", self.relay.address())]);
        command.args(words).current_dir(person);
        command
    }

    /// Wormhole-william. The name of its relay is compiled in, so that it sees another file of names, in a mount namespace of its own.
    fn william(&self, person: &Path, words: &[&str]) -> Command {
        let own = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
        let script = "mount --bind \"$1\" /etc/hosts && shift && exec wormhole-william \"$@\"";
        let mut command = Command::new("unshare");
        command.args([own, "sh", "-c", script, "sh"]).arg(self.folder.path().join("hosts"));
        command.args([words[0], "--relay-url", &self.mailbox_url()]).args(&words[1..]).current_dir(person);
        command
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.mailbox.kill();
        let _ = self.mailbox.wait();
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Ours,
    Python,
    William,
}

const ALL: [Peer; 3] = [Peer::Ours, Peer::Python, Peer::William];

/// Two words that nobody guesses, and a number of its own for each transfer.
fn code(number: u32) -> String {
    format!("{number}-guitarist-revenge")
}

impl Peer {
    fn send(self, site: &Site, code: &str, what: &str) -> Command {
        let here = site.sender();
        match self {
            Self::Ours => site.p2p(&here, &["send", "--code", code, what]),
            Self::Python => site.python(&here, &["send", "--code", code, "--hide-progress", what]),
            Self::William => site.william(&here, &["send", "--code", code, "--hide-progress", what]),
        }
    }

    fn text(self, site: &Site, code: &str, text: &str) -> Command {
        let here = site.sender();
        match self {
            Self::Ours => site.p2p(&here, &["send", "--code", code, "--text", text]),
            Self::Python => site.python(&here, &["send", "--code", code, "--text", text]),
            Self::William => site.william(&here, &["send", "--code", code, "--text", text]),
        }
    }

    fn receive(self, site: &Site, code: &str) -> Command {
        let here = site.receiver();
        match self {
            Self::Ours => site.p2p(&here, &["receive", code]),
            Self::Python => site.python(&here, &["receive", "--accept-file", "--hide-progress", code]),
            Self::William => site.william(&here, &["receive", "--hide-progress", code]),
        }
    }
}

/// Both ends of a transfer, run side by side to their ends. Wormhole-william asks whether to take what is offered.
fn both(from: Command, to: Command) -> (Done, Done) {
    let from = Running::start(from);
    let mut to = Running::start(to);
    to.write(b"y\n");
    let received = to.done();
    (from.done(), received)
}

/// The same under a code made of `number`. Wormhole-william 1.0.6 comes to another key than its peer, whoever that is, in one of some 250 transfers,
/// and says so: a person would try again under a new code, and so does this.
fn meet(peers: (Peer, Peer), number: usize, commands: impl Fn(&str) -> (Command, Command)) -> (Done, Done) {
    let mut number = u32::try_from(number).expect("few");
    loop {
        let (from, to) = commands(&code(number));
        let done = both(from, to);
        let of_william = [(peers.0, &done.0), (peers.1, &done.1)].into_iter().find(|(peer, _)| *peer == Peer::William);
        let apart = of_william.is_some_and(|(_, done)| done.stderr.contains("decrypt message failed"));
        number += 1000;
        if !apart || number > 3000 {
            return done;
        }
    }
}

#[track_caller]
fn well(done: &(Done, Done), who: &dyn std::fmt::Debug) {
    assert!(done.0.code == Some(0) && done.1.code == Some(0), "{who:?}\n{}\n{}", done.0, done.1);
}

/// Every pair in which one of the two is this program.
fn pairs() -> Vec<(Peer, Peer)> {
    let other = ALL.iter().filter(|peer| **peer != Peer::Ours);
    let mixed = other.flat_map(|peer| [(Peer::Ours, *peer), (*peer, Peer::Ours)]);
    std::iter::once((Peer::Ours, Peer::Ours)).chain(mixed).collect()
}

/// Bytes that do not shrink, and differ from place to place.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

#[test]
fn files_arrive_whole_whoever_is_at_the_other_end() {
    let site = Site::start();
    for (number, (from, to)) in pairs().into_iter().enumerate() {
        for (which, length) in [0, 1, 70_000].into_iter().enumerate() {
            // Wormhole-william 1.0.6 receives no empty file, not of its own kind either: "unexpected EOF".
            if length == 0 && to == Peer::William {
                continue;
            }
            let (name, content) = (format!("file {number} {which}"), noise(length));
            fs::write(site.sender().join(&name), &content).expect("a file");
            let done = meet((from, to), 10 * number + which + 1, |code| {
                (from.send(&site, code, &name), to.receive(&site, code))
            });
            well(&done, &(from, to, length));
            assert!(fs::read(site.receiver().join(&name)).expect("it arrived") == content, "{from:?} {to:?} {length}");
        }
    }
}

/// Its direct connection and the one by its relay come up at the same time, and a small file is over before both are settled.
#[test]
fn small_files_of_wormhole_william_arrive_every_time() {
    let site = Site::start();
    let peers = (Peer::William, Peer::Ours);
    for number in 1..=10 {
        let name = format!("small {number}");
        fs::write(site.sender().join(&name), &name).expect("a file");
        let done = meet(peers, number, |code| (peers.0.send(&site, code, &name), peers.1.receive(&site, code)));
        well(&done, &number);
        assert_eq!(fs::read_to_string(site.receiver().join(&name)).expect("it arrived"), name);
    }
}

#[test]
fn folders_arrive_with_all_that_is_in_them() {
    let site = Site::start();
    for (number, (from, to)) in pairs().into_iter().enumerate() {
        let name = format!("folder {number}");
        let folder = site.sender().join(&name);
        fs::create_dir_all(folder.join("deep/er")).expect("folders");
        fs::write(folder.join("deep/er/ä file"), noise(100_000)).expect("a file");
        fs::write(folder.join("empty"), "").expect("a file");
        fs::write(folder.join("script"), "#!/bin/sh\n").expect("a file");
        fs::set_permissions(folder.join("script"), fs::Permissions::from_mode(0o755)).expect("rights");
        let done = meet((from, to), number + 1, |code| (from.send(&site, code, &name), to.receive(&site, code)));
        well(&done, &(from, to));
        let arrived = site.receiver().join(&name);
        assert!(fs::read(arrived.join("deep/er/ä file")).expect("it arrived") == noise(100_000), "{from:?} {to:?}");
        assert_eq!(fs::read(arrived.join("empty")).expect("it arrived"), b"");
        // Wormhole-william does not keep rights.
        if from != Peer::William && to != Peer::William {
            let mode = fs::metadata(arrived.join("script")).expect("it arrived").permissions().mode();
            assert_eq!(mode & 0o700, 0o700, "{from:?} {to:?}");
        }
    }
}

#[test]
fn texts_are_shown() {
    let site = Site::start();
    for (number, (from, to)) in pairs().into_iter().enumerate() {
        let text = "two words, and ünïcode";
        let done = meet((from, to), number + 1, |code| (from.text(&site, code, text), to.receive(&site, code)));
        well(&done, &(from, to));
        assert!(done.1.stdout.contains("two words, and ünïcode"), "{from:?} {to:?}\n{}", done.1);
    }
}

#[test]
fn a_large_file_arrives_by_a_relay_and_directly() {
    const LARGE: usize = 256 << 20;
    let site = Site::start();
    fs::write(site.sender().join("large"), noise(LARGE)).expect("a file");
    for (number, by_relay) in [false, true].into_iter().enumerate() {
        let code = code(u32::try_from(number + 1).expect("few"));
        let (mut from, mut to) = (Peer::Ours.send(&site, &code, "large"), Peer::Ours.receive(&site, &code));
        if by_relay {
            from.arg("--relay-only");
            to.arg("--relay-only");
        }
        to.args(["-o", &format!("large {number}")]);
        well(&both(from, to), &by_relay);
        let arrived = fs::read(site.receiver().join(format!("large {number}"))).expect("it arrived");
        assert!(arrived.len() == LARGE && arrived == noise(LARGE), "{by_relay}");
    }
}

#[test]
fn what_comes_on_stdin_goes_to_stdout() {
    let site = Site::start();
    let mut from = Running::start(site.p2p(&site.sender(), &["send", "--code", &code(1), "-", "--name", "notes"]));
    from.write(b"line\n\0\xff");
    let to = site.p2p(&site.receiver(), &["receive", &code(1), "-o", "-"]);
    let from = std::thread::spawn(move || from.done());
    let received = Running::start(to).done();
    let sent = from.join().expect("the sender ends");
    assert!(sent.code == Some(0) && received.code == Some(0), "{sent}\n{received}");
    assert!(received.stdout.starts_with("line\n\0"), "{received}");
}

#[test]
fn a_new_code_is_the_answer_and_a_link_of_it_works_too() {
    let site = Site::start();
    fs::write(site.sender().join("file"), "content").expect("a file");
    let mut command = site.p2p(&site.sender(), &["send", "file", "--json", "--qr"]);
    let said = fs::File::create(site.folder.path().join("said")).expect("a file");
    let errors = fs::File::create(site.folder.path().join("errors")).expect("a file");
    let mut child = command.stdin(Stdio::null()).stdout(said).stderr(errors).spawn().expect("it starts");
    let line = within(PATIENCE, || {
        let said = fs::read_to_string(site.folder.path().join("said")).ok()?;
        said.ends_with('\n').then_some(said)
    });
    let said: serde_json::Value = serde_json::from_str(&line.expect("it tells the code")).expect("JSON");
    let (code, link) = (said["code"].as_str().expect("a code"), said["link"].as_str().expect("a link"));
    assert!(code.split('-').count() == 3 && link.starts_with("wormhole-transfer:"), "{said}");
    let received = Running::start(site.p2p(&site.receiver(), &["receive", link])).done();
    assert_eq!(received.code, Some(0), "{received}");
    let status = within(PATIENCE, || child.try_wait().expect("it can be waited for")).expect("it ends");
    let errors = fs::read_to_string(site.folder.path().join("errors")).expect("what it said");
    assert!(status.success() && errors.contains('▀'), "{status} {errors}");
    assert_eq!(fs::read(site.receiver().join("file")).expect("it arrived"), b"content");
}

#[test]
fn a_wrong_code_is_told_to_both() {
    let site = Site::start();
    fs::write(site.sender().join("file"), "content").expect("a file");
    let from = Peer::Ours.send(&site, &code(1), "file");
    let to = Peer::Ours.receive(&site, "1-guitarist-vengeance");
    let (sent, received) = both(from, to);
    for done in [&sent, &received] {
        assert!(!matches!(done.code, Some(0) | None), "{done}");
        assert!(done.stderr.contains("code"), "{done}");
    }
    assert!(!site.receiver().join("file").exists());
}

#[test]
fn a_code_works_once() {
    let site = Site::start();
    fs::write(site.sender().join("file"), "content").expect("a file");
    well(&both(Peer::Ours.send(&site, &code(1), "file"), Peer::Ours.receive(&site, &code(1))), &"the first time");
    let again = Running::start(site.p2p(&site.receiver(), &["receive", &code(1), "--wait", "2s"])).done();
    assert!(again.code != Some(0) && again.stderr.contains("a code works once"), "{again}");
}

#[test]
fn whoever_receives_before_anybody_sends_waits_for_the_sender() {
    let site = Site::start();
    for (number, sender) in [Peer::Ours, Peer::Python].into_iter().enumerate() {
        let (code, name) = (code(u32::try_from(number + 1).expect("few")), format!("file {number}"));
        fs::write(site.sender().join(&name), "content").expect("a file");
        let said = site.folder.path().join(format!("said {number}"));
        let mut command = site.p2p(&site.receiver(), &["receive", &code]);
        command.stdin(Stdio::null()).stderr(fs::File::create(&said).expect("a file"));
        let mut receiver = command.spawn().expect("it starts");
        let waits = || fs::read_to_string(&said).ok()?.contains("waiting up to 2m for the sender").then_some(());
        within(PATIENCE, waits).expect("it says what it waits for");
        let sent = Running::start(sender.send(&site, &code, &name)).done();
        assert_eq!(sent.code, Some(0), "{sender:?}\n{sent}");
        let status = within(PATIENCE, || receiver.try_wait().expect("it can be waited for")).expect("it ends");
        assert!(status.success(), "{sender:?} {status}");
        assert_eq!(fs::read(site.receiver().join(&name)).expect("it arrived"), b"content");
    }
}

#[test]
fn whoever_waits_in_vain_is_told_after_his_time() {
    let site = Site::start();
    fs::write(site.sender().join("file"), "content").expect("a file");
    let send = ["send", "--code", &code(1), "file", "--wait", "1s"];
    let sent = Running::start(site.p2p(&site.sender(), &send)).done();
    assert!(sent.code != Some(0) && sent.stderr.contains("did not come"), "{sent}");
    let mut command = site.p2p(&site.sender(), &send);
    command.env("P2P_MAILBOX", "ws://127.0.0.1:1/v1");
    let sent = Running::start(command).done();
    assert!(sent.code == Some(69) && sent.stderr.contains("ws://127.0.0.1:1/v1"), "{sent}");
}

/// Where the other side is killed: before it is met, when the key is agreed on, while bytes flow.
#[test]
fn whoever_is_left_alone_is_told_and_keeps_nothing() {
    let site = Site::start();
    fs::write(site.sender().join("large"), noise(64 << 20)).expect("a file");
    let left_over = |folder: &Path| {
        let names = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".large")).count()
    };
    for (number, peer) in [Peer::Ours, Peer::Python].into_iter().enumerate() {
        // The receiver goes while bytes flow.
        let code = code(u32::try_from(2 * number + 1).expect("few"));
        let sending = Running::start(Peer::Ours.send(&site, &code, "large"));
        let receiving = Running::start(peer.receive(&site, &code));
        within(PATIENCE, || has_grown(&site.receiver(), "large")).expect("bytes flow");
        receiving.signal(Signal::KILL);
        let sent = sending.done();
        drop(receiving.done());
        assert!(!matches!(sent.code, Some(0) | None) && sent.stderr.contains("p2p: "), "{peer:?} {sent}");
        fs::remove_dir_all(site.receiver()).and_then(|()| fs::create_dir(site.receiver())).expect("a clean folder");

        // The sender goes.
        let code = self::code(u32::try_from(2 * number + 2).expect("few"));
        let sending = Running::start(peer.send(&site, &code, "large"));
        let receiving = Running::start(Peer::Ours.receive(&site, &code));
        within(PATIENCE, || has_grown(&site.receiver(), "large")).expect("bytes flow");
        sending.signal(Signal::KILL);
        let received = receiving.done();
        drop(sending.done());
        assert!(!matches!(received.code, Some(0) | None) && received.stderr.contains("p2p: "), "{peer:?} {received}");
        assert_eq!(left_over(&site.receiver()), 0, "{peer:?} {received}");
        assert!(!site.receiver().join("large").exists());
    }
}

/// Something of this name has bytes, under whatever name a client keeps it meanwhile.
fn has_grown(folder: &Path, name: &str) -> Option<()> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut named = entries.filter(|entry| entry.file_name().to_string_lossy().contains(name));
    named.any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0)).then_some(())
}

#[test]
fn an_interrupt_ends_both_in_order() {
    let site = Site::start();
    fs::write(site.sender().join("large"), noise(64 << 20)).expect("a file");
    let sending = Running::start(Peer::Ours.send(&site, &code(1), "large"));
    let receiving = Running::start(Peer::Ours.receive(&site, &code(1)));
    within(PATIENCE, || has_grown(&site.receiver(), "large")).expect("bytes flow");
    receiving.signal(Signal::INT);
    let (received, sent) = (receiving.done(), sending.done());
    assert_eq!(received.code, Some(130), "{received}");
    assert!(sent.code != Some(0) && sent.stderr.contains("stopped by the other side"), "{sent}");
    assert_eq!(
        fs::read_dir(site.receiver())
            .expect("a folder")
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains("large"))
            .count(),
        0
    );
}

#[test]
fn nothing_that_is_there_is_replaced_unasked() {
    let site = Site::start();
    fs::write(site.sender().join("file"), "new").expect("a file");
    fs::write(site.receiver().join("file"), "old").expect("a file");
    let (sent, received) = both(Peer::Ours.send(&site, &code(1), "file"), Peer::Ours.receive(&site, &code(1)));
    assert!(sent.code != Some(0) && received.code != Some(0), "{sent}\n{received}");
    assert!(received.stderr.contains("--force") || received.stderr.contains("-o"), "{received}");
    assert_eq!(fs::read(site.receiver().join("file")).expect("a file"), b"old");
    let mut to = Peer::Ours.receive(&site, &code(2));
    to.arg("--force");
    well(&both(Peer::Ours.send(&site, &code(2), "file"), to), &"--force");
    assert_eq!(fs::read(site.receiver().join("file")).expect("a file"), b"new");
}

/// A link inside a folder is not followed out of it, and said so.
#[test]
fn links_do_not_lead_out_of_a_folder() {
    let site = Site::start();
    fs::create_dir(site.sender().join("folder")).expect("a folder");
    fs::write(site.sender().join("secret"), "secret").expect("a file");
    symlink("../secret", site.sender().join("folder/link")).expect("a link");
    fs::write(site.sender().join("folder/file"), "content").expect("a file");
    let done = both(Peer::Ours.send(&site, &code(1), "folder"), Peer::Ours.receive(&site, &code(1)));
    well(&done, &"a folder with a link");
    assert!(done.0.stderr.contains("not sent: ") && done.0.stderr.contains("link"), "{}", done.0);
    assert!(!site.receiver().join("folder/link").exists());
    assert_eq!(fs::read(site.receiver().join("folder/file")).expect("it arrived"), b"content");
}

/// The mailbox server goes away while the two wait for each other.
#[test]
fn a_mailbox_server_that_goes_is_told_of() {
    let mut site = Site::start();
    fs::write(site.sender().join("file"), "content").expect("a file");
    let sending = Running::start(Peer::Ours.send(&site, &code(1), "file"));
    std::thread::sleep(Duration::from_secs(1));
    site.mailbox.kill().expect("it can be killed");
    let sent = sending.done();
    assert!(sent.code == Some(69) && sent.stderr.contains(&site.address.to_string()), "{sent}");
}
