//! What a peer only announces is never allocated (I-10): the peak of each hostile input is measured.
//!
//! One test alone in its program, so that nothing else allocates meanwhile.
#![allow(unsafe_code, reason = "a counting allocator has to implement an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use p2p_proto::board::line::{Lines, PREFIX};
use p2p_proto::board::message::Envelope;
use p2p_proto::limits;
use p2p_proto::link::item::{ToClient, ToWorker};
use p2p_proto::link::record;
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::task::Command;

/// serde sets aside up to 1 MiB for a list of announced length; a record decoded twice (as an item, then as any value) stays well below
/// this.
const MOST: usize = 4 * 1024 * 1024;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn peak(of: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    of();
    PEAK.load(Relaxed) - before
}

#[test]
fn announced_lengths_and_depths_cost_nothing() {
    for (name, bytes) in hostile() {
        let cost = peak(|| {
            drop(Envelope::from_cbor(&bytes));
            drop(Call::from_cbor(&bytes));
            drop(Answer::from_cbor(&bytes));
            drop(Command::from_cbor(&bytes));
            record::items::<ToWorker>(&bytes).for_each(drop);
            record::items::<ToClient>(&bytes).for_each(drop);
        });
        assert!(cost < MOST, "{name}: {cost} bytes");
    }
    let flood = vec![b'x'; 1024 * 1024];
    let mut lines = Lines::default();
    let cost = peak(|| {
        for _ in 0..16 {
            lines.feed(PREFIX.as_bytes(), drop);
            lines.feed(&flood, drop);
        }
        for byte in &flood[..100_000] {
            lines.feed(&[*byte], drop);
        }
    });
    assert!(cost <= 2 * limits::LINE_BYTES, "a stream without newlines costs {cost} bytes");
}

/// Each announces 2^60 of something, or nests without end, where a field of ours is expected.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let huge = |major: u8| [[major << 5 | 27].as_slice(), &(1_u64 << 60).to_be_bytes()].concat();
    let (bytes, text, array, map) = (huge(2), huge(3), huge(4), huge(5));
    let after = |before: &[u8], rest: &[u8]| [before, rest].concat();
    let record = |item: &[u8]| item.repeat(limits::RECORD_BYTES / item.len());
    vec![
        ("bytes", bytes.clone()),
        ("text", text.clone()),
        ("array", array.clone()),
        ("map", map.clone()),
        ("an envelope's name", after(b"\xa4\x61f", &text)),
        ("a beat's body", after(b"\xa1\x61m\xa1\x64beat\xa2\x61b", &bytes)),
        ("an offer's labels", after(b"\xa1\x61m\xa1\x65hello\xa1\x61o\xa1\x61l", &array)),
        ("an offer's label", after(b"\xa1\x61m\xa1\x65hello\xa1\x61o\xa1\x61l\x81", &text)),
        ("a connect's noise", after(b"\xa1\x61m\xa1\x67connect\xa1\x61x", &bytes)),
        ("a call's hints", after(b"\xa1\x61h", &array)),
        ("an answer's key", after(b"\xa1\x61k", &bytes)),
        ("a command's words", after(b"\xa1\x61a", &array)),
        ("a command's variables", after(b"\xa1\x61e", &array)),
        ("capabilities", after(b"\xa1\x64open\xa1\x61c", &array)),
        ("a task's files", after(b"\xa1\x66submit\xa1\x61t\xa1\x61i", &array)),
        ("a task's outputs", after(b"\xa1\x66submit\xa1\x61t\xa1\x61o", &array)),
        ("a task's payload", after(b"\xa1\x66submit\xa1\x61t\xa1\x61p\xa1\x61b", &bytes)),
        ("data", after(b"\xa1\x64data\xa1\x61d", &bytes)),
        ("an unknown kind's array", after(b"\xa1\x66future", &array)),
        ("an unknown kind's map", after(b"\xa1\x66future", &map)),
        ("many unknown kinds with arrays", record(&after(b"\xa1\x66future", b"\x81\x00"))),
        ("a record of empty arrays inside one", after(b"\xa1\x66future\x99\xff\x00", &vec![0x80; 0xff00])),
        ("nested arrays", vec![0x81; limits::RECORD_BYTES]),
        ("nested maps", record(b"\xa1\x61a")),
        ("nested tags", vec![0xc1; limits::RECORD_BYTES]),
        ("nested arrays without end", vec![0x9f; limits::RECORD_BYTES]),
        ("nested bytes without end", vec![0x5f; limits::RECORD_BYTES]),
        ("nested in an unknown kind", after(b"\xa1\x66future", &vec![0x81; 60_000])),
    ]
}
