//! Any value within its bounds.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use p2p_proto::blob::{BlobId, BlobRef, Part, Run};
use p2p_proto::board::message::{
    Admit, Beat, Bye, Claim, Connect, Deny, DenyReason, Envelope, Hello, Message, Offer, Prove, Ready, Refuse,
    RefuseReason, Seek, Summon,
};
use p2p_proto::ids::{AttemptId, ClusterName, MachineKey, PeerKeys, PeerName, ProcessKey, Role, SetupId, UserName};
use p2p_proto::limits;
use p2p_proto::link::handshake::PAYLOAD_BYTES;
use p2p_proto::link::item::{
    CacheUse, Channel, Data, Fetch, Finished, Note, Open, Pong, Returned, Standby, Submit, Taken, ToClient, ToWorker,
    Want,
};
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::link::{Hint, Hints, TransitKey};
use p2p_proto::task::{Command, Content, Ended, Failure, FailureKind, File, ReturnReason, TaskSpec};
use p2p_proto::trust::{Credentials, Identity, Membership, MembershipClaims, ProcessCertificate};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_bytes::ByteBuf;

pub(crate) fn user() -> impl Strategy<Value = UserName> {
    "[a-zA-Z0-9][a-zA-Z0-9_-]{0,31}".prop_map(|name| name.parse().unwrap())
}

pub(crate) fn cluster() -> impl Strategy<Value = ClusterName> {
    (user(), "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,47}").prop_map(|(owner, name)| ClusterName::new(owner, &name).unwrap())
}

pub(crate) fn peer_name() -> impl Strategy<Value = PeerName> {
    (user(), any::<String>(), any::<u32>()).prop_map(|(user, host, pid)| PeerName::new(&user, &host, pid))
}

fn role() -> impl Strategy<Value = Role> {
    select(vec![Role::Host, Role::Worker, Role::Client])
}

fn keys() -> impl Strategy<Value = PeerKeys> {
    (any::<[u8; 32]>(), any::<[u8; 32]>())
        .prop_map(|(machine, process)| PeerKeys { machine: MachineKey(machine), process: ProcessKey(process) })
}

/// Text of at most this many bytes, in any script, without control characters.
fn word(limit: usize) -> impl Strategy<Value = String> {
    text(limit).prop_map(|text| text.replace(char::is_control, ""))
}

/// Text of at most this many bytes, in any script.
fn text(limit: usize) -> impl Strategy<Value = String> {
    any::<String>().prop_map(move |text| {
        let mut end = text.len().min(limit);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text[..end].to_owned()
    })
}

prop_compose! {
    fn membership()(
        secret in any::<[u8; 32]>(), cluster in cluster(), user in user(), keys in keys(),
        serial in any::<u64>(), from in any::<u64>(), until in any::<u64>(),
    ) -> Membership {
        let host = Identity::from_secret(&secret);
        let claims = MembershipClaims { host: host.machine_key(), user, machine: keys.machine, serial, from, until };
        Membership::sign(&host, &cluster, &claims)
    }
}

prop_compose! {
    fn certificate()(
        secret in any::<[u8; 32]>(), cluster in cluster(), role in role(), keys in keys(),
        from in any::<u64>(), until in any::<u64>(),
    ) -> ProcessCertificate {
        ProcessCertificate::sign(&Identity::from_secret(&secret), &cluster, role, keys.process, from, until)
    }
}

fn credentials() -> impl Strategy<Value = Credentials> {
    (membership(), certificate()).prop_map(|(membership, certificate)| Credentials { membership, certificate })
}

prop_compose! {
    fn offer()(
        slots in 0..=limits::SLOTS, free in any::<u32>(), runtimes in vec(word(limits::RUNTIME_BYTES), 0..=limits::RUNTIMES),
        memory_mib in any::<u64>(), labels in vec(word(limits::LABEL_BYTES), 0..=limits::LABELS),
    ) -> Offer {
        Offer { slots, free, runtimes, memory_mib, labels }
    }
}

prop_compose! {
    fn hello()(
        credentials in credentials(), keys in keys(), role in role(), version in any::<u16>(),
        offer in option::of(offer()), ttl_s in any::<u32>(),
    ) -> Message {
        Message::Hello(Hello { credentials, process: keys.process, role, version, offer, ttl_s })
    }
}

