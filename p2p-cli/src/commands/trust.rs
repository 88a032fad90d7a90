//! `p2p trust`: lists, names or forgets whose keys this machine trusts.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use p2p_proto::ids::{ClusterName, Fingerprint, MachineKey, UserName};

use crate::home::Home;
use crate::options::Common;
use crate::trouble::{Code, Trouble};
use crate::trusted::Wish;
use crate::words::words;

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
    /// As a member: believe only this key as the cluster's host, from now on.
    Pin {
        /// Her machine's fingerprint, as `p2p id` shows it there.
        key: Fingerprint,
    },
    /// Forget a key. As a host: the user's machines are removed, and prove themselves anew if he is still listed.
    Forget {
        /// As a host: the user whose machines are forgotten.
        #[arg(required_unless_present = "host", value_name = "NAME")]
        user: Option<UserName>,
        /// Only this one of them.
        #[arg(value_name = "KEY", conflicts_with = "host")]
        key: Option<Fingerprint>,
        /// As a member: forget the key of the cluster's host.
        #[arg(long, conflicts_with = "user")]
        host: bool,
    },
}

/// Does it.
pub fn trust(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let home = Home::open(common.home.as_deref())?;
    let cluster = || {
        let missing = || Trouble::new(Code::Usage, "say in which cluster: --cluster OWNER/NAME");
        common.cluster.as_ref().ok_or_else(missing)
    };
    match options.action.unwrap_or(Action::List) {
        Action::List => list(common, &home)?,
        Action::Pin { key } => pin(&home, cluster()?, key)?,
        Action::Forget { user: Some(user), key, .. } => forget_user(&home, cluster()?, user, key)?,
        Action::Forget { user: None, .. } => forget_host(&home, cluster()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(common: &Common, home: &Home) -> Result<(), Trouble> {
    for cluster in home.clusters()? {
        let trusted = home.trusted(&cluster)?;
        if common.json {
            let all = |machines: &Vec<MachineKey>| machines.iter().map(|key| key.fingerprint()).collect();
            let members: serde_json::Map<_, _> =
                trusted.members.iter().map(|(user, machines)| (user.to_string(), all(machines))).collect();
            let host = trusted.host.map(|key| key.fingerprint());
            let line = serde_json::json!({
                "cluster": cluster.to_string(), "host": host, "pinned": trusted.pinned, "members": members
            });
            println!("{line}");
            continue;
        }
        println!("{cluster}");
        if let Some(pinned) = &trusted.pinned {
            println!("  pinned  {pinned}");
        }
        if let Some(host) = trusted.host {
            println!("  host    {}  {}", host.fingerprint(), words(&host));
        }
        for (user, machines) in &trusted.members {
            for key in machines {
                println!("  member  {}  {user}", key.fingerprint());
            }
        }
    }
    Ok(())
}

fn pin(home: &Home, cluster: &ClusterName, key: Fingerprint) -> Result<(), Trouble> {
    home.change(cluster, |trusted| {
        if trusted.host.is_some_and(|host| !key.fits(host)) {
            trusted.forget_host();
        }
        trusted.pinned = Some(key.clone());
    })?;
    println!("{key} is the only host of {cluster} from now on");
    say_restart();
    Ok(())
}

fn forget_host(home: &Home, cluster: &ClusterName) -> Result<(), Trouble> {
    let mut known = false;
    home.change(cluster, |trusted| known = trusted.forget_host())?;
    if !known {
        return Err(unknown(&format!("the host of {cluster}")));
    }
    println!("forgot the key of the host of {cluster}; her login on the board tells the next one, or p2p trust pin");
    say_restart();
    Ok(())
}

/// Each process has read it at its start.
fn say_restart() {
    println!("p2p processes of this cluster that run now do not know that: restart them");
}

fn forget_user(home: &Home, cluster: &ClusterName, user: UserName, key: Option<Fingerprint>) -> Result<(), Trouble> {
    let mut left = Ok(());
    home.change(cluster, |trusted| {
        let fits = |machine: &MachineKey| key.as_ref().is_none_or(|key| key.fits(*machine));
        let member = trusted.members.get(&user).is_some_and(|machines| machines.iter().any(fits));
        let approved = trusted.approved.get(&user);
        let approved =
            approved.is_some_and(|keys| keys.iter().any(|known| key.as_ref().is_none_or(|key| key == known)));
        trusted.unapprove(&user, key.as_ref());
        left = if member || approved {
            trusted.wish(Wish::Forget(user.clone(), key.clone()))
        } else {
            Err(unknown(&format!("{user} in {cluster}")))
        };
    })?;
    left?;
    println!("{user} is removed from {cluster} as soon as p2p host takes that up: within a second, or when it starts");
    println!("as long as {user} is on the list, a machine of that user's may prove itself anew");
    Ok(())
}

fn unknown(whose: &str) -> Trouble {
    Trouble::new(Code::Input, format!("no key of {whose} is kept here; p2p trust lists what is"))
}
