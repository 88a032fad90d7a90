//! The race for one connection: listens, dials, and carries out what the procedure's machine decides.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use p2p_dial::Proxies;
use p2p_proto::link::{LinkError, LinkPath};

use super::sockets;
use crate::config::{RelayAddress, Timing};
use crate::hints::Dials;
use crate::procedure::{Choice, Closed, ConnectionId, Input, Lines, Outbox, Output, Side, Way};

/// Between two dials, so that the first address often wins without the others being knocked at.
const STAGGER: Duration = Duration::from_millis(20);
/// What is read at once before a connection is chosen; all of Transit's lines fit.
const READ_BYTES: usize = 512;
/// After an error of accept, which may last (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Where the way may be down for now, a dial that failed is made again after this long.
const DIAL_AGAIN: Duration = Duration::from_secs(1);
/// And one without an answer is given up after this long, because the system itself asks ever more rarely.
const DIAL_WITHIN: Duration = Duration::from_secs(3);
/// A relay that let go of this side before the other side came there is dialled again, so many times: the other side may wait there.
const RELAYS_AGAIN: usize = 3;
/// Reasons kept for the message, at most; a stranger can cause any number.
const REASONS: usize = 32;

/// The connection on which both sides agreed.
pub(crate) struct Chosen {
    pub(crate) stream: Arc<Async<TcpStream>>,
    /// What arrived behind the last line.
    pub(crate) rest: Vec<u8>,
    pub(crate) path: LinkPath,
}

/// One race.
pub(super) struct Race {
    began: Instant,
    choice: Choice,
    steps: FuturesUnordered<Pin<Box<dyn Future<Output = Event> + Send>>>,
    open: BTreeMap<ConnectionId, Open>,
    /// Dials under way: where to.
    dialling: BTreeMap<ConnectionId, Target>,
    next_id: ConnectionId,
    listens: bool,
    /// What cannot be reached is dialled again.
    patient: bool,
    /// Dials of relays that had let go of this side.
    relays_again: usize,
    proxies: Proxies,
    accepted: usize,
    /// What did not work, and why.
    failed: Vec<String>,
}

struct Open {
    stream: Arc<Async<TcpStream>>,
    target: Target,
}

#[derive(Clone)]
enum Target {
    Direct(SocketAddr),
    Incoming(SocketAddr),
    Relay(RelayAddress),
}

enum Event {
    Accepted(Arc<Async<TcpListener>>, io::Result<(Async<TcpStream>, SocketAddr)>),
    Dialled(ConnectionId, io::Result<Async<TcpStream>>),
    Read(ConnectionId, io::Result<Vec<u8>>),
    Woke,
}

