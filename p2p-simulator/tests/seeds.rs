//! Seeds, as many as fit into the time of a test run. Many more go through the program: `cargo run --release -p p2p-simulator -- run`.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use p2p_simulator::plan::Plan;
use p2p_simulator::run::{run, run_traced};
use p2p_simulator::trace::Trace;

const SEEDS: u64 = 500;
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn every_seed_keeps_every_rule() {
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while began.elapsed() < LIMIT {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    if let Err(failure) = run(&Plan::new(seed), Trace::off()) {
                        let replay = format!("cargo run --release -p p2p-simulator -- shrink {seed}");
                        panic!("seed {seed} broke {}; to see how: {replay}", failure.violation);
                    }
                }
            });
        }
    });
    let ran = next.load(Ordering::Relaxed).min(SEEDS);
    println!("{ran} seeds in {:?}", began.elapsed());
    assert!(ran >= 20, "only {ran} seeds in {LIMIT:?}");
}

#[test]
fn the_same_seed_is_the_same_run_to_the_byte() {
    for seed in 0..24 {
        let plan = Plan::new(seed);
        let trace = || {
            let (ended, trace) = run_traced(&plan, Trace::last(usize::MAX));
            let lines: Vec<String> = trace.lines().map(str::to_owned).collect();
            (ended.ok(), lines)
        };
        let (first, second) = (trace(), trace());
        assert_eq!(first.0, second.0, "seed {seed}");
        for (one, other) in first.1.iter().zip(&second.1) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first.1.len(), second.1.len());
    }
}

#[test]
fn a_plan_is_made_by_its_seed_alone() {
    assert_eq!(Plan::new(7), Plan::new(7));
    assert_ne!(Plan::new(7), Plan::new(8));
}
