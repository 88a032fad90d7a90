//! The worst case of every board message fits in a line, and the worst case of every payload in its handshake message.

use p2p_proto::board::line::Line;
use p2p_proto::board::message::{
    Admit, Beat, Bye, Claim, Connect, Deny, DenyReason, Envelope, Hello, Message, Offer, Prove, Ready, Refuse,
    RefuseReason, Seek, Summon,
};
use p2p_proto::ids::{AttemptId, ClusterName, MachineKey, PeerKeys, PeerName, ProcessKey, Role, SetupId, UserName};
use p2p_proto::limits;
use p2p_proto::link::handshake::{Called, Calling, PAYLOAD_BYTES, Parties};
use p2p_proto::link::item::{Channel, Data, Submit, ToClient, ToWorker};
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::link::{Hint, Hints, TransitKey, record};
use p2p_proto::task::{Content, File, TaskSpec};
use p2p_proto::trust::{Credentials, Identity, Membership, MembershipClaims, ProcessCertificate, ProcessSecret};

fn user() -> UserName {
    "u".repeat(limits::USER_BYTES).parse().unwrap()
}

fn peer_name() -> PeerName {
    PeerName::new(&user(), &"h".repeat(limits::HOSTNAME_BYTES), u32::MAX)
}

fn cluster() -> ClusterName {
    ClusterName::new(user(), &"c".repeat(limits::CLUSTER_NAME_BYTES)).unwrap()
}

fn identity() -> Identity {
    Identity::from_secret(&[0xee; 32])
}

fn keys() -> PeerKeys {
    PeerKeys { machine: identity().machine_key(), process: ProcessKey([0xff; 32]) }
}

fn membership() -> Membership {
    let claims = MembershipClaims {
        host: identity().machine_key(),
        user: user(),
        machine: MachineKey([0xff; 32]),
        serial: u64::MAX,
        from: u64::MAX,
        until: u64::MAX,
    };
    Membership::sign(&identity(), &cluster(), &claims)
}

fn certificate() -> ProcessCertificate {
    // "client" and "worker" are the longest roles.
    ProcessCertificate::sign(&identity(), &cluster(), Role::Worker, keys().process, u64::MAX, u64::MAX)
}

fn credentials() -> Credentials {
    Credentials { membership: membership(), certificate: certificate() }
}

fn offer() -> Offer {
    Offer {
        slots: limits::SLOTS,
        free: u32::MAX,
        runtimes: vec!["r".repeat(limits::RUNTIME_BYTES); limits::RUNTIMES],
        memory_mib: u64::MAX,
        labels: vec!["l".repeat(limits::LABEL_BYTES); limits::LABELS],
    }
}

fn hints() -> Hints {
    Hints(vec![Hint::Relay { host: "h".repeat(limits::RELAY_HOST_BYTES), port: u16::MAX }; limits::HINTS])
}

fn call() -> Vec<u8> {
    Call {
        credentials: credentials(),
        epoch: u32::MAX,
        link: SetupId(u64::MAX),
        setup: SetupId(u64::MAX),
        hints: hints(),
    }
    .to_cbor()
}

/// The longest of each kind.
fn every_message() -> Vec<Message> {
    let (caller, callee, setup) = (keys().process, keys().process, SetupId(u64::MAX));
    // Two 32-byte keys and two tags around the largest payload.
    let noise = vec![0xff; PAYLOAD_BYTES + 96];
    let beat = Beat {
        host: identity().machine_key(),
        peers: u32::MAX,
        serial: u64::MAX,
        removals: vec![(MachineKey([0xff; 32]), u64::MAX); limits::REMOVALS],
        roster: Some([0xff; 32]),
        time: u64::MAX,
        since: u64::MAX,
        rival: Some(peer_name()),
        leaving: true,
    };
    vec![
        Message::Hello(Hello {
            credentials: credentials(),
            process: keys().process,
            role: Role::Worker,
            version: u16::MAX,
            offer: Some(offer()),
            ttl_s: u32::MAX,
        }),
        Message::Seek(Seek { runtime: "r".repeat(limits::RUNTIME_BYTES), answers: u32::MAX }),
        Message::Bye(Bye { process: keys().process }),
        Message::Beat(beat.sign(&identity(), &cluster())),
        Message::Claim(Claim { user: user(), keys: keys(), certificate: certificate(), role: Role::Worker }),
        Message::Admit(Admit { process: keys().process, membership: membership() }),
        Message::Deny(Deny { process: keys().process, why: DenyReason::NotListed }),
        Message::Prove(Prove { process: keys().process, host: keys().machine }),
        Message::Summon(Summon { user: user(), host: keys().machine, process: keys().process }),
        Message::Connect(Connect { caller: keys(), callee: keys(), setup, version: u16::MAX, noise: noise.clone() }),
        Message::Ready(Ready { caller, callee, setup, noise }),
        Message::Refuse(Refuse { caller, callee, setup, why: RefuseReason::Version, version: u16::MAX }),
    ]
}

