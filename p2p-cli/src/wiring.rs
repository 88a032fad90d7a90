//! Puts the crates together for a command: keys, board, links.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_std::future::timeout;
use p2p_dial::Proxies;
use p2p_proto::board::message::DenyReason;
use p2p_proto::board::{Board, BoardError};
use p2p_proto::ids::{ClusterName, Fingerprint, MachineKey, UserName};
use p2p_proto::link::LinkTransport;
use p2p_scheduler::machine::admission::AdmissionEvent;
use p2p_scheduler::{Client, ClientReport, HostTrust, Member, Waiting};
use p2p_transport_pico::{OwnerBoard, PicoBoard, PicoConfig, Session, SshArgs, Topic};
use p2p_transport_wormhole::{RelayAddress, WormholeConfig, WormholeTransport};

use crate::home::Home;
use crate::meeting;
use crate::options::{Common, Trust};
use crate::say;
use crate::terminal;
use crate::trouble::{Code, Trouble};
use crate::words::words;

/// For this long a client tries to get into a cluster that does not answer, before it gives up: a host who was thrown off the board is
/// back within seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// A denial is believed only if nothing has overruled it by then: it is unsigned, so that anybody on the topic could send it, and the
/// host's signed word that lets one in may be right behind it.
const DENIED_FOR: Duration = Duration::from_secs(2);
/// A wait that is longer than this is explained.
pub const EXPLAIN_AFTER: Duration = Duration::from_secs(1);

/// The name of the cluster of one's own machines.
pub const PERSONAL: &str = "personal";

/// This machine's way into a cluster.
pub struct Wiring {
    pub member: Member,
    pub home: Arc<Home>,
    topic: String,
    config: PicoConfig,
    links: WormholeConfig,
}

impl Wiring {
    /// Finds out who one is and which cluster is meant. `default_name` is the cluster's name where none was given.
    pub async fn new(common: &Common, default_name: &str) -> Result<Self, Trouble> {
        let home = Arc::new(Home::open(common.home.as_deref())?);
        let mut config = board_config(common)?;
        let links = link_config(common)?;
        let user = user(common, &config, &home).await?;
        let cluster = match &common.cluster {
            Some(cluster) => cluster.clone(),
            None => ClusterName::new(user.clone(), default_name)
                .map_err(|fault| Trouble::new(Code::Usage, fault.to_string()))?,
        };
        // What was pinned and cannot be read must not count as nothing pinned: any key would be believed.
        let pinned = home.trusted(&cluster)?.pinned;
        let trust = match (common.trust, &common.host_key) {
            (Trust::Host, named) => named.clone().or(pinned).map_or(HostTrust::Login, HostTrust::Named),
            (Trust::FirstSight, None) => HostTrust::NoHost,
            (Trust::FirstSight, Some(_)) => {
                let both = "--host-key names a host, and with --trust first-sight there is none: leave one of them out";
                return Err(Trouble::new(Code::Usage, both));
            }
        };
        let topic = common.topic.as_ref().map_or_else(|| cluster.topic(), |topic| topic.of(cluster.owner()));
        if trust == HostTrust::NoHost {
            say::info(&format!(
                "nobody signs who belongs (--trust first-sight): whoever gets onto the topic {topic} is believed to be who he says he is, and runs \
                 commands on its workers"
            ));
        }
        let hostname = gethostname::gethostname().to_string_lossy().into_owned();
        let member = Member { cluster, user, identity: home.identity()?, hostname, trust };
        config.progress = Some(meeting::watch(&member, home.host(&member.cluster)));
        Ok(Self { member, home, topic, config, links })
    }

    /// The board of the cluster, for the host herself: with the list of who may enter, or else of herself. With a list her other
    /// processes know that she hosts.
    ///
    /// `believe_logins` takes any server's word for who is logged in, not only a hub's (T-02).
    pub fn hosting_board(&self, users: &[UserName], believe_logins: bool) -> Arc<OwnerBoard> {
        let mut config = self.config.clone();
        config.believe_logins = believe_logins;
        Arc::new(OwnerBoard::open(config, self.topic.clone(), Self::access(&self.member.user, users)))
    }

