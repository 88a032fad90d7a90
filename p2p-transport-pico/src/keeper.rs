//! The owning task of a board: connect, stay, and come back when that ends (B-05).

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Timer;
use async_std::future::timeout;
use futures::future::{self, Either};
use p2p_proto::board::{BoardError, BoardEvent};

use crate::backoff::Backoff;
use crate::board::{Shared, Topic};
use crate::config::PicoConfig;
use crate::crowd::{Crowd, Row};
use crate::door;
use crate::opening;
use crate::visit::{Ended, Visit};
use crate::wire::Wire;

/// Who was up for this long starts again with short waits.
const STABLE: Duration = Duration::from_secs(10);
/// Being thrown out after this long is the server's normal life: the last other member has left.
const NORMAL: Duration = Duration::from_secs(1);
/// Who is not let in tries again after at most this long: his host may be back.
const MISROUTED_MAX: Duration = Duration::from_secs(3);
/// A host who lost the server tries again after at most this long.
const HOST_RETRY_MAX: Duration = Duration::from_secs(1);
/// How often in a row the server may refuse the topic before a person must look.
const REFUSALS: u32 = 3;
/// What a topic's name may have, bytes.
const TOPIC_BYTES: usize = 256;

pub(crate) async fn keep(shared: Arc<Shared>, config: PicoConfig, topic: Topic) {
    let stay = std::pin::pin!(Keeper::new(&shared, &config, &topic).run());
    let failed = match future::select(stay, std::pin::pin!(shared.abandoned())).await {
        Either::Left((stayed, _)) => stayed.err(),
        Either::Right(_) => None,
    };
    shared.end();
    if let Some(fault) = failed {
        shared.report(BoardEvent::Failed(fault));
    }
}

struct Keeper<'a> {
    shared: &'a Shared,
    config: &'a PicoConfig,
    topic: &'a Topic,
    backoff: Backoff,
    crowd: Crowd,
    /// The server was lost by many at once: when to try again.
    row: Option<Row>,
    refusals: u32,
}

impl<'a> Keeper<'a> {
    fn new(shared: &'a Shared, config: &'a PicoConfig, topic: &'a Topic) -> Self {
        let seed = config.seed.or_else(|| getrandom::u64().ok()).unwrap_or_default();
        Self { shared, config, topic, backoff: Backoff::new(seed), crowd: Crowd::default(), row: None, refusals: 0 }
    }

    /// Until the handle wants no more, or until only a person can help.
    async fn run(mut self) -> Result<(), BoardError> {
        for name in [Some(&self.topic.name), self.topic.twin.as_ref()].into_iter().flatten() {
            check_topic(name)?;
        }
        let mut wire = None;
        while !self.shared.is_dismissed() {
            let (ended, up_for) = self.visit(&mut wire).await?;
            if up_for >= STABLE {
                self.backoff.reset();
                self.refusals = 0;
            }
            if !matches!(ended, Ended::ThrownOut { .. }) {
                wire = None;
            }
            if let Ended::Dismissed = ended {
                return Ok(());
            }
            let wait = self.report_end(ended, up_for)?;
            self.unless_dismissed(Timer::after(wait)).await;
        }
        Ok(())
    }

    /// One stay on the topic, over the connection that is there or a new one; how it ended and how long it was up.
    async fn visit(&mut self, wire: &mut Option<Wire>) -> Result<(Ended, Duration), BoardError> {
        if wire.is_none() {
            match self.unless_dismissed(door::enter(self.config)).await {
                None => return Ok((Ended::Dismissed, Duration::ZERO)),
                Some(Ok(new)) => *wire = Some(new),
                Some(Err(BoardError::Unreachable(reason))) => return Ok((Ended::Lost(reason), Duration::ZERO)),
                Some(Err(fault)) => return Err(fault),
            }
        }
        let Some(wire) = wire else { return Err(BoardError::Closed) };
        let opening = timeout(self.config.connect_timeout, opening::open(self.topic, wire));
        let opened = match self.unless_dismissed(opening).await {
            None => return Ok((Ended::Dismissed, Duration::ZERO)),
            Some(Err(_)) => return Ok((self.lost("it did not open the topic in time"), Duration::ZERO)),
            Some(Ok(Err(Ended::Lost(fault)))) => return Ok((self.lost(&fault), Duration::ZERO)),
            Some(Ok(Err(ended))) => return Ok((ended, Duration::ZERO)),
            Some(Ok(Ok(opened))) => opened,
        };
        self.shared.report(BoardEvent::Up);
        self.row = None;
        let up = Instant::now();
        let visit = Visit::new(self.shared, self.config, self.topic, wire, opened, &mut self.crowd);
        let ended = match visit.run().await {
            Ended::Lost(fault) => self.lost(&fault),
            ended => ended,
        };
        Ok((ended, up.elapsed()))
    }

