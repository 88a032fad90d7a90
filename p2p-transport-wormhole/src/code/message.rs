//! What the two say to each other through the mailbox, as JSON; pure.
//!
//! A message has one or more of these keys; what else it has is skipped:
//!
//! ```text
//! transit   how its sender can be reached
//! offer     {message}, {file: {filename, filesize}} or {directory: {mode, dirname, zipsize, numbytes, numfiles}}
//! answer    {message_ack: "ok"} or {file_ack: "ok"}
//! error     why its sender gives up, in words
//! ```
#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, SocketAddr};

use p2p_proto::limits::HINTS;
use p2p_proto::link::{Hint, Hints};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::limits::{MESSAGE_BYTES, THEIR_RELAYS};
use crate::config::RelayAddress;

/// How folders are packed; the only way that is spoken.
pub(super) const ZIPPED: &str = "zipfile/deflated";

/// A message of either side.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) transit: Option<Transit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offer: Option<Offer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<Answer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// How a side can be reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Transit {
    #[serde(rename = "abilities-v1", default)]
    abilities: Vec<Value>,
    #[serde(rename = "hints-v1", default)]
    hints: Vec<Value>,
}

/// What is offered: exactly one of these.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Offer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<FileOffer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) directory: Option<DirectoryOffer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FileOffer {
    pub(super) filename: String,
    pub(super) filesize: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DirectoryOffer {
    pub(super) mode: String,
    pub(super) dirname: String,
    pub(super) zipsize: u64,
    pub(super) numbytes: u64,
    pub(super) numfiles: u64,
}

/// Whether an offer is taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message_ack: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file_ack: Option<String>,
}

/// What the receiver says last, in a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Confirmation {
    pub(super) ack: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// In words, when it is too long or is none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MESSAGE_BYTES {
            return Err(format!("it sent a message of {} bytes", bytes.len()));
        }
        serde_json::from_slice(bytes).map_err(|fault| format!("it sent a message that makes no sense ({fault})"))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and maps with strings as keys: nothing that JSON lacks.
        serde_json::to_vec(self).unwrap_or_else(|_| unreachable!("it is made of what JSON has"))
    }

    pub(super) fn error(words: String) -> Self {
        Self { error: Some(words), ..Self::default() }
    }

    pub(super) fn offer(offer: Offer) -> Self {
        Self { offer: Some(offer), ..Self::default() }
    }

    pub(super) fn answer(answer: Answer) -> Self {
        Self { answer: Some(answer), ..Self::default() }
    }

    pub(super) fn transit(transit: Transit) -> Self {
        Self { transit: Some(transit), ..Self::default() }
    }
}

impl Transit {
    /// This side's: direct connections unless switched off, relays always, because the other side may have one.
    pub(super) fn ours(hints: &Hints, direct: bool) -> Self {
        let mut abilities = vec![json!({"type": "relay-v1"})];
        if direct {
            abilities.insert(0, json!({"type": "direct-tcp-v1"}));
        }
        let place =
            |host: &str, port: u16| json!({"type": "direct-tcp-v1", "priority": 0.0, "hostname": host, "port": port});
        let hints = hints.0.iter().map(|hint| match hint {
            Hint::Direct(address) => place(&address.ip().to_string(), address.port()),
            Hint::Relay { host, port } => json!({"type": "relay-v1", "hints": [place(host, *port)]}),
        });
        Self { abilities, hints: hints.collect() }
    }

    /// Where the other side can be met: its relays first, then its addresses, as many as are ever dialled. Names of hosts count
    /// for relays only; what is not understood is skipped.
    pub(super) fn hints(&self) -> Hints {
        let able = |kind: &str| self.abilities.iter().any(|ability| ability["type"] == kind);
        let of = |kind: &'static str| {
            let hints = self.hints.iter().filter(move |hint| hint["type"] == kind);
            hints.take(if able(kind) { usize::MAX } else { 0 })
        };
        let relays = of("relay-v1").filter_map(|hint| {
            let mut places = hint["hints"].as_array()?.iter().filter_map(place);
            places.find_map(|(host, port)| RelayAddress::new(host.trim_matches(['[', ']']), port).ok())
        });
        let relays = relays.take(THEIR_RELAYS);
        let direct = of("direct-tcp-v1").filter_map(|hint| {
            let (host, port) = place(hint)?;
            Some(Hint::Direct(SocketAddr::new(host.parse::<IpAddr>().ok()?, port)))
        });
        let relays = relays.map(|relay| Hint::Relay { host: relay.host().to_owned(), port: relay.port() });
        Hints(relays.chain(direct).take(HINTS).collect())
    }
}

