//! Closures as tasks.

use p2p_blobs::{Cache, CacheConfig};
use p2p_scheduler::memory::Cluster;
use p2p_scheduler::{Functions, Outcome, Task};

use super::{run, value};
use p2p_proto::task::{Ended, FailureKind};

#[test]
fn closures_are_called_with_bytes_or_values_and_may_await() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let functions = Functions::new()
            .register("upper", |bytes| Ok(bytes.to_ascii_uppercase()))
            .register_typed("square", |x: u64| x * x)
            .register_async("later", |bytes| async move {
                async_std::task::yield_now().await;
                Ok(bytes)
            });
        let _worker = cluster.worker("bob", 2, functions).unwrap();
        let client = cluster.client("carol").unwrap();
        let upper = client.submit(Task::function("upper", b"abc".to_vec())).await;
        let square = client.submit(Task::call("square", &12_u64).unwrap()).await;
        let later = client.submit(Task::function("later", b"d".to_vec())).await;
        assert_eq!(value(&upper.outcome().await), b"ABC");
        assert_eq!(square.outcome().await.value(), Ok(144_u64));
        assert_eq!(value(&later.outcome().await), b"d");
    });
}

#[test]
fn a_function_that_fails_or_panics_fails_its_task_and_nothing_else() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let functions = Functions::new()
            .register("fails", |_| Err("no".to_owned()))
            .register("panics", |_| panic!("oh dear"))
            .register("works", Ok);
        let _worker = cluster.worker("bob", 1, functions).unwrap();
        let client = cluster.client("carol").unwrap();
        for (name, words) in [("fails", "no"), ("panics", "oh dear")] {
            let outcome = client.submit(Task::function(name, Vec::new())).await.outcome().await;
            let Outcome::Finished { finished, .. } = &outcome else { panic!("{outcome:?}") };
            let Ended::Failed(failure) = &finished.ended else { panic!("{outcome:?}") };
            assert_eq!(failure.kind, FailureKind::FunctionFailed);
            assert!(failure.message.contains(words), "{failure:?}");
        }
        let outcome = client.submit(Task::function("works", b"x".to_vec())).await.outcome().await;
        assert_eq!(value(&outcome), b"x");
    });
}

#[test]
fn inputs_and_values_larger_than_a_record_stream_by_windows() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let functions = Functions::new().register("reverse", |mut bytes| {
            bytes.reverse();
            Ok(bytes)
        });
        let _worker = cluster.worker("bob", 2, functions).unwrap();
        let client = cluster.client("carol").unwrap();
        // Around what travels inside an item, around a piece, around a window, and several windows.
        for size in [24_576, 24_577, 64_000, 64_001, 200_000, 1 << 20, (1 << 20) + 1, 5_000_000] {
            let input: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8).collect();
            let outcome = client.submit(Task::function("reverse", input.clone())).await.outcome().await;
            let expected: Vec<u8> = input.into_iter().rev().collect();
            assert!(value(&outcome) == expected, "{size} bytes came back changed");
        }
    });
}

#[test]
fn a_large_input_is_sent_once_to_functions_with_a_cache() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (folder, capacity) = (dir.path().to_owned(), 100 << 20);
        let config = CacheConfig { folder, realm: "friends".to_owned(), capacity, shared: false };
        let cache = Cache::open(config).unwrap();
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let functions = Functions::new().register_typed("length", |bytes: Vec<u8>| bytes.len() as u64);
        let _worker = cluster.worker("bob", 2, functions.cached(cache.clone())).unwrap();
        let client = cluster.client("carol").unwrap();
        let input: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for _ in 0..5 {
            let outcome = client.submit(Task::call("length", &input).unwrap()).await.outcome().await;
            assert_eq!(outcome.value(), Ok(3_000_000_u64));
        }
        let used = cache.usage(&"carol".parse().unwrap());
        assert_eq!(used.hits, 4, "{used:?}");
        assert!(used.saved_bytes >= 4 * 3_000_000 && used.fetched_bytes < 4 * 3_000_000, "{used:?}");
    });
}

#[test]
fn ten_thousand_tasks_submitted_at_once_each_come_back_once() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol", "dave"]).unwrap();
        let functions = || Functions::new().register_typed("echo", |n: u64| n);
        let _workers =
            [cluster.worker("bob", 4, functions()).unwrap(), cluster.worker("carol", 4, functions()).unwrap()];
        let client = cluster.client("dave").unwrap();
        let tasks: Vec<Task> = (0..10_000_u64).map(|n| Task::call("echo", &n).unwrap()).collect();
        let handles = client.submit_all(tasks).await;
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.outcome().await.value(), Ok(n as u64));
        }
        assert_eq!(client.status().unfinished, 0);
    });
}

#[test]
fn functions_with_large_inputs_may_block_without_holding_up_anybody() {
    run(async {
        // As many as could occupy every thread of a small machine, were they run where links are.
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let functions = Functions::new()
            .register("blocks", move |_| {
                gate.lock().unwrap().recv().map_err(|_| "gone".to_owned())?;
                Ok(Vec::new())
            })
            .register("quick", Ok);
        let _worker = cluster.worker("bob", 17, functions).unwrap();
        let client = cluster.client("carol").unwrap();
        let blocked = client.submit_all((0..16).map(|_| Task::function("blocks", vec![0; 100_000]))).await;
        let quick = client.submit(Task::function("quick", vec![1; 100_000])).await;
        assert_eq!(value(&quick.outcome().await).len(), 100_000);
        // Whichever of them it lets go.
        for _ in &blocked {
            release.send(()).unwrap();
        }
        for handle in blocked {
            assert!(handle.outcome().await.is_success());
        }
    });
}
