//! A host at work: what she is told, and what other commands want of her.

mod asked;
mod list;
mod wishes;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures::future::{self, Either};
use p2p_proto::board::Board;
use p2p_proto::board::message::DenyReason;
use p2p_proto::ids::{ClusterName, MachineKey, UserName};
use p2p_scheduler::{Host, HostConfig, HostReport, TrustStore};
use p2p_transport_pico::OwnerBoard;

use self::asked::{Asked, Notice};
use self::list::Look;
pub use self::list::UsersFile;
use self::wishes::Wishes;
use crate::home::Home;
use crate::meeting;
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::trusted::Wish;
use crate::wiring::Wiring;
use crate::words::words;

/// How often it looks for another list, and for what other commands want of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What `--admit auto` means where the board is no hub.
const BELIEVED: &str = "machines are let in by the login that this server reports (--admit auto), and it is no hub: whoever runs it, or can log in there as \
                        one of your friends, gets machines of his own in, now and at any later time. --admit ask lets you compare each one's words";

/// A host who runs.
pub struct Hosting {
    cluster: ClusterName,
    home: Arc<Home>,
    host: Host,
    /// `None` in a personal cluster, whose topic has no list.
    board: Option<Arc<OwnerBoard>>,
    users: Vec<UserName>,
    look_at: Instant,
    /// Any server's word for who is logged in counts, and that was not said yet.
    unsaid_belief: bool,
    wishes: Wishes,
    asked: Asked,
    /// What is said of machines that wait as soon as that is written: a command that names one must find it.
    unsaid: Vec<String>,
    /// When it was written last.
    written_at: Option<Instant>,
}

impl Hosting {
    /// Opens the cluster. `believe_logins` takes any server's word for who is logged in, not only a hub's.
    pub fn open(wiring: &Wiring, config: HostConfig, believe_logins: bool) -> Result<Self, Trouble> {
        let (cluster, home) = (wiring.member.cluster.clone(), Arc::clone(&wiring.home));
        let users: Vec<UserName> = config.users.clone();
        home.forget_pending(&cluster);
        home.keep_approved(&cluster, &users)?;
        let list = (!wiring.is_personal()).then(|| wiring.hosting_board(&users, believe_logins));
        let board = match &list {
            Some(board) => Arc::clone(board) as Arc<dyn Board>,
            None => wiring.own_board(believe_logins),
        };
        let store = Arc::clone(&home) as Arc<dyn TrustStore>;
        let host = Host::open(&wiring.member, config, board, store)
            .map_err(|fault| Trouble::new(Code::Usage, fault.to_string()))?;
        let key = wiring.member.identity.machine_key();
        say::info(&format!("this machine's key is {}; in words: {}", key.fingerprint(), words(&key)));
        for (user, keys) in home.trusted(&cluster)?.approved {
            for key in keys {
                host.approve(user.clone(), key);
            }
        }
        let (look_at, asked) = (Instant::now() + LOOK_EVERY, Asked::default());
        let (wishes, unsaid_belief) = (Wishes::default(), believe_logins);
        Ok(Self {
            cluster,
            home,
            host,
            board: list,
            users,
            look_at,
            unsaid_belief,
            wishes,
            asked,
            unsaid: Vec::new(),
            written_at: None,
        })
    }

    /// Waits for what is next, and does it. Returns whether she hosts on. Cancel-safe, but for what a file of users has changed.
    ///
    /// # Errors
    /// What ends her hosting.
    pub async fn tend(&mut self, file: Option<&mut UsersFile>) -> Result<bool, Trouble> {
        let next = {
            let report = std::pin::pin!(self.host.report());
            match future::select(report, Timer::at(self.look_at)).await {
                Either::Left((report, _)) => Some(report),
                Either::Right(_) => None,
            }
        };
        match next {
            Some(None) => return Ok(false),
            Some(Some(report)) => self.say(&report)?,
            None => {
                self.look_at = Instant::now() + LOOK_EVERY;
                self.look(file).await;
            }
        }
        Ok(true)
    }

    /// Says that she goes, and goes.
    pub fn leave(self) -> impl Future<Output = ()> {
        self.host.leave()
    }