fn place(hint: &Value) -> Option<(&str, u16)> {
    let known = hint["type"] == "direct-tcp-v1";
    let port = hint["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    known.then_some((hint["hostname"].as_str()?, port?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(value: &Value) -> Message {
        Message::parse(value.to_string().as_bytes()).unwrap()
    }

    /// As Python's client 0.12 and wormhole-william 1.0.6 send them.
    #[test]
    fn messages_of_others_are_understood() {
        let transit = message(&json!({"transit": {
            "abilities-v1": [{"type": "direct-tcp-v1"}, {"type": "relay-v1"}, {"type": "of-the-future", "x": 1}],
            "hints-v1": [
                {"type": "direct-tcp-v1", "priority": 0.0, "hostname": "192.0.2.7", "port": 40001},
                {"type": "direct-tcp-v1", "priority": 0.0, "hostname": "::1", "port": 40002},
                {"type": "direct-tcp-v1", "hostname": "a.name", "port": 40003},
                {"type": "direct-tcp-v1", "hostname": "192.0.2.7", "port": 99999},
                {"type": "tor-tcp-v1", "hostname": "x.onion", "port": 1},
                {"type": "relay-v1", "name": null, "hints": [
                    {"type": "websocket", "url": "ws://x"},
                    {"type": "direct-tcp-v1", "priority": 2.0, "hostname": "transit.magic-wormhole.io", "port": 4001}]},
                7,
            ],
        }}));
        let hints = transit.transit.unwrap().hints();
        let relay = Hint::Relay { host: "transit.magic-wormhole.io".to_owned(), port: 4001 };
        let direct = ["192.0.2.7:40001", "[::1]:40002"].map(|address| Hint::Direct(address.parse().unwrap()));
        assert_eq!(hints.0, [vec![relay], direct.to_vec()].concat());

        let offer = message(&json!({"offer": {"directory":
            {"mode": "zipfile/deflated", "dirname": "d", "zipsize": 1, "numbytes": 2, "numfiles": 3}}}));
        assert_eq!(offer.offer.unwrap().directory.unwrap().numfiles, 3);
        assert_eq!(message(&json!({"error": "no", "offer": {}})).error.unwrap(), "no");
        assert!(message(&json!({"of the future": {}})).answer.is_none());
    }

    #[test]
    fn ours_come_back_as_they_are() {
        let hints = Hints(vec![
            Hint::Relay { host: "relay.example.org".to_owned(), port: 4001 },
            Hint::Direct("192.0.2.7:5".parse().unwrap()),
        ]);
        let ours = Message::transit(Transit::ours(&hints, true));
        assert_eq!(Message::parse(&ours.to_bytes()).unwrap().transit.unwrap().hints(), hints);
        let relayed = Transit::ours(&hints, false);
        assert_eq!(relayed.hints().0, hints.0[..1]);
    }

    #[test]
    fn what_is_too_much_or_makes_no_sense_is_refused() {
        let long = format!("{{\"error\": \"{}\"}}", "x".repeat(MESSAGE_BYTES));
        for wrong in [long.as_bytes(), b"", b"7", b"{", b"{\"offer\": {\"file\": {\"filename\": 1}}}"] {
            assert!(Message::parse(wrong).is_err());
        }
        let many: Vec<Value> =
            (0..1000).map(|port| json!({"type": "direct-tcp-v1", "hostname": "192.0.2.7", "port": port})).collect();
        let relays: Vec<Value> = (0..9).map(|port| json!({"type": "relay-v1", "hints": [{"type": "direct-tcp-v1", "hostname": "r", "port": port + 1}]})).collect();
        let transit = json!({"transit": {
            "abilities-v1": [{"type": "direct-tcp-v1"}, {"type": "relay-v1"}], "hints-v1": ([many, relays].concat())}});
        let hints = message(&transit).transit.unwrap().hints();
        assert_eq!((hints.0.len(), hints.relays().count()), (HINTS, THEIR_RELAYS));
    }
}
