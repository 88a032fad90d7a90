//! Closures as tasks.

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
