//! The way to a hub over OpenSSH's servers, as the options and the configuration of `ssh` have it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use async_std::task::block_on;
use p2p_hub::{HostKeySource, Hub, HubConfig, UserKey, UsersSource};
use p2p_proto::board::{Board, BoardError, BoardEvent};
use p2p_transport_pico::{PicoBoard, PicoConfig, Session, SshArgs, SshProgram, Topic};
use tempfile::TempDir;

use crate::kit::{config, line, make_key, next, public_half, tool, until};
use crate::login::TestAgent;
use crate::sshd::Sshd;

/// Who may speak SSH; everything here is tried with both.
const BOTH: [SshProgram; 2] = [SshProgram::Native, SshProgram::System];

/// A hub that alice has an account on, and two machines in between that know her by another key.
struct Site {
    hub: Option<Hub>,
    address: SocketAddr,
    first: Sshd,
    second: Sshd,
    key: PathBuf,
    dir: TempDir,
}

impl Site {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let key = make_key(dir.path(), "alice", "ed25519", "");
        let on_the_way = make_key(dir.path(), "way", "ed25519", "");
        make_key(dir.path(), "bob", "ed25519", "");
        let hub = hub(dir.path(), "127.0.0.1:0".parse().unwrap());
        let start = || Sshd::start(&[&on_the_way], TempDir::new().unwrap());
        let (first, second) = (start(), start());
        fs::write(dir.path().join("known_hosts"), hub.known_hosts_line("127.0.0.1") + "\n").unwrap();
        let known = dir.path().join("known_on_the_way");
        fs::write(&known, first.known_hosts_line() + &second.known_hosts_line()).unwrap();
        tool("openssh-client", "ssh-keygen", &["-q", "-H", "-f", known.to_str().unwrap()]);
        Self { address: hub.local_addr(), hub: Some(hub), first, second, key, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A configuration of `ssh` that names the machines in between, with these lines in each.
    fn configure(&self, each: &str, more: &str) -> PathBuf {
        let file = self.file("ssh_config");
        let known = self.file("known_on_the_way");
        let host = |name: &str, sshd: &Sshd| {
            format!(
                "Host {name}\n HostName 127.0.0.1\n Port {}\n User {}\n UserKnownHostsFile {}\n{each}",
                sshd.address.port(),
                user(),
                known.display()
            )
        };
        fs::write(&file, format!("{}{}{more}", host("first", &self.first), host("second", &self.second))).unwrap();
        file
    }

    fn with_key(&self) -> String {
        format!(" IdentityFile {}\n IdentitiesOnly yes\n", self.file("way").display())
    }

    fn config(&self, ssh: SshProgram, args: &[&str]) -> PicoConfig {
        let mut config = config(&format!("ssh://{}", self.address), self.dir.path(), &[&self.key]);
        config.ssh = ssh;
        config.ssh_args = SshArgs::new(args.iter().map(|&word| word.to_owned()).collect()).unwrap();
        config
    }
}

/// A hub for alice and bob.
fn hub(folder: &Path, listen: SocketAddr) -> Hub {
    let user = |name: &str| UserKey { name: name.to_owned(), key: public_half(&folder.join(name)) };
    let users = UsersSource::List(["alice", "bob"].map(user).into());
    Hub::start(HubConfig { listen, users, host_key: HostKeySource::File(folder.join("host_key")) }).unwrap()
}

fn user() -> String {
    String::from_utf8(tool("coreutils", "id", &["-un"]).stdout).unwrap().trim().to_owned()
}

/// Who one is on the hub.
fn account(config: &PicoConfig) -> Result<String, BoardError> {
    block_on(async {
        let mut session = Session::connect(config).await?;
        Ok(session.user().await?.to_string())
    })
}

fn words(file: &Path) -> [String; 2] {
    ["-F".to_owned(), file.display().to_string()]
}

#[test]
fn a_board_is_reached_over_one_machine_and_over_two() {
    let site = Site::start();
    let file = site.configure(&site.with_key(), "");
    let [flag, file] = words(&file);
    for ssh in BOTH {
        for jump in ["first", "first,second"] {
            let config = site.config(ssh, &[&flag, &file, "-J", jump]);
            let before = (site.first.served(), site.second.served());
            assert_eq!(account(&config), Ok("alice".to_owned()), "{ssh:?} {jump}");
            let over_second = usize::from(jump.contains("second"));
            assert_eq!(
                (site.first.served(), site.second.served()),
                (before.0 + 1, before.1 + over_second),
                "{ssh:?} {jump}"
            );
            block_on(async {
                let name = "alice/x".to_owned();
                let board = PicoBoard::join(
                    config.clone(),
                    Topic { name: name.clone(), access: None, twin: None, after_host: false },
                );
                assert_eq!(next(&board).await, BoardEvent::Up, "{ssh:?} {jump}");
                let other = PicoBoard::join(config, Topic { name, access: None, twin: None, after_host: false });
                assert_eq!(next(&other).await, BoardEvent::Up, "{ssh:?} {jump}");
                for number in 0..100 {
                    other.publish(line(number)).unwrap();
                    until(&board, |event| *event == BoardEvent::Line(line(number))).await;
                    board.publish(line(number)).unwrap();
                    until(&other, |event| *event == BoardEvent::Line(line(number))).await;
                }
                other.close().await;
                board.close().await;
            });
        }
    }
}

#[test]
fn machines_in_between_are_named_with_their_user_and_port_too() {
    let site = Site::start();
    let file = site.configure(
        "",
        &format!(
            "Host 127.0.0.1\n UserKnownHostsFile {}\n{}",
            site.file("known_on_the_way").display(),
            site.with_key()
        ),
    );
    let [flag, file] = words(&file);
    let jump = format!(
        "{0}@127.0.0.1:{1},ssh://{0}@127.0.0.1:{2}",
        user(),
        site.first.address.port(),
        site.second.address.port()
    );
    for ssh in BOTH {
        let before = site.second.served();
        assert_eq!(account(&site.config(ssh, &[&flag, &file, "-J", &jump])), Ok("alice".to_owned()), "{ssh:?}");
        assert_eq!(site.second.served(), before + 1, "{ssh:?}");
    }
}

#[test]
fn the_configuration_alone_leads_over_a_machine() {
    let site = Site::start();
    let hub = format!(
        "Host board\n HostName 127.0.0.1\n Port {}\n ProxyJump second\nHost second\n ProxyJump first\n",
        site.address.port()
    );
    let file = site.configure(&site.with_key(), &hub);
    let [flag, file] = words(&file);
    for ssh in BOTH {
        let mut config = site.config(ssh, &[&flag, &file]);
        config.address = "ssh://board".parse().unwrap();
        assert_eq!(account(&config), Ok("alice".to_owned()), "{ssh:?}");
    }
}

/// Each option alone decides: with it one gets in, and without it, or with another value, not.
#[test]
fn each_option_counts() {
    let site = Site::start();
    let agent = TestAgent::start(site.dir.path());
    agent.add(&site.key);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let way = site.configure(&site.with_key(), "");
    let (key, known, strange) = (site.key.display(), site.file("known_hosts"), site.file("strange"));
    let stranger = make_key(site.dir.path(), "stranger", "ed25519", "");
    fs::write(&strange, "").unwrap();
    let port = site.address.port();
    let named = "-o HostName=127.0.0.1".to_owned();
    let at = format!("{named} -p {port}");
    let knows = format!("-o UserKnownHostsFile={} -o StrictHostKeyChecking=yes", known.display());
    let strangers = format!("-o UserKnownHostsFile={}", strange.display());
    let in_file = format!("{at} -i {key} {knows}");
    let cases = [
        ("-i", true, in_file.clone()),
        ("-i", false, format!("{at} -i {} {knows}", stranger.display())),
        ("IdentityFile", true, format!("{at} -o IdentityFile={key} {knows}")),
        ("IdentityFile", false, format!("{at} -o IdentityFile={} {knows}", stranger.display())),
        ("IdentityAgent", true, format!("{at} -o IdentityAgent={} {knows}", agent.socket.display())),
        ("IdentityAgent", false, format!("{at} -o IdentityAgent=none {knows}")),
        ("-p", false, format!("{named} -p {nobody} -i {key} {knows}")),
        ("Port", true, format!("{named} -o Port={port} -i {key} {knows}")),
        ("Port", false, format!("{named} -o Port={nobody} -i {key} {knows}")),
        ("HostName", false, format!("-o HostName=nowhere.invalid -p {port} -i {key} {knows}")),
        ("UserKnownHostsFile", false, format!("{at} -i {key} {strangers} -o StrictHostKeyChecking=yes")),
        ("StrictHostKeyChecking", true, format!("{at} -i {key} {strangers} -o StrictHostKeyChecking=no")),
        ("ProxyJump", true, format!("-F {} -o ProxyJump=first {in_file}", way.display())),
        ("ProxyJump", false, format!("-F {} -o ProxyJump=nowhere.invalid {in_file}", way.display())),
    ];
    for ssh in BOTH {
        for (what, gets_in, args) in &cases {
            fs::write(&strange, "").unwrap();
            let isolated = if args.starts_with("-F") { args.clone() } else { format!("-F none {args}") };
            let args: Vec<&str> = isolated.split(' ').collect();
            let mut config = site.config(ssh, &args);
            config.address = "ssh://board.invalid".parse().unwrap();
            config.identities.clear();
            config.known_hosts = PicoConfig::new(config.address.clone()).known_hosts;
            let account = account(&config);
            assert_eq!(account.is_ok(), *gets_in, "{ssh:?} {what}, with {isolated}: {account:?}");
        }
        // Whom one logs in as only OpenSSH's own server minds.
        for (user, gets_in) in [(user(), true), ("nobody-of-this-name".to_owned(), false)] {
            for option in [format!("-l {user}"), format!("-o User={user}")] {
                let known = format!("-o UserKnownHostsFile={}", site.file("known_on_the_way").display());
                let args = format!("-F none {option} -i {} {known}", site.file("way").display());
                let mut config = site.config(ssh, &args.split(' ').collect::<Vec<_>>());
                config.address = format!("ssh://127.0.0.1:{}", site.first.address.port()).parse().unwrap();
                config.identities.clear();
                config.known_hosts = PicoConfig::new(config.address.clone()).known_hosts;
                let session = block_on(Session::connect(&config));
                assert_eq!(session.is_ok(), gets_in, "{ssh:?}, with {args}: {:?}", session.err());
            }
        }
    }
}

#[test]
fn an_agents_keys_open_the_way() {
    let site = Site::start();
    let agent = TestAgent::start(site.dir.path());
    agent.add(&site.file("way"));
    let file = site.configure(&format!(" IdentityAgent {}\n", agent.socket.display()), "");
    let [flag, file] = words(&file);
    for ssh in BOTH {
        assert_eq!(
            account(&site.config(ssh, &[&flag, &file, "-J", "first,second"])),
            Ok("alice".to_owned()),
            "{ssh:?}"
        );
    }
}

#[test]
fn a_program_may_stand_for_the_connection() {
    let site = Site::start();
    let file = site.configure(&site.with_key(), "");
    let command = format!("ProxyCommand=ssh -F {} -W %h:%p first", file.display());
    for ssh in BOTH {
        assert_eq!(account(&site.config(ssh, &["-F", "none", "-o", &command])), Ok("alice".to_owned()), "{ssh:?}");
        let config = site.config(ssh, &["-F", "none", "-o", "ProxyCommand=false"]);
        let Err(BoardError::Unreachable(text)) = account(&config) else { panic!("{ssh:?}: it was reached") };
        assert!(text.contains("cannot reach the board"), "{text}");
    }
}

#[test]
fn another_host_key_on_the_way_is_refused() {
    let site = Site::start();
    let file = site.configure(&site.with_key(), "");
    let [flag, file] = words(&file);
    let line = site.second.known_hosts_line();
    let (name, _) = line.split_once(' ').unwrap();
    fs::write(
        site.file("known_on_the_way"),
        site.first.known_hosts_line() + &format!("{name} {}\n", public_half(&site.key)),
    )
    .unwrap();
    for ssh in BOTH {
        let refused = account(&site.config(ssh, &[&flag, &file, "-J", "first,second"]));
        let Err(BoardError::HostKey(text)) = refused else { panic!("{ssh:?}: {refused:?}") };
        assert!(text.contains("CHANGED"), "{text}");
    }
}

#[test]
fn a_machine_that_leads_nowhere_is_named() {
    let site = Site::start();
    let file = site.configure(&site.with_key(), "");
    let [flag, file] = words(&file);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for ssh in BOTH {
        let mut config = site.config(ssh, &[&flag, &file, "-J", "first"]);
        config.address = format!("ssh://{nobody}").parse().unwrap();
        let Err(BoardError::Unreachable(text)) = account(&config) else { panic!("{ssh:?}: somebody answered") };
        assert!(text.contains(&nobody.port().to_string()) || text.contains("first"), "{text}");
    }
}

#[test]
fn options_that_nobody_can_follow_are_told() {
    let site = Site::start();
    for (args, says) in [(["-F", "/no/such/file"], "/no/such/file"), (["-J", "a;b"], "-J"), (["-o", "Port=x"], "ort")] {
        let Err(BoardError::Auth(text)) = account(&site.config(SshProgram::Native, &args)) else {
            panic!("{args:?} was taken")
        };
        assert!(text.contains(says) && text.contains("--ssh-args"), "{text}");
    }
    let config = site.config(SshProgram::Native, &["-F", "none", "-o", "GSSAPIAuthentication=yes"]);
    let Err(BoardError::Auth(text)) = account(&config) else { panic!("it was taken") };
    assert!(text.contains("--ssh native cannot do this: -o gssapiauthentication=yes"), "{text}");
}

#[test]
fn what_libssh2_cannot_do_the_ssh_program_does() {
    let mut site = Site::start();
    // A machine in between that knows no key, only who signs them.
    let (authority, stranger) =
        (make_key(site.dir.path(), "authority", "ed25519", ""), make_key(site.dir.path(), "new", "ed25519", ""));
    let dir = TempDir::new().unwrap();
    fs::copy(authority.with_extension("pub"), dir.path().join("user_ca.pub")).unwrap();
    let (signer, signed) = (authority.to_str().unwrap(), stranger.with_extension("pub"));
    tool("openssh-client", "ssh-keygen", &["-q", "-s", signer, "-I", "x", "-n", &user(), signed.to_str().unwrap()]);
    site.first = Sshd::start(&[], dir);
    fs::write(site.file("known_on_the_way"), site.first.known_hosts_line()).unwrap();
    let file = site.configure(&format!(" IdentityFile {}\n IdentitiesOnly yes\n", stranger.display()), "");
    let [flag, file] = words(&file);
    let args = [flag.as_str(), file.as_str(), "-J", "first"];
    assert_eq!(account(&site.config(SshProgram::Auto, &args)), Ok("alice".to_owned()));
    let Err(BoardError::Auth(text)) = account(&site.config(SshProgram::Native, &args)) else {
        panic!("libssh2 did it")
    };
    assert!(text.contains("--ssh native cannot do this: the certificate") && text.contains("new-cert.pub"), "{text}");

    let args = ["-F", "none", "-o", "GSSAPIAuthentication=yes"];
    assert_eq!(account(&site.config(SshProgram::Auto, &args)), Ok("alice".to_owned()));
}

#[test]
fn the_ssh_program_trusts_the_host_key_that_was_named_and_no_other() {
    let site = Site::start();
    let mut config = site.config(SshProgram::System, &["-F", "none"]);
    config.known_hosts = site.file("nothing");
    let Err(BoardError::HostKey(text)) = account(&config) else { panic!("an unknown key was accepted") };
    assert!(text.contains("Host key verification failed"), "{text}");
    config.accept_host_key = Some(site.hub.as_ref().unwrap().host_key_fingerprint().to_owned());
    assert_eq!(account(&config), Ok("alice".to_owned()));
    config.accept_host_key = Some("SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned());
    assert!(matches!(account(&config), Err(BoardError::HostKey(_))));
    assert!(!config.known_hosts.exists());

    let mut config = site.config(SshProgram::System, &["-F", "none"]);
    config.identities = vec![make_key(site.dir.path(), "locked", "ed25519", "open sesame")];
    let Err(BoardError::Auth(text)) = account(&config) else { panic!("an unknown key was taken") };
    assert!(text.contains("Permission denied") && text.contains("ssh-add"), "{text}");
}

#[test]
fn a_cluster_meets_by_the_ssh_program_and_comes_back_after_a_restart() {
    let mut site = Site::start();
    let topic = |access, twin: Option<&str>| Topic {
        name: "alice/friends/future.p2p".to_owned(),
        access,
        twin: twin.map(str::to_owned),
        after_host: false,
    };
    let ours = site.config(SshProgram::System, &["-F", "none"]);
    let mut theirs = ours.clone();
    theirs.identities = vec![site.file("bob")];
    block_on(async {
        let guest = PicoBoard::join(theirs, topic(None, Some("bob/alice/friends/future.p2p")));
        until(&guest, |event| matches!(event, BoardEvent::Misrouted { .. })).await;
        let host = PicoBoard::join(ours, topic(Some(vec!["bob".parse().unwrap()]), None));
        until(&host, |event| *event == BoardEvent::Up).await;
        until(&guest, |event| *event == BoardEvent::Up).await;
        host.publish(line(1)).unwrap();
        until(&guest, |event| *event == BoardEvent::Line(line(1))).await;

        site.hub.take().unwrap().stop();
        for board in [&host, &guest] {
            until(board, |event| matches!(event, BoardEvent::Down { .. })).await;
        }
        site.hub = Some(hub(site.dir.path(), site.address));
        until(&host, |event| *event == BoardEvent::Up).await;
        until(&guest, |event| *event == BoardEvent::Up).await;
        guest.publish(line(2)).unwrap();
        until(&host, |event| *event == BoardEvent::Line(line(2))).await;
        // The last one who stays is thrown out, and comes back over the connection that he has.
        host.close().await;
        until(&guest, |event| matches!(event, BoardEvent::Down { .. } | BoardEvent::Misrouted { .. })).await;
        guest.close().await;
    });
}
