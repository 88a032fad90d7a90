//! Where the board is, with which keys to log in, and whom to ask.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use p2p_dial::Proxies;

use crate::address::BoardAddress;
use crate::ssh_args::SshArgs;
use crate::ssh_config::Strict;

/// How long a connection may take, login included, without the time that a person needs to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// pico.sh and the hub give a sign of life every 5 s.
const SILENCE: Duration = Duration::from_secs(30);
/// Key files that are tried when the agent has none that fits, in `~/.ssh`.
const DEFAULT_IDENTITIES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// Where the board is and how to log in to it. Clones share the passphrases that were typed, so each is asked for once.
#[derive(Clone)]
pub struct PicoConfig {
    /// Where the board is.
    pub address: BoardAddress,
    /// Key files to offer before anything else: pico.sh takes the first key that it is offered, known to it or not. A `.pub` file
    /// means that the agent has the private half.
    pub identities: Vec<PathBuf>,
    /// Key files to offer after [`PicoConfig::identities`] and the agent's keys; missing ones are skipped.
    pub default_identities: Vec<PathBuf>,
    /// Which SSH agent to ask.
    pub agent: Agent,
    /// The file of known host keys; it is made when a first key is accepted. OpenSSH's format, hashed names included.
    pub known_hosts: PathBuf,
    /// Further files of known host keys, which are only read.
    pub more_known_hosts: Vec<PathBuf>,
    /// Offer none of the agent's keys but those that [`PicoConfig::identities`] names.
    pub identities_only: bool,
    /// Accept exactly this host key, `SHA256:` and base64 as OpenSSH prints it, whatever [`PicoConfig::known_hosts`] says.
    pub accept_host_key: Option<String>,
    /// Whom to ask; `None` where nobody sits at a terminal.
    pub prompt: Option<Arc<dyn Prompt>>,
    /// Options as the `ssh` program takes them: jump hosts and the like. What is set above counts more.
    pub ssh_args: SshArgs,
    /// Proxies on the way. The `ssh` program knows its own only.
    pub proxies: Proxies,
    /// Who speaks SSH.
    pub ssh: SshProgram,
    /// How long a connection may take, login included, without the time that a person needs to answer.
    pub connect_timeout: Duration,
    /// A connection is given up after this long without a byte from the server; 30 s unless changed. A server is asked for a
    /// sign of life at a third of it, but pico.sh and the hub give theirs every 5 s only, whoever asks: much less than 15 s
    /// would take a busy server for a dead one.
    pub silence: Duration,
    /// Believe what any server says about who is logged in (T-02), not only our own hub, which takes no certificates.
    pub believe_logins: bool,
    /// Who is told of each step on the way in.
    pub progress: Option<Arc<dyn Progress>>,
    /// Makes the waits between tries repeatable; `None` in daily use.
    pub seed: Option<u64>,
    pub(crate) host_key_alias: Option<String>,
    pub(crate) strict: Strict,
    passphrases: Arc<Mutex<HashMap<PathBuf, String>>>,
    said: Arc<Once>,
}

/// Which SSH agent to ask for keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Agent {
    /// The one that `SSH_AUTH_SOCK` names, if it does.
    #[default]
    Environment,
    /// The one that listens on this socket.
    Socket(PathBuf),
    /// None.
    Off,
}

/// Who speaks SSH with the board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SshProgram {
    /// This program, or `ssh` where an option asks for what only that can do.
    #[default]
    Auto,
    /// This program.
    Native,
    /// The `ssh` program.
    System,
}

/// A step on the way into a board, in this order. Over other machines each of them takes all steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Its name was looked up.
    Name,
    /// A server answered, and it speaks SSH.
    Port,
    /// The server's key is the right one.
    HostKey,
    /// The server took a key of the user's.
    Key,
}

/// Somebody who wants to know how far one gets: the step that fails is the first one of which he is not told.
pub trait Progress: Send + Sync {
    /// A step is done; says what was found. It runs in the middle of things, and must not block.
    fn done(&self, step: Step, found: String);