    /// The list that a topic carries: never an empty one, which would let nobody know that it is hosted.
    pub fn access(owner: &UserName, users: &[UserName]) -> Vec<UserName> {
        if users.is_empty() { vec![owner.clone()] } else { users.to_vec() }
    }

    /// Whether it is the cluster of one's own machines, whose topic nobody else enters: it has no list, and needs nobody who keeps it open.
    pub fn is_personal(&self) -> bool {
        let cluster = &self.member.cluster;
        cluster.name() == PERSONAL && *cluster.owner() == self.member.user
    }

    /// The board of a personal cluster, for the process that hosts it. `believe_logins` as for [`Self::hosting_board`].
    pub fn own_board(&self, believe_logins: bool) -> Arc<dyn Board> {
        let mut config = self.config.clone();
        config.believe_logins = believe_logins;
        let topic = Topic { name: self.topic.clone(), access: None, twin: None, after_host: false };
        Arc::new(PicoBoard::join(config, topic))
    }

    /// The board of the cluster, for a member.
    pub fn board(&self) -> Arc<dyn Board> {
        let cluster = &self.member.cluster;
        let own = cluster.owner() == &self.member.user;
        let twin = (!own).then(|| format!("{}/{}", self.member.user, self.topic));
        self.join(Topic { name: self.topic.clone(), access: None, twin, after_host: own && !self.is_personal() })
    }

    fn join(&self, topic: Topic) -> Arc<dyn Board> {
        Arc::new(PicoBoard::join(self.config.clone(), topic))
    }

    /// Links.
    pub fn transport(&self) -> Arc<dyn LinkTransport> {
        Arc::new(WormholeTransport::new(self.links.clone()))
    }

    /// A client of the cluster.
    pub fn client(&self) -> Result<Client, Trouble> {
        self.client_with_grace(p2p_proto::limits::GRACE)
    }

    /// A client of the cluster that waits so long for a worker whose connection broke.
    pub fn client_with_grace(&self, grace: Duration) -> Result<Client, Trouble> {
        let store = Arc::clone(&self.home) as Arc<dyn p2p_scheduler::TrustStore>;
        let client = Client::join_with_grace(&self.member, self.board(), self.transport(), store, grace)
            .map_err(|fault| Trouble::system("a client cannot be made", fault))?;
        if let Some(folder) = self.home.names() {
            client.keep_names(folder);
        }
        Ok(client)
    }
}

/// How to log in to the board.
pub fn board_config(common: &Common) -> Result<PicoConfig, Trouble> {
    let mut config = PicoConfig::new(common.board.clone());
    if !common.identity.is_empty() {
        config.identities.clone_from(&common.identity);
        // Whoever names a key means that one: another key is another account.
        config.default_identities.clear();
        config.agent = p2p_transport_pico::Agent::Off;
    }
    if let Some(path) = &common.known_hosts {
        config.known_hosts.clone_from(path);
    }
    config.accept_host_key.clone_from(&common.board_key);
    config.prompt = terminal::prompt();
    config.ssh = common.ssh;
    config.proxies = proxies()?;
    if let Some(line) = &common.ssh_args {
        let wrong = |fault: &dyn std::fmt::Display| Trouble::new(Code::Usage, format!("--ssh-args: {fault}"));
        let words = shell_words::split(line).map_err(|fault| wrong(&fault))?;
        config.ssh_args = SshArgs::new(words).map_err(|fault| wrong(&fault))?;
    }
    Ok(config)
}

/// The user's name: as given, as the board told it before, or as it tells now.
pub async fn user(common: &Common, config: &PicoConfig, home: &Home) -> Result<UserName, Trouble> {
    if let Some(user) = common.board_user.clone().or_else(|| home.account(&way(common))) {
        return Ok(user);
    }
    ask_user(common, config, home).await
}

/// The user's name as the board tells it now.
pub async fn ask_user(common: &Common, config: &PicoConfig, home: &Home) -> Result<UserName, Trouble> {
    let mut session = Session::connect(config).await?;
    let user = session.user().await.map_err(|error| match error {
        // The server lets unknown keys in as nobody in particular.
        BoardError::Refused(words) => Trouble::new(Code::Denied, words),
        error => error.into(),
    })?;
    home.remember_account(&way(common), Some(&user));
    Ok(user)
}

/// The user's name as the board told it last, by the same way.
pub fn known_user(common: &Common, home: &Home) -> Option<UserName> {
    home.account(&way(common))
}

