//! What credentials prove, and everything that they do not (T-01, T-03).

use p2p_proto::error::{Blame, ProtoError};
use p2p_proto::ids::{ClusterName, MachineKey, PeerKeys, ProcessKey, Role, UserName};
use p2p_proto::limits;
use p2p_proto::link::handshake::{Called, Calling, Parties};
use p2p_proto::link::setup::Answer;
use p2p_proto::link::{Hints, TransitKey};
use p2p_proto::trust::{
    Credentials, Identity, Membership, MembershipClaims, ProcessCertificate, ProcessSecret, UnixTime,
};
use p2p_proto::{VERSION, common_version};

const FROM: UnixTime = 1_800_000_000;
const UNTIL: UnixTime = FROM + 3600;
const PROCESS: ProcessKey = ProcessKey([7; 32]);

fn host() -> Identity {
    Identity::from_secret(&[1; 32])
}

fn machine() -> Identity {
    Identity::from_secret(&[2; 32])
}

fn cluster() -> ClusterName {
    "alice/friends".parse().unwrap()
}

fn bob() -> UserName {
    "bob".parse().unwrap()
}

fn claims() -> MembershipClaims {
    MembershipClaims {
        host: host().machine_key(),
        user: bob(),
        machine: machine().machine_key(),
        serial: 1,
        from: FROM,
        until: UNTIL,
    }
}

fn certificate(role: Role, process: ProcessKey, from: UnixTime, until: UnixTime) -> ProcessCertificate {
    ProcessCertificate::sign(&machine(), &cluster(), role, process, from, until)
}

fn credentials() -> Credentials {
    let membership = Membership::sign(&host(), &cluster(), &claims());
    Credentials { membership, certificate: certificate(Role::Worker, PROCESS, FROM, UNTIL) }
}

fn verify(credentials: &Credentials, now: UnixTime) -> Result<(), ProtoError> {
    credentials.verify(&cluster(), host().machine_key(), Role::Worker, PROCESS, now).map(drop)
}

fn refusal(credentials: &Credentials, now: UnixTime) -> String {
    let fault = verify(credentials, now).unwrap_err();
    assert_eq!((fault.blame(), fault.retry_helps()), (Blame::Trust, true));
    fault.to_string()
}

#[test]
fn good_credentials_say_who_it_is() {
    let verified = credentials().verify(&cluster(), host().machine_key(), Role::Worker, PROCESS, FROM).unwrap();
    assert_eq!((verified.user, verified.role, verified.until), (bob(), Role::Worker, UNTIL));
    assert_eq!((verified.keys.machine, verified.keys.process), (machine().machine_key(), PROCESS));
}

#[test]
fn the_shorter_life_counts() {
    let short = Credentials { certificate: certificate(Role::Worker, PROCESS, FROM, FROM + 60), ..credentials() };
    let verified = short.verify(&cluster(), host().machine_key(), Role::Worker, PROCESS, FROM).unwrap();
    assert_eq!(verified.until, FROM + 60);
}

#[test]
fn lives_are_kept_to_the_tolerated_clock_difference() {
    let skew = limits::CLOCK_SKEW.as_secs();
    for good in [FROM, UNTIL, FROM - skew, UNTIL + skew] {
        assert_eq!(verify(&credentials(), good), Ok(()), "at {good}");
    }
    assert!(refusal(&credentials(), FROM - skew - 1).contains("begins 301 s from now"));
    assert!(refusal(&credentials(), UNTIL + skew + 1).contains("ended 301 s ago"));
    for extreme in [0, UnixTime::MAX] {
        refusal(&credentials(), extreme);
    }
    let long_over = Credentials { certificate: certificate(Role::Worker, PROCESS, 0, 10), ..credentials() };
    assert!(refusal(&long_over, FROM).starts_with("a process certificate ended"));
}