prop_compose! {
    pub(crate) fn beat()(
        secret in any::<[u8; 32]>(), peers in any::<u32>(), serial in any::<u64>(), time in any::<u64>(),
        removals in vec((keys(), any::<u64>()), 0..=limits::REMOVALS), roster in any::<Option<[u8; 32]>>(), since in any::<u64>(),
        rival in option::of(peer_name()), leaving in any::<bool>(),
    ) -> (Identity, Beat) {
        let host = Identity::from_secret(&secret);
        let removals = removals.into_iter().map(|(keys, serial)| (keys.machine, serial)).collect();
        let beat = Beat { host: host.machine_key(), peers, serial, removals, roster, time, since, rival, leaving };
        (host, beat)
    }
}

fn connect() -> impl Strategy<Value = Message> {
    (keys(), keys(), any::<u64>(), any::<u16>(), vec(any::<u8>(), 0..=PAYLOAD_BYTES + 96)).prop_map(
        |(caller, callee, setup, version, noise)| {
            Message::Connect(Connect { caller, callee, setup: SetupId(setup), version, noise })
        },
    )
}

fn ready() -> impl Strategy<Value = Message> {
    (keys(), any::<u64>(), vec(any::<u8>(), 0..=PAYLOAD_BYTES + 96)).prop_map(|(keys, setup, noise)| {
        Message::Ready(Ready { caller: keys.process, callee: ProcessKey(keys.machine.0), setup: SetupId(setup), noise })
    })
}

fn refuse() -> impl Strategy<Value = Message> {
    let why = select(vec![
        RefuseReason::Version,
        RefuseReason::Untrusted,
        RefuseReason::Handshake,
        RefuseReason::NotAllowed,
        RefuseReason::Busy,
        RefuseReason::Draining,
        RefuseReason::Other,
    ]);
    (keys(), any::<u64>(), why, any::<u16>()).prop_map(|(keys, setup, why, version)| {
        let (caller, callee) = (keys.process, ProcessKey(keys.machine.0));
        Message::Refuse(Refuse { caller, callee, setup: SetupId(setup), why, version })
    })
}

fn deny() -> impl Strategy<Value = Message> {
    let why = select(vec![
        DenyReason::NotListed,
        DenyReason::OtherKey,
        DenyReason::BadCertificate,
        DenyReason::AwaitsApproval,
        DenyReason::Unproven,
        DenyReason::TooManyMachines,
        DenyReason::Other,
    ]);
    (keys(), why).prop_map(|(keys, why)| Message::Deny(Deny { process: keys.process, why }))
}

fn message() -> impl Strategy<Value = Message> {
    let signed_beat = (beat(), cluster()).prop_map(|((host, beat), cluster)| Message::Beat(beat.sign(&host, &cluster)));
    let claim = (user(), keys(), certificate(), role())
        .prop_map(|(user, keys, certificate, role)| Message::Claim(Claim { user, keys, certificate, role }));
    let admit = (keys(), membership())
        .prop_map(|(keys, membership)| Message::Admit(Admit { process: keys.process, membership }));
    prop_oneof![
        hello(),
        (word(limits::RUNTIME_BYTES), any::<u32>())
            .prop_map(|(runtime, answers)| Message::Seek(Seek { runtime, answers })),
        keys().prop_map(|keys| Message::Bye(Bye { process: keys.process })),
        signed_beat,
        claim,
        admit,
        deny(),
        keys().prop_map(|keys| Message::Prove(Prove { process: keys.process, host: keys.machine })),
        (user(), keys()).prop_map(|(user, keys)| Message::Summon(Summon {
            user,
            host: keys.machine,
            process: keys.process
        })),
        connect(),
        ready(),
        refuse(),
    ]
}

pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
    (peer_name(), any::<u64>(), any::<u64>(), message()).prop_map(|(from, sequence, time, message)| Envelope {
        from,
        sequence,
        time,
        message,
    })
}

