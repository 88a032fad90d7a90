//! What one thing costs without sockets and processes around it: `cargo bench -p benches`.

use benches::links::sessions;
use benches::machines::Machines;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use p2p_proto::ids::AttemptId;
use p2p_proto::limits::{CHUNK_BYTES, RECORD_BYTES};
use p2p_proto::link::item::{Channel, Data, Finished, Submit};
use p2p_proto::link::{Outgoing, ToClient, ToWorker, record};
use p2p_proto::task::{Content, Ended, TaskSpec};

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

fn submit() -> ToWorker {
    let task = TaskSpec { runtime: "noop".to_owned(), ..TaskSpec::default() };
    ToWorker::Submit(Submit { attempt: AttemptId(12_345), task, alone: false })
}

fn finished() -> ToClient {
    ToClient::Finished(Finished {
        attempt: AttemptId(12_345),
        ended: Ended::Exit(0),
        value: Content::default(),
        outputs: Vec::new(),
        ran_us: 17,
    })
}

fn data() -> ToWorker {
    ToWorker::Data(Data {
        attempt: AttemptId(12_345),
        channel: Channel::Payload,
        end: false,
        packed: false,
        bytes: vec![7; CHUNK_BYTES],
    })
}

mod codec {
    use super::*;

    fn encode<T: p2p_proto::link::item::Item + Sync>(bencher: Bencher<'_, '_>, item: &T) {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        bencher.bench_local(|| {
            bytes.clear();
            record::append(black_box(item), &mut bytes)
        });
    }

    fn decode<T: p2p_proto::link::item::Item>(bencher: Bencher<'_, '_>, item: &T) {
        let mut bytes = Vec::new();
        record::append(item, &mut bytes);
        bencher.bench(|| record::items::<T>(black_box(&bytes)).count());
    }

    #[divan::bench]
    fn encode_submit(bencher: Bencher<'_, '_>) {
        encode(bencher, &submit());
    }

    #[divan::bench]
    fn decode_submit(bencher: Bencher<'_, '_>) {
        decode(bencher, &submit());
    }

    #[divan::bench]
    fn encode_finished(bencher: Bencher<'_, '_>) {
        encode(bencher, &finished());
    }

    #[divan::bench]
    fn decode_finished(bencher: Bencher<'_, '_>) {
        decode(bencher, &finished());
    }

    #[divan::bench]
    fn encode_data_64_kb(bencher: Bencher<'_, '_>) {
        encode(bencher.counter(BytesCount::new(CHUNK_BYTES)), &data());
    }

    #[divan::bench]
    fn decode_data_64_kb(bencher: Bencher<'_, '_>) {
        decode(bencher.counter(BytesCount::new(CHUNK_BYTES)), &data());
    }
}

mod records {
    use super::*;

    /// From a queue into a record and out of it again.
    #[divan::bench(args = [1, 100])]
    fn fill_and_open_submits(bencher: Bencher<'_, '_>, count: usize) {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        bencher.counter(ItemsCount::new(count)).bench_local(|| {
            let mut outgoing = Outgoing::default();
            for _ in 0..count {
                outgoing.push(submit()).expect("room");
            }
            bytes.clear();
            outgoing.fill(&mut bytes).expect("items that fit");
            record::items::<ToWorker>(&bytes).count()
        });
    }

    #[divan::bench(args = [200, RECORD_BYTES])]
    fn seal(bencher: Bencher<'_, '_>, size: usize) {
        let (mut sealer, _) = sessions().0.split();
        let (record, mut sealed) = (vec![7; size], vec![0; size + 16]);
        bencher.counter(BytesCount::new(size)).bench_local(|| sealer.seal(black_box(&record), &mut sealed));
    }

    #[divan::bench(args = [200, RECORD_BYTES])]
    fn seal_and_open(bencher: Bencher<'_, '_>, size: usize) {
        let (client, worker) = sessions();
        let ((mut sealer, _), (_, mut opener)) = (client.split(), worker.split());
        let (record, mut sealed, mut opened) = (vec![7; size], vec![0; size + 16], vec![0; size + 16]);
        bencher.counter(BytesCount::new(size)).bench_local(|| {
            sealer.seal(black_box(&record), &mut sealed).expect("sealed");
            opener.open(&sealed, &mut opened).expect("opened").len()
        });
    }
}

mod links {
    /// Both sides of one handshake, in one thread.
    #[divan::bench]
    fn handshake() {
        divan::black_box(benches::links::sessions());
    }
}

mod machines {
    use super::*;

    /// All that client and worker decide for one task, from its submission to its outcome.
    #[divan::bench(args = [1, 1000, 10_000])]
    fn tasks(bencher: Bencher<'_, '_>, count: usize) {
        let mut machines = Machines::linked(2).expect("linked machines");
        bencher.counter(ItemsCount::new(count)).bench_local(|| machines.run(count));
    }
}
