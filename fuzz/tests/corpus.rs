//! Replays the kept corpus of every target, so that what was once found stays fixed without a fuzzer.
//!
//! `P2P_BLESS=1 cargo test -p fuzz` writes the seeds anew from the golden vectors of `p2p-proto`.

use std::fs;
use std::path::PathBuf;

use p2p_proto::tree::{Entry, EntryKind, Tree};
use serde_json::Value;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn replay(target: &str, run: fn(&[u8]), seeds: impl FnOnce() -> Vec<(String, Vec<u8>)>) {
    if std::env::var_os("P2P_BLESS").is_some() {
        write(target, seeds());
    }
    let mut inputs = 0;
    for entry in fs::read_dir(corpus(target)).unwrap() {
        run(&fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{target} has no corpus");
}

/// Replaces the seeds; what a fuzzer found has another name and stays.
fn write(target: &str, seeds: Vec<(String, Vec<u8>)>) {
    let folder = corpus(target);
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("seed-") {
            fs::remove_file(path).unwrap();
        }
    }
    for (name, bytes) in seeds {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
    }
}

#[test]
fn board_line() {
    replay("board_line", fuzz::board_line, || {
        // The first byte cuts the stream into pieces of 256 bytes.
        let seed = |text: String| [vec![255], text.into_bytes()].concat();
        let mut seeds: Vec<_> =
            vectors("board").into_iter().filter_map(|v| Some((name(&v), seed(text(&v, "line")?)))).collect();
        let refused = vectors("refused");
        seeds.extend(refused.into_iter().filter_map(|v| Some((name(&v), seed(text(&v, "stream")?)))));
        seeds
    });
}

#[test]
fn link_record() {
    replay("link_record", fuzz::link_record, || {
        let mut seeds = Vec::new();
        for vector in vectors("items").into_iter().chain(vectors("refused")) {
            let Some(direction) = text(&vector, "direction") else { continue };
            let record = text(&vector, "record").or_else(|| text(&vector, "cbor")).unwrap();
            let first = u8::from(direction == "to client");
            seeds.push((format!("{direction} {}", name(&vector)), [vec![first], unhex(&record)].concat()));
        }
        seeds
    });
}

#[test]
fn blob() {
    replay("blob", fuzz::blob, || {
        let list = |sizes: &[u32]| {
            let chunks = sizes.iter().map(|size| [&size.to_le_bytes()[..], &[*size as u8; 32]].concat());
            [vec![0], chunks.flatten().collect()].concat()
        };
        let entry = |name: &str, kind: EntryKind| Entry { name: name.into(), kind };
        let folder = |entries: Vec<Entry>| [vec![1], Tree::new(entries).unwrap().head().unwrap()].concat();
        let inside = vec![
            entry("a", EntryKind::Folder(0o755)),
            entry("a/b", EntryKind::File(0, 0o644)),
            entry("a/l", EntryKind::Link("../c".into())),
            entry("c", EntryKind::Folder(0o700)),
        ];
        let with_content = vec![entry("f", EntryKind::File(3, 0o755))];
        vec![
            ("one chunk".into(), list(&[7])),
            ("three chunks".into(), list(&[1, 1 << 20, 65_536])),
            ("an empty chunk".into(), list(&[0])),
            ("an empty folder".into(), folder(Vec::new())),
            ("a folder".into(), folder(inside)),
            ("a folder with content".into(), [folder(with_content), b"abc".to_vec()].concat()),
        ]
    });
}

#[test]
fn handshake() {
    replay("handshake", fuzz::handshake, || {
        let mut seeds: Vec<(String, Vec<u8>)> = vec![
            ("message 1 as it is".into(), vec![0]),
            ("message 2 as it is".into(), vec![1]),
            ("message 1 with one bit changed".into(), vec![0, 0, 40, 1]),
            ("message 2 cut by one byte".into(), vec![1, 0]),
        ];
        for vector in vectors("handshake") {
            let payload = text(&vector, "payload").map(|hex| unhex(&hex));
            let message = text(&vector, "message").map(|hex| unhex(&hex));
            let second = u8::from(name(&vector) == "message 2");
            if let (Some(payload), Some(message)) = (payload, message) {
                seeds.push((name(&vector), [vec![2 + second], message].concat()));
                seeds.push((format!("payload of {}", name(&vector)), [vec![4 + second], payload].concat()));
            }
        }
        for vector in vectors("refused") {
            if let Some(call) = text(&vector, "call") {
                seeds.push((name(&vector), [vec![4], unhex(&call)].concat()));
            }
        }
        seeds
    });
}

#[test]
fn transit() {
    replay("transit", fuzz::transit, || {
        // A setting, then pairs of connection and operation; see the entry point for what they mean.
        let seeds: [(&str, &[u8]); 6] = [
            ("leader dials and hears the line", &[0, 1, 0, 1, 5]),
            ("follower dials and hears go", &[1, 1, 0, 1, 5, 1, 14]),
            ("follower hears nevermind", &[1, 1, 1, 1, 5, 1, 22]),
            ("leader by relay after its head start", &[0, 1, 2, 1, 6, 1, 5, 0, 252, 0, 252, 0, 252, 0, 252]),
            ("leader by relay without direct connections", &[2, 1, 2, 1, 6, 1, 5]),
            ("a stranger says something else", &[0, 1, 1, 1, 7, 3, b'G', b'E', b'T']),
        ];
        seeds.map(|(name, script)| (name.to_owned(), script.to_vec())).into()
    });
}

/// The vectors of one book.
fn vectors(book: &str) -> Vec<Value> {
    let path = format!("{}/../p2p-proto/tests/vectors/{book}.json", env!("CARGO_MANIFEST_DIR"));
    let book: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    book["vectors"].as_array().unwrap().clone()
}

fn text(vector: &Value, field: &str) -> Option<String> {
    Some(vector.get(field)?.as_str()?.to_owned())
}

fn name(vector: &Value) -> String {
    text(vector, "name").unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