impl Race {
    /// Prepares everything; nothing happens before [`Race::run`].
    pub(super) fn new(
        side: Side,
        lines: Lines,
        listeners: Vec<Async<TcpListener>>,
        dials: Dials,
        patient: bool,
        proxies: Proxies,
        timing: Timing,
    ) -> Self {
        let listens = !listeners.is_empty();
        let expects_direct = listens || !dials.direct.is_empty();
        let mut race = Self {
            began: Instant::now(),
            choice: Choice::new(side, lines, timing.head_start, expects_direct),
            steps: FuturesUnordered::new(),
            open: BTreeMap::new(),
            dialling: BTreeMap::new(),
            next_id: 0,
            listens,
            patient,
            relays_again: 0,
            proxies,
            accepted: 0,
            failed: dials.refused.iter().map(|(what, why)| format!("{what}: not dialled, {why}")).collect(),
        };
        for listener in listeners {
            race.steps.push(Box::pin(accept(Arc::new(listener), Duration::ZERO)));
        }
        for (nth, address) in (0..).zip(dials.direct) {
            race.dial(Target::Direct(address), STAGGER * nth);
        }
        let delay = if expects_direct { timing.relay_delay } else { Duration::ZERO };
        for (nth, relay) in (0..).zip(dials.relays) {
            race.dial(Target::Relay(relay), delay + STAGGER * nth);
        }
        race
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Races until a connection is chosen. It has no end of its own while someone may still dial in.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`] when nothing is left that could succeed.
    pub(super) async fn run(&mut self) -> Result<Chosen, LinkError> {
        let mut out = Outbox::default();
        let mut wake_at = None;
        while self.listens || !self.dialling.is_empty() || !self.choice.is_empty() {
            let Some(event) = self.steps.next().await else { break };
            self.on_event(event, &mut out);
            for output in std::mem::take(&mut out.outputs) {
                if let Some(chosen) = self.carry_out(output) {
                    return chosen;
                }
            }
            if let Some(at) = out.wake_at.filter(|at| wake_at != Some(*at)) {
                wake_at = Some(at);
                self.steps.push(Box::pin(wake(at.saturating_sub(self.elapsed()))));
            }
        }
        Err(self.unreachable(None))
    }

    /// The error that says what was tried; `after` if it was time that ended it.
    pub(super) fn unreachable(&self, after: Option<Duration>) -> LinkError {
        let time = after.map(|time| format!(" within {} s", time.as_secs_f32())).unwrap_or_default();
        let pending = self.dialling.values().map(|target| format!("{target}: no answer"));
        let mute = self.open.values().map(|open| match open.target {
            Target::Relay(_) => format!("{}: the other side did not come there", open.target),
            _ => format!("{}: connected, but it did not finish Transit's lines", open.target),
        });
        let mut reasons: Vec<String> = self.failed.iter().cloned().chain(pending).chain(mute).collect();
        if self.listens {
            reasons.push(match self.accepted {
                0 => "nobody dialled this side".to_owned(),
                count => format!("{count} connections came in, none of them the other side's"),
            });
        }
        if reasons.is_empty() {
            reasons.push("the other side gave no address".to_owned());
        }
        LinkError::Unreachable(format!("no connection to the other side{time} ({})", reasons.join("; ")))
    }

    fn dial(&mut self, target: Target, delay: Duration) {
        let id = self.fresh_id();
        self.dialling.insert(id, target.clone());
        let limit = self.patient.then_some(DIAL_WITHIN);
        let proxies = self.proxies.clone();
        self.steps.push(Box::pin(async move {
            pause(delay).await;
            let dial = async {
                match target {
                    Target::Direct(address) | Target::Incoming(address) => sockets::dial(address, &proxies).await,
                    Target::Relay(relay) => sockets::dial_relay(&relay, &proxies).await,
                }
            };
            let result = match limit {
                None => dial.await,
                Some(limit) => super::within(limit, dial).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())),
            };
            Event::Dialled(id, result)
        }));
    }

    /// Somebody who was dialled could not be reached, or did not stay.
    fn dial_again(&mut self, target: &Target) {
        if self.patient && !matches!(target, Target::Incoming(_)) {
            self.dial(target.clone(), DIAL_AGAIN);
        }
    }

    /// The same where he had been reached.
    fn dial_who_left(&mut self, target: &Target) {
        if self.patient {
            self.dial_again(target);
        } else if matches!(target, Target::Relay(_)) && self.relays_again < RELAYS_AGAIN {
            self.relays_again += 1;
            self.dial(target.clone(), DIAL_AGAIN);
        }
    }

    fn on_event(&mut self, event: Event, out: &mut Outbox) {
        let now = self.elapsed();
        match event {
            Event::Accepted(listener, result) => {
                let pause = if result.is_ok() { Duration::ZERO } else { ACCEPT_PAUSE };
                self.steps.push(Box::pin(accept(listener, pause)));
                match result.and_then(|(stream, from)| sockets::prepare(&stream).map(|()| (stream, from))) {
                    Ok((stream, from)) => {
                        self.accepted += 1;
                        let id = self.fresh_id();
                        self.opened(id, stream, Target::Incoming(from), out);
                    }
                    Err(error) => log::debug!("a connection that came in could not be taken: {error}"),
                }
            }
            Event::Dialled(id, result) => {
                let Some(target) = self.dialling.remove(&id) else { return };
                match result {
                    Ok(stream) => self.opened(id, stream, target, out),
                    Err(error) => {
                        self.note(&target, &error.to_string());
                        self.dial_again(&target);
                    }
                }
            }
            Event::Read(id, result) => {
                let Some(open) = self.open.get(&id) else { return };
                let ended = match result {
                    Ok(bytes) if !bytes.is_empty() => {
                        self.steps.push(Box::pin(read(id, Arc::clone(&open.stream))));
                        return self.choice.handle(now, Input::Bytes(id, &bytes), out);
                    }
                    Ok(_) => "it closed the connection".to_owned(),
                    Err(error) => error.to_string(),
                };
                self.ended(id, &ended, out);
            }
            Event::Woke => self.choice.handle(now, Input::Tick, out),
        }
    }

    fn opened(&mut self, id: ConnectionId, stream: Async<TcpStream>, target: Target, out: &mut Outbox) {
        let way = match target {
            Target::Direct(_) => Way::Dialled,
            Target::Incoming(_) => Way::Accepted,
            Target::Relay(_) => Way::Relayed,
        };
        let stream = Arc::new(stream);
        self.steps.push(Box::pin(read(id, Arc::clone(&stream))));
        self.open.insert(id, Open { stream, target });
        self.choice.handle(self.elapsed(), Input::Opened(id, way), out);
    }

    fn ended(&mut self, id: ConnectionId, why: &str, out: &mut Outbox) {
        if let Some(open) = self.open.remove(&id) {
            self.note(&open.target, why);
            self.dial_who_left(&open.target);
        }
        self.choice.handle(self.elapsed(), Input::Ended(id), out);
    }

    fn carry_out(&mut self, output: Output) -> Option<Result<Chosen, LinkError>> {
        match output {
            Output::Send(id, line) => {
                let open = self.open.get(&id)?;
                // An empty send buffer takes a line whole; a connection where it does not is of no use.
                match open.stream.get_ref().write(&line) {
                    Ok(count) if count == line.len() => {}
                    _ => self.shut(id),
                }
                None
            }
            Output::Close(id, why) => {
                self.shut(id);
                if let Some(open) = self.open.remove(&id)
                    && why != Closed::NotChosen
                {
                    self.note(&open.target, why.why());
                }
                None
            }
            Output::Chosen { id, rest } => {
                let open =
                    self.open.remove(&id).ok_or_else(|| LinkError::Lost("it ended while it was chosen".to_owned()));
                Some(open.map(|open| Chosen { stream: open.stream, rest, path: open.target.path() }))
            }
        }
    }

    /// Ends a connection under the read that is pending on it, which then reports the end and lets go of the socket.
    fn shut(&mut self, id: ConnectionId) {
        if let Some(open) = self.open.get(&id) {
            let _ = open.stream.get_ref().shutdown(Shutdown::Both);
        }
    }

    fn note(&mut self, target: &Target, why: &str) {
        log::debug!("{target}: {why}");
        if self.failed.len() < REASONS {
            self.failed.push(format!("{target}: {why}"));
        }
    }

    fn fresh_id(&mut self) -> ConnectionId {
        self.next_id += 1;
        self.next_id
    }
}

impl Target {
    fn path(&self) -> LinkPath {
        match self {
            Self::Direct(address) | Self::Incoming(address) => LinkPath::Direct(address.to_string()),
            Self::Relay(relay) => LinkPath::Relayed(relay.to_string()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(address) => write!(f, "{address}"),
            Self::Incoming(address) => write!(f, "from {address}"),
            Self::Relay(relay) => write!(f, "relay {relay}"),
        }
    }
}

async fn accept(listener: Arc<Async<TcpListener>>, delay: Duration) -> Event {
    pause(delay).await;
    let result = listener.accept().await;
    Event::Accepted(listener, result)
}

async fn read(id: ConnectionId, stream: Arc<Async<TcpStream>>) -> Event {
    let mut bytes = vec![0; READ_BYTES];
    let result = stream.read_with(|mut stream| stream.read(&mut bytes)).await;
    Event::Read(
        id,
        result.map(|count| {
            bytes.truncate(count);
            bytes
        }),
    )
}

async fn wake(delay: Duration) -> Event {
    pause(delay).await;
    Event::Woke
}

async fn pause(delay: Duration) {
    if !delay.is_zero() {
        Timer::after(delay).await;
    }
}
