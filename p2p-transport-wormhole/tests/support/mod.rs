//! Two peers on one machine: sessions, transports, and the real relay.
#![allow(dead_code, unreachable_pub)] // Each test file uses some of it.

use std::future::Future;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::future::{self, Either};
use p2p_proto::ids::{ClusterName, MachineKey, PeerKeys, Role};
use p2p_proto::link::handshake::{Called, Calling, Parties};
use p2p_proto::link::{
    ConnectPlan, Connected, Hint, Hints, LinkError, LinkTransport, PendingLink, Session, TransitKey,
};
use p2p_proto::trust::ProcessSecret;
use p2p_transport_wormhole::{RelayAddress, Timing, WormholeConfig, WormholeTransport};

/// No test depends on speed: whatever takes this long hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const KEY: TransitKey = TransitKey([42; 32]);

/// Runs a test to its end, or fails it after [`PATIENCE`].
pub fn run<T>(test: impl Future<Output = T>) -> T {
    async_std::task::block_on(async {
        match future::select(Box::pin(test), async_io::Timer::after(PATIENCE)).await {
            Either::Left((value, _)) => value,
            Either::Right(_) => panic!("nothing happened for {PATIENCE:?}"),
        }
    })
}

/// The two ends of one Noise session: the client's, then the worker's. Another `seed` makes another session.
pub fn sessions(seed: u8) -> (Session, Session) {
    let client = ProcessSecret::from_entropy([seed; 32]);
    let worker = ProcessSecret::from_entropy([seed.wrapping_add(1); 32]);
    let keys = |secret: &ProcessSecret, machine| PeerKeys {
        machine: MachineKey([machine; 32]),
        process: secret.process_key(),
    };
    let parties = Parties {
        cluster: "alice/friends".parse::<ClusterName>().unwrap(),
        caller: keys(&client, 1),
        callee: keys(&worker, 2),
    };
    let (calling, message) = Calling::start(&parties, &client, b"", [3; 32]).unwrap();
    let (called, _) = Called::open(&parties, &worker, &message, [4; 32]).unwrap();
    let (theirs, message) = called.answer(b"").unwrap();
    let (ours, _) = calling.finish(&message).unwrap();
    (ours, theirs)
}

/// Direct connections, loopback included, no relay; short times, so that what must fail fails soon.
pub fn direct() -> WormholeConfig {
    WormholeConfig { relays: Vec::new(), loopback: true, ..WormholeConfig::default() }
}

pub fn by_relay(relay: &RelayAddress) -> WormholeConfig {
    WormholeConfig { relays: vec![relay.clone()], direct: false, ..WormholeConfig::default() }
}

pub fn with_setup(setup: Duration, config: WormholeConfig) -> WormholeConfig {
    WormholeConfig { timing: Timing { setup, ..config.timing }, ..config }
}

pub async fn prepare(config: WormholeConfig) -> Box<dyn PendingLink> {
    WormholeTransport::new(config).prepare().await.unwrap()
}

pub fn plan(role: Role, theirs: Hints, session: Session) -> ConnectPlan {
    ConnectPlan { role, transit_key: KEY, theirs, session, patient: false }
}

/// Connects a client to a worker, each by its own configuration.
pub async fn try_connect(
    client: WormholeConfig,
    worker: WormholeConfig,
) -> (Result<Connected, LinkError>, Result<Connected, LinkError>) {
    let (client, worker) = (prepare(client).await, prepare(worker).await);
    let (ours, theirs) = sessions(10);
    let to_client = plan(Role::Worker, client.hints(), theirs);
    let to_worker = plan(Role::Client, worker.hints(), ours);
    future::join(client.connect(to_worker), worker.connect(to_client)).await
}

/// A client's and a worker's end of one link.
pub async fn connect(config: WormholeConfig) -> (Connected, Connected) {
    let (client, worker) = try_connect(config.clone(), config).await;
    (client.unwrap(), worker.unwrap())
}

pub async fn send(link: &mut Connected, record: &[u8]) {
    link.sender.feed(record).unwrap();
    link.sender.flush().await.unwrap();
}

/// Both directions work.
pub async fn greet(client: &mut Connected, worker: &mut Connected) {
    send(client, b"to the worker").await;
    assert_eq!(worker.receiver.receive().await.unwrap(), b"to the worker");
    send(worker, b"to the client").await;
    assert_eq!(client.receiver.receive().await.unwrap(), b"to the client");
}

pub fn direct_hints(address: SocketAddr) -> Hints {
    Hints(vec![Hint::Direct(address)])
}

/// The first address at which `hints` can be dialled on this machine.
pub fn loopback_of(hints: &Hints) -> SocketAddr {
    let v4 = hints.direct().find(|address| address.is_ipv4()).unwrap();
    SocketAddr::from(([127, 0, 0, 1], v4.port()))
}

/// An address of this machine where nobody listens.
pub fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The Transit relay of Debian's package, while this value lives.
pub struct Relay {
    child: Child,
    pub address: RelayAddress,
}

impl Relay {
    pub fn start() -> Self {
        let port = nowhere().port();
        let mut child = Command::new("twist3")
            .args(["transitrelay", &format!("--port=tcp:{port}:interface=127.0.0.1")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program twist3 is missing: install the package magic-wormhole-transit-relay");
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "twist3 transitrelay ended: install the package magic-wormhole-transit-relay");
            assert!(began.elapsed() < PATIENCE, "the relay does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, address: RelayAddress::new("127.0.0.1", port).unwrap() }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