    /// A connection is logged in; `hub` is whether the server says that it is our own hub, which the `ssh` program does not tell.
    fn entered(&self, hub: bool) {
        let _ = hub;
    }
}

/// A person at a terminal. Both calls may block for as long as a person needs; they run on a thread of their own.
pub trait Prompt: Send + Sync {
    /// Whether to trust a server that was never seen before; `question` shows its name, key type and fingerprint.
    fn accept_host_key(&self, question: &str) -> bool;

    /// The passphrase of a key file, or `None` to go on without that key.
    fn passphrase(&self, key_file: &Path) -> Option<String>;
}

impl PicoConfig {
    /// A person's usual keys and known hosts for `address`, and nobody to ask.
    pub fn new(address: BoardAddress) -> Self {
        Self {
            address,
            identities: Vec::new(),
            default_identities: Self::usual_identities(),
            agent: Agent::default(),
            known_hosts: Self::usual_known_hosts(),
            more_known_hosts: Vec::new(),
            identities_only: false,
            accept_host_key: None,
            prompt: None,
            ssh_args: SshArgs::default(),
            proxies: Proxies::none(),
            ssh: SshProgram::default(),
            connect_timeout: CONNECT_TIMEOUT,
            silence: SILENCE,
            believe_logins: true,
            progress: None,
            seed: None,
            host_key_alias: None,
            strict: Strict::default(),
            passphrases: Arc::default(),
            said: Arc::new(Once::new()),
        }
    }

    /// Says something that holds for every connection; the first time only.
    pub(crate) fn say_once(&self, text: &str) {
        self.said.call_once(|| log::warn!("{text}"));
    }

    pub(crate) fn usual_identities() -> Vec<PathBuf> {
        DEFAULT_IDENTITIES.iter().map(|name| ssh_folder().join(name)).collect()
    }

    pub(crate) fn usual_known_hosts() -> PathBuf {
        ssh_folder().join("known_hosts")
    }

    /// A connection is logged in.
    pub(crate) fn entered(&self, hub: bool) {
        if let Some(progress) = &self.progress {
            progress.entered(hub);
        }
    }

    /// A step is done.
    pub(crate) fn did(&self, step: Step, found: impl FnOnce() -> String) {
        if let Some(progress) = &self.progress {
            progress.done(step, found());
        }
    }

    /// How `known_hosts` names this server.
    pub(crate) fn known_as(&self) -> String {
        self.host_key_alias.clone().unwrap_or_else(|| self.address.known_as())
    }

    /// The same way in, to another server.
    pub(crate) fn at(&self, address: BoardAddress) -> Self {
        Self { address, ..self.clone() }
    }

    pub(crate) fn remembered_passphrase(&self, key_file: &Path) -> Option<String> {
        self.passphrases.lock().unwrap_or_else(PoisonError::into_inner).get(key_file).cloned()
    }

    pub(crate) fn remember_passphrase(&self, key_file: &Path, passphrase: String) {
        self.passphrases.lock().unwrap_or_else(PoisonError::into_inner).insert(key_file.to_owned(), passphrase);
    }
}

fn ssh_folder() -> PathBuf {
    env::home_dir().unwrap_or_default().join(".ssh")
}

impl fmt::Debug for PicoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PicoConfig")
            .field("address", &self.address)
            .field("identities", &self.identities)
            .field("default_identities", &self.default_identities)
            .field("agent", &self.agent)
            .field("known_hosts", &self.known_hosts)
            .field("accept_host_key", &self.accept_host_key)
            .field("ssh_args", &self.ssh_args)
            .field("ssh", &self.ssh)
            .field("prompt", &self.prompt.is_some())
            .field("believe_logins", &self.believe_logins)
            .field("connect_timeout", &self.connect_timeout)
            .field("silence", &self.silence)
            .finish_non_exhaustive()
    }
}
