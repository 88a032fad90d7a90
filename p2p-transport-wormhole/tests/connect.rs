//! Two of ours find each other: directly, by a relay, past strangers; or say why not.

mod support;

use p2p_proto::link::LinkPath;
use p2p_transport_wormhole::WormholeConfig;
use support::*;

#[test]
fn direct() {
    run(async {
        let (mut client, mut worker) = connect(support::direct()).await;
        assert!(matches!(client.path, LinkPath::Direct(_)), "{:?}", client.path);
        greet(&mut client, &mut worker).await;
    });
}

#[test]
fn the_address_of_this_machine_serves_without_loopback() {
    run(async {
        let config = WormholeConfig { loopback: false, ..support::direct() };
        let (mut client, mut worker) = connect(config).await;
        greet(&mut client, &mut worker).await;
    });
}

#[test]
fn by_relay() {
    let relay = Relay::start();
    run(async {
        let (mut client, mut worker) = connect(support::by_relay(&relay.address)).await;
        assert_eq!(client.path, LinkPath::Relayed(relay.address.to_string()));
        greet(&mut client, &mut worker).await;
    });
}
