//! A client with as many tasks as it may hold.

use futures::FutureExt as _;
use p2p_proto::limits::CLIENT_TASKS;
use p2p_scheduler::memory::Cluster;
use p2p_scheduler::{Functions, Outcome, Task};

use crate::{memory, run};

/// What a waiting task with a small input may take, bytes: the client's two entries, the caller's handle, the input, and the room that
/// growing tables leave.
const PER_TASK_BYTES: usize = 1200;

fn task(n: usize) -> Task {
    Task::call("echo", &n).unwrap()
}

#[test]
fn a_million_tasks_at_once_take_bounded_memory_and_the_next_one_waits() {
    if !memory::alone() {
        return;
    }
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let client = cluster.client("carol").unwrap();
        let before = memory::now();
        let mut handles = client.submit_all((0..CLIENT_TASKS).map(task)).await;
        println!("a waiting task takes {} bytes", (memory::now() - before) / CLIENT_TASKS);
        assert!(memory::peak() - before < CLIENT_TASKS * PER_TASK_BYTES, "{} bytes", memory::peak() - before);
        // Full: one more waits, and so do the last ones of many.
        let mut one_more = Box::pin(client.submit(task(0)));
        assert!(one_more.as_mut().now_or_never().is_none());
        drop(handles.pop());
        let one_more = one_more.await;
        let mut two_more = Box::pin(client.submit_all([task(0), task(1)]));
        assert!(two_more.as_mut().now_or_never().is_none());
        drop(one_more);
        assert!(two_more.as_mut().now_or_never().is_none(), "there is room for one only");
        drop(handles.pop());
        assert_eq!(two_more.await.len(), 2);
        // It works on with all of them.
        let _worker = cluster.worker("bob", 2, Functions::new().register("echo", Ok)).unwrap();
        let waiting = handles.split_off(3000);
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.outcome().await.value(), Ok(n));
        }
        assert!(memory::peak() - before < CLIENT_TASKS * PER_TASK_BYTES, "{} bytes", memory::peak() - before);
        client.close().await;
        for handle in waiting.into_iter().rev().take(10) {
            assert_eq!(handle.outcome().await, Outcome::Cancelled);
        }
    });
}
