//! What goes wrong outside, and what it must not do to tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_std::channel::{Receiver, Sender, unbounded};
use p2p_proto::link::LinkPath;
use p2p_proto::link::item::Channel;
use p2p_proto::task::Ended;
use p2p_scheduler::executor::{AttemptEnd, AttemptIo, Executor, Stop};
use p2p_scheduler::machine::admission::AdmissionEvent;
use p2p_scheduler::memory::Cluster;
use p2p_scheduler::{ClientReport, Functions, Outcome, Task, TaskEvent, Waiting, WorkerReport};

use super::{run, value};

/// What is gone is given up soon.
const SHORT: Duration = Duration::from_millis(100);

/// A function that says that it runs, and ends when it may.
fn gated() -> (Functions, Receiver<u64>, Sender<()>) {
    let (started, starts) = unbounded();
    let (release, gate) = unbounded();
    let functions = Functions::new().register_async("gated", move |input| {
        let (started, gate) = (started.clone(), gate.clone());
        async move {
            started.send(p2p_scheduler::functions::from_cbor(&input)?).await.map_err(|_| "gone".to_owned())?;
            gate.recv().await.map_err(|_| "gone".to_owned())?;
            Ok(input)
        }
    });
    (functions, starts, release)
}

fn task(n: u64) -> Task {
    Task::call("gated", &n).unwrap()
}

#[test]
fn dropping_a_handle_cancels_its_task_wherever_it_is() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let (functions, starts, release) = gated();
        let worker = cluster.worker("bob", 1, functions).unwrap();
        let client = cluster.client("carol").unwrap();
        let runs = client.submit(task(1)).await;
        assert_eq!(starts.recv().await, Ok(1));
        let waits = client.submit(task(2)).await;
        let last = client.submit(task(3)).await;
        drop(waits);
        drop(runs);
        // The slot is free again, and the one that waited is gone.
        assert_eq!(starts.recv().await, Ok(3));
        release.send(()).await.unwrap();
        assert_eq!(last.outcome().await.value(), Ok(3_u64));
        assert_eq!(worker.load(), (0, 0));
    });
}

#[test]
fn a_cancelled_task_says_that_it_was_cancelled() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let (functions, starts, _release) = gated();
        let _worker = cluster.worker("bob", 1, functions).unwrap();
        let client = cluster.client("carol").unwrap();
        let runs = client.submit(task(1)).await;
        starts.recv().await.unwrap();
        runs.cancel();
        let outcome = runs.outcome().await;
        let Outcome::Finished { finished, .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(finished.ended, Ended::Cancelled);
        let unfit = client.submit(Task::function("nothing like it", Vec::new())).await;
        unfit.cancel();
        assert_eq!(unfit.outcome().await, Outcome::Cancelled);
    });
}

#[test]
fn tasks_of_a_lost_worker_run_again_elsewhere_and_end_once() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol", "dave"]).unwrap();
        let (functions, starts, release) = gated();
        let lost = cluster.worker("bob", 3, functions.clone()).unwrap();
        let client = cluster.client_with_grace("dave", SHORT).unwrap();
        let mut handles = client.submit_all((0..6).map(task)).await;
        for _ in 0..3 {
            starts.recv().await.unwrap();
        }
        // What is told to its reader, in order.
        let mut first = handles.remove(0);
        assert!(matches!(first.next().await, Some(TaskEvent::Sent(_))));
        assert_eq!(first.next().await, Some(TaskEvent::Started));
        drop(lost);
        let _other = cluster.worker("carol", 2, functions).unwrap();
        // What the lost worker's functions take before they are dropped is missing to nobody.
        for _ in 0..9 {
            release.send(()).await.unwrap();
        }
        assert_eq!(first.next().await, Some(TaskEvent::Again));
        assert_eq!(first.outcome().await.value(), Ok(0_u64));
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.outcome().await.value(), Ok(n as u64 + 1));
        }
    });
}

