//! Two of ours find each other: directly, by a relay, past strangers; or say why not.

mod support;

use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use async_io::{Async, Timer};
use futures::future;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use p2p_proto::ids::Role;
use p2p_proto::link::{ConnectPlan, Hint, Hints, LinkError, LinkPath, LinkTransport as _, TransitKey};
use p2p_transport_wormhole::{RelayAddress, WormholeConfig, WormholeTransport};
use support::*;

const SOON: Duration = Duration::from_secs(2);

#[test]
fn direct() {
    run(async {
        let (mut client, mut worker) = connect(support::direct()).await;
        assert!(matches!(client.path, LinkPath::Direct(_)), "{:?}", client.path);
        greet(&mut client, &mut worker).await;
    });
}

#[test]
fn either_side_may_be_the_one_that_cannot_be_dialled() {
    run(async {
        for client_is_hidden in [true, false] {
            let (client, worker) = (prepare(support::direct()).await, prepare(support::direct()).await);
            let (ours, theirs) = sessions(10);
            let known = |hints: Hints, hidden| if hidden { Hints::default() } else { hints };
            let to_worker = plan(Role::Client, known(worker.hints(), !client_is_hidden), ours);
            let to_client = plan(Role::Worker, known(client.hints(), client_is_hidden), theirs);
            let (client, worker) = future::join(client.connect(to_worker), worker.connect(to_client)).await;
            greet(&mut client.unwrap(), &mut worker.unwrap()).await;
        }
    });
}

#[test]
fn by_relay() {
    let relay = Relay::start();
    run(async {
        let (mut client, mut worker) = connect(support::by_relay(&relay.address)).await;
        assert_eq!(client.path, LinkPath::Relayed(relay.address.to_string()));
        assert_eq!(worker.path, client.path);
        greet(&mut client, &mut worker).await;
    });
}

#[test]
fn direct_is_preferred_to_a_relay() {
    let relay = Relay::start();
    run(async {
        let config = WormholeConfig { relays: vec![relay.address.clone()], ..support::direct() };
        let (client, _worker) = connect(config).await;
        assert!(matches!(client.path, LinkPath::Direct(_)), "{:?}", client.path);
    });
}

#[test]
fn a_relay_serves_where_addresses_lead_nowhere() {
    let relay = Relay::start();
    run(async {
        let config = WormholeConfig { relays: vec![relay.address.clone()], ..support::direct() };
        let (client, worker) = (prepare(config.clone()).await, prepare(config).await);
        let (ours, theirs) = sessions(10);
        let relay = Hint::Relay { host: relay.address.host().to_owned(), port: relay.address.port() };
        let hints = Hints(vec![Hint::Direct(nowhere()), relay]);
        let to_worker = plan(Role::Client, hints.clone(), ours);
        let (client, worker) =
            future::join(client.connect(to_worker), worker.connect(plan(Role::Worker, hints, theirs))).await;
        let (mut client, mut worker) = (client.unwrap(), worker.unwrap());
        assert!(matches!(client.path, LinkPath::Relayed(_)), "{:?}", client.path);
        greet(&mut client, &mut worker).await;
    });
}

#[test]
fn what_was_tried_is_said() {
    run(async {
        let closed = nowhere();
        let relay = format!("tcp:{}", nowhere()).parse().unwrap();
        let config = WormholeConfig { relays: vec![relay], ..support::direct() };
        let client = prepare(with_setup(SOON, config.clone())).await;
        let foreign = Hint::Relay { host: "relay.example.org".to_owned(), port: 4001 };
        let own = config.relays[0].clone();
        let own = Hint::Relay { host: own.host().to_owned(), port: own.port() };
        let metadata: SocketAddr = "169.254.169.254:80".parse().unwrap();
        let theirs = Hints(vec![Hint::Direct(closed), Hint::Direct(metadata), foreign, own]);
        let error = client.connect(plan(Role::Client, theirs, sessions(10).0)).await.unwrap_err();
        let LinkError::Unreachable(text) = &error else { panic!("{error:?}") };
        for part in [
            format!("{closed}: Connection refused"),
            format!("relay {}: Connection refused", config.relays[0]),
            "169.254.169.254:80: not dialled, it is link-local".to_owned(),
            "relay relay.example.org:4001: not dialled, it is not in this side's list".to_owned(),
            "nobody dialled this side".to_owned(),
        ] {
            assert!(text.contains(&part), "{part:?} is not in {text:?}");
        }
    });
}

