//! The connector of the magic-wormhole crate on the other side, up to and including `go`: records differ from there on.

mod support;

use std::sync::Arc;

use futures::future;
use magic_wormhole::Key;
use magic_wormhole::transit::{
    self, Abilities, ConnectionType, DirectHint, RelayHint, Transit, TransitConnector, TransitInfo, TransitRole,
};
use p2p_proto::ids::Role;
use p2p_proto::link::{Connected, Hint, Hints, LinkError};
use p2p_transport_wormhole::{RelayAddress, WormholeConfig};
use support::*;

#[test]
fn it_leads_by_relay() {
    let relay = Relay::start();
    run(async {
        let theirs = transit::init(Abilities::FORCE_RELAY, None, vec![relay_hint(&relay.address)]).await.unwrap();
        let (ours, (mut theirs, info)) =
            meet(by_relay(&relay.address), Role::Worker, theirs, Abilities::FORCE_RELAY).await;
        assert!(matches!(info.conn_type, ConnectionType::Relay { .. }));
        heard_go(ours, &mut theirs).await;
    });
}

#[test]
fn it_follows_by_relay() {
    let relay = Relay::start();
    run(async {
        let theirs = transit::init(Abilities::FORCE_RELAY, None, vec![relay_hint(&relay.address)]).await.unwrap();
        let (_ours, (_theirs, info)) =
            meet(by_relay(&relay.address), Role::Client, theirs, Abilities::FORCE_RELAY).await;
        assert!(matches!(info.conn_type, ConnectionType::Relay { .. }));
    });
}

// One test for all: the crate asks a STUN server first, which takes seconds without a network.
#[test]
fn it_connects_directly_either_way() {
    run(async {
        for role in [Role::Worker, Role::Client] {
            for we_dial in [true, false] {
                let theirs = transit::init(Abilities::FORCE_DIRECT, None, Vec::new()).await.unwrap();
                let Some(ports) = ports(&theirs, we_dial) else { continue };
                let (ours, (mut theirs, info)) = meet_directly(role, theirs, ports).await;
                assert_eq!(info.conn_type, ConnectionType::Direct, "{role}, we dial: {we_dial}");
                if role == Role::Worker {
                    heard_go(ours, &mut theirs).await;
                }
            }
        }
    });
}

type Theirs = (Transit, TransitInfo);
type Ours = future::BoxFuture<'static, Result<Connected, LinkError>>;

/// Meets at a relay which both know.
async fn meet(config: WormholeConfig, role: Role, theirs: TransitConnector, abilities: Abilities) -> (Ours, Theirs) {
    let pending = prepare(config).await;
    let hints = pending.hints();
    let relays = Arc::new(transit::Hints::new([], theirs.our_hints().relay.clone()));
    let ours = pending.connect(plan(role, hints, session(role)));
    both(ours, theirs.connect(their_role(role), key(), abilities, relays)).await
}

/// We dial `ports`, or are dialled if there are none.
async fn meet_directly(role: Role, theirs: TransitConnector, ports: Vec<u16>) -> (Ours, Theirs) {
    let pending = prepare(direct()).await;
    let listening = loopback_of(&pending.hints());
    let to_us = ports.is_empty().then(|| DirectHint::new(listening.ip().to_string(), listening.port()));
    let to_them = ports.into_iter().map(|port| Hint::Direct(([127, 0, 0, 1], port).into())).collect();
    let ours = pending.connect(plan(role, Hints(to_them), session(role)));
    let to_us = Arc::new(transit::Hints::new(to_us, []));
    both(ours, theirs.connect(their_role(role), key(), Abilities::FORCE_DIRECT, to_us)).await
}

/// Drives both until theirs has connected; ours then waits for a record that theirs does not know.
async fn both(
    ours: Ours,
    theirs: impl Future<Output = Result<Theirs, transit::TransitConnectError>>,
) -> (Ours, Theirs) {
    let ours = Box::pin(async_std::task::spawn(ours));
    (ours, theirs.await.unwrap())
}

/// Ours went on to records: it could not have without `go`.
async fn heard_go(ours: Ours, theirs: &mut Transit) {
    // It writes a record in pieces, and ours hangs up at the first.
    let _ = theirs.send_record(b"a record of the crate's kind").await;
    let error = ours.await.unwrap_err();
    assert!(matches!(error, LinkError::Broken(_)), "{error:?}");
}

fn ports(theirs: &TransitConnector, we_dial: bool) -> Option<Vec<u16>> {
    if !we_dial {
        return Some(Vec::new());
    }
    // It offers no loopback address; its ports are open there nevertheless. A machine without other addresses has no ports to tell.
    let mut ports: Vec<u16> = theirs.our_hints().direct_tcp.iter().map(|hint| hint.port).collect();
    ports.sort_unstable();
    ports.dedup();
    (!ports.is_empty()).then_some(ports)
}

fn their_role(ours: Role) -> TransitRole {
    if ours == Role::Worker { TransitRole::Leader } else { TransitRole::Follower }
}

fn session(role: Role) -> p2p_proto::link::Session {
    let (client, worker) = sessions(10);
    if role == Role::Client { client } else { worker }
}

fn key() -> Key<transit::TransitKey> {
    Key::new(Box::new(KEY.0.into()))
}

fn relay_hint(relay: &RelayAddress) -> RelayHint {
    RelayHint::new(None, [DirectHint::new(relay.host(), relay.port())], [])
}