#[test]
fn a_large_input_is_streamed_anew_to_each_attempt() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol", "dave"]).unwrap();
        let (started, starts) = unbounded();
        let (release, gate) = unbounded::<()>();
        let functions = Functions::new().register_async("sum", move |input| {
            let (started, gate) = (started.clone(), gate.clone());
            async move {
                started.send(()).await.map_err(|_| "gone".to_owned())?;
                gate.recv().await.map_err(|_| "gone".to_owned())?;
                Ok(input.iter().map(|byte| u64::from(*byte)).sum::<u64>().to_be_bytes().to_vec())
            }
        });
        // Both are there: what one loses goes to the other at once.
        let lost = cluster.worker("bob", 2, functions.clone()).unwrap();
        let _other = cluster.worker("carol", 2, functions).unwrap();
        let client = cluster.client_with_grace("dave", SHORT).unwrap();
        let handles = client.submit_all((0..4).map(|_| Task::function("sum", vec![3; 3_000_000]))).await;
        starts.recv().await.unwrap();
        drop(lost);
        for _ in 0..8 {
            release.send(()).await.unwrap();
        }
        for handle in handles {
            assert_eq!(value(&handle.outcome().await), 9_000_000_u64.to_be_bytes());
        }
    });
}

#[test]
fn a_task_that_may_start_only_once_is_lost_with_its_worker() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let (functions, starts, _release) = gated();
        let worker = cluster.worker("bob", 1, functions).unwrap();
        let client = cluster.client_with_grace("carol", SHORT).unwrap();
        let handle = client.submit(task(1).once()).await;
        starts.recv().await.unwrap();
        drop(worker);
        let outcome = handle.outcome().await;
        assert!(matches!(outcome, Outcome::Lost { .. }), "{outcome:?}");
    });
}

/// Writes so many bytes to stdout, and counts what was taken.
struct Talker {
    pieces: u32,
    written: Arc<AtomicU32>,
}

impl Executor for Talker {
    fn runtimes(&self) -> Vec<String> {
        vec!["talk".to_owned()]
    }

    fn attempt(
        &self,
        _: p2p_proto::task::TaskSpec,
        mut io: AttemptIo,
    ) -> futures::future::BoxFuture<'static, AttemptEnd> {
        let (pieces, written) = (self.pieces, Arc::clone(&self.written));
        Box::pin(async move {
            if io.slot.pass().await.is_err() {
                return AttemptEnd::new(Ended::Cancelled);
            }
            for piece in 0..pieces {
                let write = io.output.write(Channel::Stdout, vec![0; 64_000], piece + 1 == pieces);
                let stopped = std::pin::pin!(io.stops.next());
                match futures::future::select(std::pin::pin!(write), stopped).await {
                    futures::future::Either::Left((Ok(()), _)) => written.fetch_add(1, Ordering::Relaxed),
                    _ => return AttemptEnd::new(Ended::Cancelled),
                };
            }
            AttemptEnd::new(Ended::Exit(0))
        })
    }
}

#[test]
fn a_slow_reader_slows_its_task_down_and_fills_no_memory() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let written = Arc::new(AtomicU32::new(0));
        let talker = Talker { pieces: 200, written: Arc::clone(&written) };
        let _worker = cluster.worker("bob", 1, talker).unwrap();
        let client = cluster.client("carol").unwrap();
        let mut handle = client.submit(Task::new("talk", Vec::new())).await;
        // 64,000 bytes a piece, 1 MiB in the window: what was not read holds the writer up.
        let most_ahead = 1024 * 1024 / 64_000 + 1;
        let mut read = 0;
        let outcome = loop {
            match handle.next().await {
                Some(TaskEvent::Data { .. }) => {
                    read += 1;
                    for _ in 0..20 {
                        async_std::task::yield_now().await;
                    }
                    assert!(written.load(Ordering::Relaxed) <= read + most_ahead);
                }
                Some(TaskEvent::Outcome(outcome)) => break outcome,
                Some(_) => {}
                None => panic!("no outcome"),
            }
        };
        assert_eq!((read, outcome.is_success()), (200, true));
    });
}

