//! How many `true` a second go through the executor, beside `xargs -P -n1 true`.
//!
//! `cargo run --release -p p2p-executor --example spawn_rate [COUNT [SLOTS [ROUNDS]]]`

use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_std::task;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use p2p_executor::{CommandConfig, CommandExecutor};
use p2p_proto::blob::Part;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{COMMAND_RUNTIME, Command, Content, Ended, TaskSpec};
use p2p_scheduler::executor::{AttemptHandle, Executor, Gone, OutputSink, Piece};

struct Ignore;

impl OutputSink for Ignore {
    fn write(&self, _: Piece) -> BoxFuture<'_, Result<(), Gone>> {
        async { Ok(()) }.boxed()
    }
    fn taken(&self, _: Channel, _: u64) {}
    fn fetch(&self, _: Channel, _: Part) {}
    fn note(&self, _: String) {}
}

fn main() {
    let argument = |index, default| std::env::args().nth(index).map_or(default, |text| text.parse().expect("a number"));
    let (count, slots, rounds) = (argument(1, 2000), argument(2, 2), argument(3, 5));
    let executor = Arc::new(CommandExecutor::new(CommandConfig::default()).expect("a folder"));
    for _ in 0..rounds {
        let ours = task::block_on(through_executor(&executor, count, slots));
        let theirs = through_xargs(count, slots);
        println!("executor {ours:?}, xargs {theirs:?}, ratio {:.3}", ours.as_secs_f64() / theirs.as_secs_f64());
    }
}

async fn through_executor(executor: &Arc<CommandExecutor>, count: usize, slots: usize) -> Duration {
    let argv = vec![b"true".to_vec().into()];
    let payload = Content::Inline(Command { argv, env: Vec::new() }.to_cbor());
    let spec = TaskSpec { runtime: COMMAND_RUNTIME.to_owned(), payload, ..TaskSpec::default() };
    let started = Instant::now();
    let left = Arc::new(AtomicUsize::new(count));
    let slot = || {
        let (executor, spec, left) = (Arc::clone(executor), spec.clone(), Arc::clone(&left));
        task::spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let (handle, io) = AttemptHandle::pair("bob".parse().expect("a name"), Arc::new(Ignore));
                handle.open_slot();
                let end = executor.attempt(spec.clone(), io).await;
                assert_eq!(end.ended, Ended::Exit(0));
            }
        })
    };
    future::join_all((0..slots).map(|_| slot())).await;
    started.elapsed()
}

fn through_xargs(count: usize, slots: usize) -> Duration {
    let line = format!("seq {count} | xargs -P{slots} -n1 true");
    let started = Instant::now();
    let status = Process::new("sh").args(["-c", &line]).stdin(Stdio::null()).status().expect("sh");
    assert!(status.success());
    started.elapsed()
}
