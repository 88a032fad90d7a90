//! What a reader must refuse, and what it must skip.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ciborium::{Value, cbor};
use p2p_proto::board::line::Lines;
use p2p_proto::board::message::Envelope;
use p2p_proto::error::ProtoError;
use p2p_proto::link::item::{Item, ToClient, ToWorker};
use p2p_proto::link::record;
use p2p_proto::link::setup::Call;

use crate::book::{Book, Fields, hex, vector};
use crate::diagnostic::diagnostic;
use crate::handshake::call;

pub(crate) fn book() -> Book {
    let mut vectors = lines();
    vectors.extend(records());
    vectors.extend(calls());
    Book {
        about: "L-03, I-10: what is refused or skipped. stream is fed to a board's reader, verdict is what becomes of each line \
                of ours in it; record is a link's record, read lists what a reader gets from it.",
        inputs: Fields::default(),
        vectors,
    }
}

/// Any way of saying "a value like this".
fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn envelope(message: Value) -> Vec<u8> {
    encode(&cbor!({"f" => "carol@lap.top:303", "n" => 1, "t" => 1_800_000_000, "m" => message}).unwrap())
}

fn line(body: &[u8]) -> String {
    format!("~p2p1 {}\n", URL_SAFE_NO_PAD.encode(body))
}

fn lines() -> Vec<Fields> {
    let key = Value::Bytes(vec![7; 32]);
    let bye = envelope(cbor!({"bye" => {"k" => key.clone()}}).unwrap());
    let with_extra = envelope(cbor!({"bye" => {"k" => key.clone(), "future" => [1, 2]}}).unwrap());
    let unknown = envelope(cbor!({"future" => {"k" => 1}}).unwrap());
    let unknown_why = envelope(cbor!({"deny" => {"k" => key.clone(), "w" => "future"}}).unwrap());
    let offer = |labels: Vec<String>| {
        let hello = crate::board::every_message().swap_remove(0).2;
        let mut value = Value::serialized(&hello).unwrap();
        let labels = Value::serialized(&labels).unwrap();
        *at(at(at(&mut value, "hello"), "o"), "l") = labels;
        envelope(value)
    };
    let mut trailing = bye.clone();
    trailing.push(0);
    let mut bad_name = bye.clone();
    let dot = bye.iter().position(|&byte| byte == b'.').unwrap();
    bad_name[dot] = b' ';
    let short_key = envelope(cbor!({"bye" => {"k" => Value::Bytes(vec![7; 31])}}).unwrap());
    let two_kinds = envelope(cbor!({"bye" => {"k" => key.clone()}, "future" => 1}).unwrap());
    let twice = Value::Map(vec![("k".into(), key.clone()), ("k".into(), key)]);
    let huge = [b"\xa4\x61f\x7b".as_slice(), &(1_u64 << 60).to_be_bytes()].concat();
    let good = line(&bye);
    let streams = [
        ("a good line", good.clone()),
        ("what people and older clients write is skipped", format!("hello there\nwhen=1;x=2\n{good}")),
        ("a carriage return before the newline is not part of a line", good.replace('\n', "\r\n")),
        ("a line over 4,096 bytes is skipped", format!("~p2p1 {}\n{good}", "A".repeat(4090))),
        ("padding is not base64url as we write it", format!("{}=\n", good.trim_end())),
        ("an unknown field is skipped", line(&with_extra)),
        ("an unknown kind is skipped", line(&unknown)),
        ("an unknown reason is some other reason", line(&unknown_why)),
        ("33 labels", line(&offer(vec!["x".into(); 33]))),
        ("a label of 65 bytes", line(&offer(vec!["x".repeat(65)]))),
        ("a label with a terminal's escape", line(&offer(vec!["\x1b[2J".into()]))),
        ("bytes after the message", line(&trailing)),
        ("a key of 31 bytes", line(&short_key)),
        ("two kinds at once", line(&two_kinds)),
        ("a field twice", line(&envelope(Value::Map(vec![("bye".into(), twice)])))),
        ("a speaker's name with a blank", line(&bad_name)),
        ("a text that says it has 2^60 bytes", line(&huge)),
        ("a body of 40 nested arrays", line(&[0x81; 40])),
        ("not CBOR", line(&[0xff; 3])),
    ];
    streams
        .into_iter()
        .map(|(name, stream)| {
            let mut verdicts = Vec::new();
            Lines::default().feed(stream.as_bytes(), |line| verdicts.push(verdict(&line.decode())));
            vector(name).with("stream", stream).with("verdict", verdicts)
        })
        .collect()
}

