//! `p2p members`: whose machines belong to the clusters that are hosted here.

use std::process::ExitCode;

use clap::Args;
use p2p_proto::ids::MachineKey;

use crate::home::Home;
use crate::options::Common;
use crate::trouble::Trouble;
use crate::trusted::Trusted;
use crate::words::words;

/// Options of `p2p members`.
#[derive(Debug, Args)]
pub struct Options {}

/// Shows them.
pub fn members(common: &Common, _: &Options) -> Result<ExitCode, Trouble> {
    let home = Home::open(common.home.as_deref())?;
    for cluster in home.clusters()? {
        let trusted = home.trusted(&cluster)?;
        let wanted = common
            .cluster
            .as_ref()
            .map_or(!trusted.members.is_empty() || !trusted.pending.is_empty(), |named| *named == cluster);
        if !wanted {
            continue;
        }
        if common.json {
            println!("{}", as_json(&cluster.to_string(), &trusted));
            continue;
        }
        println!("{cluster}");
        for (state, users) in [("member", &trusted.members), ("waits", &trusted.pending)] {
            for (user, machines) in users {
                for key in machines {
                    println!("  {state:7} {user}  {}  {}", key.fingerprint(), words(key));
                }
            }
        }
        for (user, keys) in &trusted.approved {
            for key in keys {
                println!("  approved {user}  {key}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(cluster: &str, trusted: &Trusted) -> serde_json::Value {
    let key = |key: &MachineKey| serde_json::json!({ "key": key.fingerprint(), "words": words(key) });
    let all = |users: &std::collections::BTreeMap<p2p_proto::ids::UserName, Vec<MachineKey>>| {
        let user = |(user, machines): (&p2p_proto::ids::UserName, &Vec<MachineKey>)| {
            (user.to_string(), machines.iter().map(key).collect())
        };
        users.iter().map(user).collect::<serde_json::Map<_, _>>()
    };
    let (members, waiting) = (all(&trusted.members), all(&trusted.pending));
    serde_json::json!({ "cluster": cluster, "members": members, "waiting": waiting, "approved": trusted.approved })
}