#[test]
fn a_board_that_goes_down_stops_no_task() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let (functions, starts, release) = gated();
        let _worker = cluster.worker("bob", 1, functions).unwrap();
        let client = cluster.client("carol").unwrap();
        let handle = client.submit(task(1)).await;
        starts.recv().await.unwrap();
        cluster.hub().take_down("the cable was pulled");
        while !matches!(client.report().await, Some(ClientReport::BoardDown { .. })) {}
        release.send(()).await.unwrap();
        assert_eq!(handle.outcome().await.value(), Ok(1_u64));
        // New ones go the same way: the link is there.
        let handle = client.submit(task(2)).await;
        release.send(()).await.unwrap();
        assert_eq!(handle.outcome().await.value(), Ok(2_u64));
        let unfit = client.submit(Task::new("unknown", Vec::new())).await;
        assert_eq!(client.waiting(), Some(Waiting::BoardDown("the cable was pulled".to_owned())));
        drop(unfit);
        cluster.hub().bring_up();
        while client.report().await != Some(ClientReport::BoardUp) {}
    });
}

#[test]
fn who_was_admitted_works_on_while_the_host_is_away() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let worker = cluster.worker("bob", 1, Functions::new().register("echo", Ok)).unwrap();
        let client = cluster.client("carol").unwrap();
        loop {
            if let Some(WorkerReport::Admission(AdmissionEvent::Admitted { .. })) = worker.report().await {
                break;
            }
        }
        loop {
            if let Some(ClientReport::Admission(AdmissionEvent::Admitted { .. })) = client.report().await {
                break;
            }
        }
        cluster.take_host().unwrap().leave().await;
        let outcome = client.submit(Task::function("echo", b"x".to_vec())).await.outcome().await;
        assert_eq!(value(&outcome), b"x");
        let status = client.status();
        assert!(!status.host_present);
        assert_eq!(status.workers[0].path, Some(LinkPath::Memory));
    });
}

#[test]
fn a_worker_that_drains_finishes_what_runs_and_hands_the_rest_back() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol", "dave"]).unwrap();
        let (functions, starts, release) = gated();
        let leaving = cluster.worker("bob", 1, functions.clone()).unwrap();
        let client = cluster.client("dave").unwrap();
        let runs = client.submit(task(1)).await;
        starts.recv().await.unwrap();
        let waits = client.submit(task(2)).await;
        leaving.drain();
        let _stays = cluster.worker("carol", 1, functions).unwrap();
        assert_eq!(starts.recv().await, Ok(2));
        release.send(()).await.unwrap();
        release.send(()).await.unwrap();
        assert_eq!(runs.outcome().await.value(), Ok(1_u64));
        assert_eq!(waits.outcome().await.value(), Ok(2_u64));
        leaving.left().await;
    });
}

#[test]
fn a_worker_that_is_stopped_ends_what_runs_and_it_runs_again_elsewhere() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol", "dave"]).unwrap();
        let (functions, starts, release) = gated();
        let stopped = cluster.worker("bob", 1, functions.clone()).unwrap();
        let client = cluster.client("dave").unwrap();
        let handle = client.submit(task(1)).await;
        let once = client.submit(task(2).once()).await;
        starts.recv().await.unwrap();
        stopped.stop();
        stopped.left().await;
        let _other = cluster.worker("carol", 2, functions).unwrap();
        release.send(()).await.unwrap();
        release.send(()).await.unwrap();
        assert_eq!(handle.outcome().await.value(), Ok(1_u64));
        // It had not started: handed back, it may.
        assert_eq!(once.outcome().await.value(), Ok(2_u64));
    });
}

