//! What both sides of a link set-up do with messages that are not what the other one sent.

use std::sync::OnceLock;

use p2p_proto::ids::{ClusterName, PeerKeys};
use p2p_proto::link::handshake::{Called, Calling, Parties};
use p2p_proto::link::setup::{Answer, Call};
use p2p_proto::trust::{Identity, ProcessSecret};

const CALLER_ENTROPY: [u8; 32] = [0x51; 32];
const CALLEE_ENTROPY: [u8; 32] = [0x52; 32];

/// The first byte says what the rest is: edits to message 1 or 2 (position high, position low, what to add), a whole message 1 or
/// 2, or the payload of one.
///
/// # Panics
/// When a message that was changed verifies, or a payload that was read does not survive writing.
pub fn handshake(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else { return };
    let Some(set_up) = SetUp::shared() else { return };
    match kind % 6 {
        0 => set_up.open(&edited(&set_up.message_1, rest)),
        1 => set_up.finish(&edited(&set_up.message_2, rest)),
        2 => set_up.open(rest),
        3 => set_up.finish(rest),
        4 => {
            if let Ok(call) = Call::from_cbor(rest) {
                assert_eq!(Call::from_cbor(&call.to_cbor()), Ok(call), "a call does not survive writing");
            }
        }
        _ => {
            if let Ok(answer) = Answer::from_cbor(rest) {
                assert_eq!(Answer::from_cbor(&answer.to_cbor()), Ok(answer), "an answer does not survive writing");
            }
        }
    }
}

fn edited(message: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % message.len();
        message[at] = message[at].wrapping_add(edit[2]);
    }
    message.truncate(message.len() - (edits.len() % 3));
    message
}

/// One set-up with fixed keys and entropy; the machines are others than in the golden vectors, so that those are replays under
/// other names.
struct SetUp {
    parties: Parties,
    caller: ProcessSecret,
    callee: ProcessSecret,
    message_1: Vec<u8>,
    message_2: Vec<u8>,
}

impl SetUp {
    fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<SetUp>> = OnceLock::new();
        SHARED.get_or_init(Self::new).as_ref()
    }

    fn new() -> Option<Self> {
        let (caller, callee) = (ProcessSecret::from_entropy([0x43; 32]), ProcessSecret::from_entropy([0x42; 32]));
        let keys = |machine: u8, process: &ProcessSecret| PeerKeys {
            machine: Identity::from_secret(&[machine; 32]).machine_key(),
            process: process.process_key(),
        };
        let parties = Parties {
            cluster: "alice/friends".parse::<ClusterName>().ok()?,
            caller: keys(0x34, &caller),
            callee: keys(0x24, &callee),
        };
        let (_, message_1) = Calling::start(&parties, &caller, b"call", CALLER_ENTROPY).ok()?;
        let (called, _) = Called::open(&parties, &callee, &message_1, CALLEE_ENTROPY).ok()?;
        let (_, message_2) = called.answer(b"answer").ok()?;
        Some(Self { parties, caller, callee, message_1, message_2 })
    }

    fn open(&self, message: &[u8]) {
        let opened = Called::open(&self.parties, &self.callee, message, CALLEE_ENTROPY);
        assert_eq!(opened.is_ok(), message == self.message_1, "message 1 was changed and verifies, or the reverse");
    }

    fn finish(&self, message: &[u8]) {
        let Ok((calling, _)) = Calling::start(&self.parties, &self.caller, b"call", CALLER_ENTROPY) else { return };
        let finished = calling.finish(message);
        assert_eq!(finished.is_ok(), message == self.message_2, "message 2 was changed and verifies, or the reverse");
    }
}
