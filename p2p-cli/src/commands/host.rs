//! `p2p host`: opens a cluster for friends.

mod list;
mod service;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;
use clap::{Args, ValueEnum};
use futures::FutureExt as _;
use p2p_proto::board::Board;
use p2p_proto::board::message::DenyReason;
use p2p_proto::ids::{MachineKey, UserName};
use p2p_scheduler::{AdmitBy, Host, HostConfig, HostReport, TrustStore};
use p2p_transport_pico::OwnerBoard;

use self::list::{Look, UsersFile};
use super::Signals;
use crate::options::{Common, Trust};
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::trusted::Wish;
use crate::wiring::Wiring;
use crate::words::words;

/// How often it looks for another list, and for what other commands want of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one hosts who does not say.
const DURATION: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// The shortest and the longest life of a signature that makes sense.
const MEMBER_TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10 * 60)..=Duration::from_secs(90 * 24 * 60 * 60);

/// Options of `p2p host`.
#[derive(Debug, Args)]
pub struct Options {
    /// Who may use the cluster besides oneself.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub users: Vec<UserName>,

    /// The same in a file, which is read again when it changes: who is taken off it loses his links.
    #[arg(long, value_name = "FILE", conflicts_with = "users")]
    pub users_file: Option<PathBuf>,

    /// How a new machine gets in: by its user's login on the board, or after `p2p approve` [default: by login on a hub, else ask]
    #[arg(long, value_name = "auto|ask")]
    pub admit: Option<Admit>,

    /// How long a machine may work on while you are away; it is renewed at half of that.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = member_ttl)]
    pub member_ttl: Duration,

    /// How long to host [default: 14d]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,

    /// Write a systemd service that hosts with these options, say how to enable it, and go.
    #[arg(long)]
    pub service: bool,
}

/// How a new machine gets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Admit {
    /// By its user's login, whatever server the board is.
    Auto,
    /// After the host has compared its words.
    Ask,
}

fn member_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|fault| fault.to_string())?;
    let (least, most) =
        (humantime::format_duration(*MEMBER_TTL.start()), humantime::format_duration(*MEMBER_TTL.end()));
    if MEMBER_TTL.contains(&ttl) { Ok(ttl) } else { Err(format!("it is {least} to {most}")) }
}

/// Hosts until it is interrupted or the time is over.
pub async fn host(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    if common.trust == Trust::FirstSight {
        let none = "with --trust first-sight there is no host: any session with a list opens the topic, such as: ssh pipe.pico.sh pipe TOPIC -a \
                    USER,...";
        return Err(Trouble::new(Code::Usage, none));
    }
    let mut signals = Signals::listen()?;
    let mut file = options.users_file.as_deref().map(UsersFile::open).transpose()?;
    let users = file.as_ref().map_or(&options.users[..], UsersFile::users).to_vec();
    let friends = !users.is_empty() || file.is_some();
    let wiring = Wiring::new(common, if friends { "friends" } else { "personal" }).await?;
    if options.service {
        let (path, how) = service::write(wiring.member.cluster.name())?;
        println!("wrote {}\nto enable it: {how}", path.display());
        println!("it runs without you: an SSH key with a passphrase needs an agent that does, too");
        return Ok(ExitCode::SUCCESS);
    }
    let config = HostConfig {
        admit: if options.admit == Some(Admit::Ask) { AdmitBy::Hand } else { AdmitBy::Login },
        member_ttl: options.member_ttl,
        ..HostConfig::of(users.iter().cloned())
    };
    wiring.home.forget_pending(&wiring.member.cluster)?;
    let board = wiring.hosting_board(&users, options.admit == Some(Admit::Auto));
    let store = Arc::clone(&wiring.home) as Arc<dyn TrustStore>;
    let host = Host::open(&wiring.member, config, Arc::clone(&board) as Arc<dyn Board>, store)
        .map_err(|fault| Trouble::new(Code::Usage, fault.to_string()))?;
    let key = wiring.member.identity.machine_key();
    say::info(&format!("this machine's key is {}; in words: {}", key.fingerprint(), words(&key)));
    for (user, keys) in wiring.home.trusted(&wiring.member.cluster)?.approved {
        for key in keys {
            host.approve(user.clone(), key);
        }
    }
    let mut hosting = Hosting { wiring, host, board, users };
    let mut over = Box::pin(async_std::task::sleep(options.duration.unwrap_or(DURATION)).fuse());
    let mut look = Box::pin(Timer::after(LOOK_EVERY).fuse());
    loop {
        futures::select! {
            () = signals.next().fuse() => break,
            () = over => {
                say::info("the time is over (--duration)");
                break;
            }
            _ = look => {
                hosting.look(file.as_mut()).await;
                look = Box::pin(Timer::after(LOOK_EVERY).fuse());
            }
            report = hosting.host.report().fuse() => match report {
                Some(report) => hosting.say(&report)?,
                None => break,
            },
        }
    }
    let cluster = &hosting.wiring.member.cluster;
    hosting.host.leave().await;
    say::info(&format!("{cluster} has no host now: running links go on, new ones cannot meet"));
    Ok(ExitCode::SUCCESS)
}

struct Hosting {
    wiring: Wiring,
    host: Host,
    board: Arc<OwnerBoard>,
    users: Vec<UserName>,
}

impl Hosting {
    /// Takes up what has changed: the list, and what other commands want.
    async fn look(&mut self, file: Option<&mut UsersFile>) {
        match file.map_or(Look::Same, UsersFile::look) {
            Look::Same => {}
            Look::Wrong(fault) => say::info(&format!("{fault}; the list stays as it was")),
            Look::Changed(users) => {
                // Who is off the list is named on the board before it opens anew without him.
                self.host.set_users(users.clone());
                self.users.clone_from(&users);
                self.board.set_users(self.wiring.access(&users)).await;
            }
        }
        let wishes = self.wiring.home.take_wishes(&self.wiring.member.cluster).unwrap_or_else(|trouble| {
            log::warn!("{trouble}");
            Vec::new()
        });
        for wish in wishes {
            match wish {
                Wish::Approve(user, key) => self.host.approve(user, key),
                Wish::Forget(user, key) => self.host.forget(user, key),
            }
        }
    }

    fn say(&self, report: &HostReport) -> Result<(), Trouble> {
        let cluster = &self.wiring.member.cluster;
        match report {
            HostReport::Open => {
                let names: Vec<&str> = self.users.iter().map(UserName::as_str).collect();
                let whom =
                    if names.is_empty() { "you alone".to_owned() } else { format!("you and {}", names.join(", ")) };
                say::info(&format!("{cluster} is open for {whom}"));
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
                say::info(&asked(name.user(), *machine, &cluster.to_string()));
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
