//! `p2p approve`: lets a machine in whose key the host has compared with its user.

use std::process::ExitCode;

use clap::Args;
use p2p_proto::ids::{ClusterName, Fingerprint, MachineKey, UserName};

use crate::home::Home;
use crate::options::Common;
use crate::terminal;
use crate::trouble::{Code, Trouble};
use crate::words::words;

/// Options of `p2p approve`.
#[derive(Debug, Args)]
pub struct Options {
    /// Whose machine it is.
    pub user: UserName,
    /// Its fingerprint or its eight words, as `p2p id` shows them there [default: the one that waits, after a question]
    pub key: Vec<String>,
}

/// Leaves word for the host's process.
pub fn approve(common: &Common, options: &Options) -> Result<ExitCode, Trouble> {
    let home = Home::open(common.home.as_deref())?;
    let cluster = cluster(common, &home)?;
    let waiting = home.trusted(&cluster)?.pending.remove(&options.user).unwrap_or_default();
    let key = match &options.key[..] {
        [] => compared(&options.user, &waiting)?,
        named => read(&named.join(" "), &waiting)?,
    };
    let mut left = Ok(());
    home.change(&cluster, |trusted| left = trusted.approve(&options.user, key.clone()))?;
    left?;
    println!(
        "{key} stands for {} in {cluster}: p2p host takes that up within a second, or when it starts",
        options.user
    );
    Ok(ExitCode::SUCCESS)
}

/// The cluster that is meant: the one that was named, or the only one in which machines wait.
fn cluster(common: &Common, home: &Home) -> Result<ClusterName, Trouble> {
    if let Some(cluster) = &common.cluster {
        return Ok(cluster.clone());
    }
    let mut waiting = Vec::new();
    for cluster in home.clusters()? {
        if !home.trusted(&cluster)?.pending.is_empty() {
            waiting.push(cluster);
        }
    }
    match &waiting[..] {
        [one] => Ok(one.clone()),
        _ => Err(Trouble::new(Code::Usage, "say in which cluster: --cluster OWNER/NAME")),
    }
}

/// A person compares the words of the one that waits.
fn compared(user: &UserName, waiting: &[MachineKey]) -> Result<Fingerprint, Trouble> {
    let [key] = waiting else {
        let words = match waiting {
            [] => format!(
                "no machine of {user} waits; name its key, as p2p id shows it there: p2p approve {user} P2P:..."
            ),
            _ => format!(
                "{} machines wait in the name of {user}: ask which one it is (p2p id there shows it), and name it: p2p approve {user} P2P:...",
                waiting.len()
            ),
        };
        return Err(Trouble::new(Code::Input, words));
    };
    let question = format!(
        "{user} must read these words to you, from p2p id on the machine that is to be let in:\n  {}\n  {}\nAre they the same?",
        words(key),
        key.fingerprint()
    );
    match terminal::ask(&question) {
        Some(true) => Ok(Fingerprint::from(*key)),
        Some(false) => Err(Trouble::new(Code::Denied, "nothing was approved")),
        None => {
            let fingerprint = key.fingerprint();
            let words = format!(
                "one machine waits in the name of {user}, {fingerprint} ({}); compare that with {user}, then: p2p approve {user} {fingerprint}",
                words(key)
            );
            Err(Trouble::new(Code::Usage, words))
        }
    }
}

/// A fingerprint, or the words of a key that waits.
fn read(named: &str, waiting: &[MachineKey]) -> Result<Fingerprint, Trouble> {
    let said: Vec<String> = named.split_whitespace().map(str::to_lowercase).collect();
    let same = |key: &&MachineKey| words(key).split(' ').eq(said.iter().map(String::as_str));
    match waiting.iter().find(same) {
        Some(key) => Ok(Fingerprint::from(*key)),
        None => named.parse().map_err(|fault| {
            Trouble::new(
                Code::Input,
                format!("{fault}; or the eight words of a machine that waits (p2p members shows those)"),
            )
        }),
    }
}
