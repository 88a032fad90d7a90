//! What is tried, and for how long; what that means is said in `legs`.

use std::env;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_std::future::timeout;
use p2p_proto::board::message::Bye;
use p2p_proto::board::{Board, BoardEvent, Envelope, Line, Message};
use p2p_proto::ids::{PeerName, ProcessKey, UserName};
use p2p_proto::limits;
use p2p_proto::link::{LinkPath, LinkTransport};
use p2p_scheduler::memory::Cluster;
use p2p_scheduler::{Client, ClientReport, Forgetful, Functions, Task, Worker, WorkerOffer};
use p2p_transport_pico::{PicoBoard, PicoConfig, Progress, Session, Step, Topic};
use p2p_transport_wormhole::{WormholeConfig, WormholeTransport};

use super::clock;
use super::legs::{Examination, Leg, name, way_in};
use crate::home::Home;
use crate::options::Common;
use crate::trouble::{Code, Trouble};
use crate::wiring;

/// Tries all legs, in this order; those into the board need each other, the others do not.
pub async fn examine(
    common: &Common,
    wait: Duration,
    examination: &mut Examination<impl FnMut(&Leg)>,
) -> Result<(), Trouble> {
    let home = Home::open(common.home.as_deref())?;
    let mut config = wiring::board_config(common)?;
    config.connect_timeout = config.connect_timeout.min(wait);
    let links = wiring::link_config(common)?;

    let user = board(common, &config, &home, wait, examination).await;
    examination.add(direct(&links, wait).await);
    examination.add(relay(&links, wait).await);
    let clock = match (&common.cluster, user) {
        _ if behind_own_program() => Leg::failed(
            name::CLOCK,
            Code::System,
            "this machine's clock is behind the date of this program itself: set it; signatures would not hold",
        ),
        (None, _) => Leg::skipped(name::CLOCK, "--cluster OWNER/NAME compares it with that of the cluster's host"),
        (Some(_), None) => Leg::skipped(name::CLOCK, "not tried: first the way into the board"),
        (Some(cluster), Some(_)) => clock::compare(common, cluster, wait).await,
    };
    examination.add(clock);
    Ok(())
}

/// The legs to the board and back. Who one is there, if that was found.
async fn board(
    common: &Common,
    config: &PicoConfig,
    home: &Home,
    wait: Duration,
    examination: &mut Examination<impl FnMut(&Leg)>,
) -> Option<UserName> {
    let found = Arc::new(Found::default());
    let mut watched = config.clone();
    watched.progress = Some(Arc::clone(&found) as Arc<dyn Progress>);
    let entered = Session::connect(&watched).await;
    let legs = way_in(&found.all(), entered.as_ref().map(drop));
    let broken = legs.iter().find(|leg| leg.code().is_some()).map(|leg| leg.name);
    legs.into_iter().for_each(|leg| examination.add(leg));
    if let Some(broken) = broken {
        for leg in [name::ACCOUNT, name::ECHO] {
            examination.add(Leg::skipped(leg, format!("not tried: first {broken}")));
        }
        return None;
    }
    match wiring::ask_user(common, config, home).await {
        Ok(user) => {
            examination.add(Leg::well(name::ACCOUNT, format!("you are {user} there")));
            examination.add(echo(config, &user, wait).await);
            Some(user)
        }
        Err(trouble) => {
            examination.add(Leg::broken(name::ACCOUNT, &trouble));
            examination.add(Leg::skipped(name::ECHO, format!("not tried: first {}", name::ACCOUNT)));
            None
        }
    }
}

/// What was found on the way in.
#[derive(Default)]
struct Found(Mutex<Vec<(Step, String)>>);

/// Steps that are remembered: a way over many machines has four for each.
const STEPS: usize = 64;

