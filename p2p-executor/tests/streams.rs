//! Stdin, stdout and stderr: live, complete, and held up by a slow reader.

mod support;

use std::fs;

use async_std::task::block_on;
use p2p_proto::limits::CHUNK_BYTES;
use p2p_proto::link::item::Channel;
use p2p_proto::task::Ended;
use support::{Rig, command, shell, soon};

#[test]
fn stdin_reaches_the_command_and_is_acknowledged() {
    let rig = Rig::new();
    block_on(async {
        let mut task = command(["cat"]);
        task.stdin = true;
        let mut attempt = rig.start(task);
        attempt.send(Channel::Stdin, b"one ", false);
        attempt.says("one ").await;
        attempt.send(Channel::Stdin, b"two", false);
        attempt.send(Channel::Stdin, b"", true);
        let done = attempt.end().await;
        assert_eq!((done.ended(), done.stdout().as_str()), (&Ended::Exit(0), "one two"));
        assert_eq!(done.seen.taken[&Channel::Stdin], 7);
    });
    rig.assert_clean();
}

#[test]
fn stdin_that_comes_before_the_files_waits_for_the_command() {
    let rig = Rig::new();
    block_on(async {
        let mut task = shell("cat file -");
        task.stdin = true;
        task.inputs = vec![support::input("file", "")];
        task.inputs[0].content = p2p_proto::task::Content::Streamed(4);
        let attempt = rig.start(task);
        attempt.send(Channel::Stdin, b"stdin", true);
        attempt.send(Channel::Input(0), b"file", true);
        assert_eq!(attempt.end().await.stdout(), "filestdin");
    });
}

#[test]
fn a_command_that_does_not_read_its_stdin_holds_up_nobody() {
    let rig = Rig::new();
    block_on(async {
        let mut task = shell("mkfifo go; exec 0<&-; echo closed; read line < go; echo $line");
        task.stdin = true;
        let mut attempt = rig.start(task);
        attempt.says("closed").await;
        let size = 300_000;
        for chunk in vec![b'x'; size].chunks(CHUNK_BYTES) {
            attempt.send(Channel::Stdin, chunk, false);
        }
        attempt.send(Channel::Stdin, b"", true);
        attempt.until(|seen| seen.taken.get(&Channel::Stdin) == Some(&(size as u64))).await;
        fs::write(rig.folders()[0].join("go"), "went on\n").unwrap();
        let done = attempt.end().await;
        assert!(done.stdout().ends_with("went on\n"));
    });
    rig.assert_clean();
}

#[test]
fn without_stdin_the_command_reads_nothing() {
    let rig = Rig::new();
    assert_eq!(*rig.run(command(["cat"])).ended(), Ended::Exit(0));
}

#[test]
fn output_comes_while_the_command_runs() {
    let rig = Rig::new();
    block_on(async {
        let mut attempt = rig.start(shell("mkfifo go; echo first; echo first >&2; read line < go; echo $line"));
        attempt.until(|seen| seen.stdout() == "first\n" && seen.text(Channel::Stderr) == "first\n").await;
        // Only now may it go on.
        fs::write(rig.folders()[0].join("go"), "second\n").unwrap();
        let done = attempt.end().await;
        assert_eq!(done.stdout(), "first\nsecond\n");
    });
    rig.assert_clean();
}

#[test]
fn large_output_arrives_complete() {
    let rig = Rig::new();
    let done = rig.run(shell("seq 1 300000; seq 1 300000 >&2"));
    let expected: String = (1..=300_000).map(|line| format!("{line}\n")).collect();
    assert!(done.stdout() == expected, "stdout is not complete");
    assert!(done.stderr() == expected, "stderr is not complete");
}

#[test]
fn a_slow_reader_holds_up_the_command_and_loses_nothing() {
    let rig = Rig::new();
    block_on(async {
        let task = shell("i=0; while [ $i -lt 40 ]; do head -c 10000 /dev/zero; i=$((i+1)); echo $i > count; done");
        let mut attempt = rig.start_waiting(task);
        let permits = attempt.sink.slow();
        attempt.handle.open_slot();
        permits.send(()).await.unwrap();
        attempt.until(|seen| !seen.stdout().is_empty()).await;
        // It writes as much as the pipe and one piece hold, and no more.
        let count = rig.folders()[0].join("count");
        let written =
            || fs::read_to_string(&count).ok().and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(0);
        let bound = (64 * 1024 + 2 * CHUNK_BYTES) / 10_000 + 1;
        for _ in 0..50 {
            assert!(written() <= bound, "{} KB were written with nobody reading", 10 * written());
            async_std::task::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(!rig.processes().is_empty());
        drop(permits);
        let done = attempt.end().await;
        assert_eq!(*done.ended(), Ended::Exit(0));
        assert_eq!(done.stdout().len(), 400_000);
    });
    rig.assert_clean();
}

#[test]
fn what_is_in_the_pipe_at_the_end_is_not_lost_to_a_slow_reader() {
    let rig = Rig::new();
    block_on(async {
        let attempt = rig.start_waiting(shell("head -c 60000 /dev/zero; echo error >&2; : > done"));
        let permits = attempt.sink.slow();
        attempt.handle.open_slot();
        // The command has ended before anything is read.
        soon("the end of the command", async {
            let done = || rig.folders().iter().any(|folder| folder.join("done").exists());
            while !done() || !rig.processes().is_empty() {
                async_std::task::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
        drop(permits);
        let done = attempt.end().await;
        assert_eq!((done.stdout().len(), done.stderr().as_str()), (60_000, "error\n"));
        assert_eq!(done.seen.notes, Vec::<String>::new());
    });
}

#[test]
fn many_attempts_at_once() {
    let rig = Rig::new();
    block_on(async {
        let attempts: Vec<_> = (0..100).map(|n| rig.start(shell(&format!("echo {n}; cat /dev/null")))).collect();
        for (n, attempt) in attempts.into_iter().enumerate() {
            assert_eq!(attempt.end().await.stdout(), format!("{n}\n"));
        }
    });
    rig.assert_clean();
}
