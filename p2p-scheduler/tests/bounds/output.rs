//! Workers that send more than anybody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{BoxFuture, join_all, select};
use p2p_proto::ids::AttemptId;
use p2p_proto::limits::{CHANNEL_WINDOW_BYTES, CHUNK_BYTES};
use p2p_proto::link::item::{Channel, Data};
use p2p_proto::link::{
    ConnectPlan, Connected, Hints, LinkError, LinkReceiver, LinkSender, LinkTransport, PendingLink, ToClient, ToWorker,
    record,
};
use p2p_proto::task::{Ended, TaskSpec};
use p2p_scheduler::executor::{AttemptEnd, AttemptIo, Executor};
use p2p_scheduler::memory::{Cluster, MemoryNet};
use p2p_scheduler::{Client, ClientReport, Forgetful, Functions, Task, TaskEvent, Worker, WorkerOffer};

use crate::{memory, run};

/// Attempts that flood at once.
const FLOODS: usize = 8;
/// On each of these.
const CHANNELS: [Channel; 2] = [Channel::Stdout, Channel::Stderr];
/// Whole pieces that fit a window.
const PIECES: usize = CHANNEL_WINDOW_BYTES as usize / CHUNK_BYTES;
/// The windows themselves, and as much again for what two links, their buffers and the allocator hold.
const MEMORY_BYTES: usize = 2 * FLOODS * CHANNELS.len() * CHANNEL_WINDOW_BYTES as usize;

/// `flood` writes for ever and counts the pieces that were let through; `echo` ends at once.
struct Flooder(Arc<AtomicUsize>);

impl Executor for Flooder {
    fn runtimes(&self) -> Vec<String> {
        vec!["flood".to_owned(), "echo".to_owned()]
    }

