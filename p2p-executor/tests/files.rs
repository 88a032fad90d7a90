//! Files in and out.

mod support;

use std::collections::BTreeMap;

use async_std::task::block_on;
use p2p_proto::limits;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Content, Ended, FailureKind, File, TaskSpec};
use p2p_scheduler::executor::Stop;
use support::small_disk::small_disk;
use support::{Rig, command, input, shell};

fn asking(line: &str, outputs: &[&str]) -> TaskSpec {
    TaskSpec { outputs: outputs.iter().map(|name| (*name).to_owned()).collect(), ..shell(line) }
}

fn streamed(name: &str, size: u64) -> File {
    File { content: Content::Streamed(size), ..input(name, "") }
}

#[test]
fn inputs_are_there_when_the_command_starts() {
    let rig = Rig::new();
    let mut task = shell("cat a 'deep er/b/ü'; test -x tool && ! test -x a && echo right");
    task.inputs = vec![input("a", "one "), input("deep er/b/ü", "two "), input("tool", "")];
    task.inputs[2].executable = true;
    let done = rig.run(task);
    assert_eq!((done.ended(), done.stdout().as_str()), (&Ended::Exit(0), "one two right\n"));
    rig.assert_clean();
}

#[test]
fn streamed_inputs_and_payload_are_put_together() {
    let rig = Rig::new();
    block_on(async {
        let mut task = shell("cat a b c");
        let Content::Inline(payload) = std::mem::take(&mut task.payload) else { unreachable!() };
        task.payload = Content::Streamed(payload.len() as u64);
        task.inputs = vec![streamed("a", 200_000), streamed("b", 3), streamed("c", 0)];
        let attempt = rig.start(task);
        // Channels may mix.
        attempt.send(Channel::Input(0), &[b'a'; 60_000], false);
        attempt.send(Channel::Payload, &payload[..3], false);
        attempt.send(Channel::Input(1), b"bbb", false);
        attempt.send(Channel::Input(0), &[b'a'; 60_000], false);
        attempt.send(Channel::Input(1), b"", true);
        attempt.send(Channel::Input(2), b"", true);
        attempt.send(Channel::Payload, &payload[3..], true);
        attempt.send(Channel::Input(0), &[b'a'; 60_000], false);
        attempt.send(Channel::Input(0), &[b'a'; 20_000], true);
        let done = attempt.end().await;
        assert_eq!(done.stdout(), "a".repeat(200_000) + "bbb");
        assert_eq!(done.seen.taken[&Channel::Input(0)], 200_000);
        assert_eq!(done.seen.taken[&Channel::Input(1)], 3);
        assert_eq!(done.seen.taken[&Channel::Payload], payload.len() as u64);
    });
    rig.assert_clean();
}

#[test]
fn more_or_fewer_bytes_than_announced_are_refused() {
    let rig = Rig::new();
    block_on(async {
        for (bytes, end) in [(&b"1234"[..], true), (b"12", true), (b"1234", false)] {
            let mut task = shell("echo ran");
            task.inputs = vec![streamed("a", 3)];
            let attempt = rig.start(task);
            attempt.send(Channel::Input(0), bytes, end);
            let done = attempt.end().await;
            assert_eq!(done.failure().kind, FailureKind::Malformed, "{}", done.failure().message);
            assert_eq!(done.stdout(), "");
        }
        for channel in [Channel::Input(1), Channel::Stdin, Channel::Payload, Channel::Stdout] {
            let mut task = shell("echo ran");
            task.inputs = vec![streamed("a", 3)];
            let attempt = rig.start(task);
            attempt.send(channel, b"x", true);
            assert_eq!(attempt.end().await.failure().kind, FailureKind::Malformed, "{channel:?}");
        }
    });
    rig.assert_clean();
}

#[test]
fn an_attempt_whose_files_do_not_come_can_be_stopped() {
    let rig = Rig::new();
    block_on(async {
        let mut task = shell("echo ran");
        task.inputs = vec![streamed("a", 3)];
        let attempt = rig.start(task);
        attempt.send(Channel::Input(0), b"1", false);
        attempt.stop(Stop::Kill);
        assert_eq!(*attempt.end().await.ended(), Ended::Cancelled);
    });
    rig.assert_clean();
}

#[test]
fn names_that_climb_or_clash_are_refused() {
    let rig = Rig::new();
    let outside = format!("p2p-outside-{}", std::process::id());
    let absolute = std::env::temp_dir().join(&outside);
    let (climbing, deep) = (format!("../../{outside}"), format!("a/../../../{outside}"));
    for names in [
        &[climbing.as_str()][..],
        &[absolute.to_str().unwrap()],
        &[deep.as_str()],
        &["a", "a"],
        &["a", "a/b"],
        &["a/b", "a"],
        &["a/b", "a/b/c"],
        &["a\0b"],
        &[""],
    ] {
        let mut task = shell("echo ran");
        task.inputs = names.iter().map(|name| input(name, "x")).collect();
        let done = rig.run(task);
        assert_eq!(done.failure().kind, FailureKind::BadName, "{names:?}");
        assert_eq!(done.stdout(), "");
        assert!(!absolute.exists());
    }
    let mut task = shell("echo ran");
    task.inputs = vec![streamed("a", limits::FILE_BYTES + 1)];
    assert_eq!(rig.run(task).failure().kind, FailureKind::TooLarge);
    rig.assert_clean();
}

