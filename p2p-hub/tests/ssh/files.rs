//! The users file and the host key.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use p2p_hub::{HostKeySource, Hub, HubConfig, HubError, UserKey, UsersSource};
use tempfile::TempDir;

use crate::kit::{Site, make_key, users_lines};

fn config(users: UsersSource, host_key: HostKeySource) -> HubConfig {
    HubConfig { listen: ([127, 0, 0, 1], 0).into(), users, host_key }
}

#[test]
fn the_users_file_is_read_again_when_it_changed() {
    let dir = TempDir::new().unwrap();
    let keys: HashMap<_, _> =
        ["alice", "laptop", "bob", "stranger"].into_iter().map(|name| (name, make_key(dir.path(), name))).collect();
    let file = dir.path().join("users");
    fs::write(&file, format!("# friends\nnonsense\nalice {}\n", keys["alice"])).unwrap();
    let site = Site::with(dir, UsersSource::File(file.clone()), HostKeySource::Ephemeral);
    let problem = &site.hub.users_problems()[0];
    assert_eq!(*problem, format!("{}:2: expected 'NAME KEYTYPE KEY'", file.display()));
    assert!(site.run("alice", "user").stdout.starts_with("alice\n"));
    assert_eq!(site.run("bob", "user").status, Some(1));

    let users = HashMap::from([
        ("alice", vec![keys["alice"].clone(), keys["laptop"].clone()]),
        ("bob", vec![keys["bob"].clone()]),
    ]);
    fs::write(&file, users_lines(&users)).unwrap();
    assert!(site.run("bob", "user").stdout.starts_with("bob\n"));
    let alice = site.run("alice", "user").stdout;
    assert_eq!(site.run("laptop", "user").stdout, alice);

    fs::write(&file, "").unwrap();
    assert_eq!(site.run("alice", "user").status, Some(1));

    fs::remove_file(&file).unwrap();
    assert_eq!(site.run("alice", "help").status, Some(0), "an unreadable file locks nobody out");
}

#[test]
fn the_host_key_is_made_once_and_kept() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("host_key");
    let start = || {
        let source = HostKeySource::File(path.clone());
        Hub::start(config(UsersSource::List(vec![]), source)).unwrap()
    };
    let first = start();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    let key = first.host_public_key().to_owned();
    first.stop();
    let second = start();
    assert_eq!(second.host_public_key(), key);
    let shown = std::process::Command::new("ssh-keygen").args(["-y", "-f"]).arg(&path).output().unwrap();
    assert_eq!(String::from_utf8(shown.stdout).unwrap().trim(), key);
}

#[test]
fn a_host_key_that_others_can_read_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("host_key");
    make_key(dir.path(), "host_key");
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Hub::start(config(UsersSource::List(vec![]), HostKeySource::File(path.clone()))).unwrap_err();
        assert!(matches!(error, HubError::HostKeyExposed { .. }));
        let text = error.to_string();
        assert!(text.contains(&format!("mode {mode:04o}")) && text.contains("chmod 600"), "{text}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Hub::start(config(UsersSource::List(vec![]), HostKeySource::File(path))).unwrap();
}

#[test]
fn starting_says_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let nobody = || UsersSource::List(vec![]);
    let garbage = dir.path().join("garbage");
    fs::write(&garbage, "not a key").unwrap();
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o600)).unwrap();
    // Read in full it would take more memory than there is.
    let endless = dir.path().join("endless");
    fs::File::create(&endless).unwrap().set_len(1 << 38).unwrap();
    fs::set_permissions(&endless, fs::Permissions::from_mode(0o600)).unwrap();
    let running = Hub::start(config(nobody(), HostKeySource::Ephemeral)).unwrap();
    let public = UserKey { name: "public".into(), key: make_key(dir.path(), "key") };
    let table = [
        (config(nobody(), HostKeySource::File(garbage)), "is not an unencrypted OpenSSH"),
        (config(nobody(), HostKeySource::File(endless)), "is not an unencrypted OpenSSH"),
        (config(nobody(), HostKeySource::File(dir.path().join("no/folder"))), "check that the folder exists"),
        (config(UsersSource::File(dir.path().join("missing")), HostKeySource::Ephemeral), "users file"),
        (config(UsersSource::List(vec![public]), HostKeySource::Ephemeral), "everybody without an account"),
        (
            HubConfig { listen: running.local_addr(), ..config(nobody(), HostKeySource::Ephemeral) },
            "choose another address",
        ),
    ];
    for (config, expected) in table {
        let text = Hub::start(config).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}