#[test]
fn every_board_message_fits_in_a_line() {
    let from = peer_name();
    for message in every_message() {
        let envelope = Envelope { from: from.clone(), sequence: u64::MAX, time: u64::MAX, message };
        let line = Line::encode(&envelope).unwrap_or_else(|fault| panic!("{fault}: {envelope:?}"));
        assert!(line.as_bytes().len() <= limits::LINE_BYTES);
        assert_eq!(line.decode(), Ok(envelope));
    }
}

#[test]
fn every_set_up_payload_fits_in_its_message() {
    let answer = Answer { hints: hints(), transit_key: TransitKey([0xff; 32]) }.to_cbor();
    let (caller, callee) = (ProcessSecret::from_entropy([1; 32]), ProcessSecret::from_entropy([2; 32]));
    let keys = |secret: &ProcessSecret| PeerKeys { machine: MachineKey([3; 32]), process: secret.process_key() };
    let parties = Parties { cluster: cluster(), caller: keys(&caller), callee: keys(&callee) };
    let (calling, message_1) = Calling::start(&parties, &caller, &call(), [4; 32]).unwrap();
    let (called, read) = Called::open(&parties, &callee, &message_1, [5; 32]).unwrap();
    assert_eq!(read, call());
    let (_, message_2) = called.answer(&answer).unwrap();
    assert_eq!(calling.finish(&message_2).unwrap().1, answer);
    assert!(message_1.len().max(message_2.len()) <= PAYLOAD_BYTES + 96);
}

#[test]
fn a_handshake_payload_over_its_limit_is_refused() {
    let caller = ProcessSecret::from_entropy([1; 32]);
    let parties = Parties { cluster: cluster(), caller: keys(), callee: keys() };
    for (size, fits) in [(PAYLOAD_BYTES, true), (PAYLOAD_BYTES + 1, false)] {
        assert_eq!(Calling::start(&parties, &caller, &vec![0; size], [4; 32]).is_ok(), fits);
    }
}

#[test]
fn a_chunk_and_the_largest_plain_task_fit_in_a_record() {
    let (attempt, channel) = (AttemptId(u64::MAX), Channel::Output(u16::MAX));
    let data = Data { attempt, channel, end: true, packed: true, bytes: vec![0xff; limits::CHUNK_BYTES] };
    assert!(record::append(&ToWorker::Data(data.clone()), &mut Vec::new()));
    assert!(record::append(&ToClient::Data(data), &mut Vec::new()));

    // All names at their limit, the payload inline, every file streamed.
    let name = "f".repeat(limits::FILE_NAMES_BYTES / limits::FILES / 2);
    let file =
        File { name: name.clone(), content: Content::Streamed(limits::FILE_BYTES), executable: true, folder: true };
    let task = TaskSpec {
        runtime: "r".repeat(limits::RUNTIME_BYTES),
        payload: Content::Inline(vec![0xff; limits::PAYLOAD_BYTES]),
        inputs: vec![file; limits::FILES],
        outputs: vec![name; limits::FILES],
        stdin: true,
        timeout_ms: u64::MAX,
        extra_cpus: u32::MAX,
        once: true,
        memory_mib: u64::MAX,
        labels: vec!["l".repeat(limits::LABEL_BYTES); limits::LABELS],
        priority: i8::MIN,
    };
    assert_eq!(task.check(), Ok(()));
    let mut record = Vec::new();
    assert!(
        record::append(&ToWorker::Submit(Submit { attempt, task, alone: true }), &mut record),
        "the largest task does not fit in a record"
    );
}
