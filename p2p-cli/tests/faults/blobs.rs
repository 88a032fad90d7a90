//! Large inputs are sent once: not to the next task, not after a restart, and after a break only what is missing.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::{PATIENCE, within};
use crate::proxy::Weather;
use crate::stage::{Client, Stage};

const MIB: u64 = 1024 * 1024;
/// The size of what is sent.
const SIZE: u64 = 24 * MIB;
/// All that is said beside large inputs, with room.
const TALK: u64 = MIB / 2;

/// Bytes without patterns.
fn noise(seed: u64, size: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(&mut next).take(usize::try_from(size).expect("a size")).collect()
}

/// A stage where alice has the file `large`.
fn stage() -> (Stage, Vec<u8>) {
    stage_in(Weather::default())
}

fn stage_in(weather: Weather) -> (Stage, Vec<u8>) {
    let stage = Stage::in_weather(weather);
    let bytes = noise(1, SIZE);
    fs::write(stage.cluster.work("alice").join("large"), &bytes).expect("a file");
    (stage, bytes)
}

const SUM: [&str; 8] = ["run", "-n", "--in", "large", "--", "sh", "-c", "wc -c < large"];

/// Runs a task that needs the file. Returns the bytes that passed.
fn sum(stage: &Stage) -> u64 {
    let before = stage.proxy.passed();
    let done = stage.run("alice", &SUM);
    let size = fs::metadata(stage.cluster.work("alice").join("large")).expect("the file").len();
    assert_eq!((done.code, done.stdout.trim()), (Some(0), size.to_string().as_str()), "{done}");
    stage.proxy.passed() - before
}

#[test]
fn a_large_input_passes_once_also_after_a_restart_of_its_worker() {
    let (stage, _) = stage();
    let worker = stage.worker("bob", 1);
    let first = sum(&stage);
    assert!((SIZE..SIZE + TALK).contains(&first), "{first} bytes passed");
    assert!(sum(&stage) < TALK, "it is there");
    let status = |words: &[&str]| stage.run("alice", words).stdout;
    let table = status(&["status"]);
    assert!(table.contains("24.0 MiB sent, 24.0 MiB saved: found once"), "{table}");
    let said: serde_json::Value = serde_json::from_str(&status(&["status", "--json"])).expect("JSON");
    let kept = &said["workers"][0]["cache"];
    assert_eq!((kept["hits"].as_u64(), kept["saved_bytes"].as_u64()), (Some(1), Some(SIZE)), "{said}");
    worker.process.kill();
    let _worker = stage.worker("bob", 1);
    assert!(sum(&stage) < TALK, "it is still there");
}

#[test]
fn many_tasks_and_the_workers_of_one_machine_share_an_input() {
    let (stage, _) = stage();
    let _workers = [stage.worker("bob", 2), stage.worker("bob", 2)];
    let before = stage.proxy.passed();
    let words =
        ["map", "--in", "large", "sleep 0.2; wc -c < large; echo {}", ":::", "1", "2", "3", "4", "5", "6", "7", "8"];
    let done = stage.run("alice", &words);
    assert_eq!((done.code, done.stdout.lines().count()), (Some(0), 16), "{done}");
    let passed = stage.proxy.passed() - before;
    assert!(passed < SIZE + 2 * TALK, "{passed} bytes passed");
}

#[test]
fn a_changed_file_sends_what_changed() {
    let (stage, mut bytes) = stage();
    let _worker = stage.worker("bob", 1);
    sum(&stage);
    bytes.splice(10_000_000..10_000_000, noise(2, MIB));
    fs::write(stage.cluster.work("alice").join("large"), &bytes).expect("a file");
    let passed = sum(&stage);
    assert!((MIB..4 * MIB).contains(&passed), "{passed} bytes passed");
}

#[test]
fn text_travels_packed() {
    let stage = Stage::start();
    let _worker = stage.worker("bob", 1);
    let text = "a line of a log like many others\n".repeat(400_000);
    fs::write(stage.cluster.work("alice").join("large"), &text).expect("a file");
    let passed = sum(&stage);
    assert!(passed < text.len() as u64 / 10, "{passed} bytes passed");
}

/// Waits until so many bytes passed in all.
fn wait_for_passed(stage: &Stage, client: &mut Client, bytes: u64) {
    let reached = || (client.process.is_over() || stage.proxy.passed() >= bytes).then_some(());
    within(PATIENCE, reached).expect("the file travels");
    assert!(!client.process.is_over(), "it was too fast");
}

#[test]
fn a_new_client_goes_on_where_a_dead_one_was() {
    let (stage, _) = stage();
    let _worker = stage.worker("bob", 1);
    let mut client = stage.client("alice", &SUM);
    wait_for_passed(&stage, &mut client, SIZE / 2);
    client.process.kill();
    let passed = sum(&stage);
    assert!(passed < SIZE * 3 / 4, "{passed} bytes passed again");
}

#[test]
fn a_new_worker_goes_on_where_a_dead_one_was() {
    let (stage, _) = stage();
    let worker = stage.worker("bob", 1);
    let mut client = stage.client("alice", &SUM);
    wait_for_passed(&stage, &mut client, SIZE / 2);
    worker.process.kill();
    let _worker = stage.worker("bob", 1);
    let done = client.done();
    assert_eq!((done.code, done.stdout.trim()), (Some(0), SIZE.to_string().as_str()), "{done}");
    let passed = stage.proxy.passed();
    assert!(passed < SIZE * 3 / 2, "{passed} bytes passed");
}

#[test]
fn a_transfer_that_takes_long_is_seen_in_the_status_and_holds_no_cancel_up() {
    let (stage, _) = stage_in(Weather { delay: Duration::from_millis(100), ..Weather::default() });
    let worker = stage.worker("bob", 1);
    let mut client = stage.client("alice", &SUM);
    wait_for_passed(&stage, &mut client, SIZE / 8);
    let table = stage.run("alice", &["status"]).stdout;
    assert!(table.contains("1 input is coming in"), "{table}");
    assert!(!client.process.is_over(), "it was too fast");
    client.process.signal(Signal::INT);
    assert_eq!(client.done().code, Some(130));
    worker.wait_clean(PATIENCE);
    let passed = stage.proxy.passed();
    assert!(passed < SIZE, "{passed} bytes passed");
}

#[test]
fn a_cancel_is_acknowledged_within_two_round_trips_of_a_slow_line_full_of_bulk() {
    // So long that what a busy machine adds is little beside it.
    const ROUND_TRIP: Duration = Duration::from_secs(1);
    const TEN_MBIT_PER_S: u32 = 1_250_000;
    let line = Weather { delay: ROUND_TRIP / 2, rate: Some(TEN_MBIT_PER_S), ..Weather::default() };
    let (stage, _) = stage_in(line);
    let _worker = stage.worker("bob", 1);
    let mut client = stage.client("alice", &SUM);
    wait_for_passed(&stage, &mut client, 4 * MIB);
    let asked = Instant::now();
    client.process.signal(Signal::INT);
    assert_eq!(client.done().code, Some(130));
    let took = asked.elapsed();
    eprintln!("the cancel was acknowledged after {took:?}");
    assert!(took < 2 * ROUND_TRIP, "it took {took:?}");
}
