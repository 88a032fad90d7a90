//! `p2p-simulator`: runs seeds, replays and shortens one that failed.

// In a program nothing is reachable from outside; `pub` says what a module gives to the others.
#![allow(unreachable_pub)]

mod memory;

use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use p2p_simulator::plan::Plan;
use p2p_simulator::run::{Failure, run};
use p2p_simulator::scale;
use p2p_simulator::shrink::shrink;
use p2p_simulator::trace::Trace;

/// Runs whole clusters in virtual time, and checks after every step what must always hold.
#[derive(Debug, Parser)]
#[command(name = "p2p-simulator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run seeds until one fails.
    Run {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Stop after so many seconds.
        #[arg(long)]
        seconds: Option<u64>,
        /// Go on after a failure, and say at the end which seeds failed.
        #[arg(long)]
        keep_going: bool,
    },
    /// Run one seed and show what happened.
    Replay {
        /// Which.
        seed: u64,
        /// Show the last so many events.
        #[arg(long, default_value_t = 200)]
        last: usize,
    },
    /// Make the plan of a failing seed shorter, and show it and what happens then.
    Shrink {
        /// Which.
        seed: u64,
        /// Show the last so many events.
        #[arg(long, default_value_t = 100)]
        last: usize,
        /// Try at most so many plans.
        #[arg(long, default_value_t = 3000)]
        tries: usize,
    },
    /// Measure what grows how, and write the table of docs/scaling.md.
    Scale {
        /// The largest size of any axis.
        #[arg(long, default_value_t = 1_000_000)]
        most: u64,
        /// The page, with markers around the table; without one the table is only shown.
        #[arg(long)]
        write: Option<std::path::PathBuf>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { seeds, first, seconds, keep_going } => {
            run_all(first, seeds, seconds.map(Duration::from_secs), keep_going)
        }
        Command::Replay { seed, last } => show(&Plan::new(seed), last),
        Command::Shrink { seed, last, tries } => {
            let plan = Plan::new(seed);
            let Err(failure) = run(&plan, Trace::off()) else {
                println!("seed {seed} fails by no rule");
                return ExitCode::SUCCESS;
            };
            let shrunk = shrink(&plan, &failure, tries);
            println!("{} plans were tried", shrunk.tried);
            show(&shrunk.plan, last)
        }
        Command::Scale { most, write } => measure(most, write.as_deref()),
    }
}

/// Runs a plan with its trace, and shows both.
fn show(plan: &Plan, last: usize) -> ExitCode {
    print!("{plan}");
    let (ended, trace) = p2p_simulator::run::run_traced(plan, Trace::last(last));
    println!("the last {last} events:");
    trace.lines().for_each(|line| println!("{line}"));
    match ended {
        Ok(summary) => {
            println!("seed {} holds: {summary:?}", plan.seed);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            report(plan.seed, &failure);
            ExitCode::FAILURE
        }
    }
}

fn measure(most: u64, page: Option<&std::path::Path>) -> ExitCode {
    let rows = scale::measure(most, memory::live, |row| eprintln!("{row:?}"));
    let table = scale::table(&rows);
    print!("{table}");
    let Some(path) = page else { return ExitCode::SUCCESS };
    let written = std::fs::read_to_string(path).map_err(|fault| fault.to_string()).and_then(|page| {
        let page = scale::in_page(&page, &table).ok_or("it has no markers for the table")?;
        std::fs::write(path, page).map_err(|fault| fault.to_string())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{}: {why}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn report(seed: u64, failure: &Failure) {
    println!("seed {seed} broke {} at {:.3} s", failure.violation, failure.at.as_secs_f64());
    println!("  to see it again:  cargo run --release -p p2p-simulator -- replay {seed}");
    println!("  to shorten it:    cargo run --release -p p2p-simulator -- shrink {seed}");
}

fn run_all(first: u64, seeds: u64, limit: Option<Duration>, keep_going: bool) -> ExitCode {
    let (next, stop, began) = (AtomicU64::new(0), AtomicBool::new(false), Instant::now());
    let totals = Mutex::new((0_u64, 0_u64, 0_u64, 0_u64));
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let late = limit.is_some_and(|limit| began.elapsed() > limit);
                    if at >= seeds || late || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = first + at;
                    let ended = run(&Plan::new(seed), Trace::off());
                    let mut totals = totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    totals.0 += 1;
                    match ended {
                        Ok(summary) => {
                            totals.1 += summary.tasks;
                            totals.2 += summary.steps;
                            totals.3 += summary.virtual_s;
                        }
                        Err(failure) => {
                            report(seed, &failure);
                            failed
                                .lock()
                                .unwrap_or_else(|poisoned| poisoned.into_inner())
                                .push((seed, failure.violation.rule));
                            stop.store(!keep_going, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (ran, tasks, steps, virtual_s) = *totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut failed = failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    failed.sort_unstable();
    let took = began.elapsed().as_secs_f64();
    println!(
        "{ran} seeds in {took:.1} s ({:.1} ms each and core): {tasks} tasks, {steps} steps, {:.1} h of virtual time, {} failed",
        took * 1000.0 * threads as f64 / ran.max(1) as f64,
        virtual_s as f64 / 3600.0,
        failed.len()
    );
    failed.iter().for_each(|(seed, rule)| println!("  failed: {seed} ({rule})"));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
