//! Proving who one is: the keys that were named, then the agent's, then the usual files.
//!
//! The order matters: pico.sh takes the first key that it is offered, even one that it does not know.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Instant;

use async_std::future::timeout;
use p2p_proto::board::BoardError;
use ssh2::{ErrorCode, PublicKey};

use super::{left, too_slow, unreachable};
use crate::config::{Agent, PicoConfig, Step};
use crate::key_file::{self, KeyFile};
use crate::native::Native;

/// How often a passphrase may be mistyped.
const PASSPHRASE_TRIES: usize = 3;
/// Servers hang up after a few refused keys (OpenSSH after 6).
const KEYS_OFFERED: usize = 12;
/// libssh2's codes for a key that the server does not want.
const REFUSED: [ErrorCode; 2] = [ErrorCode::Session(-18), ErrorCode::Session(-19)];
/// libssh2's codes for a connection that is gone: send, disconnect, timeout, receive.
const GONE: [ErrorCode; 4] =
    [ErrorCode::Session(-7), ErrorCode::Session(-13), ErrorCode::Session(-9), ErrorCode::Session(-43)];

pub(super) async fn log_in(config: &PicoConfig, wire: &Native) -> Result<(), BoardError> {
    let agent = match OpenAgent::open(config, wire) {
        Ok(agent) => agent,
        Err(fault) => {
            log::warn!("cannot ask the SSH agent for keys: {fault}; going on with key files");
            None
        }
    };
    Login { config, wire, agent, started: Instant::now(), offered: Vec::new(), notes: Vec::new(), locked: None }
        .run()
        .await
}

struct Login<'a> {
    config: &'a PicoConfig,
    wire: &'a Native,
    agent: Option<OpenAgent>,
    /// Moved on by the time that a person takes.
    started: Instant,
    /// Public keys of the agent that the server has refused.
    offered: Vec<Vec<u8>>,
    /// What was tried, and why it did not do.
    notes: Vec<String>,
    /// A key file that needs a passphrase for which nobody could be asked.
    locked: Option<PathBuf>,
}

