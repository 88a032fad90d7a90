//! Every link item alone, and records that hold several.

use p2p_proto::blob::{BlobId, BlobRef, Part, Run};
use p2p_proto::ids::{AttemptId, SetupId};
use p2p_proto::link::item::{
    CacheUse, Channel, Data, Fetch, Finished, Item, Note, Open, Pong, Returned, Standby, Submit, Taken, ToClient,
    ToWorker, Want,
};
use p2p_proto::link::record;
use p2p_proto::task::{COMMAND_RUNTIME, Command, Content, Ended, Failure, FailureKind, File, ReturnReason, TaskSpec};
use serde_bytes::ByteBuf;

use crate::actors::{Actor, bob, carol};
use crate::book::{Book, Fields, hex, vector};
use crate::diagnostic::{diagnostic, diagnostics};

const ATTEMPT: AttemptId = AttemptId(5);

pub(crate) fn book() -> Book {
    let mut vectors = Vec::new();
    each_alone("to worker", &to_worker(), &mut vectors);
    each_alone("to client", &to_client(), &mut vectors);
    vectors.push(together("to worker", "a batch to the worker", &to_worker()));
    vectors.push(together("to client", "a batch to the client", &to_client()));
    vectors.push(
        vector("payload of the command runtime")
            .with("cbor", hex(&command().to_cbor()))
            .with("shown", diagnostic(&command().to_cbor())),
    );
    Book {
        about: "L-03, L-04: link items. cbor is one item; a record is one item after the other.",
        inputs: Fields::default().with("attempt", ATTEMPT.0),
        vectors,
    }
}

