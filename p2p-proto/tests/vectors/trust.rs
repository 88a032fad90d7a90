//! Memberships, process certificates and beats, with the bytes that are signed.

use ciborium::Value;
use ed25519_dalek::{Signer as _, SigningKey};
use p2p_proto::board::message::Beat;
use serde::Serialize;

use crate::actors::{NOW, UNTIL, alice, bob, carol, cluster, inputs};
use crate::book::{Book, Fields, hex, vector};
use crate::diagnostic::diagnostic;

pub(crate) fn book() -> Book {
    let (alice, bob, carol) = (alice(), bob(), carol());
    let vectors = vec![
        signed("membership of bob", "membership", &alice.identity().secret(), &bob.membership()),
        signed("membership of carol", "membership", &alice.identity().secret(), &carol.membership()),
        signed("certificate of alice's process", "process", &alice.identity().secret(), &alice.certificate()),
        signed("certificate of bob's process", "process", &bob.identity().secret(), &bob.certificate()),
        signed("certificate of carol's process", "process", &carol.identity().secret(), &carol.certificate()),
        signed("beat", "beat", &alice.identity().secret(), &beat(false).sign(&alice.identity(), &cluster())),
        signed("last beat", "beat", &alice.identity().secret(), &beat(true).sign(&alice.identity(), &cluster())),
        vector("fingerprint of alice's machine").with("fingerprint", alice.keys().machine.fingerprint()),
    ];
    let verified =
        bob.credentials().verify(&cluster(), alice.keys().machine, bob.role, bob.keys().process, NOW).unwrap();
    assert_eq!((verified.user, verified.keys, verified.until), (bob.user.clone(), bob.keys(), UNTIL));
    Book {
        about: "T-01: signed statements. signature = Ed25519 of the signer's machine key over preimage = \"p2p1 \" tag NUL \
                cluster NUL body. cbor is how the statement travels inside messages.",
        inputs: inputs(),
        vectors,
    }
}

/// A beat with one removal, or the last one without.
pub(crate) fn beat(leaving: bool) -> Beat {
    let removals = if leaving { Vec::new() } else { vec![(carol().keys().machine, 9)] };
    let members = [(alice().user, alice().keys().machine), (bob().user, bob().keys().machine)];
    let roster = Some(Beat::digest(members.iter().map(|(user, machine)| (user, machine))));
    Beat {
        host: alice().keys().machine,
        peers: 3,
        serial: 9,
        removals,
        roster,
        time: NOW,
        since: 0,
        rival: None,
        leaving,
    }
}

/// Takes a statement apart, and signs it again with nothing but Ed25519.
fn signed(name: &str, tag: &str, secret: &[u8; 32], statement: &impl Serialize) -> Fields {
    let mut cbor = Vec::new();
    ciborium::into_writer(statement, &mut cbor).unwrap();
    let Value::Map(entries) = ciborium::from_reader(cbor.as_slice()).unwrap() else { panic!("{name} is no map") };
    let field = |wanted: &str| {
        let found = entries.iter().find(|(key, _)| key.as_text() == Some(wanted));
        found.and_then(|(_, value)| value.as_bytes()).unwrap().clone()
    };
    let (body, signature) = (field("b"), field("s"));
    let mut preimage = format!("p2p1 {tag}\0{}\0", cluster()).into_bytes();
    preimage.extend_from_slice(&body);
    let again = SigningKey::from_bytes(secret).sign(&preimage);
    assert_eq!(again.to_bytes().as_slice(), signature, "{name} does not sign its preimage");
    vector(name)
        .with("tag", tag)
        .with("body", hex(&body))
        .with("body_shown", diagnostic(&body))
        .with("preimage", hex(&preimage))
        .with("signature", hex(&signature))
        .with("cbor", hex(&cbor))
}
