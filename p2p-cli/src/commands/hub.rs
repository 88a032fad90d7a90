//! `p2p hub`: a board of one's own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use p2p_hub::{HostKeySource, Hub, HubConfig, UsersSource};

use super::Signals;
use crate::home::Home;
use crate::options::Common;
use crate::say;
use crate::trouble::{Code, Trouble};

/// Options of `p2p hub`.
#[derive(Debug, Args)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:2222", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// The file of users, a line `NAME KEYTYPE KEY` each; read again when it changes [default: hub-users in the folder of keys]
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,

    /// The hub's own SSH key; made at the first start [default: hub-key in the folder of keys]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// Serves until it is interrupted.
pub async fn hub(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let home = Home::open(common.home.as_deref())?;
    let users = options.users.unwrap_or_else(|| home.folder().join("hub-users"));
    let host_key = options.key.unwrap_or_else(|| home.folder().join("hub-key"));
    let config = HubConfig {
        listen: options.listen,
        users: UsersSource::File(users.clone()),
        host_key: HostKeySource::File(host_key),
    };
    let mut signals = Signals::listen()?;
    let hub = Hub::start(config).map_err(|fault| Trouble::new(Code::System, fault.to_string()))?;
    for problem in hub.users_problems() {
        say::line(&format!("p2p: {problem}"));
    }
    let address = hub.local_addr();
    if common.json {
        let line = serde_json::json!({ "address": address, "host_key": hub.host_public_key(), "fingerprint": hub.host_key_fingerprint() });
        println!("{line}");
    } else {
        println!("the hub listens on ssh://{address}, its key is {}", hub.host_key_fingerprint());
    }
    say::info(&format!(
        "users are in {}, one line \"NAME KEYTYPE KEY\" each; friends use --board ssh://{address}",
        users.display()
    ));
    signals.next().await;
    hub.stop();
    Ok(ExitCode::SUCCESS)
}