/// Whoever was not let in may have another account by now: his name is asked for again.
pub fn forget_user(common: &Common) {
    if let Ok(home) = Home::open(common.home.as_deref())
        && home.account(&way(common)).is_some()
    {
        home.remember_account(&way(common), None);
    }
}

/// What decides which account one logs in to: the board and the keys.
fn way(common: &Common) -> String {
    let keys: Vec<String> = common
        .identity
        .iter()
        .map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone()).display().to_string())
        .collect();
    let parts: Vec<String> =
        std::iter::once(common.board.to_string()).chain(keys).chain(common.ssh_args.clone()).collect();
    parts.join(" ")
}

/// The proxies that the environment names.
fn proxies() -> Result<Proxies, Trouble> {
    Proxies::of_environment(|name| std::env::var(name).ok())
        .map_err(|fault| Trouble::new(Code::Usage, fault.to_string()))
}

/// How links and transfers connect.
pub fn link_config(common: &Common) -> Result<WormholeConfig, Trouble> {
    let proxies = proxies()?;
    let mut config =
        WormholeConfig { lan: common.lan, direct: !common.relay_only, proxies, ..WormholeConfig::default() };
    if !common.relay.is_empty() {
        let named = common.relay.iter().filter(|relay| *relay != "none");
        let relays: Result<Vec<RelayAddress>, _> = named.map(|relay| relay.parse()).collect();
        config.relays = relays.map_err(|fault| Trouble::new(Code::Usage, format!("--relay: {fault}")))?;
    }
    if common.relay_only && config.relays.is_empty() {
        return Err(Trouble::new(Code::Usage, "--relay-only needs a relay: name one with --relay tcp:HOST:PORT"));
    }
    Ok(config)
}

/// Watches over a client's wait for its first worker: explains it, and says when to give up.
pub struct Patience {
    since: Instant,
    wait: Duration,
    explained: Option<Waiting>,
    /// A worker has had a task of ours.
    at_work: bool,
    denied_since: Option<Instant>,
}

impl Patience {
    /// Waits up to `wait` for a worker.
    pub fn new(wait: Duration) -> Self {
        Self { since: Instant::now(), wait, explained: None, at_work: false, denied_since: None }
    }

    /// A worker has a task of ours. From now on this waits as long as it takes: there is work to lose, and workers and boards come back.
    pub fn on_sent(&mut self) {
        self.at_work = true;
    }

    /// Something works: the wait begins anew.
    pub fn reset(&mut self) {
        self.since = Instant::now();
        self.explained = None;
        self.denied_since = None;
    }

    /// When to look again.
    pub fn next_look(&self) -> Duration {
        let waited = self.since.elapsed();
        if waited < EXPLAIN_AFTER { EXPLAIN_AFTER - waited } else { EXPLAIN_AFTER }
    }

    /// Looks at why tasks wait. Says so once it takes long.
    ///
    /// # Errors
    /// When waiting longer makes no sense.
    pub fn look(&mut self, waiting: Option<Waiting>) -> Result<(), Trouble> {
        if let Some(waiting) = self.judge(waiting)? {
            say::info(&format!("waiting: {waiting}"));
        }
        Ok(())
    }

    /// Looks at why tasks wait. Returns what is to be said of it now.
    ///
    /// # Errors
    /// When waiting longer makes no sense.
    pub fn judge(&mut self, waiting: Option<Waiting>) -> Result<Option<Waiting>, Trouble> {
        let Some(waiting) = waiting else {
            self.reset();
            return Ok(None);
        };
        let waited = self.since.elapsed();
        let denied = matches!(waiting, Waiting::Denied(..));
        self.denied_since = denied.then(|| self.denied_since.unwrap_or_else(Instant::now));
        let in_vain = self.denied_since.map_or(waited, |since| since.elapsed());
        let final_ = matches!(waiting, Waiting::Failed(_) | Waiting::Denied(..));
        if let Some(trouble) = hopeless(&waiting, in_vain, self.wait).filter(|_| final_ || !self.at_work) {
            return Err(trouble);
        }
        if waited >= EXPLAIN_AFTER {
            // There are workers: the wait for one begins when they go.
            if matches!(waiting, Waiting::Busy { .. }) {
                self.since = Instant::now();
            }
            // The words of a denial come when it is final.
            if !denied && self.explained.as_ref() != Some(&waiting) {
                self.explained = Some(waiting.clone());
                return Ok(Some(waiting));
            }
        }
        Ok(None)
    }
}