    /// Tells the reader, and says how long to wait.
    fn report_end(&mut self, ended: Ended, up_for: Duration) -> Result<Duration, BoardError> {
        let topic = &self.topic.name;
        let reason = match ended {
            Ended::Dismissed => return Ok(Duration::ZERO),
            Ended::Misrouted => {
                let jittered = self.backoff.next().min(MISROUTED_MAX);
                let retry_in = self.row.map_or(jittered, |row| row.next(Instant::now()));
                self.shared.report(BoardEvent::Misrouted { retry_in });
                return Ok(retry_in);
            }
            Ended::ThrownOut { status: 0, .. } => {
                let reason = "the board closed the topic, as it does when the last other member leaves; nothing needs to be done";
                let retry_in = if up_for >= NORMAL { Duration::ZERO } else { self.backoff.next() };
                return Ok(self.report_down(reason.to_owned(), retry_in));
            }
            Ended::ThrownOut { said, .. } if up_for >= NORMAL => {
                let said = if said.is_empty() { "it gave no reason" } else { &said };
                format!("the board closed the topic {topic}: {said}. It is opened again by itself")
            }
            Ended::ThrownOut { said, .. } => {
                self.refusals += 1;
                let said = if said.is_empty() { "without a reason" } else { &said };
                let reason = format!(
                    "the board refuses the topic {topic}: {said}. Check the names of the cluster and of its users"
                );
                if self.refusals >= REFUSALS {
                    return Err(BoardError::Refused(reason));
                }
                reason
            }
            Ended::NoList { before: true } => {
                let reason = format!(
                    "the board has lost the list of who may enter {topic}; opening the topic again to bring it back"
                );
                return Ok(self.report_down(reason, Duration::ZERO));
            }
            Ended::NoList { before: false } => format!(
                "the board does not let the listed users into {topic}, because another session of yours opened it first with no list or \
                 with another one. End that session (`ssh {} ls` shows it); it is tried again by itself",
                self.config.address.host()
            ),
            Ended::Lost(reason) => {
                let (now, jittered) = (Instant::now(), self.backoff.next());
                let hosts = self.topic.access.is_some();
                self.row = self.row.or_else(|| if hosts { self.crowd.row_of_host(now) } else { self.crowd.row(now) });
                // Nobody can enter before her.
                let jittered = if hosts { jittered.min(HOST_RETRY_MAX) } else { jittered };
                return Ok(self.report_down(reason, self.row.map_or(jittered, |row| row.next(now))));
            }
        };
        let retry_in = self.backoff.next();
        Ok(self.report_down(reason, retry_in))
    }

    fn report_down(&self, reason: String, retry_in: Duration) -> Duration {
        self.shared.report(BoardEvent::Down { reason, retry_in });
        retry_in
    }

    fn lost(&self, fault: &str) -> Ended {
        Ended::Lost(format!(
            "the connection to the board {} broke: {fault}. It is tried again by itself; if that does not help, check the network",
            self.config.address
        ))
    }

    async fn unless_dismissed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match future::select(std::pin::pin!(work), std::pin::pin!(self.shared.dismissed())).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    }
}

/// The server splits its command line at spaces and reads dashes as flags.
fn check_topic(name: &str) -> Result<(), BoardError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    let good =
        name.len() <= TOPIC_BYTES && name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if good {
        return Ok(());
    }
    Err(BoardError::Refused(format!(
        "{:?} cannot be a topic: at most {TOPIC_BYTES} letters, digits and -_./: may be in it, a letter or digit first",
        name.chars().take(TOPIC_BYTES).collect::<String>()
    )))
}