impl Login<'_> {
    async fn run(mut self) -> Result<(), BoardError> {
        for file in &self.config.identities {
            if self.offer_named(file, true).await? {
                return Ok(());
            }
        }
        let keys: Vec<PublicKey> = self.agent.as_mut().map(|agent| std::mem::take(&mut agent.keys)).unwrap_or_default();
        for key in keys.iter().filter(|_| !self.config.identities_only) {
            if self.offer_agent_key(key).await? {
                return Ok(());
            }
        }
        for file in &self.config.default_identities {
            if self.offer_named(file, false).await? {
                return Ok(());
            }
        }
        Err(self.refused())
    }

    /// Offers a key file, through the agent if that holds the key.
    async fn offer_named(&mut self, file: &Path, must_exist: bool) -> Result<bool, BoardError> {
        let text = match key_file::text(file) {
            Ok(text) => text,
            Err(_) if !must_exist && !file.exists() => return Ok(false),
            Err(fault) => return Ok(self.note(file, &format!("cannot be read: {fault}"))),
        };
        let Some(outside) = KeyFile::read(&text) else { return Ok(self.note(file, "is not a key file")) };
        if let Some(public) = &outside.public {
            if self.offered.contains(public) {
                return Ok(false);
            }
            let held = self.agent.as_mut().and_then(|agent| agent.take(public));
            if let Some(key) = held {
                return self.offer_agent_key(&key).await;
            }
        }
        match (outside.private, outside.encrypted) {
            (false, _) => Ok(self.note(file, "is only the public half, and the agent does not hold the private one")),
            (true, false) => self.offer_file(file, &text, None).await.map(|offer| offer == Offer::Taken),
            (true, true) => self.offer_encrypted(file, &text).await,
        }
    }

    async fn offer_encrypted(&mut self, file: &Path, text: &str) -> Result<bool, BoardError> {
        if let Some(passphrase) = self.config.remembered_passphrase(file) {
            return self.offer_file(file, text, Some(&passphrase)).await.map(|offer| offer == Offer::Taken);
        }
        let Some(prompt) = &self.config.prompt else {
            let why = "needs a passphrase, and nobody is at a terminal to ask; add it to an SSH agent with ssh-add";
            log::warn!("skipping the key file {}: it {why}", file.display());
            self.locked.get_or_insert_with(|| file.to_owned());
            return Ok(self.note(file, why));
        };
        for _ in 0..PASSPHRASE_TRIES {
            let asked = Instant::now();
            let Some(passphrase) = prompt.passphrase(file) else { return Ok(self.note(file, "was passed over")) };
            self.started += asked.elapsed();
            match self.offer_file(file, text, Some(&passphrase)).await? {
                Offer::Unreadable => continue,
                offer => {
                    self.config.remember_passphrase(file, passphrase);
                    return Ok(offer == Offer::Taken);
                }
            }
        }
        Ok(false)
    }

    async fn offer_file(&mut self, file: &Path, text: &str, passphrase: Option<&str>) -> Result<Offer, BoardError> {
        let login = self.config.address.login();
        let ssh = &self.wire.ssh;
        let offer = self.wire.drive(|| ssh.userauth_pubkey_memory(login, None, text, passphrase));
        let result = self.timed(offer).await?;
        self.judge(&file.display().to_string(), result)
    }

    async fn offer_agent_key(&mut self, key: &PublicKey) -> Result<bool, BoardError> {
        let login = self.config.address.login();
        let Some(agent) = &self.agent else { return Ok(false) };
        let result = self.timed(self.wire.drive(|| agent.agent.userauth(login, key))).await?;
        self.offered.push(key.blob().to_vec());
        self.judge(&format!("{} (agent)", key.comment()), result).map(|offer| offer == Offer::Taken)
    }

    async fn timed<T>(&self, offer: impl Future<Output = T>) -> Result<T, BoardError> {
        timeout(left(self.started, self.config.connect_timeout), offer).await.map_err(|_| too_slow(self.config))
    }

    fn judge(&mut self, key: &str, result: Result<(), ssh2::Error>) -> Result<Offer, BoardError> {
        match result {
            Ok(()) => {
                self.config.did(Step::Key, || format!("{} took the key {key}", self.config.address));
                Ok(Offer::Taken)
            }
            Err(fault) if GONE.contains(&fault.code()) && self.notes.len() >= 5 => Err(self.refused()),
            Err(fault) if GONE.contains(&fault.code()) => Err(unreachable(self.config, &fault)),
            Err(fault) if REFUSED.contains(&fault.code()) => {
                self.notes.push(format!("{key}: not known to the server"));
                if self.notes.len() >= KEYS_OFFERED { Err(self.refused()) } else { Ok(Offer::Refused) }
            }
            Err(fault) => {
                self.notes.push(format!("{key}: cannot be used ({})", fault.message()));
                Ok(Offer::Unreadable)
            }
        }
    }

    /// Remembers why a file did not do; never a success.
    fn note(&mut self, file: &Path, why: &str) -> bool {
        self.notes.push(format!("{} {why}", file.display()));
        false
    }

    fn refused(&self) -> BoardError {
        let board = &self.config.address;
        let tried = if self.notes.is_empty() { "there was none to offer".to_owned() } else { self.notes.join("; ") };
        if let Some(file) = &self.locked {
            return BoardError::Auth(format!(
                "cannot log in to {board}: {tried}. So that {} can be used where nobody can be asked, unlock it once in a terminal: \
                 `ssh-add {0}` (where no agent runs: first `eval \"$(ssh-agent)\"`), and start this again from there",
                file.display()
            ));
        }
        BoardError::Auth(format!(
            "{board} did not take any SSH key: {tried}. Make a key with ssh-keygen if there is none, and make it known to the server \
             (on pico.sh: run `ssh pico.sh` once); or name the right key file"
        ))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Offer {
    Taken,
    Refused,
    /// The file or its passphrase is wrong; the server was not asked.
    Unreadable,
}

/// An agent that answers, and the keys that it holds.
struct OpenAgent {
    agent: ssh2::Agent,
    keys: Vec<PublicKey>,
}

impl OpenAgent {
    /// `None` where there is no agent to ask.
    fn open(config: &PicoConfig, wire: &Native) -> Result<Option<Self>, ssh2::Error> {
        let socket = match &config.agent {
            Agent::Off => return Ok(None),
            Agent::Socket(path) => path.clone(),
            Agent::Environment => match env::var_os("SSH_AUTH_SOCK") {
                Some(path) if !path.is_empty() => PathBuf::from(path),
                _ => return Ok(None),
            },
        };
        let mut agent = wire.ssh.agent()?;
        agent.set_identity_path(&socket)?;
        agent.connect()?;
        agent.list_identities()?;
        let keys = agent.identities()?;
        Ok(Some(Self { agent, keys }))
    }

    fn take(&mut self, public: &[u8]) -> Option<PublicKey> {
        let at = self.keys.iter().position(|key| key.blob() == public)?;
        Some(self.keys.swap_remove(at))
    }
}