fn hint() -> impl Strategy<Value = Hint> {
    // A hint has no flow label and no scope: they mean nothing on another machine.
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| Ipv4Addr::from(octets).into()),
        any::<[u8; 16]>().prop_map(|octets| Ipv6Addr::from(octets).into()),
    ];
    prop_oneof![
        (address, any::<u16>()).prop_map(|(address, port)| Hint::Direct(SocketAddr::new(address, port))),
        ("[a-zA-Z0-9.:-]{1,64}", any::<u16>()).prop_map(|(host, port)| Hint::Relay { host, port }),
    ]
}

fn hints() -> impl Strategy<Value = Hints> {
    vec(hint(), 0..=limits::HINTS).prop_map(Hints)
}

pub(crate) fn call() -> impl Strategy<Value = Call> {
    let numbers = (any::<u32>(), any::<u64>(), any::<u64>());
    (credentials(), numbers, hints()).prop_map(|(credentials, (epoch, link, setup), hints)| Call {
        credentials,
        epoch,
        link: SetupId(link),
        setup: SetupId(setup),
        hints,
    })
}

pub(crate) fn answer() -> impl Strategy<Value = Answer> {
    (hints(), any::<[u8; 32]>()).prop_map(|(hints, key)| Answer { hints, transit_key: TransitKey(key) })
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        vec(any::<u8>(), 0..512).prop_map(Content::Inline),
        Just(Content::Streamed(0)),
        any::<u64>().prop_map(Content::Streamed),
        (any::<[u8; 32]>(), any::<u64>(), any::<u32>()).prop_map(|(id, size, chunks)| Content::Blob(BlobRef {
            id: BlobId(id),
            size,
            chunks
        })),
    ]
}

fn file() -> impl Strategy<Value = File> {
    (text(limits::FILE_NAME_BYTES), content(), any::<bool>(), any::<bool>())
        .prop_map(|(name, content, executable, folder)| File { name, content, executable, folder })
}

prop_compose! {
    fn task()(
        runtime in text(limits::RUNTIME_BYTES), payload in content(), inputs in vec(file(), 0..8), outputs in vec(text(200), 0..8),
        stdin in any::<bool>(), timeout_ms in any::<u64>(), extra_cpus in any::<u32>(), once in any::<bool>(),
        memory_mib in any::<u64>(), labels in vec(text(limits::LABEL_BYTES), 0..3), priority in any::<i8>(),
    ) -> TaskSpec {
        TaskSpec { runtime, payload, inputs, outputs, stdin, timeout_ms, extra_cpus, once, memory_mib, labels, priority }
    }
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    (vec(vec(any::<u8>(), 0..64).prop_map(ByteBuf::from), 1..8), vec((any::<String>(), any::<String>()), 0..8))
        .prop_map(|(argv, env)| Command { argv, env })
}

fn attempt() -> impl Strategy<Value = AttemptId> {
    any::<u64>().prop_map(AttemptId)
}

fn channel() -> impl Strategy<Value = Channel> {
    prop_oneof![
        Just(Channel::Payload),
        any::<u16>().prop_map(Channel::Input),
        Just(Channel::Stdin),
        Just(Channel::Stdout),
        Just(Channel::Stderr),
        any::<u16>().prop_map(Channel::Output),
        Just(Channel::Value),
    ]
}

fn data() -> impl Strategy<Value = Data> {
    (attempt(), channel(), any::<[bool; 2]>(), vec(any::<u8>(), 0..2000))
        .prop_map(|(attempt, channel, [end, packed], bytes)| Data { attempt, channel, end, packed, bytes })
}

fn fetch() -> impl Strategy<Value = Fetch> {
    let runs = vec(any::<(u32, u32)>().prop_map(|(first, count)| Run(first, count)), 0..8);
    let part = prop_oneof![Just(Part::Recipe), runs.prop_map(Part::Chunks)];
    (attempt(), channel(), part).prop_map(|(attempt, channel, part)| Fetch { attempt, channel, part })
}

fn taken() -> impl Strategy<Value = Taken> {
    (attempt(), channel(), any::<u64>()).prop_map(|(attempt, channel, bytes)| Taken { attempt, channel, bytes })
}

fn open() -> impl Strategy<Value = Open> {
    (any::<u16>(), peer_name(), vec(text(32), 0..8), any::<u32>(), any::<Option<u64>>(), any::<u32>()).prop_map(
        |(version, name, capabilities, slots, received, grace_s)| Open {
            version,
            name,
            capabilities,
            slots,
            received,
            grace_s,
        },
    )
}

