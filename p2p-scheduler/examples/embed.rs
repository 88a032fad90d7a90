//! Closures as tasks of a cluster: first inside this process, then the same program over a hub and TCP, as among friends.
//!
//! Run it with `cargo run -p p2p-scheduler --example embed`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use p2p_hub::{HostKeySource, Hub, HubConfig, UserKey, UsersSource, make_user_key};
use p2p_proto::board::message::Offer;
use p2p_proto::ids::UserName;
use p2p_proto::trust::Identity;
use p2p_scheduler::memory::Cluster;
use p2p_scheduler::{Client, Forgetful, Functions, Host, HostConfig, HostTrust, Member, Task, Worker, WorkerOffer};
use p2p_transport_pico::{Agent, PicoBoard, PicoConfig, Topic};
use p2p_transport_wormhole::{WormholeConfig, WormholeTransport};

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    async_std::task::block_on(async {
        assert_eq!(in_memory().await?, 168);
        println!("in memory: 168 of the numbers below 1000 are prime");
        assert_eq!(over_a_hub().await?, 168);
        println!("over a hub: 168 of the numbers below 1000 are prime");
        Ok(())
    })
}

/// What workers can do.
fn functions() -> Functions {
    Functions::new()
        .register_typed("is_prime", |n: u64| n > 1 && (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d)))
}

/// What the client wants: the number of primes below 1,000, one task per number.
async fn primes(client: &Client) -> Result<usize, Box<dyn Error>> {
    let tasks: Vec<Task> = (0..1000_u64).map(|n| Task::call("is_prime", &n)).collect::<Result<_, _>>()?;
    let mut primes = 0;
    for task in client.submit_all(tasks).await {
        primes += usize::from(task.outcome().await.value::<bool>()?);
    }
    Ok(primes)
}

async fn in_memory() -> Result<usize, Box<dyn Error>> {
    let cluster = Cluster::open("alice/friends", &["bob", "carol"])?;
    let _worker = cluster.worker("bob", 2, functions())?;
    primes(&cluster.client("carol")?).await
}

async fn over_a_hub() -> Result<usize, Box<dyn Error>> {
    // Three friends with a key each; in daily use a hub runs somewhere, or the board is pico.sh's.
    let keys = tempfile::tempdir()?;
    let key = |name: &str| -> Result<UserKey, Box<dyn Error>> {
        Ok(UserKey { name: name.to_owned(), key: make_user_key(&keys.path().join(name))? })
    };
    let hub = Hub::start(HubConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        users: UsersSource::List(vec![key("alice")?, key("bob")?, key("carol")?]),
        host_key: HostKeySource::Ephemeral,
    })?;

    let (alice, bob, carol) = (member("alice", 1)?, member("bob", 2)?, member("carol", 3)?);
    let store = Arc::new(Forgetful);
    let board = |member: &Member| Ok::<_, Box<dyn Error>>(Arc::new(board(&hub, keys.path(), member)?));
    let links = Arc::new(WormholeTransport::new(WormholeConfig { loopback: true, ..WormholeConfig::default() }));

    let users = [bob.user.clone(), carol.user.clone()];
    let _host = Host::open(&alice, HostConfig::of(users), board(&alice)?, store.clone())?;
    let offer = WorkerOffer { offer: Offer { slots: 2, ..Offer::default() }, allow: None, weights: Default::default() };
    let _worker = Worker::join(&bob, offer, Arc::new(functions()), board(&bob)?, links.clone(), store.clone())?;
    let client = Client::join(&carol, board(&carol)?, links, store)?;
    let primes = primes(&client).await?;
    client.close().await;
    Ok(primes)
}

/// A user at a machine of his own. In daily use the machine's secret is random, and kept in a file that nobody else can read.
fn member(user: &str, secret: u8) -> Result<Member, Box<dyn Error>> {
    Ok(Member {
        cluster: "alice/friends".parse()?,
        user: user.parse()?,
        identity: Identity::from_secret(&[secret; 32]),
        hostname: format!("{user}-laptop"),
        // The hub tells by whose login the host is there.
        trust: HostTrust::Login,
    })
}

/// A place on the cluster's topic: its owner brings the list of who may enter, a guest knows by his twin topic that he was turned away.
fn board(hub: &Hub, keys: &Path, member: &Member) -> Result<PicoBoard, Box<dyn Error>> {
    let mut config = PicoConfig::new(format!("ssh://{}", hub.local_addr()).parse()?);
    config.identities = vec![keys.join(member.user.as_str())];
    config.default_identities = Vec::new();
    config.agent = Agent::Off;
    config.accept_host_key = Some(hub.host_key_fingerprint().to_owned());
    let owner = member.cluster.owner() == &member.user;
    let friends = || ["bob", "carol"].map(|user| user.parse::<UserName>());
    let topic = Topic {
        name: member.cluster.topic(),
        access: if owner { Some(friends().into_iter().collect::<Result<_, _>>()?) } else { None },
        twin: (!owner).then(|| member.cluster.twin_topic(&member.user)),
        after_host: false,
    };
    Ok(PicoBoard::join(config, topic))
}
