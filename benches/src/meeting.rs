//! Where the processes of one measurement meet: a hub, with a cluster that is open on it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_std::task::block_on;
use p2p_hub::{HostKeySource, Hub, HubConfig, UserKey, UsersSource};
use p2p_proto::ids::{ClusterName, UserName};
use p2p_proto::trust::Identity;
use p2p_scheduler::{Forgetful, Host, HostConfig, HostReport, HostTrust, Member};
use p2p_transport_pico::{Agent, PicoBoard, PicoConfig, Topic};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::child::{self, Child, Role};

/// Hosts the cluster, and is its client.
pub const OWNER: &str = "alice";
/// Offers a worker.
pub const GUEST: &str = "bob";
/// The cluster.
pub const CLUSTER: &str = "alice/friends";

/// How to get there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The hub's address.
    pub board: String,
    /// The fingerprint of its key.
    pub board_key: String,
    /// Where the users' keys are, each in a file of the user's name.
    pub folder: String,
}

impl Place {
    /// Starts hub and host as a process of their own, with fresh keys in `folder`.
    ///
    /// # Errors
    /// When `ssh-keygen` is missing, or they do not come up.
    pub fn open(program: &Path, folder: &Path) -> Result<(Child, Self)> {
        make_keys(folder)?;
        let folder = folder.to_str().ok_or("a folder whose name is no text")?.to_owned();
        let mut child = Child::start(program, &Role::Meeting { folder })?;
        let place = child.hear()?;
        Ok((child, place))
    }

    /// The board, as `user` sees it.
    ///
    /// # Errors
    /// None but for names that are none.
    pub fn board(&self, user: &str) -> Result<PicoBoard> {
        let mut config = PicoConfig::new(self.board.parse()?);
        config.identities = vec![Path::new(&self.folder).join(user)];
        config.default_identities.clear();
        config.agent = Agent::Off;
        config.accept_host_key = Some(self.board_key.clone());
        let cluster: ClusterName = CLUSTER.parse()?;
        let guest: UserName = user.parse()?;
        let twin = (user != OWNER).then(|| cluster.twin_topic(&guest));
        Ok(PicoBoard::join(config, Topic { name: cluster.topic(), access: None, after_host: twin.is_none(), twin }))
    }
}

/// The SSH keys of both users.
///
/// # Errors
/// When `ssh-keygen` is missing.
pub fn make_keys(folder: &Path) -> Result<()> {
    for user in [OWNER, GUEST] {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", user, "-f"]).arg(folder.join(user));
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        if !status.map_err(|fault| format!("ssh-keygen does not start: {fault}"))?.success() {
            return Err("ssh-keygen failed".into());
        }
    }
    Ok(())
}

/// The public key of a user, as a line of a users file has it.
///
/// # Errors
/// When there is none.
pub fn public_key(folder: &Path, user: &str) -> Result<String> {
    Ok(std::fs::read_to_string(folder.join(user).with_extension("pub"))?.trim().to_owned())
}

/// Who a user is in the cluster.
///
/// # Errors
/// None but for names that are none.
pub fn member(user: &str) -> Result<Member> {
    let first = user.as_bytes().first().copied().unwrap_or(0);
    Ok(Member {
        cluster: CLUSTER.parse()?,
        user: user.parse()?,
        identity: Identity::from_secret(&[first; 32]),
        hostname: "here".to_owned(),
        trust: HostTrust::Login,
    })
}

/// Hub and host.
///
/// # Errors
/// When they do not come up.
pub fn play(folder: &str) -> Result<()> {
    let path = Path::new(folder);
    let mut users = Vec::new();
    for name in [OWNER, GUEST] {
        users.push(UserKey { name: name.to_owned(), key: public_key(path, name)? });
    }
    let hub = Hub::start(HubConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        users: UsersSource::List(users),
        host_key: HostKeySource::Ephemeral,
    })?;
    let place = Place {
        board: format!("ssh://{}", hub.local_addr()),
        board_key: hub.host_key_fingerprint().to_owned(),
        folder: folder.to_owned(),
    };
    let guests: Vec<UserName> = vec![GUEST.parse()?];
    let mut config = PicoConfig::new(place.board.parse()?);
    config.identities = vec![path.join(OWNER)];
    config.agent = Agent::Off;
    config.accept_host_key = Some(place.board_key.clone());
    let member = member(OWNER)?;
    let topic = Topic { name: member.cluster.topic(), access: Some(guests.clone()), twin: None, after_host: false };
    let board = Arc::new(PicoBoard::join(config, topic));
    let host = Host::open(&member, HostConfig::of(guests), board, Arc::new(Forgetful))?;
    block_on(async {
        while let Some(report) = host.report().await {
            match report {
                HostReport::Open => return Ok(()),
                HostReport::Failed(fault) => return Err(fault.to_string()),
                _ => {}
            }
        }
        Err("the host ended".to_owned())
    })?;
    child::answer(&place)?;
    // Until stdin ends.
    while child::told::<()>()?.is_some() {}
    Ok(())
}
