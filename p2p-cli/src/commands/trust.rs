//! `p2p trust`: lists or forgets whose keys this machine trusts.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use p2p_proto::ids::{ClusterName, UserName};

use crate::home::Home;
use crate::options::Common;
use crate::trouble::{Code, Trouble};

/// Options of `p2p trust`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show all keys (the default).
    List,
    /// Forget a key, so that the next one that is seen counts.
    Forget {
        /// As a host: the user whose machine is forgotten.
        #[arg(required_unless_present = "host", value_name = "NAME")]
        user: Option<UserName>,
        /// As a member: forget the key of the cluster's host.
        #[arg(long, conflicts_with = "user")]
        host: bool,
    },
}

/// Does it.
pub fn trust(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let home = Home::open(common.home.as_deref())?;
    match options.action.unwrap_or(Action::List) {
        Action::List => list(common, &home)?,
        Action::Forget { user, host } => {
            let cluster = common
                .cluster
                .as_ref()
                .ok_or_else(|| Trouble::new(Code::Usage, "say in which cluster to forget it: --cluster OWNER/NAME"))?;
            forget(&home, cluster, user.filter(|_| !host))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(common: &Common, home: &Home) -> Result<(), Trouble> {
    for cluster in home.clusters()? {
        let trusted = home.trusted(&cluster)?;
        if common.json {
            let members: serde_json::Map<_, _> =
                trusted.bindings.iter().map(|(user, key)| (user.to_string(), key.fingerprint().into())).collect();
            let host = trusted.host.map(|key| key.fingerprint());
            println!("{}", serde_json::json!({ "cluster": cluster.to_string(), "host": host, "members": members }));
            continue;
        }
        println!("{cluster}");
        if let Some(host) = trusted.host {
            println!("  host    {}", host.fingerprint());
        }
        for (user, key) in &trusted.bindings {
            println!("  member  {}  {user}", key.fingerprint());
        }
    }
    Ok(())
}

fn forget(home: &Home, cluster: &ClusterName, user: Option<UserName>) -> Result<(), Trouble> {
    let mut known = false;
    home.change(cluster, |trusted| match &user {
        Some(user) => known = trusted.bindings.remove(user).is_some(),
        None => {
            known = trusted.host.take().is_some();
            trusted.membership = None;
        }
    })?;
    let whose = user.map_or_else(|| format!("the host of {cluster}"), |user| format!("{user} in {cluster}"));
    if !known {
        return Err(Trouble::new(Code::Input, format!("no key of {whose} is kept here; p2p trust lists what is")));
    }
    println!("forgot the key of {whose}; the next one that is seen counts");
    Ok(())
}
