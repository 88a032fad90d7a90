//! Golden vectors: the wire, byte for byte.
//!
//! Each `.json` file beside this one is a book of vectors that another implementation can check itself against; `docs/protocol.md`
//! says how. This test makes each book anew and compares it with the kept one. After a wanted change of the wire,
//! `P2P_BLESS=1 cargo test -p p2p-proto --test vectors` rewrites the books; review the difference.

mod actors;
mod board;
mod book;
mod diagnostic;
mod handshake;
mod items;
mod refused;
mod trust;

use book::Book;

fn check(name: &str, book: &Book) {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let made = book.to_json();
    if std::env::var_os("P2P_BLESS").is_some() {
        std::fs::write(&path, made).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let changed = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    assert!(
        made == kept,
        "the wire changed: {name}.json has other bytes than are made now, first at {changed:#?}\nIf it was meant, run \
         P2P_BLESS=1 cargo test -p p2p-proto --test vectors and review the difference."
    );
}

#[test]
fn board_messages() {
    check("board", &board::book());
}

#[test]
fn signatures() {
    check("trust", &trust::book());
}

#[test]
fn handshakes() {
    check("handshake", &handshake::book());
}

#[test]
fn link_items() {
    check("items", &items::book());
}

#[test]
fn refused_and_skipped() {
    check("refused", &refused::book());
}
