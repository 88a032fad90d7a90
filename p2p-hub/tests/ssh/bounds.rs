//! More of something than the hub takes.

use std::io::Read;
use std::net::TcpStream;

use p2p_hub::limits::{MAX_CHANNELS, MAX_CHANNELS_OPENED_PUBLIC, MAX_LOGINS};

use crate::kit::{DEADLINE, Site, wait_until};

#[test]
fn those_who_do_not_log_in_are_bounded_and_make_room_again() {
    let site = Site::new(&["alice"]);
    let mut alice = site.join("alice", "pipe t -r", "alice/t");
    let mut silent = Vec::new();
    for _ in 0..MAX_LOGINS {
        let mut tcp = TcpStream::connect(site.hub.local_addr()).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut banner = [0; 8];
        tcp.read_exact(&mut banner).unwrap();
        assert_eq!(&banner, b"SSH-2.0-");
        silent.push(tcp);
    }
    let mut refused = TcpStream::connect(site.hub.local_addr()).unwrap();
    refused.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(refused.read(&mut [0; 8]).unwrap(), 0);
    alice.send(b"undisturbed\n");
    alice.stdout.until_contains("undisturbed\n");
    drop(silent);
    wait_until("room for another login", || site.run("alice", "ls").status == Some(0));
}

#[test]
fn commands_at_once_on_one_connection_are_bounded() {
    let site = Site::new(&["alice"]);
    let socket = format!("ControlPath={}", site.path("mux").display());
    let mut running = Vec::new();
    for index in 0..MAX_CHANNELS {
        let master = if index == 0 { "ControlMaster=yes" } else { "ControlMaster=no" };
        let line = format!("pipe {index} -r");
        let mut ssh = site.start_with("alice", &line, &["-o", &socket, "-o", master]);
        ssh.send(b"x");
        ssh.stdout.until_len(1);
        running.push(ssh);
    }
    let mut one_more = site.command("alice", &["-o", &socket, "-O", "check"]);
    assert!(one_more.output().unwrap().status.success());
    let listed = |options: &[&str]| site.start_with("alice", "ls", options).done().status;
    assert_eq!(site.run("alice", "ls").status, Some(0), "a connection of its own works");
    // OpenSSH falls back to a connection of its own where the shared one refuses: forbid it.
    let proxy = ["-o", &socket, "-o", "ProxyCommand=false"];
    assert_ne!(listed(&proxy), Some(0));
    drop(running.pop());
    wait_until("room for another command", || listed(&proxy) == Some(0));
}

#[test]
fn a_stranger_cannot_open_channels_for_ever() {
    let site = Site::new(&[]);
    let socket = format!("ControlPath={}", site.path("mux").display());
    let mut master = site.start_with("stranger", "pipe t -r", &["-o", &socket, "-o", "ControlMaster=yes"]);
    master.send(b"x");
    master.stdout.until_len(1);
    for _ in 1..MAX_CHANNELS_OPENED_PUBLIC {
        assert!(master.is_running());
        let mut help = site.start_with("stranger", "help", &["-o", &socket]);
        assert_eq!(help.done().status, Some(0));
    }
    let _ = site.start_with("stranger", "help", &["-o", &socket]).done();
    assert_ne!(master.done().status, Some(0));
}