/// Whether to give up on this wait after `waited`.
fn hopeless(waiting: &Waiting, waited: Duration, wait: Duration) -> Option<Trouble> {
    let words = waiting.to_string();
    let (code, limit) = match waiting {
        Waiting::Failed(error) => return Some(error.clone().into()),
        // These may yet turn into a yes: a person decides, or it is tried again.
        Waiting::Denied(_, DenyReason::AwaitsApproval | DenyReason::Unproven) => (Code::NoCluster, wait),
        Waiting::Denied(..) => (Code::NoCluster, DENIED_FOR),
        Waiting::Misrouted(..) | Waiting::Unsigned(_) => (Code::NoCluster, PATIENCE),
        Waiting::BoardDown(_) => (Code::Unavailable, PATIENCE),
        Waiting::Proving(_) => (Code::NoCluster, wait),
        Waiting::Joining => (Code::Unavailable, wait),
        Waiting::NoWorkers(_) | Waiting::Unoffered(_) | Waiting::Away(_) | Waiting::Connecting(_) => {
            (Code::Unavailable, wait)
        }
        Waiting::Busy { .. } => return None,
    };
    (waited >= limit).then(|| {
        let waited = waited.as_secs();
        let after = match limit {
            _ if matches!(waiting, Waiting::Denied(..)) => String::new(),
            limit if limit == wait => format!(" (waited {waited} s; --wait changes that)"),
            _ => format!(" (tried for {waited} s)"),
        };
        Trouble::new(code, format!("{words}{after}"))
    })
}

/// Says what a client reports, as far as a person wants to know.
pub fn say_report(report: &ClientReport, client: &Client) {
    match report {
        ClientReport::Linked { worker, path } => log::info!("linked to {worker}, {path}"),
        ClientReport::Broken { worker, error, tasks: 0 } => log::info!("the link to {worker} broke: {error}"),
        // One line for all that follows: what it says comes true in seconds, or `Resumed` says that it did not have to.
        ClientReport::Broken { worker, error, .. } => {
            let seconds = p2p_proto::limits::ELSEWHERE_AFTER.as_secs();
            say::info(&format!(
                "the connection to {worker} broke ({error}); it is called again, and what may run twice starts elsewhere after {seconds} s"
            ));
        }
        ClientReport::Elsewhere { worker, tasks } => {
            log::info!(
                "{worker} is away; {tasks} of its tasks start elsewhere, and its results count if they come first"
            );
        }
        ClientReport::Resumed { worker, path } => say::info(&format!("connected to {worker} again, {path}")),
        ClientReport::Unlinked { worker, error, again } if *again > 0 => {
            say::info(&format!("lost {worker} ({error}); {again} tasks start again elsewhere"));
        }
        ClientReport::Unlinked { worker, error, .. } => log::info!("the link to {worker} ended: {error}"),
        ClientReport::CallFailed { worker, why } => say::info(&format!("{worker} cannot be reached: {why}")),
        ClientReport::Draining(worker) => log::info!("{worker} takes no more tasks"),
        ClientReport::Admission(event) => say_admission(event, &client.status().cluster),
        ClientReport::BoardUp => log::info!("the board is up"),
        ClientReport::BoardDown { reason, retry_in } => {
            log::info!("the board is away ({reason}); next try in {:.1} s", retry_in.as_secs_f32());
        }
        ClientReport::Misrouted { .. } | ClientReport::Failed(_) => {}
    }
}