#[test]
fn a_refused_relay_is_reported_at_once_when_nothing_else_is_left() {
    run(async {
        let relay = format!("tcp:{}", nowhere()).parse().unwrap();
        let config = with_setup(Duration::from_secs(3600), support::by_relay(&relay));
        let (client, worker) = try_connect(config.clone(), config).await;
        for error in [client.unwrap_err(), worker.unwrap_err()] {
            assert!(error.to_string().contains("Connection refused"), "{error}");
        }
    });
}

#[test]
fn a_peer_who_never_comes_to_the_relay_is_reported() {
    let relay = Relay::start();
    run(async {
        let client = prepare(with_setup(SOON, support::by_relay(&relay.address))).await;
        let theirs = client.hints();
        let error = client.connect(plan(Role::Client, theirs, sessions(10).0)).await.unwrap_err();
        assert!(error.to_string().contains("the other side did not come there"), "{error}");
    });
}

#[test]
fn a_relay_that_lets_go_of_one_side_is_dialled_again() {
    let relay = Relay::start();
    let moody = lets_go_of_the_first(relay.address.clone());
    run(async {
        let config = with_setup(Duration::from_secs(3600), support::by_relay(&moody));
        let (client, worker) = try_connect(config.clone(), config).await;
        greet(&mut client.unwrap(), &mut worker.unwrap()).await;
    });
}

#[test]
fn a_relay_that_lets_go_every_time_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    run(async {
        let config = with_setup(Duration::from_secs(3600), support::by_relay(&relay));
        let (client, worker) = try_connect(config.clone(), config).await;
        for error in [client.unwrap_err(), worker.unwrap_err()] {
            assert!(error.to_string().contains(&relay.to_string()), "{error}");
        }
    });
}

#[test]
fn no_relay_and_no_port_is_unreachable() {
    run(async {
        let config = WormholeConfig { relays: Vec::new(), direct: false, ..WormholeConfig::default() };
        let result = WormholeTransport::new(config).prepare().await;
        assert!(matches!(result.map(|_| ()), Err(LinkError::Unreachable(_))));
    });
}

#[test]
fn a_host_has_no_links() {
    run(async {
        let pending = prepare(support::direct()).await;
        let result = pending.connect(plan(Role::Host, Hints::default(), sessions(10).0)).await;
        assert!(matches!(result, Err(LinkError::Misuse(_))));
    });
}

#[test]
fn another_transit_key_connects_to_nobody() {
    run(async {
        let config = with_setup(SOON, support::direct());
        let (client, worker) = (prepare(config.clone()).await, prepare(config).await);
        let (ours, theirs) = sessions(10);
        let to_worker = plan(Role::Client, worker.hints(), ours);
        let to_client = ConnectPlan { transit_key: TransitKey([43; 32]), ..plan(Role::Worker, client.hints(), theirs) };
        let (client, worker) = future::join(client.connect(to_worker), worker.connect(to_client)).await;
        for error in [client.unwrap_err(), worker.unwrap_err()] {
            let LinkError::Unreachable(text) = error else { panic!("{error:?}") };
            assert!(
                text.contains("it closed the connection") || text.contains("something else than the expected line")
            );
        }
    });
}

#[test]
fn another_session_is_broken() {
    run(async {
        let (client, worker) = (prepare(support::direct()).await, prepare(support::direct()).await);
        let to_worker = plan(Role::Client, worker.hints(), sessions(10).0);
        let to_client = plan(Role::Worker, client.hints(), sessions(20).1);
        let (client, worker) = future::join(client.connect(to_worker), worker.connect(to_client)).await;
        for error in [client.unwrap_err(), worker.unwrap_err()] {
            assert!(matches!(error, LinkError::Broken(_)), "{error:?}");
        }
    });
}

