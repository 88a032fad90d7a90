//! The fixed lines of Transit, derived from one set-up's transit key.

use std::fmt::{self, Write as _};

use hkdf::Hkdf;
use p2p_proto::link::TransitKey;
use sha2::Sha256;

/// Which part a side plays: Transit's "sender" and "receiver", though bytes go both ways later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Chooses the connection: the client.
    Leader,
    /// Takes the connection that the leader chose: the worker.
    Follower,
}

/// What to say and what to expect, all of one set-up.
#[derive(Clone, PartialEq, Eq)]
pub struct Lines {
    /// What this side says to the other on each connection.
    pub ours: Vec<u8>,
    /// What the other side must say.
    pub theirs: Vec<u8>,
    /// What a relay is asked first.
    pub relay: Vec<u8>,
    /// Whether this side says its line at once to whoever dials it, as Transit has it. Some clients of Magic Wormhole that dial wait
    /// for that; links keep quiet until the other side has proved itself.
    pub outspoken: bool,
}

impl Lines {
    /// What a relay answers once both sides are there.
    pub const RELAYED: &'static [u8] = b"ok\n";
    /// The leader's word on the connection that it chose.
    pub const GO: &'static [u8] = b"go\n";
    /// The leader's word on a connection that it did not choose.
    pub const NEVERMIND: &'static [u8] = b"nevermind\n";

    /// How a line begins, whoever says it: `transit `. What follows depends on the key.
    pub(super) const PUBLIC_BYTES: usize = 8;

    /// The lines of `side` under `key`. `side_id` tells a relay this program's connections from the other side's, and must be random.
    pub fn new(key: &TransitKey, side: Side, side_id: [u8; 8]) -> Self {
        let sender = format!("transit sender {} ready\n\n", derived(key, b"transit_sender")).into_bytes();
        let receiver = format!("transit receiver {} ready\n\n", derived(key, b"transit_receiver")).into_bytes();
        let token = derived(key, b"transit_relay_token");
        let relay = format!("please relay {token} for side {}\n", hex(&side_id)).into_bytes();
        match side {
            Side::Leader => Self { ours: sender, theirs: receiver, relay, outspoken: false },
            Side::Follower => Self { ours: receiver, theirs: sender, relay, outspoken: false },
        }
    }

    /// The same, said at once to whoever dials.
    #[must_use]
    pub fn outspoken(self) -> Self {
        Self { outspoken: true, ..self }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines(..)")
    }
}

fn derived(key: &TransitKey, purpose: &[u8]) -> String {
    let mut bytes = [0; 32];
    // Expanding fails only for more than 255 hashes' worth of output.
    Hkdf::<Sha256>::new(None, &key.0)
        .expand(purpose, &mut bytes)
        .unwrap_or_else(|_| unreachable!("32 bytes are one hash"));
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python's `hmac`: HKDF-SHA256 without salt, 32 bytes, of a key of 32 bytes 0x07.
    #[test]
    fn lines_are_what_transit_says() {
        let key = TransitKey([7; 32]);
        let leader = Lines::new(&key, Side::Leader, [0xab; 8]);
        let follower = Lines::new(&key, Side::Follower, [0xcd; 8]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(
            text(&leader.ours),
            "transit sender dfb8fb2b9b45c24c212761681586ad5bd8f33c4d52e1bd00082c4c540ce1780e ready\n\n"
        );
        assert_eq!(
            text(&follower.ours),
            "transit receiver 5e0557888a5bb4a0ebb8745d5a8937a8ab778f40760802116c12546d8c6befa7 ready\n\n"
        );
        assert_eq!(
            text(&leader.relay),
            "please relay ac5c6244b322b2c7fac68151f74fbc3c56e4f7f2eb29c0928b00b4fd3c46798c for side abababababababab\n"
        );
        assert_eq!((&leader.ours, &leader.theirs), (&follower.theirs, &follower.ours));
        assert_eq!((leader.ours.len(), follower.ours.len()), (87, 89));
    }
}
