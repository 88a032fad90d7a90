//! Inputs that are blobs: asked for once, kept, and put in place when the attempt has its slot.

mod support;

use std::fs;
use std::time::Duration;

use async_std::task::{block_on, sleep};
use p2p_blobs::{CacheConfig, name_bytes};
use p2p_proto::blob::Part;
use p2p_proto::limits::CHUNK_BYTES;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Content, Ended, FailureKind, File, TaskSpec};
use p2p_scheduler::executor::{Executor as _, Stop};
use support::small_disk::small_disk;
use support::{Attempt, Rig, input, part_of, shell};

const MIB: usize = 1024 * 1024;
const INPUT: Channel = Channel::Input(0);

/// Bytes without patterns.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(&mut next).take(size).collect()
}

/// A task whose inputs are these blobs, named `0`, `1` and so on.
fn task(line: &str, blobs: &[Vec<u8>]) -> TaskSpec {
    let file = |(index, bytes): (usize, &Vec<u8>)| {
        let content = Content::Blob(name_bytes(bytes).unwrap().name());
        File { content, ..input(&index.to_string(), "") }
    };
    TaskSpec { inputs: blobs.iter().enumerate().map(file).collect(), ..shell(line) }
}

fn serving(mut attempt: Attempt, blobs: &[Vec<u8>]) -> Attempt {
    attempt.blobs = (0..).zip(blobs).map(|(index, bytes)| (Channel::Input(index), bytes.clone())).collect();
    attempt
}

#[test]
fn a_blob_is_asked_for_once() {
    let rig = Rig::new();
    let blobs = [noise(1, 100_000), noise(2, 3 * MIB)];
    block_on(async {
        for round in 0..3 {
            let attempt = serving(rig.start(task("cat 0 1 | cksum; echo more >> 0; stat -c %a 0 1", &blobs)), &blobs);
            let served = attempt.blobs.clone();
            let done = attempt.end().await;
            let fetched = done.seen.fetched(&served);
            assert_eq!(fetched, if round == 0 { 100_000 + 3 * MIB } else { 0 }, "round {round}");
            let sum = done.stdout();
            assert!(sum.contains(&format!(" {}\n644\n644\n", 100_000 + 3 * MIB)), "{sum} {}", done.stderr());
        }
    });
    assert_eq!(rig.executor.cache_use(&"bob".parse().unwrap()).unwrap().hits, 4);
    rig.assert_clean();
}

#[test]
fn what_a_task_made_is_not_asked_for_as_the_input_of_the_next_one() {
    let rig = Rig::new();
    let made = noise(5, 3 * MIB);
    block_on(async {
        let mut first = task("cat 0 > made", std::slice::from_ref(&made));
        first.outputs = vec!["made".to_owned()];
        let done = serving(rig.start(first), std::slice::from_ref(&made)).end().await;
        assert!(done.seen.streams[&Channel::Output(0)] == made);
        let mut longer = made.clone();
        longer.extend_from_slice(b"more");
        let mut second = task("cat 0 > made; printf more >> made", std::slice::from_ref(&made));
        second.outputs = vec!["made".to_owned()];
        assert!(rig.start(second).end().await.seen.streams[&Channel::Output(0)] == longer);
        let third = rig.start(task("wc -c < 0", std::slice::from_ref(&longer)));
        assert_eq!(third.end().await.stdout().trim(), longer.len().to_string());
    });
    rig.assert_clean();
}

#[test]
fn a_long_command_is_asked_for_once() {
    let rig = Rig::new();
    block_on(async {
        let argument = "x".repeat(100_000);
        let mut task = support::command(["sh", "-c", "printf %s \"$1\" | wc -c", "sh", &argument]);
        let Content::Inline(payload) = std::mem::take(&mut task.payload) else { unreachable!() };
        task.payload = Content::Blob(name_bytes(&payload).unwrap().name());
        for round in 0..2 {
            let mut attempt = rig.start(task.clone());
            if round == 0 {
                attempt.blobs.insert(Channel::Payload, payload.clone());
            }
            assert_eq!(attempt.end().await.stdout().trim(), "100000", "round {round}");
        }
    });
    rig.assert_clean();
}