#[test]
fn nobody_waits_for_a_client_that_is_gone() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let (functions, starts, _release) = gated();
        let worker = cluster.worker("bob", 1, functions).unwrap();
        let client = cluster.client("carol").unwrap();
        let other = client.clone();
        let runs = client.submit(task(1)).await;
        starts.recv().await.unwrap();
        client.close().await;
        assert!(!runs.outcome().await.is_success());
        // It has left: what is submitted now is never run, and says so.
        assert_eq!(other.submit(task(2)).await.outcome().await, Outcome::Cancelled);
        drop(other);
        // Its worker kills what it had, and is free.
        loop {
            if let Some(WorkerReport::Unlinked { .. }) = worker.report().await {
                break;
            }
        }
        let client = cluster.client("carol").unwrap();
        let dropped = client.submit(task(3)).await;
        assert_eq!(starts.recv().await, Ok(3));
        drop(client);
        assert_eq!(dropped.outcome().await, Outcome::Cancelled);
    });
}

#[test]
fn an_executor_that_panics_costs_one_attempt_and_no_slot() {
    struct Faulty;
    impl Executor for Faulty {
        fn runtimes(&self) -> Vec<String> {
            vec!["faulty".to_owned()]
        }
        fn attempt(
            &self,
            _: p2p_proto::task::TaskSpec,
            _: AttemptIo,
        ) -> futures::future::BoxFuture<'static, AttemptEnd> {
            panic!("a fault of its author's");
        }
    }
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let worker = cluster.worker("bob", 1, Faulty).unwrap();
        let client = cluster.client("carol").unwrap();
        for _ in 0..2 {
            let outcome = client.submit(Task::new("faulty", Vec::new())).await.outcome().await;
            assert!(
                matches!(&outcome, Outcome::Finished { finished, .. } if matches!(finished.ended, Ended::Failed(_)))
            );
        }
        assert_eq!(worker.load(), (0, 0));
    });
}

#[test]
fn a_stop_reaches_an_executor_that_waits_for_content() {
    struct Waits(Sender<Stop>);
    impl Executor for Waits {
        fn runtimes(&self) -> Vec<String> {
            vec!["waits".to_owned()]
        }
        fn attempt(
            &self,
            _: p2p_proto::task::TaskSpec,
            mut io: AttemptIo,
        ) -> futures::future::BoxFuture<'static, AttemptEnd> {
            let stopped = self.0.clone();
            Box::pin(async move {
                if io.slot.pass().await.is_err() {
                    return AttemptEnd::new(Ended::Cancelled);
                }
                let stop = io.stops.next().await;
                stopped.send(stop).await.unwrap();
                AttemptEnd::new(Ended::Cancelled)
            })
        }
    }
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let (stopped, stops) = unbounded();
        let _worker = cluster.worker("bob", 1, Waits(stopped)).unwrap();
        let client = cluster.client("carol").unwrap();
        // A stdin that never ends.
        let stdin = futures::stream::pending::<std::io::Result<Vec<u8>>>();
        let stdin = futures::TryStreamExt::into_async_read(stdin);
        let mut handle = client.submit(Task::new("waits", Vec::new()).stdin(stdin)).await;
        while handle.next().await != Some(TaskEvent::Started) {}
        handle.cancel();
        assert_eq!(stops.recv().await, Ok(Stop::Interrupt));
        let outcome = handle.outcome().await;
        assert!(matches!(&outcome, Outcome::Finished { finished, .. } if finished.ended == Ended::Cancelled));
    });
}

#[test]
fn links_that_do_not_come_about_are_tried_again_and_hold_up_no_leaving() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        cluster.net().refuse(true);
        let worker = cluster.worker("bob", 1, Functions::new().register("echo", Ok)).unwrap();
        let client = cluster.client("carol").unwrap();
        let handle = client.submit(Task::function("echo", b"x".to_vec())).await;
        while !matches!(client.report().await, Some(ClientReport::CallFailed { .. })) {}
        cluster.net().refuse(false);
        assert_eq!(value(&handle.outcome().await), b"x");
        cluster.net().refuse(true);
        let unfit = client.submit(Task::function("none", Vec::new())).await;
        client.close().await;
        assert_eq!(unfit.outcome().await, Outcome::Cancelled);
        worker.drain();
        worker.left().await;
    });
}

