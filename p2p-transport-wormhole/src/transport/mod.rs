//! The driver of set-ups: it owns the sockets, the clock and the randomness that the pure parts lack.

mod race;
mod sockets;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use async_trait::async_trait;
use futures::future::{self, Either};
use p2p_proto::ids::Role;
use p2p_proto::link::{ConnectPlan, Connected, Hints, LinkError, LinkTransport, PendingLink};

use crate::config::{RelayAddress, WormholeConfig};
use crate::hints::{Policy, interfaces};
use crate::link;
use crate::procedure::{Lines, Side};
pub(crate) use race::Chosen;
use race::Race;

/// Makes links by direct TCP connections, else by Transit relays.
///
/// ```
/// use p2p_transport_wormhole::{WormholeConfig, WormholeTransport};
///
/// let config = WormholeConfig { relays: vec!["tcp:relay.example.org:4001".parse().unwrap()], ..Default::default() };
/// let transport = WormholeTransport::new(config);
/// ```
#[derive(Clone, Debug)]
pub struct WormholeTransport {
    config: Arc<WormholeConfig>,
}

impl WormholeTransport {
    /// A transport for all set-ups of this process. Opens nothing yet.
    pub fn new(config: WormholeConfig) -> Self {
        Self { config: Arc::new(config) }
    }
}

#[async_trait]
impl LinkTransport for WormholeTransport {
    /// Opens one port for IPv4 and one for IPv6, unless [`WormholeConfig::direct`] is off.
    async fn prepare(&self) -> Result<Box<dyn PendingLink>, LinkError> {
        let pending = Pending::open(Arc::clone(&self.config));
        if pending.listeners.is_empty() && pending.config.relays.is_empty() {
            return Err(LinkError::Unreachable("this machine does not listen, and no relay is configured".to_owned()));
        }
        Ok(Box::new(pending))
    }
}

/// A set-up that waits for the other side's hints.
pub(crate) struct Pending {
    config: Arc<WormholeConfig>,
    policy: Policy,
    listeners: Vec<Async<TcpListener>>,
    hints: Hints,
}

/// A patient set-up lasts so many times as long as another one: with the usual time as long as [`GRACE`](p2p_proto::limits::GRACE).
const PATIENCE: u32 = 2;

impl Pending {
    /// Opens its ports, and finds out how this side can be reached.
    pub(crate) fn open(config: Arc<WormholeConfig>) -> Self {
        let listeners = if config.direct { sockets::listen() } else { Ok(Vec::new()) };
        let listeners = listeners.unwrap_or_else(|error| {
            log::warn!("cannot listen for connections: {error}");
            Vec::new()
        });
        let own = interfaces().unwrap_or_else(|error| {
            log::warn!("cannot find this machine's addresses: {error}");
            Vec::new()
        });
        let policy = Policy {
            own,
            lan: config.lan,
            loopback: config.loopback,
            direct: config.direct,
            relays: config.relays.clone(),
        };
        let port = |v6| {
            let addresses =
                listeners.iter().filter_map(|listener: &Async<TcpListener>| listener.get_ref().local_addr().ok());
            addresses.filter(|address| address.is_ipv6() == v6).map(|address| address.port()).next()
        };
        let hints = policy.offer(port(false), port(true));
        Self { config, policy, listeners, hints }
    }

    /// How this side can be reached.
    pub(crate) fn offered(&self) -> &Hints {
        &self.hints
    }

    /// Takes these relays for this side's own too, as far as [`RELAYS`](crate::config::RELAYS) leaves room.
    pub(crate) fn trust_relays(&mut self, relays: impl IntoIterator<Item = RelayAddress>) {
        self.policy.relays.extend(relays);
    }

    /// Agrees with the other side on one connection.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`] when none comes about within `limit`.
    pub(crate) async fn choose(
        self,
        side: Side,
        lines: Lines,
        theirs: &Hints,
        patient: bool,
        limit: Duration,
    ) -> Result<Chosen, LinkError> {
        let dials = self.policy.judge(theirs);
        let mut race =
            Race::new(side, lines, self.listeners, dials, patient, self.config.proxies.clone(), self.config.timing);
        let chosen = within(limit, race.run()).await;
        let chosen = chosen.unwrap_or_else(|| Err(race.unreachable(Some(limit))))?;
        // Sockets that were not chosen close now.
        drop(race);
        log::debug!("connected: {}", chosen.path);
        Ok(chosen)
    }
}

/// Random: it tells a relay this program's connections from the other side's.
pub(crate) fn side_id() -> Result<[u8; 8], LinkError> {
    let mut side_id = [0; 8];
    getrandom::fill(&mut side_id).map_err(|error| LinkError::Unreachable(format!("no randomness: {error}")))?;
    Ok(side_id)
}

#[async_trait]
impl PendingLink for Pending {
    fn hints(&self) -> Hints {
        self.hints.clone()
    }

    async fn connect(self: Box<Self>, plan: ConnectPlan) -> Result<Connected, LinkError> {
        let timing = self.config.timing;
        let side = match plan.role {
            Role::Client => Side::Leader,
            Role::Worker => Side::Follower,
            Role::Host => return Err(LinkError::Misuse("a host has no links".to_owned())),
        };
        let lines = Lines::new(&plan.transit_key, side, side_id()?);
        // The way may be down for as long as a link without a connection is kept by default.
        let limit = if plan.patient { PATIENCE * timing.setup } else { timing.setup };
        let began = Instant::now();
        let chosen = self.choose(side, lines, &plan.theirs, plan.patient, limit).await?;
        let left = limit.saturating_sub(began.elapsed());
        let link = link::establish(chosen.stream, &chosen.rest, plan.session, chosen.path.clone(), timing);
        let late = || LinkError::Lost(format!("it said nothing after the connection was made, {}", chosen.path));
        within(left, link).await.unwrap_or_else(|| Err(late()))
    }
}

async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    match future::select(std::pin::pin!(future), Timer::after(time)).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}
