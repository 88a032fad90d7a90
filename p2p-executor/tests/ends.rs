//! How attempts end, and what their commands see.

mod support;

use std::time::Duration;

use async_std::task::block_on;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Ended, FailureKind};
use p2p_scheduler::executor::Stop;
use support::{Rig, command, command_with, shell};

#[test]
fn output_and_exit_code_come_back() {
    let rig = Rig::new();
    let done = rig.run(shell("echo out; echo err >&2; exit 7"));
    assert_eq!(*done.ended(), Ended::Exit(7));
    assert_eq!((done.stdout().as_str(), done.stderr().as_str()), ("out\n", "err\n"));
    assert!(done.end.ran > Duration::ZERO);
    rig.assert_clean();
}

#[test]
fn a_signal_that_ends_the_command_is_told() {
    let rig = Rig::new();
    assert_eq!(*rig.run(shell("kill -TERM $$")).ended(), Ended::Signal(15));
    rig.assert_clean();
}

#[test]
fn arguments_and_variables_arrive_as_they_are() {
    let rig = Rig::new();
    let task =
        command_with(["sh", "-c", "printf '%s|' \"$0\" \"$@\" \"$A\"", "a b", "", "*"], &[("A", "1"), ("A", "2 $x")]);
    assert_eq!(rig.run(task).stdout(), "a b||*|2 $x|");
}

#[test]
fn the_environment_is_small_and_clean() {
    let rig = Rig::new();
    let done = rig.run(command(["/usr/bin/env"]));
    let mut names: Vec<_> = done.stdout().lines().map(|line| line.split('=').next().unwrap_or("").to_owned()).collect();
    names.sort();
    assert_eq!(names, ["HOME", "LANG", "LC_ALL", "P2P_ATTEMPT", "P2P_CPUS", "PATH", "PWD", "TMPDIR", "USER"]);
    let done = rig.run(shell("pwd; echo $HOME; echo $TMPDIR; echo $PWD; umask; stat -c %a ."));
    let lines: Vec<_> = done.stdout().lines().map(str::to_owned).collect();
    assert!(lines[..4].iter().all(|line| *line == lines[0]), "{lines:?}");
    assert_eq!(lines[5], "700");
}

#[test]
fn a_command_has_only_its_three_files_open_and_a_session_of_its_own() {
    let rig = Rig::new();
    let done = rig.run(shell("ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0; ps -o sid= -p $$; echo $$"));
    let text = done.stdout();
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    // 3 is the folder that `ls` reads.
    assert_eq!(words[..5], ["0", "1", "2", "3", "/dev/null"]);
    assert_eq!(words[5], words[6], "the command does not lead its session");
}

#[test]
fn a_command_that_runs_too_long_times_out() {
    let rig = Rig::new();
    let mut task = command(["sleep", "1000"]);
    task.timeout_ms = 50;
    assert_eq!(*rig.run(task).ended(), Ended::TimedOut);
    rig.assert_clean();
}

#[test]
fn an_interrupted_command_can_tidy_up() {
    let rig = Rig::new();
    block_on(async {
        let mut attempt = rig.start(shell("trap 'echo tidied; exit 3' INT; echo ready; while :; do sleep 0.01; done"));
        attempt.says("ready").await;
        attempt.stop(Stop::Interrupt);
        let done = attempt.end().await;
        assert_eq!(*done.ended(), Ended::Cancelled);
        assert!(done.stdout().ends_with("tidied\n"));
    });
    rig.assert_clean();
}

#[test]
fn a_command_that_ignores_interrupts_is_killed_after_the_grace() {
    let rig = Rig::with(|config| config.interrupt_grace = Duration::from_millis(100));
    block_on(async {
        let mut attempt = rig.start(shell("trap '' INT; echo ready; sleep 1000"));
        attempt.says("ready").await;
        attempt.stop(Stop::Interrupt);
        assert_eq!(*attempt.end().await.ended(), Ended::Cancelled);
    });
    rig.assert_clean();
}

#[test]
fn a_kill_does_not_wait_for_the_grace() {
    let rig = Rig::with(|config| config.interrupt_grace = Duration::from_secs(1_000_000));
    block_on(async {
        let mut attempt = rig.start(shell("trap '' INT TERM; echo ready; sleep 1000"));
        attempt.says("ready").await;
        attempt.stop(Stop::Interrupt);
        attempt.stop(Stop::Kill);
        assert_eq!(*attempt.end().await.ended(), Ended::Cancelled);
    });
    rig.assert_clean();
}

#[test]
fn a_stop_before_the_slot_cancels() {
    let rig = Rig::new();
    block_on(async {
        let attempt = rig.start_waiting(shell("echo ran"));
        attempt.stop(Stop::Interrupt);
        let done = attempt.end().await;
        assert_eq!(*done.ended(), Ended::Cancelled);
    });
    rig.assert_clean();
}

#[test]
fn nothing_runs_before_the_slot_is_given() {
    let rig = Rig::new();
    let witness = rig.base.path().join("ran");
    block_on(async {
        let mut task = shell(&format!("touch {}", witness.display()));
        task.inputs = vec![support::input("staged", "x")];
        let attempt = rig.start_waiting(task);
        while !rig.folders().iter().any(|folder| folder.join("staged").exists()) {
            async_std::task::yield_now().await;
        }
        assert!(!witness.exists());
        attempt.handle.open_slot();
        assert_eq!(*attempt.end().await.ended(), Ended::Exit(0));
        assert!(witness.exists());
    });
}

