//! Every board message as a line.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p2p_proto::board::line::{Line, Lines, PREFIX};
use p2p_proto::board::message::{
    Admit, Bye, Claim, Connect, Deny, DenyReason, Envelope, Hello, Message, Offer, Prove, Ready, Refuse, RefuseReason,
    Seek, Summon,
};
use p2p_proto::ids::SetupId;

use crate::actors::{Actor, NOW, alice, bob, carol, cluster, inputs};
use crate::book::{Book, vector};
use crate::diagnostic::diagnostic;
use crate::handshake::SetUp;
use crate::trust::beat;

pub(crate) fn book() -> Book {
    let vectors = every_message().into_iter().enumerate().map(|(sequence, (name, speaker, message))| {
        let envelope = Envelope { from: speaker.name(), sequence: sequence as u64, time: NOW, message };
        let line = Line::encode(&envelope).unwrap();
        let text = std::str::from_utf8(line.as_bytes()).unwrap();
        let mut read = Vec::new();
        Lines::default().feed(line.as_bytes(), |line| read.push(line));
        assert_eq!(read.iter().map(Line::decode).collect::<Vec<_>>(), [Ok(envelope)], "{name} does not read back");
        let cbor = URL_SAFE_NO_PAD.decode(text.trim_end().strip_prefix(PREFIX).unwrap()).unwrap();
        vector(name).with("line", text).with("shown", diagnostic(&cbor))
    });
    Book {
        about: "B-01: board messages. line = \"~p2p1 \" base64url(CBOR) newline; shown is the CBOR. The payloads of connect and \
                ready are those of handshake.json.",
        inputs: inputs(),
        vectors: vectors.collect(),
    }
}

/// At least one of each kind.
pub(crate) fn every_message() -> Vec<(&'static str, Actor, Message)> {
    let (set_up, setup) = (SetUp::run(), SetupId(7));
    let (bob_key, carol_key) = (bob().keys().process, carol().keys().process);
    let hello = |actor: &Actor, offer| {
        let (credentials, process, role) = (actor.credentials(), actor.keys().process, actor.role);
        Message::Hello(Hello { credentials, process, role, version: p2p_proto::VERSION, offer, ttl_s: 120 })
    };
    let offer = Offer {
        slots: 4,
        free: 3,
        runtimes: vec!["command".into(), "r".into()],
        memory_mib: 16_000,
        labels: vec!["gpu".into(), "linux".into()],
    };
    let claim = Claim { user: bob().user, keys: bob().keys(), certificate: bob().certificate(), role: bob().role };
    let refuse =
        |why| Message::Refuse(Refuse { caller: carol_key, callee: bob_key, setup, why, version: p2p_proto::VERSION });
    let mut all = vec![
        ("hello of a worker", bob(), hello(&bob(), Some(offer))),
        ("hello of a client", carol(), hello(&carol(), None)),
        ("seek", carol(), Message::Seek(Seek { runtime: "command".into(), answers: 5 })),
        ("bye", carol(), Message::Bye(Bye { process: carol_key })),
        ("beat", alice(), Message::Beat(beat(false).sign(&alice().identity(), &cluster()))),
        ("claim", bob(), Message::Claim(claim)),
        ("admit", alice(), Message::Admit(Admit { process: bob_key, membership: bob().membership() })),
        (
            "connect",
            carol(),
            Message::Connect(Connect {
                caller: carol().keys(),
                callee: bob().keys(),
                setup,
                version: p2p_proto::VERSION,
                noise: set_up.message_1,
            }),
        ),
        ("ready", bob(), Message::Ready(Ready { caller: carol_key, callee: bob_key, setup, noise: set_up.message_2 })),
        ("refuse: version", bob(), refuse(RefuseReason::Version)),
        ("refuse: trust", bob(), refuse(RefuseReason::Untrusted)),
        ("refuse: noise", bob(), refuse(RefuseReason::Handshake)),
        ("refuse: allow", bob(), refuse(RefuseReason::NotAllowed)),
        ("refuse: busy", bob(), refuse(RefuseReason::Busy)),
        ("refuse: drain", bob(), refuse(RefuseReason::Draining)),
    ];
    for (name, why) in [
        ("deny: list", DenyReason::NotListed),
        ("deny: key", DenyReason::OtherKey),
        ("deny: cert", DenyReason::BadCertificate),
        ("deny: wait", DenyReason::AwaitsApproval),
        ("deny: proof", DenyReason::Unproven),
        ("deny: many", DenyReason::TooManyMachines),
    ] {
        all.push((name, alice(), Message::Deny(Deny { process: bob_key, why })));
    }
    all.push(("prove", alice(), Message::Prove(Prove { process: bob_key, host: alice().keys().machine })));
    let summon = Summon { user: bob().user, host: alice().keys().machine, process: bob_key };
    all.push(("summon", bob(), Message::Summon(summon)));
    every_kind_is_there(&all);
    all
}

/// A new kind of message does not compile here until it has a vector.
fn every_kind_is_there(all: &[(&str, Actor, Message)]) {
    let kind = |message: &Message| match message {
        Message::Hello(_) => 0,
        Message::Seek(_) => 1,
        Message::Bye(_) => 2,
        Message::Beat(_) => 3,
        Message::Claim(_) => 4,
        Message::Admit(_) => 5,
        Message::Deny(_) => 6,
        Message::Connect(_) => 7,
        Message::Ready(_) => 8,
        Message::Refuse(_) => 9,
        Message::Prove(_) => 10,
        Message::Summon(_) => 11,
    };
    let mut kinds: Vec<_> = all.iter().map(|(_, _, message)| kind(message)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, (0..12).collect::<Vec<_>>());
}