fn verdict(read: &Result<Envelope, ProtoError>) -> &'static str {
    match read {
        Ok(_) => "read",
        Err(ProtoError::UnknownKind) => "skipped: unknown kind",
        Err(ProtoError::Bounds { .. }) => "ignored: bounds",
        Err(_) => "ignored: malformed",
    }
}

fn at<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    let entries = value.as_map_mut().unwrap();
    &mut entries.iter_mut().find(|(name, _)| name.as_text() == Some(key)).unwrap().1
}

fn records() -> Vec<Fields> {
    let ping = encode(&cbor!({"ping" => 1}).unwrap());
    let unknown = encode(&cbor!({"future" => {"a" => [1, 2, 3]}}).unwrap());
    let unknown_unit = encode(&cbor!("future").unwrap());
    let extra = encode(&cbor!({"want" => {"n" => 3, "future" => {"a" => 1}}}).unwrap());
    let wrong_type = encode(&cbor!({"ping" => "x"}).unwrap());
    let number = encode(&cbor!(7).unwrap());
    let unknown_channel = encode(&cbor!({"taken" => {"a" => 1, "c" => "future", "n" => 1}}).unwrap());
    let huge = [b"\xa1\x64data\xa3\x61a\x01\x61c\x610\x61d\x5b".as_slice(), &(1_u64 << 60).to_be_bytes()].concat();
    let deep = [b"\xa1\x66future".as_slice(), &[0x81; 40], &[0x00]].concat();
    let back = encode(&cbor!({"returned" => {"a" => 5, "w" => "future"}}).unwrap());
    vec![
        of_record::<ToWorker>("unknown kinds between two pings", [&*ping, &unknown, &unknown_unit, &ping].concat()),
        of_record::<ToWorker>("an unknown field", extra),
        of_record::<ToWorker>("a known kind with a wrong value ends the link", [&*ping, &wrong_type, &ping].concat()),
        of_record::<ToWorker>("an item that is no map and no text ends the link", [&*ping, &number].concat()),
        of_record::<ToWorker>("half an item ends the link", [&*ping, &ping[..3]].concat()),
        of_record::<ToWorker>("an unknown channel ends the link", unknown_channel),
        of_record::<ToWorker>("data that says it has 2^60 bytes ends the link", huge),
        of_record::<ToWorker>("an unknown kind nested too deeply ends the link", deep),
        of_record::<ToWorker>(
            "an item of the other direction is of unknown kind",
            encode(&cbor!({"credit" => 1}).unwrap()),
        ),
        of_record::<ToClient>("an unknown reason is some other reason", back),
        of_record::<ToClient>("a credit below zero ends the link", encode(&cbor!({"credit" => -1}).unwrap())),
    ]
}

fn of_record<T: Item>(name: &str, bytes: Vec<u8>) -> Fields {
    let read: Vec<_> =
        record::items::<T>(&bytes).map(|item| item.map_or("the link ends".to_owned(), |item| shown(&item))).collect();
    let direction = if T::TAGS.contains(&"submit") { "to worker" } else { "to client" };
    vector(name).with("direction", direction).with("record", hex(&bytes)).with("read", read)
}

/// An item as this version writes it: without what it skipped.
fn shown<T: Item>(item: &T) -> String {
    let mut cbor = Vec::new();
    record::append(item, &mut cbor);
    diagnostic(&cbor)
}

fn calls() -> Vec<Fields> {
    let payload = |hint: &Value, count: usize| {
        let mut value = Value::serialized(&call()).unwrap();
        *at(&mut value, "h") = Value::Array(vec![hint.clone(); count]);
        encode(&value)
    };
    let relay = |host: &str| cbor!({"r" => {"h" => host, "p" => 4001}}).unwrap();
    let good = relay("relay.example");
    [
        ("16 hints", payload(&good, 16)),
        ("17 hints", payload(&good, 17)),
        ("a relay's name of 65 bytes", payload(&relay(&"x".repeat(65)), 1)),
        ("a relay's name with a newline", payload(&relay("relay\nplease"), 1)),
        ("a relay without a name", payload(&relay(""), 1)),
    ]
    .map(|(name, payload)| {
        let verdict = match Call::from_cbor(&payload) {
            Ok(_) => "read",
            Err(ProtoError::Bounds { .. }) => "refused: bounds",
            Err(_) => "refused: malformed",
        };
        vector(name).with("call", hex(&payload)).with("verdict", verdict)
    })
    .into()
}