fn standby() -> impl Strategy<Value = Standby> {
    (any::<u64>(), vec(any::<u8>(), 0..PAYLOAD_BYTES))
        .prop_map(|(setup, noise)| Standby { setup: SetupId(setup), noise })
}

fn ended() -> impl Strategy<Value = Ended> {
    let kind = select(vec![
        FailureKind::CommandNotFound,
        FailureKind::NotExecutable,
        FailureKind::BadName,
        FailureKind::MissingOutput,
        FailureKind::TooLarge,
        FailureKind::DiskFull,
        FailureKind::UnknownRuntime,
        FailureKind::FunctionFailed,
        FailureKind::Malformed,
        FailureKind::Worker,
        FailureKind::Other,
    ]);
    prop_oneof![
        any::<i32>().prop_map(Ended::Exit),
        any::<i32>().prop_map(Ended::Signal),
        Just(Ended::TimedOut),
        Just(Ended::Cancelled),
        (kind, any::<String>()).prop_map(|(kind, message)| Ended::Failed(Failure::new(kind, message))),
    ]
}

fn finished() -> impl Strategy<Value = Finished> {
    (attempt(), ended(), content(), vec(file(), 0..8), any::<u64>())
        .prop_map(|(attempt, ended, value, outputs, ran_us)| Finished { attempt, ended, value, outputs, ran_us })
}

fn returned() -> impl Strategy<Value = Returned> {
    let why = select(vec![
        ReturnReason::Draining,
        ReturnReason::NoCredit,
        ReturnReason::Recalled,
        ReturnReason::Mismatch,
        ReturnReason::Cancelled,
        ReturnReason::Other,
    ]);
    (attempt(), why).prop_map(|(attempt, why)| Returned { attempt, why })
}

pub(crate) fn to_worker() -> impl Strategy<Value = ToWorker> {
    prop_oneof![
        open().prop_map(ToWorker::Open),
        (any::<u32>(), any::<u32>()).prop_map(|(tasks, round_trip_us)| ToWorker::Want(Want { tasks, round_trip_us })),
        (attempt(), task(), any::<bool>()).prop_map(|(attempt, task, alone)| ToWorker::Submit(Submit {
            attempt,
            task,
            alone
        })),
        attempt().prop_map(ToWorker::Cancel),
        attempt().prop_map(ToWorker::Recall),
        standby().prop_map(ToWorker::Standby),
        any::<u64>().prop_map(ToWorker::Ack),
        any::<u64>().prop_map(ToWorker::Ping),
        data().prop_map(ToWorker::Data),
        taken().prop_map(ToWorker::Taken),
        Just(ToWorker::Bye),
    ]
}

pub(crate) fn to_client() -> impl Strategy<Value = ToClient> {
    prop_oneof![
        open().prop_map(ToClient::Open),
        any::<u32>().prop_map(ToClient::Credit),
        any::<u32>().prop_map(ToClient::Revoke),
        attempt().prop_map(ToClient::Started),
        data().prop_map(ToClient::Data),
        taken().prop_map(ToClient::Taken),
        fetch().prop_map(ToClient::Fetch),
        (attempt(), text(limits::NOTE_BYTES)).prop_map(|(attempt, text)| ToClient::Note(Note { attempt, text })),
        finished().prop_map(ToClient::Finished),
        returned().prop_map(ToClient::Returned),
        attempt().prop_map(ToClient::TooLate),
        Just(ToClient::Draining),
        (any::<u64>(), any::<[u32; 3]>(), option::of(any::<([u64; 6], u32)>())).prop_map(|(nonce, load, cache)| {
            let [slots, busy, queued] = load;
            let cache = cache.map(|([hits, saved_bytes, fetched_bytes, done, all, rate_bytes], coming)| CacheUse {
                hits,
                saved_bytes,
                fetched_bytes,
                coming,
                coming_done_bytes: done,
                coming_bytes: all,
                rate_bytes,
            });
            ToClient::Pong(Pong { nonce, slots, busy, queued, cache })
        }),
        standby().prop_map(ToClient::Standby),
        any::<u64>().prop_map(ToClient::Ack),
    ]
}