#[test]
fn only_the_right_host_counts() {
    let stranger = Identity::from_secret(&[66; 32]);
    let own = MembershipClaims { host: stranger.machine_key(), ..claims() };
    for membership in [
        // By a stranger who says so, by a stranger in the host's name, and by the host in a stranger's name.
        Membership::sign(&stranger, &cluster(), &own),
        Membership::sign(&stranger, &cluster(), &claims()),
        Membership::sign(&host(), &cluster(), &own),
    ] {
        refusal(&Credentials { membership, ..credentials() }, FROM);
    }
    let first_sight = Membership::sign(&stranger, &cluster(), &own).verify_first_sight(&cluster(), FROM).unwrap();
    assert_eq!(first_sight.host, stranger.machine_key());
    assert!(Membership::sign(&stranger, &cluster(), &claims()).verify_first_sight(&cluster(), FROM).is_err());
}

#[test]
fn nothing_carries_over_to_another_cluster() {
    let elsewhere: ClusterName = "alice/others".parse().unwrap();
    let fault = credentials().verify(&elsewhere, host().machine_key(), Role::Worker, PROCESS, FROM);
    assert!(fault.is_err());
    let certificate = ProcessCertificate::sign(&machine(), &elsewhere, Role::Worker, PROCESS, FROM, UNTIL);
    refusal(&Credentials { certificate, ..credentials() }, FROM);
}

#[test]
fn a_certificate_is_for_one_role_and_one_process_of_one_machine() {
    let wrong_role = certificate(Role::Client, PROCESS, FROM, UNTIL);
    assert!(refusal(&Credentials { certificate: wrong_role, ..credentials() }, FROM).contains("for a client, not for"));
    let swapped = certificate(Role::Worker, ProcessKey([8; 32]), FROM, UNTIL);
    assert!(refusal(&Credentials { certificate: swapped, ..credentials() }, FROM).contains("another process"));
    let other_machine = Identity::from_secret(&[3; 32]);
    let certificate = ProcessCertificate::sign(&other_machine, &cluster(), Role::Worker, PROCESS, FROM, UNTIL);
    refusal(&Credentials { certificate, ..credentials() }, FROM);
}

#[test]
fn a_key_of_small_order_signs_nothing() {
    // The identity point, and the signature that fits every message of a lax verifier.
    let mut point = [0; 32];
    point[0] = 1;
    let signature = [point, [0; 32]].concat();
    let host = MachineKey(point);
    let mut body = Vec::new();
    ciborium::into_writer(&MembershipClaims { host, ..claims() }, &mut body).unwrap();
    let forged = ciborium::Value::Map(vec![("b".into(), body.into()), ("s".into(), signature.into())]);
    let membership: Membership = forged.deserialized().unwrap();
    let fault = membership.verify(&cluster(), host, FROM).unwrap_err();
    assert_eq!(fault.to_string(), "the signature of a membership does not verify");
}

#[test]
fn secrets_are_never_printed() {
    // 0xab in decimal and in hexadecimal: however somebody formats bytes.
    let secret = [0xab; 32];
    let (identity, process) = (Identity::from_secret(&secret), ProcessSecret::from_entropy(secret));
    let keys = PeerKeys { machine: identity.machine_key(), process: process.process_key() };
    let parties = Parties { cluster: cluster(), caller: keys, callee: keys };
    let (calling, message) = Calling::start(&parties, &process, b"", secret).unwrap();
    let (called, _) = Called::open(&parties, &process, &message, secret).unwrap();
    let transit_key = TransitKey(secret);
    let mut printed = format!("{identity:?} {process:?} {calling:?} {called:?} {transit_key:?}");
    let (session, _) = called.answer(b"").unwrap();
    printed += &format!("{session:?} {:?}", Answer { hints: Hints::default(), transit_key });
    assert!(!printed.contains("171, 171") && !printed.to_lowercase().contains("abab"), "{printed}");
}

#[test]
fn versions_one_release_apart_meet_at_the_lower_one() {
    assert_eq!(common_version(VERSION), Ok(VERSION));
    assert_eq!(common_version(VERSION + 1), Ok(VERSION));
    let newer = common_version(VERSION + 2).unwrap_err();
    assert_eq!(newer.blame(), Blame::Version);
    assert!(newer.to_string().ends_with("upgrade this program"));
    let older = common_version(0).unwrap_err();
    assert!(older.to_string().ends_with("the other side must upgrade its program"));
}