/// Cuts the link again and again until it is told to end.
fn cut_often(transport: &p2p_scheduler::memory::MemoryTransport) -> (async_std::task::JoinHandle<u32>, Sender<()>) {
    let (end, ends) = unbounded::<()>();
    let transport = transport.clone();
    let cutting = async_std::task::spawn(async move {
        let mut cuts = 0;
        while async_std::future::timeout(Duration::from_millis(40), ends.recv()).await.is_err() {
            transport.cut();
            cuts += 1;
        }
        cuts
    });
    (cutting, end)
}

#[test]
fn a_task_runs_on_and_its_output_is_whole_however_often_its_link_is_cut() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let transport = cluster.net().transport();
        let talker = Talker { pieces: 400, written: Arc::default() };
        let _worker = cluster.worker_by("bob", 1, talker, &transport).unwrap();
        let client = cluster.client("carol").unwrap();
        let mut handle = client.submit(Task::new("talk", Vec::new()).once()).await;
        let (cutting, end) = cut_often(&transport);
        let mut read = 0;
        let outcome = loop {
            match handle.next().await {
                Some(TaskEvent::Data { bytes, .. }) => {
                    read += bytes.len();
                    async_std::task::sleep(Duration::from_millis(1)).await;
                }
                Some(TaskEvent::Outcome(outcome)) => break outcome,
                Some(TaskEvent::Again) => panic!("it began again"),
                Some(_) => {}
                None => panic!("no outcome"),
            }
        };
        end.send(()).await.unwrap();
        assert!(cutting.await > 3, "it was hardly cut");
        assert_eq!((read, outcome.is_success()), (400 * 64_000, true));
    });
}

#[test]
fn nothing_is_lost_or_done_twice_however_often_links_are_cut() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let transport = cluster.net().transport();
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let functions = Functions::new().register("sum", move |input: Vec<u8>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let sum: u64 = input.iter().map(|byte| u64::from(*byte)).sum();
            Ok([sum.to_be_bytes().to_vec(), input].concat())
        });
        let _worker = cluster.worker_by("bob", 2, functions, &transport).unwrap();
        let client = cluster.client("carol").unwrap();
        let (cutting, end) = cut_often(&transport);
        for round in 0..10_u32 {
            // Small ones, whose ends are under way when the link is cut, and large ones, whose content is.
            let sizes = [1, 1000, 30_000, 3_000_000];
            let tasks = sizes.map(|size| Task::function("sum", vec![1; size]).once());
            let handles = client.submit_all(tasks).await;
            for (handle, size) in handles.into_iter().zip(sizes) {
                let value = value(&handle.outcome().await);
                assert_eq!(value.len(), size + 8);
                assert_eq!(value[..8], (size as u64).to_be_bytes());
            }
            assert_eq!(runs.load(Ordering::Relaxed), 4 * (round + 1));
        }
        end.send(()).await.unwrap();
        cutting.await;
    });
}

#[test]
fn a_link_comes_back_while_the_board_is_away() {
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let transport = cluster.net().transport();
        let (functions, starts, release) = gated();
        let _worker = cluster.worker_by("bob", 1, functions, &transport).unwrap();
        let client = cluster.client("carol").unwrap();
        let handle = client.submit(task(1).once()).await;
        starts.recv().await.unwrap();
        // The next connection is made ready a second after the first came up.
        async_std::task::sleep(Duration::from_millis(1500)).await;
        cluster.hub().take_down("the cable was pulled");
        transport.cut();
        while !matches!(client.report().await, Some(ClientReport::Resumed { .. })) {}
        release.send(()).await.unwrap();
        assert_eq!(handle.outcome().await.value(), Ok(1_u64));
    });
}
