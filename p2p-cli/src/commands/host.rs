//! `p2p host`: opens a cluster for friends.

mod service;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::FutureExt as _;
use p2p_proto::ids::UserName;
use p2p_scheduler::{AdmitBy, HostConfig};

use super::Signals;
use crate::hosting::{Hosting, UsersFile};
use crate::options::{Common, Trust};
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::wiring::{PERSONAL, Wiring};

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
    let wiring = Wiring::new(common, if friends { "friends" } else { PERSONAL }).await?;
    if options.service {
        let (path, how) = service::write(wiring.member.cluster.name())?;
        println!("wrote {}\nto enable it: {how}", path.display());
        println!(
            "it runs without you: an SSH key with a passphrase needs an agent that does, too (this session's SSH_AUTH_SOCK is not in the service)"
        );
        return Ok(ExitCode::SUCCESS);
    }
    let config = HostConfig {
        admit: if options.admit == Some(Admit::Ask) { AdmitBy::Hand } else { AdmitBy::Login },
        member_ttl: options.member_ttl,
        ..HostConfig::of(users.iter().cloned())
    };
    if wiring.is_personal() && friends {
        let text =
            format!("{} is for your own machines: give the cluster for friends another name", wiring.member.cluster);
        return Err(Trouble::new(Code::Usage, text));
    }
    let mut hosting = Hosting::open(&wiring, config, options.admit == Some(Admit::Auto))?;
    let mut over = Box::pin(async_std::task::sleep(options.duration.unwrap_or(DURATION)).fuse());
    loop {
        futures::select! {
            () = signals.next().fuse() => break,
            () = over => {
                say::info("the time is over (--duration)");
                break;
            }
            tended = hosting.tend(file.as_mut()).fuse() => {
                if !tended? {
                    break;
                }
            }
        }
    }
    hosting.leave().await;
    let cluster = &wiring.member.cluster;
    say::info(&format!("{cluster} has no host now: running links go on, new ones cannot meet"));
    Ok(ExitCode::SUCCESS)
}