/// Says what happened to the membership, as far as a person wants to know. A denial is told by whoever waits.
pub fn say_admission(event: &AdmissionEvent, cluster: &ClusterName) {
    match event {
        AdmissionEvent::Admitted { host, .. } => {
            log::info!("the host has signed this machine's key");
            meeting::say_host(host, cluster);
        }
        AdmissionEvent::Denied(_)
        | AdmissionEvent::HostHeard { .. }
        | AdmissionEvent::Removals
        | AdmissionEvent::Restored => {}
        AdmissionEvent::OtherHost { pinned, seen } => say::line(&other_host(pinned, seen)),
        AdmissionEvent::Imposter { key, seen } => say::line(&format!(
            "p2p: WARNING: somebody poses as this cluster's host with the key {}; the board shows {} in her place. That key is not believed",
            key.fingerprint(),
            say::harmless(seen)
        )),
        AdmissionEvent::Unchecked { key, why } => say::info(&format!(
            "the board cannot show whether {} ({}) is the host's key: {why}. Ask her for her fingerprint (p2p id), then: p2p trust pin \
             FINGERPRINT --cluster {cluster}",
            key.fingerprint(),
            words(key)
        )),
        AdmissionEvent::Removed => say::info("the host has removed this machine: its links end; ask her why"),
        AdmissionEvent::Forked => say::line(
            "p2p: WARNING: two different rosters carry the host's signature under one number: she runs twice, or somebody else has her key. Ask \
             her",
        ),
        AdmissionEvent::HostAway => {
            say::info(&format!("{}'s host is away: running links go on, new ones cannot meet", cluster.owner()));
        }
        AdmissionEvent::HostBack => say::info(&format!("{}'s host is back", cluster.owner())),
        AdmissionEvent::Ending { until } => say::info(&format!(
            "the host is away, and what she has signed for this machine ends {}: then it cannot work here until she is back",
            humantime::format_rfc3339_seconds(
                std::time::UNIX_EPOCH + Duration::from_secs((*until).min(u64::from(u32::MAX)))
            )
        )),
        AdmissionEvent::ClockOff { seconds } => say::info(&format!(
            "this machine's clock and the host's differ by {seconds} s: set the one that is wrong, or neither believes what the other has signed"
        )),
    }
}

/// Somebody signs as host with a key that is not the pinned one.
fn other_host(pinned: &Fingerprint, seen: &MachineKey) -> String {
    format!(
        "p2p: WARNING: somebody signs as this cluster's host with another key than the one this machine knows, and is ignored.\n\
         known: {}\n seen: {}\n\
         If the host has a new machine, ask her for its fingerprint (p2p id), then: p2p trust forget --host --cluster OWNER/NAME",
        pinned,
        seen.fingerprint()
    )
}

/// The next of a client's reports within `limit`, or nothing.
pub async fn next_report(client: &Client, limit: Duration) -> Option<ClientReport> {
    timeout(limit, client.report()).await.ok().flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    fn cluster() -> ClusterName {
        "alice/friends".parse().unwrap()
    }

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn a_long_wait_for_a_slot_is_no_wait_for_a_worker() {
        let mut patience = Patience::new(WAIT);
        patience.since = ago(60);
        assert_eq!(patience.look(Some(Waiting::Busy { slots: 1 })), Ok(()));
        assert_eq!(patience.look(Some(Waiting::NoWorkers(cluster()))), Ok(()));
        patience.since = ago(60);
        assert!(patience.look(Some(Waiting::NoWorkers(cluster()))).is_err());
    }

    #[test]
    fn who_has_work_with_a_worker_waits_as_long_as_it_takes() {
        let mut patience = Patience::new(WAIT);
        patience.on_sent();
        for waiting in [Waiting::BoardDown("cut".to_owned()), Waiting::NoWorkers(cluster()), Waiting::Away(Vec::new())]
        {
            patience.since = ago(600);
            assert_eq!(patience.look(Some(waiting)), Ok(()));
        }
        assert!(patience.look(Some(Waiting::Failed(BoardError::Refused("no key".to_owned())))).is_err());
    }

    #[test]
    fn a_denial_has_to_last() {
        let denied = || Some(Waiting::Denied(cluster(), DenyReason::NotListed));
        let mut patience = Patience::new(WAIT);
        patience.since = ago(20);
        assert_eq!(patience.look(denied()), Ok(()));
        patience.denied_since = Some(ago(3));
        assert_eq!(patience.look(Some(Waiting::Joining)), Ok(()));
        assert_eq!(patience.look(denied()), Ok(()));
        patience.denied_since = Some(ago(3));
        let trouble = patience.look(denied()).unwrap_err();
        assert_eq!(trouble.code(), Code::NoCluster);
        assert!(!trouble.to_string().contains("tried for"), "{trouble}");
    }
}