#[test]
fn named_files_and_matching_files_come_back() {
    let rig = Rig::new();
    let line = "mkdir -p d/e .cache; echo 1 > a.txt; echo 2 > b.txt; echo 3 > d/c.txt; echo 4 > d/e/f.txt; echo 5 > '[x]';\
                echo 6 > .hidden.txt; echo 7 > .cache/g.txt; echo 8 > '{a,b}.txt'; echo 9 > tool; chmod +x tool";
    let cases: &[(&[&str], &[&str])] = &[
        (&["a.txt"], &["a.txt"]),
        (&["d/c.txt", "a.txt", "a.txt"], &["a.txt", "d/c.txt"]),
        (&["*.txt"], &["a.txt", "b.txt", "{a,b}.txt"]),
        (&["?.txt", "a.txt"], &["a.txt", "b.txt"]),
        (&["[ab].txt"], &["a.txt", "b.txt"]),
        (&["*/*.txt"], &["d/c.txt"]),
        (&["d/**"], &["d/c.txt", "d/e/f.txt"]),
        (&["**/f.txt"], &["d/e/f.txt"]),
        (&["[x]"], &["[x]"]),
        (&["{a,b}.*"], &["{a,b}.txt"]),
        (&[".*.txt"], &[".hidden.txt"]),
        (&[".cache/*"], &[".cache/g.txt"]),
        (&["t*"], &["tool"]),
        (&["*.png"], &[]),
    ];
    for (patterns, expected) in cases {
        let done = rig.run(asking(line, patterns));
        assert_eq!(*done.ended(), Ended::Exit(0), "{patterns:?}");
        assert_eq!(done.outputs().keys().copied().collect::<Vec<_>>(), *expected, "{patterns:?}");
        assert_eq!(done.seen.notes.len(), usize::from(expected.is_empty()), "{patterns:?}: {:?}", done.seen.notes);
        let executable: Vec<_> = done.end.outputs.iter().filter(|file| file.executable).collect();
        assert!(executable.iter().all(|file| file.name == "tool"), "{executable:?}");
        assert_eq!(executable.len(), usize::from(expected.contains(&"tool")));
    }
    rig.assert_clean();
}

#[test]
fn inputs_come_back_from_a_pattern_only_when_they_changed() {
    let rig = Rig::new();
    let mut task = asking("printf Y > same-size; printf x > same-size-again; echo new > new; touch read", &["*"]);
    task.inputs = ["same-size", "kept", "also-kept"].map(|name| input(name, "X")).to_vec();
    let done = rig.run(task.clone());
    assert_eq!(done.outputs().keys().copied().collect::<Vec<_>>(), ["new", "read", "same-size", "same-size-again"]);
    task.outputs = vec!["kept".to_owned()];
    assert_eq!(rig.run(task).outputs(), BTreeMap::from([("kept", b"X".to_vec())]));
}

#[test]
fn large_files_stream_and_small_ones_are_inline() {
    let rig = Rig::new();
    let line = "head -c 300000 /dev/zero > large; echo small > small; : > empty; head -c 47000 /dev/zero > middle";
    let done = rig.run(asking(line, &["large", "small", "empty", "middle", "middle"]));
    let sizes: Vec<_> = done.outputs().into_iter().map(|(name, bytes)| (name, bytes.len())).collect();
    assert_eq!(sizes, [("empty", 0), ("large", 300_000), ("middle", 47_000), ("small", 6)]);
    let inline = |name: &str| {
        let file = done.end.outputs.iter().find(|file| file.name == name).unwrap();
        matches!(file.content, Content::Inline(_))
    };
    assert!(inline("small") && inline("empty") && inline("middle") && !inline("large"));
    rig.assert_clean();

    let names: Vec<String> = (0..1000).map(|n| format!("file-{n:04}")).collect();
    let done = rig.run(asking("for i in $(seq -w 0 999); do echo 0123456789 > file-0$i; done", &["*"]));
    assert_eq!(done.outputs().keys().copied().collect::<Vec<_>>(), names);
    let end: usize = done.end.outputs.iter().map(|file| file.name.len() + 32 + inline_bytes(file)).sum();
    assert!(end <= 48 * 1024, "{end} bytes");
}