    /// Takes up what has changed: the list, and what other commands want.
    async fn look(&mut self, file: Option<&mut UsersFile>) {
        match file.map_or(Look::Same, UsersFile::look) {
            Look::Same => {}
            Look::Wrong(fault) => say::info(&format!("{fault}; the list stays as it was")),
            Look::Changed(users) => {
                // Who is off the list is named on the board before it opens anew without him.
                self.host.set_users(users.clone());
                self.users.clone_from(&users);
                if let Err(trouble) = self.home.keep_approved(&self.cluster, &users) {
                    log::warn!("{trouble}");
                }
                if let Some(board) = &self.board {
                    board.set_users(Wiring::access(self.cluster.owner(), &users)).await;
                }
            }
        }
        self.show_asked();
        let host = &self.host;
        let looked = self.wishes.look(&self.home, &self.cluster, |wish| match wish.clone() {
            Wish::Approve(user, key) => host.approve(user, key),
            Wish::Forget(user, key) => host.forget(user, key),
        });
        if let Err(trouble) = looked {
            log::warn!("{trouble}");
        }
    }

    /// A machine waits for her approval.
    fn on_asked(&mut self, user: &str, machine: MachineKey) {
        match self.asked.on_asked(Instant::now(), user) {
            Notice::Machine => self.unsaid.push(asked(user, machine, &self.cluster.to_string())),
            Notice::More => self.unsaid.push(format!(
                "more machines ask in the name of {user}; p2p members shows the latest. If {user} knows nothing of them, somebody else makes them ask"
            )),
            Notice::Nothing => {}
        }
        self.show_asked();
    }

    /// Writes who waits and says it, at most once in [`LOOK_EVERY`].
    fn show_asked(&mut self) {
        if self.written_at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        if self.home.write_pending(&self.cluster) {
            self.written_at = Some(Instant::now());
        }
        for text in self.unsaid.drain(..) {
            say::info(&text);
        }
    }

    fn say(&mut self, report: &HostReport) -> Result<(), Trouble> {
        let cluster = &self.cluster;
        match report {
            HostReport::Open => {
                let names: Vec<&str> = self.users.iter().map(UserName::as_str).collect();
                let whom =
                    if names.is_empty() { "you alone".to_owned() } else { format!("you and {}", names.join(", ")) };
                say::info(&format!("{cluster} is open for {whom}"));
                if !meeting::on_hub() && std::mem::take(&mut self.unsaid_belief) {
                    say::info(BELIEVED);
                }
            }
            HostReport::BoardDown { reason, retry_in } if retry_in.is_zero() => log::info!("{reason}; back at once"),
            HostReport::BoardDown { reason, retry_in } => {
                say::info(&format!("the board is away: {reason}; next try in {:.1} s", retry_in.as_secs_f32()));
            }
            HostReport::Warning(text) => say::info(&format!("warning: {text}")),
            HostReport::Failed(error) => return Err(error.clone().into()),
            HostReport::Admitted { name, role, first_time: true } => {
                say::info(&format!("{name} entered as a {role}; its machine stands for {} from now on", name.user()));
            }
            HostReport::Admitted { name, role, .. } => say::info(&format!("{name} entered as a {role}")),
            HostReport::Refused { name, why } => say::info(&format!("{name} {}", refused(*why))),
            HostReport::Asked { name, machine, why } => {
                if let Some(why) = why {
                    log::info!("{name} has to be approved: {why}");
                }
                self.on_asked(name.user(), *machine);
            }
            HostReport::Intruder { name, machine, seen } => say::line(&format!(
                "p2p: WARNING: somebody claims to be {} with the key {}, and the board shows {} where only {} should be. Nothing was signed. If \
                 {} is really there, compare the key's words (p2p id), then: p2p approve {} KEY --cluster {cluster}",
                name.user(),
                machine.fingerprint(),
                say::harmless(seen),
                name.user(),
                name.user(),
                name.user(),
            )),
            HostReport::Removed { user, machine } => {
                say::info(&format!("the machine {} of {user} is removed; links to it end now", machine.fingerprint()));
            }
            HostReport::Left(name) => say::info(&format!("{name} left")),
        }
        Ok(())
    }
}

fn asked(user: &str, machine: MachineKey, cluster: &str) -> String {
    let fingerprint = machine.fingerprint();
    format!(
        "a machine of {user} wants in. Ask {user}, by another way than this board, for its words (p2p id), and only if they are\n  {}\nlet it \
         in: p2p approve {user} {fingerprint} --cluster {cluster}",
        words(&machine)
    )
}

fn refused(why: DenyReason) -> &'static str {
    match why {
        DenyReason::NotListed => "is not on the list (--users)",
        DenyReason::OtherKey => "comes with the key of another machine",
        DenyReason::BadCertificate => "showed a certificate that does not verify; is one of the two clocks wrong?",
        DenyReason::AwaitsApproval => "has to be approved (p2p approve)",
        DenyReason::Unproven => "was not where the board should have shown that login",
        DenyReason::TooManyMachines => "has too many machines already (p2p trust forget takes one off)",
        DenyReason::Other => "was refused",
    }
}