impl Found {
    fn all(&self) -> Vec<(Step, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Progress for Found {
    fn done(&self, step: Step, found: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < STEPS {
            all.push((step, found));
        }
    }
}

/// Two sessions on a topic of one's own: what one says, the other hears.
async fn echo(config: &PicoConfig, user: &UserName, wait: Duration) -> Leg {
    let talk = async {
        let name = format!("{user}/doctor/{:016x}", random()?);
        let topic = Topic { name, access: None, twin: None, after_host: false };
        let join = || PicoBoard::join(config.clone(), topic.clone());
        let (says, hears) = (join(), join());
        for board in [&says, &hears] {
            until(board, |event| *event == BoardEvent::Up).await?;
        }
        loop {
            // Said before the other one is quite there it is lost, as lines may be: then another one is said.
            let line = line(user, 1, fresh()?)?;
            let said = Instant::now();
            says.publish(line.clone()).map_err(io::Error::other)?;
            let heard = until(&hears, |event| *event == BoardEvent::Line(line.clone()));
            if let Ok(heard) = timeout(SAY_AGAIN, heard).await {
                return heard.map(|()| said.elapsed());
            }
        }
    };
    match timeout(wait, talk).await {
        Ok(Ok(took)) => Leg::well(name::ECHO, format!("a line comes back within {:.1} ms", took.as_secs_f64() * 1e3)),
        Ok(Err(fault)) => Leg::failed(name::ECHO, Code::Unavailable, fault.to_string()),
        Err(_) => {
            let seconds = wait.as_secs();
            let text = format!(
                "what one of your sessions said did not reach the other within {seconds} s: the board is stuck, or does not do what pico.sh's \
                 pipe does. Try again later, or another board (--board)"
            );
            Leg::failed(name::ECHO, Code::Unavailable, text)
        }
    }
}

/// A line that was not heard for this long is lost: far boards take less.
pub(super) const SAY_AGAIN: Duration = Duration::from_secs(3);

async fn until(board: &PicoBoard, wanted: impl Fn(&BoardEvent) -> bool) -> io::Result<()> {
    loop {
        match board.next().await {
            event if wanted(&event) => return Ok(()),
            BoardEvent::Failed(fault) => return Err(io::Error::other(fault)),
            event => log::debug!("while the board was tried: {event:?}"),
        }
    }
}

/// Something that nobody has said before, and that changes nothing for whoever hears it.
fn fresh() -> io::Result<Message> {
    let mut process = [0; 32];
    getrandom::fill(&mut process).map_err(io::Error::other)?;
    Ok(Message::Bye(Bye { process: ProcessKey(process) }))
}

/// A line of this process's.
pub(super) fn line(user: &UserName, sequence: u64, message: Message) -> io::Result<Line> {
    let from = PeerName::new(user, "doctor", std::process::id());
    Line::encode(&Envelope { from, sequence, time: unix(), message }).map_err(io::Error::other)
}

async fn direct(links: &WormholeConfig, wait: Duration) -> Leg {
    if !links.direct {
        return Leg::skipped(name::DIRECT, "not wanted: --relay-only");
    }
    let config = WormholeConfig { relays: Vec::new(), ..links.clone() };
    match link(config, wait).await {
        Ok((path, took)) => {
            let ms = took.as_secs_f64() * 1e3;
            Leg::well(
                name::DIRECT,
                format!(
                    "this machine reaches itself, {path}, within {ms:.0} ms. Whether friends do, only they can try"
                ),
            )
        }
        Err(fault) => Leg::failed(
            name::DIRECT,
            Code::Unavailable,
            format!(
                "this machine does not reach itself ({fault}): does a firewall keep programs from listening? Links go by a relay then"
            ),
        ),
    }
}

async fn relay(links: &WormholeConfig, wait: Duration) -> Leg {
    if links.relays.is_empty() {
        let text = "none is set (--relay): friends whose routers let nobody in cannot link to one another";
        return Leg::skipped(name::RELAY, text);
    }
    // Each on its own: one that is there must not hide another that is not.
    let tried = links.relays.iter().map(|relay| async move {
        (relay, link(WormholeConfig { direct: false, relays: vec![relay.clone()], ..links.clone() }, wait).await)
    });
    let tried = futures::future::join_all(tried).await;
    let words = tried.iter().map(|(relay, tried)| match tried {
        Ok((path, took)) => {
            format!("this machine reaches itself, {path}, within {:.0} ms", took.as_secs_f64() * 1e3)
        }
        Err(fault) => format!("no link comes about by {relay} ({fault})"),
    });
    let words = words.collect::<Vec<_>>().join("; ");
    let gone = tried.iter().filter(|(_, tried)| tried.is_err()).count();
    if gone == 0 {
        return Leg::well(name::RELAY, words);
    }
    let so = if gone == tried.len() { "Links are direct only" } else { "Links go by the rest" };
    Leg::failed(name::RELAY, Code::Unavailable, format!("{words}. {so}; name another with --relay, or none"))
}

/// A whole cluster in this process, on a board in memory, whose link is a real one: set up, encrypted, and with a task on it.
async fn link(config: WormholeConfig, wait: Duration) -> io::Result<(LinkPath, Duration)> {
    let cluster = Cluster::open("doctor/itself", &["doctor"])?;
    let member = cluster.member("doctor")?;
    let topic = member.cluster.topic();
    let board = || Arc::new(cluster.hub().board_of(&topic, &member.user));
    let transport = || Arc::new(WormholeTransport::new(config.clone())) as Arc<dyn LinkTransport>;
    let functions = Functions::new().register_typed("same", |number: u64| number);
    let mut offer = WorkerOffer { allow: None, offer: Default::default(), weights: Default::default() };
    offer.offer.slots = 1;
    let begun = Instant::now();
    let worker = Worker::join(&member, offer, Arc::new(functions), board(), transport(), Arc::new(Forgetful))?;
    let client = Client::join(&member, board(), transport(), Arc::new(Forgetful))?;
    let number = random()?;
    let task = client.submit(Task::call("same", &number).map_err(io::Error::other)?).await;
    let mut why = "nobody answered".to_owned();
    let path = async {
        loop {
            match client.report().await {
                Some(ClientReport::Linked { path, .. }) => return path,
                Some(ClientReport::CallFailed { why: fault, .. }) => why = fault,
                Some(_) => {}
                None => futures::future::pending().await,
            }
        }
    };
    let tried = timeout(wait, async { (path.await, task.outcome().await.value::<u64>()) }).await;
    let took = begun.elapsed();
    client.close().await;
    worker.stop();
    match tried {
        Ok((path, Ok(same))) if same == number => Ok((path, took)),
        Ok((_, Ok(_))) => Err(io::Error::other("something else came back than was sent")),
        Ok((_, Err(fault))) => Err(io::Error::other(fault)),
        Err(_) => Err(io::Error::other(format!("{why}; tried for {} s", wait.as_secs()))),
    }
}

/// A clock that says a time before this program was made is wrong, whoever else there is to compare it with.
fn behind_own_program() -> bool {
    let made = env::current_exe().and_then(fs::metadata).and_then(|file| file.modified());
    made.is_ok_and(|made| SystemTime::now() + limits::CLOCK_SKEW < made)
}

pub(super) fn unix() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}
