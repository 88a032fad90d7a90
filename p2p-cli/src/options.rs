//! The command line: options that several commands share, and the list of commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use p2p_proto::ids::{ClusterName, Fingerprint, UserName};
use p2p_transport_pico::{BoardAddress, SshProgram};

use crate::commands::{
    approve, bridge, demo, doctor, host, hub, id, map, members, receive, run, send, status, trust, worker,
};

/// Share computers among friends: one hosts a cluster, each adds workers, anyone on the list uses them.
#[derive(Debug, Parser)]
#[command(name = "p2p", version, propagate_version = true, infer_subcommands = false)]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one command on a worker, with live output and its exit code.
    Run(run::Options),
    /// Run a command for each of many inputs, on all workers.
    Map(map::Options),
    /// Offer this machine's slots to a cluster.
    Worker(worker::Options),
    /// Open a cluster of one's own for friends.
    Host(host::Options),
    /// Show who is in a cluster, slots, queue, direct or relayed.
    Status(status::Options),
    /// Serve a board of one's own.
    Hub(hub::Options),
    /// Send a file, a folder or a text to whoever has the code, with any client of Magic Wormhole.
    Send(send::Options),
    /// Receive what somebody sends under a code.
    Receive(receive::Options),
    /// Be a client for another program: lines of JSON on stdin and stdout (docs/bridge.md).
    Bridge(bridge::Options),
    /// Try each leg of the way to friends, and say what is wrong.
    Doctor(doctor::Options),
    /// Show who one is: account, key, fingerprint.
    Id(id::Options),
    /// As a host: let in a machine whose key was compared with its user.
    Approve(approve::Options),
    /// As a host: show whose machines belong, and who waits for approval.
    Members(members::Options),
    /// List, name or forget whose keys this machine trusts.
    Trust(trust::Options),
    /// All of it on this machine: a hub, a host, two workers, and a picture.
    Demo(demo::Options),
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The board where peers meet.
    #[arg(
        long,
        global = true,
        env = "P2P_BOARD",
        default_value = "ssh://pipe.pico.sh",
        value_name = "ssh://HOST[:PORT]"
    )]
    pub board: BoardAddress,

    /// The cluster [default: USER/friends when users are named, else USER/personal]
    #[arg(long, global = true, env = "P2P_CLUSTER", value_name = "OWNER/NAME")]
    pub cluster: Option<ClusterName>,

    /// Your user name on the board, instead of asking the board for it.
    #[arg(long, global = true, env = "P2P_USER", value_name = "NAME")]
    pub board_user: Option<UserName>,

    /// An SSH key file for the board; may be given several times [default: the agent's, then ~/.ssh/id_*]
    #[arg(short, long, global = true, env = "P2P_IDENTITY", value_name = "FILE")]
    pub identity: Vec<PathBuf>,

    /// The file of known SSH host keys [default: ~/.ssh/known_hosts]
    #[arg(long, global = true, env = "P2P_KNOWN_HOSTS", value_name = "FILE")]
    pub known_hosts: Option<PathBuf>,

    /// Trust a board with exactly this key, as `ssh-keygen -l` prints it.
    #[arg(long, global = true, env = "P2P_BOARD_KEY", value_name = "SHA256:...")]
    pub board_key: Option<String>,

    /// Believe only this key as the cluster's host, as `p2p id` prints it on her machine [default: what p2p trust pin was told, else by her login]
    #[arg(long, global = true, env = "P2P_HOST_KEY", value_name = "P2P:...")]
    pub host_key: Option<Fingerprint>,

    /// Whom to believe: those whom the cluster's host has signed, or everybody who gets onto the topic and says who he is. The latter needs no
    /// `p2p host`, and everybody in the circle has to ask for it.
    #[arg(long, global = true, value_name = "host|first-sight", default_value = "host")]
    pub trust: Trust,

    /// The cluster's topic on the board, below its owner's name, where it is not the usual one [default: NAME/future.p2p]
    #[arg(long, global = true, env = "P2P_TOPIC", value_name = "TOPIC")]
    pub topic: Option<TopicName>,

    /// Options of `ssh` for the way to the board, such as "-J somehost" or "-o ProxyCommand=..."; ~/.ssh/config counts anyway.
    #[arg(long, global = true, env = "P2P_SSH_ARGS", value_name = "OPTIONS", allow_hyphen_values = true)]
    pub ssh_args: Option<String>,

    /// Who speaks SSH: this program, or the `ssh` program; `auto` takes `ssh` where an option asks for what only that can do.
    #[arg(long, global = true, env = "P2P_SSH", value_name = "auto|native|system", default_value = "auto", value_parser = ssh_program)]
    pub ssh: SshProgram,

    /// A Transit relay for when no direct connection comes about; may be given several times; `none` for none
    /// [default: Magic Wormhole's public one]
    #[arg(long, global = true, env = "P2P_RELAY", value_name = "tcp:HOST:PORT")]
    pub relay: Vec<String>,

    /// Connect by a relay only, never directly.
    #[arg(long, global = true)]
    pub relay_only: bool,

    /// Connect to peers at private addresses outside this machine's own networks too.
    #[arg(long, global = true)]
    pub lan: bool,

    /// The folder of keys and of what is trusted [default: the system's folder for configuration, p2p in it]
    #[arg(long, global = true, env = "P2P_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,

    /// Print JSON where there is something to print.
    #[arg(long, global = true)]
    pub json: bool,

    /// Say only what went wrong.
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Say more; twice for even more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Whom to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trust {
    /// Those whom the host has signed.
    Host,
    /// Whoever is on the topic.
    FirstSight,
}

/// The name of a topic of somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicName(String);

/// The longest topic: the longest usual one is shorter.
const TOPIC_BYTES: usize = 128;

impl TopicName {
    /// In full: below its owner's name, with which it may begin already.
    pub fn of(&self, owner: &UserName) -> String {
        let below = self.0.strip_prefix(owner.as_str()).and_then(|rest| rest.strip_prefix('/'));
        format!("{owner}/{}", below.unwrap_or(&self.0))
    }
}

impl std::str::FromStr for TopicName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let whole = text.split('/').all(|part| !part.is_empty() && !part.starts_with('-'));
        if text.len() <= TOPIC_BYTES && text.chars().all(known) && whole {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("it has at most {TOPIC_BYTES} letters, digits and . _ - in parts with / between them"))
    }
}

fn ssh_program(text: &str) -> Result<SshProgram, String> {
    match text {
        "auto" => Ok(SshProgram::Auto),
        "native" => Ok(SshProgram::Native),
        "system" => Ok(SshProgram::System),
        _ => Err("write auto, native or system".to_owned()),
    }
}