    fn attempt(&self, task: TaskSpec, io: AttemptIo) -> BoxFuture<'static, AttemptEnd> {
        let written = Arc::clone(&self.0);
        Box::pin(async move {
            let AttemptIo { mut slot, mut stops, output, .. } = io;
            if slot.pass().await.is_err() || task.runtime == "echo" {
                return AttemptEnd::new(Ended::Exit(0));
            }
            let floods = CHANNELS.map(|channel| {
                let (output, written) = (&output, &written);
                async move {
                    while output.write(channel, vec![b'x'; CHUNK_BYTES], false).await.is_ok() {
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            select(std::pin::pin!(join_all(floods)), std::pin::pin!(stops.next())).await;
            AttemptEnd::new(Ended::Cancelled)
        })
    }
}

async fn echoes(client: &Client) {
    for handle in client.submit_all((0..200).map(|_| Task::new("echo", Vec::new()))).await {
        let outcome = handle.outcome().await;
        assert!(outcome.is_success(), "{outcome:?}");
    }
}

#[test]
fn output_that_nobody_reads_stops_at_its_windows_and_the_other_tasks_go_on() {
    if !memory::alone() {
        return;
    }
    run(async {
        let cluster = Cluster::open("alice/friends", &["bob", "carol"]).unwrap();
        let written = Arc::new(AtomicUsize::new(0));
        let slots = u32::try_from(FLOODS).unwrap() + 1;
        let _worker = cluster.worker("bob", slots, Flooder(Arc::clone(&written))).unwrap();
        let client = cluster.client("carol").unwrap();
        echoes(&client).await;
        let before = memory::now();
        let mut floods = client.submit_all((0..FLOODS).map(|_| Task::new("flood", Vec::new()))).await;
        let all = FLOODS * CHANNELS.len() * PIECES;
        while written.load(Ordering::Relaxed) < all {
            async_std::task::sleep(Duration::from_millis(1)).await;
        }
        echoes(&client).await;
        assert_eq!(written.load(Ordering::Relaxed), all, "more was written than the windows let through");
        println!("{FLOODS} floods take {} bytes, at most {}", memory::now() - before, memory::peak() - before);
        assert!(memory::peak() - before < MEMORY_BYTES, "{} bytes", memory::peak() - before);
        // What is read makes room, and no more than that.
        let mut read = 0;
        while read < 10 * PIECES {
            if let Some(TaskEvent::Data { .. }) = floods[0].next().await {
                read += 1;
            }
        }
        echoes(&client).await;
        assert!(written.load(Ordering::Relaxed) <= all + read);
        assert!(memory::peak() - before < MEMORY_BYTES, "{} bytes", memory::peak() - before);
    });
}

/// Links of a worker that keeps no window: once it said that an attempt runs, it sends nothing but this.
struct Unbridled {
    net: MemoryNet,
    flood: Flood,
}

#[derive(Clone, Copy)]
enum Flood {
    /// Output far beyond its window.
    Large,
    /// One byte at a time.
    Tiny,
}

impl Flood {
    /// A full record of it.
    fn record(self, attempt: AttemptId) -> Vec<u8> {
        let bytes = match self {
            Self::Large => CHUNK_BYTES,
            Self::Tiny => 1,
        };
        let data = ToClient::Data(Data {
            attempt,
            channel: Channel::Stdout,
            end: false,
            packed: false,
            bytes: vec![b'x'; bytes],
        });
        let mut record = Vec::new();
        while record::append(&data, &mut record) {}
        record
    }
}

#[async_trait]
impl LinkTransport for Unbridled {
    async fn prepare(&self) -> Result<Box<dyn PendingLink>, LinkError> {
        let pending = self.net.transport().prepare().await?;
        Ok(Box::new(Pending { pending, flood: self.flood }))
    }
}

struct Pending {
    pending: Box<dyn PendingLink>,
    flood: Flood,
}

#[async_trait]
impl PendingLink for Pending {
    fn hints(&self) -> Hints {
        self.pending.hints()
    }

    async fn connect(self: Box<Self>, plan: ConnectPlan) -> Result<Connected, LinkError> {
        let connected = self.pending.connect(plan).await?;
        let sender = Box::new(Sender { sender: connected.sender, flood: self.flood, record: None });
        let receiver = Box::new(Receiver { receiver: connected.receiver, record: Vec::new() });
        Ok(Connected { sender, receiver, ..connected })
    }
}

struct Sender {
    sender: Box<dyn LinkSender>,
    flood: Flood,
    record: Option<Vec<u8>>,
}

#[async_trait]
impl LinkSender for Sender {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.sender.feed(bytes)?;
        for item in record::items::<ToClient>(bytes) {
            if let Ok(ToClient::Started(attempt)) = item {
                self.record = Some(self.flood.record(attempt));
            }
        }
        Ok(())
    }

    fn buffered(&self) -> usize {
        self.sender.buffered()
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        self.sender.flush().await?;
        let Some(record) = self.record.take() else { return Ok(()) };
        loop {
            self.sender.feed(&record)?;
            self.sender.flush().await?;
        }
    }

    async fn close(&mut self) {
        self.sender.close().await;
    }
}

/// Hears no acknowledgement: its own stream never wrote what the flood is made of.
struct Receiver {
    receiver: Box<dyn LinkReceiver>,
    record: Vec<u8>,
}

#[async_trait]
impl LinkReceiver for Receiver {
    async fn receive(&mut self) -> Result<&[u8], LinkError> {
        self.record.clear();
        while self.record.is_empty() {
            for item in record::items::<ToWorker>(self.receiver.receive().await?).flatten() {
                if !matches!(item, ToWorker::Ack(_)) {
                    assert!(record::append(&item, &mut self.record));
                }
            }
        }
        Ok(&self.record)
    }
}

#[test]
fn a_worker_that_keeps_no_window_loses_its_link_and_its_tasks_run_elsewhere() {
    if !memory::alone() {
        return;
    }
    run(async {
        for flood in [Flood::Large, Flood::Tiny] {
            let cluster = Cluster::open("alice/friends", &["bob", "carol", "mallory"]).unwrap();
            let offer = p2p_proto::board::message::Offer { slots: 1, ..Default::default() };
            // It never ends what it was given: only its link's end frees the task.
            let functions = Functions::new().register_async("echo", |_| futures::future::pending());
            let member = cluster.member("mallory").unwrap();
            let mallory = Worker::join(
                &member,
                WorkerOffer { offer, allow: None, weights: Default::default() },
                Arc::new(functions),
                Arc::new(cluster.hub().board_of(&member.cluster.topic(), &member.user)),
                Arc::new(Unbridled { net: cluster.net().clone(), flood }),
                Arc::new(Forgetful),
            )
            .unwrap();
            let client = cluster.client("carol").unwrap();
            let task = client.submit(Task::function("echo", b"x".to_vec())).await;
            let before = memory::now();
            let ended = loop {
                match client.report().await {
                    Some(ClientReport::Unlinked { error, .. }) => break error,
                    Some(_) => {}
                    None => panic!("the client ended"),
                }
            };
            // Tiny pieces are joined, so that they fill the window and not memory.
            assert!(matches!(&ended, LinkError::Broken(why) if why.contains("data beyond its window")), "{ended}");
            println!("before the link ended, the flood took {} bytes", memory::peak() - before);
            assert!(memory::peak() - before < MEMORY_BYTES, "{} bytes", memory::peak() - before);
            drop(mallory);
            let _bob = cluster.worker("bob", 1, Functions::new().register("echo", Ok)).unwrap();
            let outcome = task.outcome().await;
            assert!(outcome.is_success(), "{outcome:?}");
        }
    });
}