#[test]
fn the_end_of_the_driver_kills() {
    let rig = Rig::new();
    block_on(async {
        let mut attempt = rig.start(shell("echo ready; sleep 1000"));
        attempt.says("ready").await;
        // Stands for a driver that is gone: its side is dropped.
        let (other, _) = p2p_scheduler::executor::AttemptHandle::pair("bob".parse().unwrap(), attempt.sink.clone());
        drop(std::mem::replace(&mut attempt.handle, other));
        assert_eq!(*attempt.end().await.ended(), Ended::Cancelled);
    });
    rig.assert_clean();
}

#[test]
fn a_program_that_is_not_there() {
    let rig = Rig::new();
    for name in ["no-such-program-anywhere", "./no-such-program", "/no/such/program", "/etc/passwd/program"] {
        let done = rig.run(command([name]));
        assert_eq!(done.failure().kind, FailureKind::CommandNotFound, "{name}");
        assert!(done.failure().message.contains(name), "{}", done.failure().message);
    }
    rig.assert_clean();
}

#[test]
fn a_program_that_cannot_be_executed() {
    let rig = Rig::new();
    for name in ["./script", "/etc", "/etc/passwd"] {
        let mut task = command([name]);
        task.inputs = vec![support::input("script", "#!/bin/sh\n")];
        let done = rig.run(task);
        assert_eq!(done.failure().kind, FailureKind::NotExecutable, "{name}: {}", done.failure().message);
    }
    let mut task = command(["tool"]);
    task.inputs = vec![support::input("bin/tool", "#!/bin/sh\n")];
    task.payload = command_with(["tool"], &[("PATH", "bin")]).payload;
    assert_eq!(rig.run(task).failure().kind, FailureKind::NotExecutable);
    rig.assert_clean();
}

#[test]
fn a_missing_interpreter_is_named() {
    let rig = Rig::new();
    let mut task = command(["./script"]);
    task.inputs = vec![support::input("script", "#!/no/such/interpreter -x\n")];
    task.inputs[0].executable = true;
    let done = rig.run(task);
    assert_eq!(done.failure().kind, FailureKind::CommandNotFound);
    assert!(done.failure().message.contains("/no/such/interpreter"), "{}", done.failure().message);
}

#[test]
fn a_file_that_is_neither_program_nor_script() {
    let rig = Rig::new();
    let mut task = command(["./data"]);
    task.inputs = vec![support::input("data", "echo hello\n")];
    task.inputs[0].executable = true;
    let done = rig.run(task);
    assert_eq!(done.failure().kind, FailureKind::NotExecutable);
    assert!(done.failure().message.contains("#!"), "{}", done.failure().message);
}

#[test]
fn a_script_that_came_along_runs() {
    let rig = Rig::new();
    let mut task = command(["./bin/script", "x"]);
    task.inputs = vec![support::input("bin/script", "#!/bin/sh\necho $0 $1\n")];
    task.inputs[0].executable = true;
    assert_eq!(rig.run(task).stdout(), "./bin/script x\n");
    let mut task = command_with(["script", "y"], &[("PATH", "bin:/usr/bin:/bin")]);
    task.inputs = vec![support::input("bin/script", "#!/bin/sh\necho $1\n")];
    task.inputs[0].executable = true;
    assert_eq!(rig.run(task).stdout(), "y\n");
}

#[test]
fn commands_that_cannot_be_given_to_a_system() {
    let rig = Rig::new();
    let failing = |task, kind| {
        let done = rig.run(task);
        assert_eq!(done.failure().kind, kind, "{}", done.failure().message);
    };
    failing(command([]), FailureKind::Malformed);
    failing(command([""]), FailureKind::Malformed);
    failing(command(["echo", "a\0b"]), FailureKind::Malformed);
    failing(command_with(["echo"], &[("A=B", "c")]), FailureKind::Malformed);
    failing(command_with(["echo"], &[("A", "c\0")]), FailureKind::Malformed);
    failing(command(["echo", &"x".repeat(3_000_000)]), FailureKind::TooLarge);
    rig.assert_clean();
}

#[test]
fn dropping_an_attempt_kills_it() {
    let rig = Rig::new();
    block_on(async {
        let line = "mkdir -p a/b && chmod 0 a; setsid sleep 1000 & sleep 1000 & echo ready; sleep 1000";
        let mut attempt = rig.start(shell(line));
        attempt.says("ready").await;
        rig.assert_running(4);
        attempt.abandon().await;
    });
    rig.assert_clean();
}

#[test]
fn a_slow_reader_of_a_cancelled_command_is_not_waited_for() {
    let rig = Rig::new();
    block_on(async {
        let mut attempt = rig.start(shell("echo ready; yes"));
        attempt.says("ready").await;
        let permits = attempt.sink.slow();
        attempt.stop(Stop::Kill);
        attempt.stop(Stop::Kill);
        let done = attempt.end().await;
        assert_eq!(*done.ended(), Ended::Cancelled);
        assert!(!done.seen.ended.contains(&Channel::Output(0)));
        drop(permits);
    });
    rig.assert_clean();
}