fn each_alone<T: Item + PartialEq + std::fmt::Debug>(
    direction: &str,
    items: &[(&'static str, T)],
    vectors: &mut Vec<Fields>,
) {
    let mut tags = Vec::new();
    for (name, item) in items {
        let mut cbor = Vec::new();
        assert!(record::append(item, &mut cbor));
        let read: Vec<T> = record::items(&cbor).map(Result::unwrap).collect();
        assert_eq!(read.as_slice(), std::slice::from_ref(item), "{name} does not read back");
        tags.push(tag(&cbor));
        let entry = vector(name).with("direction", direction);
        vectors.push(entry.with("cbor", hex(&cbor)).with("shown", diagnostic(&cbor)));
    }
    tags.dedup();
    assert_eq!(tags, T::TAGS, "every tag has its vectors, in the registry's order");
}

fn together<T: Item + PartialEq + std::fmt::Debug>(direction: &str, name: &str, items: &[(&'static str, T)]) -> Fields {
    let mut record = Vec::new();
    for (_, item) in items {
        assert!(record::append(item, &mut record));
    }
    assert!(record::items::<T>(&record).map(Result::unwrap).eq(items.iter().map(|(_, item)| item.clone_by_wire())));
    vector(name).with("direction", direction).with("record", hex(&record)).with("shown", diagnostics(&record))
}

/// Items compare by value; a copy made through the wire needs no `Clone` bound.
trait CloneByWire: Sized {
    fn clone_by_wire(&self) -> Self;
}

impl<T: Item> CloneByWire for T {
    fn clone_by_wire(&self) -> Self {
        let mut cbor = Vec::new();
        record::append(self, &mut cbor);
        record::items(&cbor).next().unwrap().unwrap()
    }
}

/// The wire's name of an item.
fn tag(cbor: &[u8]) -> String {
    match ciborium::from_reader(cbor).unwrap() {
        ciborium::Value::Text(tag) => tag,
        ciborium::Value::Map(entries) => entries[0].0.as_text().unwrap().to_owned(),
        other => panic!("{other:?} is no item"),
    }
}

fn open(actor: &Actor, slots: u32) -> Open {
    let capabilities = vec!["future-word".into()];
    Open { version: p2p_proto::VERSION, name: actor.name(), capabilities, slots, received: None, grace_s: 60 }
}

fn command() -> Command {
    let argv = ["echo", "hi"].map(|word| ByteBuf::from(word.as_bytes())).to_vec();
    Command { argv, env: vec![("LANG".into(), "C".into())] }
}

fn to_worker() -> Vec<(&'static str, ToWorker)> {
    let plain = TaskSpec {
        runtime: COMMAND_RUNTIME.into(),
        payload: Content::Inline(command().to_cbor()),
        ..TaskSpec::default()
    };
    let full = TaskSpec {
        runtime: "r".into(),
        payload: Content::Streamed(70_000),
        inputs: vec![
            File {
                name: "in/a.csv".into(),
                content: Content::Inline(b"1,2".to_vec()),
                executable: false,
                folder: false,
            },
            File { name: "run.sh".into(), content: Content::Streamed(100_000), executable: true, folder: false },
        ],
        outputs: vec!["out/*.csv".into()],
        stdin: true,
        timeout_ms: 60_000,
        extra_cpus: 3,
        once: true,
        memory_mib: 4096,
        labels: vec!["gpu".into()],
        priority: -1,
    };
    let data = |channel, end, bytes: &[u8]| {
        ToWorker::Data(Data { attempt: ATTEMPT, channel, end, packed: false, bytes: bytes.into() })
    };
    let blob = Content::Blob(BlobRef { id: BlobId([7; 32]), size: 5_000_000, chunks: 12 });
    let big = TaskSpec {
        runtime: "f".into(),
        inputs: vec![
            File { name: "big.db".into(), content: blob.clone(), executable: false, folder: false },
            File { name: "tree".into(), content: blob, executable: false, folder: true },
        ],
        outputs: vec!["tree/".into()],
        ..TaskSpec::default()
    };
    vec![
        ("open", ToWorker::Open(open(&carol(), 0))),
        ("open: a link goes on", ToWorker::Open(Open { received: Some(17), ..open(&carol(), 0) })),
        ("want", ToWorker::Want(Want { tasks: 100, round_trip_us: 25_000 })),
        ("submit: a command", ToWorker::Submit(Submit { attempt: ATTEMPT, task: plain, alone: false })),
        ("submit: everything", ToWorker::Submit(Submit { attempt: AttemptId(u64::MAX), task: full, alone: true })),
        ("submit: blobs", ToWorker::Submit(Submit { attempt: ATTEMPT, task: big, alone: false })),
        ("cancel", ToWorker::Cancel(ATTEMPT)),
        ("recall", ToWorker::Recall(ATTEMPT)),
        ("ping", ToWorker::Ping(99)),
        ("data: payload", data(Channel::Payload, false, b"abc")),
        ("data: input file 1", data(Channel::Input(1), false, b"abc")),
        ("data: a packed answer", {
            let (channel, bytes) = (Channel::Input(0), b"a zstd frame".to_vec());
            ToWorker::Data(Data { attempt: ATTEMPT, channel, end: true, packed: true, bytes })
        }),
        ("data: end of stdin", data(Channel::Stdin, true, b"")),
        ("taken", ToWorker::Taken(Taken { attempt: ATTEMPT, channel: Channel::Stdout, bytes: 65_536 })),
        ("standby: a call", ToWorker::Standby(Standby { setup: SetupId(2), noise: b"message 1".to_vec() })),
        ("bye", ToWorker::Bye),
        ("ack", ToWorker::Ack(300)),
    ]
}

fn to_client() -> Vec<(&'static str, ToClient)> {
    let data = |channel, end, bytes: &[u8]| {
        ToClient::Data(Data { attempt: ATTEMPT, channel, end, packed: false, bytes: bytes.into() })
    };
    let fetch = |channel, part| ToClient::Fetch(Fetch { attempt: ATTEMPT, channel, part });
    let finished = |ended| {
        let (value, outputs) = (Content::default(), Vec::new());
        ToClient::Finished(Finished { attempt: ATTEMPT, ended, value, outputs, ran_us: 1_500_000 })
    };
    let full = Finished {
        attempt: ATTEMPT,
        ended: Ended::Exit(0),
        value: Content::Inline(b"42".to_vec()),
        outputs: vec![File {
            name: "out/a.csv".into(),
            content: Content::Streamed(3),
            executable: false,
            folder: false,
        }],
        ran_us: 1,
    };
    let failed = [
        ("finished: notfound", FailureKind::CommandNotFound),
        ("finished: noexec", FailureKind::NotExecutable),
        ("finished: name", FailureKind::BadName),
        ("finished: missing", FailureKind::MissingOutput),
        ("finished: large", FailureKind::TooLarge),
        ("finished: disk", FailureKind::DiskFull),
        ("finished: runtime", FailureKind::UnknownRuntime),
        ("finished: function", FailureKind::FunctionFailed),
        ("finished: malformed", FailureKind::Malformed),
        ("finished: worker", FailureKind::Worker),
    ];
    let returned = [
        ("returned: drain", ReturnReason::Draining),
        ("returned: credit", ReturnReason::NoCredit),
        ("returned: recall", ReturnReason::Recalled),
        ("returned: match", ReturnReason::Mismatch),
        ("returned: cancel", ReturnReason::Cancelled),
    ];
    let mut all = vec![
        ("open", ToClient::Open(open(&bob(), 4))),
        ("credit", ToClient::Credit(6)),
        ("revoke", ToClient::Revoke(2)),
        ("started", ToClient::Started(ATTEMPT)),
        ("data: stdout", data(Channel::Stdout, false, b"hi\n")),
        ("data: end of stderr", data(Channel::Stderr, true, b"oh\n")),
        ("data: output file 0", data(Channel::Output(0), true, b"3,4")),
        ("data: value", data(Channel::Value, true, b"v")),
        ("taken", ToClient::Taken(Taken { attempt: ATTEMPT, channel: Channel::Input(1), bytes: 3 })),
        ("fetch: a list of chunks", fetch(Channel::Payload, Part::Recipe)),
        ("fetch: chunks", fetch(Channel::Input(0), Part::Chunks(vec![Run(0, 5), Run(9, 1)]))),
        ("note", ToClient::Note(Note { attempt: ATTEMPT, text: "no output file matches out/*.csv".into() })),
        ("finished: exit 0 with everything", ToClient::Finished(full)),
        ("finished: exit -1", finished(Ended::Exit(-1))),
        ("finished: signal 9", finished(Ended::Signal(9))),
        ("finished: timeout", finished(Ended::TimedOut)),
        ("finished: cancel", finished(Ended::Cancelled)),
    ];
    all.extend(failed.map(|(name, kind)| (name, finished(Ended::Failed(Failure::new(kind, "what, why, what to do"))))));
    all.extend(returned.map(|(name, why)| (name, ToClient::Returned(Returned { attempt: ATTEMPT, why }))));
    all.extend([
        ("late", ToClient::TooLate(ATTEMPT)),
        ("draining", ToClient::Draining),
        ("pong", ToClient::Pong(Pong { nonce: 99, slots: 4, busy: 2, queued: 1, cache: None })),
        (
            "pong: inputs are kept",
            ToClient::Pong(Pong {
                nonce: 99,
                slots: 4,
                busy: 2,
                queued: 1,
                cache: Some(CacheUse {
                    hits: 12,
                    saved_bytes: 5_000_000_000,
                    fetched_bytes: 1_000_000,
                    coming: 1,
                    coming_done_bytes: 70_000,
                    coming_bytes: 100_000,
                    rate_bytes: 35_000,
                }),
            }),
        ),
        ("standby: an answer", ToClient::Standby(Standby { setup: SetupId(2), noise: b"message 2".to_vec() })),
        ("ack", ToClient::Ack(300)),
    ]);
    all
}