#[test]
fn an_abandoned_set_up_closes_its_port() {
    run(async {
        let pending = prepare(support::direct()).await;
        let address = loopback_of(&pending.hints());
        drop(pending);
        assert!(TcpStream::connect(address).is_err());

        let pending = prepare(support::direct()).await;
        let address = loopback_of(&pending.hints());
        let connecting = pending.connect(plan(Role::Worker, Hints::default(), sessions(10).1));
        let dialled = Box::pin(Async::<TcpStream>::connect(address));
        let future::Either::Right((Ok(_), connecting)) = future::select(connecting, dialled).await else {
            panic!("the port was not open")
        };
        drop(connecting);
        assert!(TcpStream::connect(address).is_err());
    });
}

#[test]
fn strangers_learn_nothing_and_keep_nobody_out() {
    run(async {
        let (client, worker) = (prepare(support::direct()).await, prepare(support::direct()).await);
        let address = loopback_of(&worker.hints());
        let (ours, theirs) = sessions(10);
        let to_worker = plan(Role::Client, direct_hints(address), ours);
        let worker = async_std::task::spawn(worker.connect(plan(Role::Worker, Hints::default(), theirs)));

        // Three times as many as may come in at once.
        let mut strangers = Vec::new();
        for nth in 0..48 {
            let mut stranger = Async::<TcpStream>::connect(address).await.unwrap();
            let garbage: &[u8] = match nth % 4 {
                0 => b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n",
                1 => b"transit sender 0000",
                2 => b"transit sender 0000000000000000000000000000000000000000000000000000000000000000 ready\n\ngo\n",
                _ => b"",
            };
            // The worker may have closed the line already.
            let _ = stranger.write_all(garbage).await;
            match nth % 3 {
                0 => drop(stranger),
                1 => {
                    let _ = stranger.get_ref().shutdown(Shutdown::Write);
                    strangers.push(stranger);
                }
                _ => strangers.push(stranger),
            }
        }

        let (client, worker) = future::join(client.connect(to_worker), worker).await;
        greet(&mut client.unwrap(), &mut worker.unwrap()).await;
        for mut stranger in strangers {
            let mut heard = Vec::new();
            // Closed or reset, but never anything said.
            let _ = stranger.read_to_end(&mut heard).await;
            assert!(heard.is_empty(), "a stranger heard {heard:?}");
        }
    });
}

#[test]
fn who_is_patient_dials_again_until_the_way_is_up() {
    run(async {
        let address = nowhere();
        let (client, worker) = (prepare(support::direct()).await, prepare(support::direct()).await);
        let (ours, theirs) = sessions(10);
        let to_worker = ConnectPlan { patient: true, ..plan(Role::Client, direct_hints(address), ours) };
        let port = loopback_of(&worker.hints());
        let worker = async_std::task::spawn(worker.connect(plan(Role::Worker, Hints::default(), theirs)));
        // Whoever dials finds nobody at first; then the way leads to the worker.
        let way = async_std::task::spawn(async move {
            Timer::after(Duration::from_millis(1500)).await;
            let way = Async::<TcpListener>::bind(address).unwrap();
            loop {
                let (near, _) = way.accept().await.unwrap();
                let far = Async::<TcpStream>::connect(port).await.unwrap();
                let (near, far) = (std::sync::Arc::new(near), std::sync::Arc::new(far));
                for (from, to) in [(near.clone(), far.clone()), (far, near)] {
                    async_std::task::spawn(async move { futures::io::copy(&*from, &mut &*to).await });
                }
            }
        });
        let (client, worker) = future::join(client.connect(to_worker), worker).await;
        greet(&mut client.unwrap(), &mut worker.unwrap()).await;
        drop(way);
    });
}

/// The address of a way to this relay on which the first connection ends once something was said.
fn lets_go_of_the_first(relay: RelayAddress) -> RelayAddress {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::spawn(move || {
        for (nth, ours) in listener.incoming().enumerate() {
            let mut ours = ours.unwrap();
            if nth == 0 {
                ours.read_exact(&mut [0]).unwrap();
                continue;
            }
            let theirs = TcpStream::connect((relay.host(), relay.port())).unwrap();
            for (mut from, mut to) in [(ours.try_clone().unwrap(), theirs.try_clone().unwrap()), (theirs, ours)] {
                std::thread::spawn(move || {
                    let _ = (io::copy(&mut from, &mut to), to.shutdown(Shutdown::Write));
                });
            }
        }
    });
    address
}
