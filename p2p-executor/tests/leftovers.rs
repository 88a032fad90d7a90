//! Processes and folders that commands and workers leave behind.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command as Process, Stdio};

use async_std::task::block_on;
use p2p_executor::{CommandConfig, CommandExecutor};
use p2p_proto::task::Ended;
use p2p_scheduler::executor::Stop;
use support::{Rig, processes_of, shell};

#[test]
fn background_children_die_with_the_command() {
    let rig = Rig::new();
    for line in [
        "sleep 1000 &",
        "sleep 1000 >/dev/null 2>&1 &",
        "(sleep 1000 & sleep 1000 &) & echo x",
        "trap '' INT TERM HUP; sleep 1000 & exit 0",
    ] {
        assert_eq!(*rig.run(shell(line)).ended(), Ended::Exit(0), "{line}");
        rig.assert_clean();
    }
}

#[test]
fn daemons_die_with_the_command() {
    let rig = Rig::new();
    for line in [
        "setsid sleep 1000 & sleep 0.05",
        "setsid sleep 1000 >/dev/null 2>&1 </dev/null & sleep 0.05",
        "setsid sh -c 'setsid sleep 1000 & sleep 1000' >/dev/null 2>&1 & sleep 0.05",
        "setsid sh -c 'while :; do setsid sleep 1000 & sleep 0.001; done' >/dev/null 2>&1 & sleep 0.1",
        // More process numbers than are looked at one by one.
        "setsid sleep 1000 >/dev/null 2>&1 & i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done",
    ] {
        assert_eq!(*rig.run(shell(line)).ended(), Ended::Exit(0), "{line}");
        rig.assert_clean();
    }
}

#[test]
fn daemons_of_a_stopped_command_die_too() {
    let rig = Rig::new();
    block_on(async {
        for stop in [Stop::Interrupt, Stop::Kill] {
            let mut attempt = rig.start(shell("setsid sleep 1000 & sleep 0.05; echo ready; sleep 1000"));
            attempt.says("ready").await;
            attempt.stop(stop);
            assert_eq!(*attempt.end().await.ended(), Ended::Cancelled);
            rig.assert_clean();
        }
    });
}

#[test]
fn an_unfound_process_that_keeps_the_output_open_is_not_waited_for() {
    let rig = Rig::new();
    // They have neither the group nor the environment of their attempt.
    for daemon in ["exec sleep 1000", "while :; do echo noise || exit; done"] {
        let line = format!(
            "mkfifo pid; env -i setsid sh -c 'echo $$ > pid; {daemon}' & read pid < pid; echo $pid; sleep 0.05"
        );
        let done = rig.run(shell(&line));
        assert_eq!(*done.ended(), Ended::Exit(0));
        let text = done.stdout();
        let pid = text.lines().find(|line| *line != "noise").unwrap();
        // The noisy one may have ended by itself by now, as nobody listens.
        let killed = Process::new("kill").args(["-KILL", pid]).status().unwrap();
        assert!(killed.success() || daemon.contains("noise"), "the process was found after all");
    }
}

#[test]
fn folders_that_a_command_closed_are_removed() {
    let rig = Rig::new();
    let deep = "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t/u/v/w/x/y/z";
    let line = format!("mkdir -p {deep} && echo x > {deep}/file && chmod -R a-rwx a; ln -s / root; mkfifo pipe");
    assert_eq!(*rig.run(shell(&line)).ended(), Ended::Exit(0));
    rig.assert_clean();
    assert!(std::path::Path::new("/etc").exists());
}

#[test]
fn a_dropped_executor_leaves_nothing() {
    let rig = Rig::new();
    rig.run(shell("true"));
    let Rig { executor, base, .. } = rig;
    assert_eq!(support::children(base.path()).len(), 1);
    drop(executor);
    assert_eq!(support::children(base.path()).len(), 0);
}

/// A worker in a process of its own, for [`a_killed_worker_is_cleaned_up_after`]: this test itself, started again.
const WORKER_BASE: &str = "P2P_TEST_WORKER_BASE";

#[test]
fn a_killed_worker_is_cleaned_up_after() {
    if let Ok(base) = std::env::var(WORKER_BASE) {
        return be_a_worker(&base);
    }
    let base = tempfile::tempdir().unwrap();
    let mut worker = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_worker_is_cleaned_up_after", "--nocapture"])
        .env(WORKER_BASE, base.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("worker is ready")));
    let folders = || support::children(base.path());
    let [home] = folders().try_into().unwrap();

    // A neighbour that starts meanwhile leaves it alone.
    let config = CommandConfig { base: base.path().to_owned(), ..CommandConfig::default() };
    let neighbour = CommandExecutor::new(config.clone()).unwrap();
    assert!(home.join("0/file").exists());
    assert_eq!(folders().len(), 2);

    worker.kill().unwrap();
    worker.wait().unwrap();
    assert!(!processes_of(base.path()).is_empty(), "the killed worker's command should still run");
    fs::create_dir(base.path().join("p2p-somebody-else")).unwrap();
    let next = CommandExecutor::new(config).unwrap();
    assert!(!home.exists());
    assert_eq!(processes_of(base.path()), Vec::<String>::new());
    assert_eq!(folders().len(), 3);
    drop((neighbour, next));
    assert_eq!(folders().len(), 1);
}

fn be_a_worker(base: &str) {
    let config = CommandConfig { base: base.into(), ..CommandConfig::default() };
    let (executor, base) = (CommandExecutor::new(config).unwrap(), tempfile::tempdir().unwrap());
    let rig = Rig { executor, user: "bob", base };
    block_on(async {
        let mut attempt = rig.start(shell("echo x > file; setsid sleep 1000 & echo ready; sleep 1000"));
        attempt.says("ready").await;
        println!("worker is ready");
        std::io::stdout().flush().unwrap();
        attempt.end().await;
    });
}
