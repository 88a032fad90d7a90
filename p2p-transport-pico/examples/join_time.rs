//! How long joining takes from nothing to `Up`, for an owner and for a guest: on loopback, and over a line that needs
//! 100 ms there and back, so that one can count round trips. `cargo run -p p2p-transport-pico --example join_time`

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use async_std::task::block_on;
use p2p_hub::{HostKeySource, Hub, HubConfig, UserKey, UsersSource};
use p2p_proto::board::{Board, BoardEvent};
use p2p_proto::ids::ClusterName;
use p2p_transport_pico::{Agent, PicoBoard, PicoConfig, Session, Topic};

const RUNS: usize = 11;
const ONE_WAY: Duration = Duration::from_millis(50);

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let users = ["alice", "bob"].map(|name| {
        let file = folder.path().join(name);
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file).status().unwrap();
        UserKey { name: name.to_owned(), key: std::fs::read_to_string(file.with_extension("pub")).unwrap() }
    });
    let settings = HubConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        users: UsersSource::List(users.into()),
        host_key: HostKeySource::Ephemeral,
    };
    let hub = Hub::start(settings).unwrap();
    println!("loopback");
    measure(folder.path(), &hub, hub.local_addr());
    println!("100 ms there and back");
    measure(folder.path(), &hub, slow_line(hub.local_addr()));
}

fn measure(folder: &Path, hub: &Hub, address: SocketAddr) {
    let config = |user: &str| {
        let mut config = PicoConfig::new(format!("ssh://{address}").parse().unwrap());
        config.identities = vec![folder.join(user)];
        config.agent = Agent::Off;
        config.accept_host_key = Some(hub.host_key_fingerprint().to_owned());
        config
    };
    let cluster: ClusterName = "alice/friends".parse().unwrap();
    let bob = "bob".parse().unwrap();
    let host =
        Topic { name: cluster.topic(), access: Some(vec!["bob".parse().unwrap()]), twin: None, after_host: false };
    let guest = Topic { name: cluster.topic(), access: None, twin: Some(cluster.twin_topic(&bob)), after_host: false };
    block_on(async {
        show("log in only", || async {
            drop(Session::connect(&config("alice")).await.unwrap());
        })
        .await;
        show("owner", || up(PicoBoard::join(config("alice"), host.clone()))).await;
        let _home = PicoBoard::join(config("alice"), host.clone());
        let _company = PicoBoard::join(config("alice"), Topic { access: None, ..host.clone() });
        show("guest", || up(PicoBoard::join(config("bob"), guest.clone()))).await;
    });
}

async fn up(board: PicoBoard) {
    while board.next().await != BoardEvent::Up {}
}

async fn show<F: Future<Output = ()>>(what: &str, run: impl Fn() -> F) {
    let mut times: Vec<Duration> = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let begun = Instant::now();
        run().await;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("  {what}: median {:.1} ms, worst {:.1} ms", ms(times[RUNS / 2]), ms(times[RUNS - 1]));
}

/// A line to the server that brings everything late.
fn slow_line(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(server).unwrap();
            for socket in [&client, &server] {
                socket.set_nodelay(true).unwrap();
            }
            let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
            carry(client, server);
            carry(ends.1, ends.0);
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let (send, receive) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let _ = send.send((Instant::now() + ONE_WAY, buffer[..count].to_vec()));
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receive {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let _ = to.write_all(&bytes);
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