fn inline_bytes(file: &File) -> usize {
    match &file.content {
        Content::Inline(bytes) => bytes.len(),
        Content::Streamed(_) | Content::Blob(_) => 0,
    }
}

#[test]
fn what_is_too_much_is_refused() {
    let rig = Rig::new();
    let many = "i=0; while [ $i -lt 1100 ]; do : > f$i; i=$((i+1)); done";
    assert_eq!(rig.run(asking(many, &["*"])).failure().kind, FailureKind::TooLarge);
    let large = format!("truncate -s {} large", limits::FILE_BYTES + 1);
    assert_eq!(rig.run(asking(&large, &["large"])).failure().kind, FailureKind::TooLarge);
    rig.assert_clean();
}

#[test]
fn a_missing_output_fails_a_command_that_succeeded() {
    let rig = Rig::new();
    let done = rig.run(asking("echo x > there", &["there", "missing"]));
    assert_eq!(done.failure().kind, FailureKind::MissingOutput);
    assert!(done.failure().message.contains("missing"));
    let done = rig.run(asking("echo x > there; exit 3", &["there", "missing"]));
    assert_eq!(*done.ended(), Ended::Exit(3));
    assert_eq!(done.outputs(), BTreeMap::from([("there", b"x\n".to_vec())]));
    assert_eq!(rig.run(asking("echo x > a; kill -9 $$", &["a"])).outputs().len(), 1);
    rig.assert_clean();
}

#[test]
fn links_that_lead_out_bring_nothing() {
    let rig = Rig::new();
    let secret = rig.base.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let line = format!(
        "ln -s {0} out; ln -s ../../secret up; ln -s .. folder; ln -s / root; echo in > in; ln -s in inside; ln -s gone dangling",
        secret.display()
    );
    for name in ["out", "up", "folder/../secret", "folder/secret", "root/etc/passwd"] {
        let done = rig.run(asking(&line, &[name]));
        assert_eq!(done.failure().kind, FailureKind::BadName, "{name}: {}", done.failure().message);
    }
    assert_eq!(rig.run(asking(&line, &["inside"])).outputs(), BTreeMap::from([("inside", b"in\n".to_vec())]));
    let done = rig.run(asking(&line, &["**"]));
    assert_eq!(done.outputs().keys().copied().collect::<Vec<_>>(), ["in", "inside"]);
    assert_eq!(done.seen.notes.len(), 4, "{:?}", done.seen.notes);
    rig.assert_clean();
}

#[test]
fn folders_pipes_and_sockets_are_no_files() {
    let rig = Rig::new();
    let line = "mkdir folder; echo x > folder/a; mkfifo pipe";
    for (name, word) in [("folder", "folder/**"), ("pipe", "pipe")] {
        let done = rig.run(asking(line, &[name]));
        assert_eq!(done.failure().kind, FailureKind::BadName);
        assert!(done.failure().message.contains(word), "{}", done.failure().message);
    }
    rig.assert_clean();
}

#[test]
fn a_stop_while_files_come_back_ends_it() {
    let rig = Rig::new();
    block_on(async {
        let mut attempt = rig.start(asking("head -c 5000000 /dev/zero > large", &["large"]));
        let permits = attempt.sink.slow();
        permits.send(()).await.unwrap();
        attempt.until(|seen| seen.streams.contains_key(&Channel::Output(0))).await;
        attempt.stop(Stop::Kill);
        let done = attempt.end().await;
        assert_eq!(*done.ended(), Ended::Cancelled);
        assert!(done.end.outputs.is_empty());
        drop(permits);
    });
    rig.assert_clean();
}

#[test]
fn a_full_disk_fails_that_attempt_alone() {
    let Some(disk) = small_disk(1) else { return };
    let rig = Rig::with(|config| config.base = disk.path().to_owned());
    // Beside the cache.
    let folders = || {
        let inside = support::children(disk.path()).iter().flat_map(|home| support::children(home)).collect::<Vec<_>>();
        inside.iter().filter(|path| !path.ends_with("blobs")).count()
    };
    let mut task = command(["echo", "ran"]);
    task.inputs = vec![input("large", &"x".repeat(4 << 20))];
    let done = rig.run(task.clone());
    assert_eq!(done.failure().kind, FailureKind::DiskFull);
    assert!(done.failure().message.contains("large") && done.failure().message.contains("TMPDIR"));
    assert_eq!((done.stdout().as_str(), folders()), ("", 0));
    task.inputs.clear();
    assert_eq!(rig.run(task).stdout(), "ran\n");
    block_on(async {
        let mut task = command(["echo", "ran"]);
        task.inputs = vec![streamed("large", 4 << 20)];
        let attempt = rig.start(task);
        for _ in 0..64 {
            attempt.send(Channel::Input(0), &[0; 1 << 16], false);
        }
        assert_eq!(attempt.end().await.failure().kind, FailureKind::DiskFull);
    });
    assert_eq!(folders(), 0);
}