#[test]
fn a_disk_that_fills_up_while_an_input_comes_fails_that_attempt_alone_and_nothing_is_left() {
    // What is free in the beginning is enough, with what is left to others.
    let Some(disk) = small_disk(100) else { return };
    let folder = disk.path().join("cache");
    let cache = CacheConfig { folder: folder.clone(), realm: String::new(), capacity: 1 << 30, shared: false };
    let rig = Rig::with(|config| config.cache = Some(cache));
    let blobs = [noise(1, 20 * MIB)];
    let files = || walkdir::WalkDir::new(&folder).into_iter().flatten().filter(|at| at.file_type().is_file()).count();
    block_on(async {
        let mut attempt = rig.start(task("wc -c < 0", &blobs));
        attempt.until(|seen| seen.fetches.len() == 1).await;
        attempt.send(INPUT, &part_of(&blobs[0], &Part::Recipe), true);
        attempt.until(|seen| seen.fetches.len() == 2).await;
        let (first, rest) = blobs[0].split_at(8 * MIB);
        first.chunks(CHUNK_BYTES).for_each(|piece| attempt.send(INPUT, piece, false));
        attempt.until(|seen| seen.taken.get(&INPUT).is_some_and(|taken| *taken > 6 * MIB as u64)).await;
        assert!(files() > 0);
        let filler = disk.path().join("filler");
        let full = fs::write(&filler, vec![1; 100 * MIB]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        rest.chunks(CHUNK_BYTES).for_each(|piece| attempt.send(INPUT, piece, false));
        attempt.send(INPUT, &[], true);
        let done = attempt.end().await;
        assert_eq!(done.failure().kind, FailureKind::DiskFull, "{}", done.failure().message);
        assert!(done.failure().message.contains("no room"), "{}", done.failure().message);
        assert_eq!(files(), 0, "something is left");
        // Before anything is asked for it is known now.
        let attempt = serving(rig.start(task("wc -c < 0", &blobs)), &blobs);
        assert_eq!(attempt.end().await.failure().kind, FailureKind::DiskFull);
        fs::remove_file(filler).unwrap();
        let attempt = serving(rig.start(task("wc -c < 0", &blobs)), &blobs);
        assert_eq!(attempt.end().await.stdout().trim(), (20 * MIB).to_string());
    });
    rig.assert_clean();
}

#[test]
fn users_do_not_learn_what_others_have() {
    let mut rig = Rig::new();
    let blobs = [noise(1, 100_000)];
    block_on(async {
        for user in ["bob", "carol"] {
            rig.user = user;
            let attempt = serving(rig.start(task("cat 0", &blobs)), &blobs);
            let served = attempt.blobs.clone();
            assert_eq!(attempt.end().await.seen.fetched(&served), 100_000);
        }
    });
    rig.assert_clean();
}

#[test]
fn blobs_come_while_the_attempt_waits_and_take_no_room_in_its_folder_before() {
    let rig = Rig::new();
    let blobs = [noise(1, 2 * MIB)];
    block_on(async {
        let mut attempt = serving(rig.start_waiting(task("cat 0 | wc -c", &blobs)), &blobs);
        attempt.until(|seen| seen.taken.get(&Channel::Input(0)).is_some_and(|taken| *taken > 2 * MIB as u64)).await;
        sleep(Duration::from_millis(100)).await;
        let inside: Vec<_> = rig.folders().iter().flat_map(|folder| support::children(folder)).collect();
        assert_eq!(inside, [] as [std::path::PathBuf; 0]);
        attempt.open_slot();
        assert_eq!(attempt.end().await.stdout().trim(), (2 * MIB).to_string());
    });
    rig.assert_clean();
}

#[test]
fn what_came_before_a_stop_is_not_asked_for_again_and_a_restart_keeps_it() {
    let cache = tempfile::tempdir().unwrap();
    let config = || CacheConfig {
        folder: cache.path().to_owned(),
        realm: "here".to_owned(),
        capacity: 64 * MIB as u64,
        shared: false,
    };
    let blobs = [noise(1, 4 * MIB)];
    let recipe = name_bytes(&blobs[0]).unwrap();
    let rig = Rig::with(|with| with.cache = Some(config()));
    block_on(async {
        let mut attempt = rig.start(task("cat 0", &blobs));
        attempt.until(|seen| !seen.fetches.is_empty()).await;
        assert_eq!(attempt.seen.fetches, [(Channel::Input(0), Part::Recipe)]);
        attempt.send(Channel::Input(0), &recipe.to_bytes(), true);
        attempt.until(|seen| seen.fetches.len() == 2).await;
        // Two chunks and a half.
        let cut = recipe.chunks()[2].at + u64::from(recipe.chunks()[2].size) / 2;
        for piece in blobs[0][..usize::try_from(cut).unwrap()].chunks(60_000) {
            attempt.send(Channel::Input(0), piece, false);
        }
        attempt.until(|seen| seen.taken[&Channel::Input(0)] >= cut).await;
        sleep(Duration::from_millis(100)).await;
        attempt.stop(Stop::Kill);
        assert_eq!(*attempt.end().await.ended(), Ended::Cancelled);
    });
    drop(rig);
    let rig = Rig::with(|with| with.cache = Some(config()));
    block_on(async {
        let attempt = serving(rig.start(task("cat 0 | wc -c", &blobs)), &blobs);
        let served = attempt.blobs.clone();
        let done = attempt.end().await;
        assert_eq!(done.stdout().trim(), (4 * MIB).to_string());
        let rest = 4 * MIB - usize::try_from(recipe.chunks()[2].at).unwrap();
        assert_eq!(done.seen.fetched(&served), rest);
    });
    rig.assert_clean();
}

#[test]
fn many_inputs_are_in_flight_at_once() {
    let rig = Rig::new();
    let blobs: Vec<_> = (0..40).map(|seed| noise(seed, 70_000)).collect();
    block_on(async {
        let mut attempt = rig.start(task("cat * | wc -c", &blobs));
        // Nothing was answered yet.
        attempt.until(|seen| seen.fetches.len() >= 16).await;
        let asked = attempt.seen.fetches.clone();
        let mut attempt = serving(attempt, &blobs);
        for (channel, part) in asked {
            let answer = support::part_of(&attempt.blobs[&channel], &part);
            attempt.send(channel, &answer[..60_000], false);
            attempt.send(channel, &answer[60_000..], true);
        }
        attempt.until(|seen| seen.fetches.len() == 40).await;
        assert_eq!(attempt.end().await.stdout().trim(), (40 * 70_000).to_string());
    });
    rig.assert_clean();
}

#[test]
fn a_blob_that_is_there_twice_is_asked_for_once() {
    let rig = Rig::new();
    let blobs = [noise(1, 70_000), noise(1, 70_000)];
    block_on(async {
        let done = serving(rig.start(task("cmp 0 1 && echo same", &blobs)), &blobs).end().await;
        assert_eq!((done.stdout().as_str(), done.seen.fetches.len()), ("same\n", 1));
    });
    rig.assert_clean();
}

#[test]
fn what_is_not_what_was_named_fails_the_task_in_words() {
    let rig = Rig::new();
    let blobs = [noise(1, 100_000)];
    type Lie = fn(&Attempt);
    let lies: [(Lie, &str); 3] = [
        (|attempt| attempt.send(Channel::Input(0), &[7; 60_000], true), "less of an input came"),
        (
            |attempt| (0..3).for_each(|nth| attempt.send(Channel::Input(0), &[7; 60_000], nth == 2)),
            "more of an input came",
        ),
        (
            |attempt| (0..2).for_each(|nth| attempt.send(Channel::Input(0), &[7; 50_000], nth == 1)),
            "it changed while it was sent",
        ),
    ];
    block_on(async {
        for (lie, words) in lies {
            let mut attempt = rig.start(task("cat 0", &blobs));
            attempt.until(|seen| !seen.fetches.is_empty()).await;
            lie(&attempt);
            let done = attempt.end().await;
            assert_eq!(done.failure().kind, FailureKind::Malformed);
            assert!(done.failure().message.contains(words), "{}", done.failure().message);
        }
        let done = serving(rig.start(task("wc -c 0", &blobs)), &blobs).end().await;
        assert_eq!(*done.ended(), Ended::Exit(0), "it can still be had");
    });
    rig.assert_clean();
}

#[test]
fn an_input_larger_than_the_cache_says_how_to_help() {
    let rig = Rig::with(|with| {
        with.cache = Some(CacheConfig {
            folder: with.base.join("cache"),
            realm: String::new(),
            capacity: 50_000,
            shared: false,
        });
    });
    let blobs = [noise(1, 100_000)];
    let done = block_on(serving(rig.start(task("cat 0", &blobs)), &blobs).end());
    assert_eq!(done.failure().kind, FailureKind::TooLarge);
    assert!(done.failure().message.contains("--cache-size"), "{}", done.failure().message);
}

#[test]
fn what_goes_bad_in_the_cache_is_asked_for_again() {
    let cache = tempfile::tempdir().unwrap();
    let rig = Rig::with(|with| {
        let folder = cache.path().to_owned();
        with.cache = Some(CacheConfig { folder, realm: String::new(), capacity: 64 * MIB as u64, shared: false });
    });
    let blobs = [noise(1, 100_000)];
    let id = name_bytes(&blobs[0]).unwrap().name().id.to_string();
    block_on(async {
        let run = async || serving(rig.start(task("cksum 0", &blobs)), &blobs).end().await;
        let first = run().await.stdout();
        let find = |folder: &std::path::Path| support::children(folder).into_iter().next().unwrap();
        let path = find(&find(cache.path())).join(id);
        fs::remove_file(&path).unwrap();
        fs::write(&path, noise(2, 100_000)).unwrap();
        let again = run().await;
        assert_eq!((again.stdout(), again.seen.fetches.len()), (first, 1));
    });
}

#[test]
fn a_large_command_is_sent_as_a_blob_too() {
    let rig = Rig::new();
    let mut spec = shell(&format!("echo yes # {}", "x".repeat(100_000)));
    let Content::Inline(payload) = std::mem::take(&mut spec.payload) else { unreachable!() };
    spec.payload = Content::Blob(name_bytes(&payload).unwrap().name());
    block_on(async {
        let mut attempt = rig.start(spec);
        attempt.blobs.insert(Channel::Payload, payload);
        assert_eq!(attempt.end().await.stdout(), "yes\n");
    });
    rig.assert_clean();
}
