//! `p2p host`: opens a cluster for friends.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::FutureExt as _;
use p2p_proto::board::message::DenyReason;
use p2p_proto::ids::UserName;
use p2p_scheduler::{Host, HostReport, TrustStore};

use super::Signals;
use crate::options::Common;
use crate::say;
use crate::trouble::Trouble;
use crate::wiring::Wiring;

/// Options of `p2p host`.
#[derive(Debug, Args)]
pub struct Options {
    /// Who may use the cluster besides oneself.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub users: Vec<UserName>,

    /// How long to host.
    #[arg(long, default_value = "14d", value_parser = humantime::parse_duration)]
    pub duration: Duration,
}

/// Hosts until it is interrupted or the time is over.
pub async fn host(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let mut signals = Signals::listen()?;
    let wiring = Wiring::new(common, if options.users.is_empty() { "personal" } else { "friends" }).await?;
    let cluster = wiring.member.cluster.clone();
    let store = Arc::clone(&wiring.home) as Arc<dyn TrustStore>;
    let host = Host::open(&wiring.member, &options.users, wiring.hosting_board(&options.users), store)
        .map_err(|fault| Trouble::new(crate::trouble::Code::Usage, fault.to_string()))?;
    say::info(&format!("this machine's key is {}", wiring.member.identity.machine_key().fingerprint()));
    let mut over = Box::pin(async_std::task::sleep(options.duration).fuse());
    loop {
        futures::select! {
            () = signals.next().fuse() => break,
            () = over => {
                say::info("the time is over (--duration)");
                break;
            }
            report = host.report().fuse() => match report {
                Some(report) => say_report(&report, &cluster.to_string(), &options.users)?,
                None => break,
            },
        }
    }
    host.leave().await;
    say::info(&format!("{cluster} has no host now: running links go on, new friends cannot enter"));
    Ok(ExitCode::SUCCESS)
}

fn say_report(report: &HostReport, cluster: &str, users: &[UserName]) -> Result<(), Trouble> {
    match report {
        HostReport::Open => {
            let names: Vec<&str> = users.iter().map(UserName::as_str).collect();
            let whom = if names.is_empty() { "you alone".to_owned() } else { format!("you and {}", names.join(", ")) };
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
        HostReport::Refused { name, why } => {
            let why = match why {
                DenyReason::NotListed => "is not on the list (--users)".to_owned(),
                DenyReason::OtherKey => format!(
                    "comes with the key of another machine; if that is right: p2p trust forget {} --cluster {cluster}, then host again",
                    name.user()
                ),
                DenyReason::BadCertificate => {
                    "showed a certificate that does not verify; is one of the two clocks wrong?".to_owned()
                }
                DenyReason::Other => "was refused".to_owned(),
            };
            say::info(&format!("{name} {why}"));
        }
        HostReport::Left(name) => say::info(&format!("{name} left")),
    }
    Ok(())
}
