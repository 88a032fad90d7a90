//! The way to a board: over which machines, with which keys, and whether libssh2 can go it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::{env, io};

use async_process::{Child, Command};
use async_std::future::timeout;
use futures::AsyncReadExt as _;
use p2p_proto::board::BoardError;

use crate::address::BoardAddress;
use crate::config::{Agent, PicoConfig, SshProgram};
use crate::key_file::{self, KeyFile};
use crate::ssh_args::SshArgs;
use crate::ssh_config::{self, HOPS, Hop, Settings};

/// What `ssh -G` may print, bytes; usual are four thousand.
const OUTPUT_BYTES: u64 = 256 * 1024;
/// What of its complaints is shown, bytes.
const SAID_BYTES: u64 = 1024;

/// How long `ssh -G` may take: a `Match exec` of the configuration runs programs, and names may be looked up.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How to get to a board.
pub(crate) enum Route {
    /// By libssh2.
    Native(Box<Path>),
    /// By the `ssh` program; why, if nobody has asked for it.
    System(Option<String>),
}

/// From here over each of `hops` to `target`.
pub(crate) struct Path {
    pub(crate) target: PicoConfig,
    pub(crate) hops: Vec<PicoConfig>,
    /// The command that stands for the connection to the first machine of all.
    pub(crate) command: Option<String>,
}

/// Finds the way: what `ssh -G` says where there is an `ssh`, and what was set for this program above all.
///
/// # Errors
/// [`BoardError::Auth`] for options or a configuration that nobody can follow.
pub(crate) async fn plan(config: &PicoConfig) -> Result<Route, BoardError> {
    if config.ssh == SshProgram::System {
        return Ok(Route::System(None));
    }
    let lost = |text: String| {
        let board = &config.address;
        BoardError::Auth(format!(
            "cannot find the way to {board}: {text}. Check --ssh-args and the configuration of ssh"
        ))
    };
    let (path, mut beyond) = find(config).await.map_err(lost)?;
    beyond.splice(0..0, config.ssh_args.beyond_native());
    if beyond.is_empty() {
        return Ok(Route::Native(Box::new(path)));
    }
    let why = beyond.join(", ");
    if config.ssh == SshProgram::Native {
        return Err(lost(format!("--ssh native cannot do this: {why}")));
    }
    Ok(Route::System(Some(why)))
}

/// The way, and what of it libssh2 cannot go.
async fn find(config: &PicoConfig) -> Result<(Path, Vec<String>), String> {
    let address = &config.address;
    let board = Hop {
        user: Some(address.login().to_owned()),
        host: address.host().to_owned(),
        port: address.has_port().then_some(address.port()),
    };
    let mut first = ask(&board, &config.ssh_args, true).await?;
    let target = apply(config, &board, &first, true)?;
    let mut beyond = first.beyond.clone();
    beyond.extend(beyond_keys(&target));
    let mut nearest = target.address.clone();
    let mut path = Path { target, hops: Vec::new(), command: None };
    // The first machine of a list may have others in front of it by its own configuration; that of the others does not count.
    while let Some(list) = first.proxy_jump.take() {
        let mut before = Vec::new();
        for (nth, hop) in ssh_config::hops(&list)?.iter().enumerate() {
            let settings = ask(hop, &config.ssh_args, false).await?;
            let settled = apply(config, hop, &settings, false)?;
            beyond.extend(settings.beyond.iter().cloned());
            beyond.extend(beyond_keys(&settled));
            if nth == 0 {
                first = settings;
                nearest = settled.address.clone();
            }
            before.push(settled);
        }
        path.hops.splice(0..0, before);
        if path.hops.len() > HOPS {
            return Err(format!("it leads over more than {HOPS} machines"));
        }
    }
    if let Some(command) = first.proxy_command.take() {
        match ssh_config::expand(&command, nearest.host(), nearest.port(), nearest.login()) {
            Ok(command) => path.command = Some(command),
            Err(fault) => beyond.push(format!("ProxyCommand {command} ({fault})")),
        }
    }
    Ok((path, beyond))
}

/// What OpenSSH would do for this machine. For one in between only the configuration file counts, of all options, as with OpenSSH.
async fn ask(hop: &Hop, args: &SshArgs, target: bool) -> Result<Settings, String> {
    let mut command = Command::new("ssh");
    command.arg("-G");
    if target {
        command.args(args.words());
    } else if let Some(file) = args.value('F') {
        command.arg("-F").arg(file);
    }
    // Behind what was given, so that it counts only if nothing was.
    if let Some(port) = hop.port {
        command.arg("-p").arg(port.to_string());
    }
    if let Some(user) = &hop.user {
        command.arg("-l").arg(user);
    }
    command.arg("--").arg(&hop.host);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    match command.spawn() {
        Ok(child) => timeout(ASK_TIMEOUT, answer(child))
            .await
            .unwrap_or_else(|_| Err("`ssh -G` did not answer in time".to_owned())),
        Err(fault) => {
            log::debug!("there is no ssh to ask about its configuration: {fault}");
            if target { Settings::of_options(args) } else { Ok(Settings::default()) }
        }
    }
}

async fn answer(mut child: Child) -> Result<Settings, String> {
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    let all = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(OUTPUT_BYTES + 1).read_to_end(&mut printed).await?;
        }
        if let Some(stderr) = child.stderr.take() {
            stderr.take(SAID_BYTES).read_to_end(&mut said).await?;
        }
        Ok::<_, io::Error>(())
    };
    all.await.map_err(|fault| format!("`ssh -G`: {fault}"))?;
    if printed.len() as u64 > OUTPUT_BYTES {
        return Err("`ssh -G` printed far too much".to_owned());
    }
    let status = child.status().await.map_err(|fault| format!("`ssh -G`: {fault}"))?;
    if !status.success() {
        return Err(format!("ssh says: {}", String::from_utf8_lossy(&said).trim()));
    }
    Settings::parse(&String::from_utf8_lossy(&printed))
}

/// What was set for this program counts more than what is configured for `ssh`.
fn apply(config: &PicoConfig, hop: &Hop, settings: &Settings, target: bool) -> Result<PicoConfig, String> {
    let host = settings.hostname.as_deref().unwrap_or(&hop.host);
    let port = settings.port.or(hop.port).unwrap_or(BoardAddress::DEFAULT_PORT);
    let own_name = || env::var("USER").unwrap_or_else(|_| "p2p".to_owned());
    let login = settings.user.clone().or_else(|| hop.user.clone()).unwrap_or_else(own_name);
    let address = BoardAddress::new(&login, host, port).map_err(|fault| format!("{host}: {fault}"))?;
    let mut settled = config.at(address);
    settled.host_key_alias.clone_from(&settings.host_key_alias);
    settled.strict = settings.strict;
    if !target {
        // What was said about the board's keys is nothing to the machines on the way.
        settled.identities.clear();
        settled.default_identities = PicoConfig::usual_identities();
        settled.accept_host_key = None;
        if settled.agent == Agent::Off {
            settled.agent = Agent::Environment;
        }
    }
    if settled.identities.is_empty() {
        settled.identities = settings.identity_files.iter().map(|file| in_home(file)).collect();
        if !settled.identities.is_empty() {
            settled.default_identities.clear();
        }
        settled.identities_only = settings.identities_only;
        match settings.identity_agent.as_deref() {
            None | Some("SSH_AUTH_SOCK") => {}
            Some("none") => settled.agent = Agent::Off,
            Some(socket) => settled.agent = Agent::Socket(socket_of(socket)),
        }
    }
    if !settings.known_hosts.is_empty() && (!target || config.known_hosts == PicoConfig::usual_known_hosts()) {
        let mut named = settings.known_hosts.iter().map(|file| in_home(file));
        settled.known_hosts = named.next().unwrap_or_default();
        settled.more_known_hosts = named.collect();
    }
    settled.more_known_hosts.extend(settings.global_known_hosts.iter().map(|file| in_home(file)));
    Ok(settled)
}

/// Keys that libssh2 cannot log in with: those that only a device can use, and certificates.
fn beyond_keys(config: &PicoConfig) -> Option<String> {
    config.identities.iter().find_map(|file| {
        let certificate = file.with_file_name(format!("{}-cert.pub", file.file_name()?.to_string_lossy()));
        if certificate.exists() {
            return Some(format!("the certificate {}", certificate.display()));
        }
        let outside = KeyFile::read(&key_file::text(file).ok()?)?;
        outside.needs_a_device().then(|| format!("the security key {}", file.display()))
    })
}

/// `~/` is the home folder.
fn in_home(file: &str) -> PathBuf {
    match file.strip_prefix("~/") {
        Some(rest) => env::home_dir().unwrap_or_default().join(rest),
        None => PathBuf::from(file),
    }
}

/// `$NAME` and `${NAME}` stand for a variable.
fn socket_of(text: &str) -> PathBuf {
    let name = text.strip_prefix('$').map(|name| name.trim_start_matches('{').trim_end_matches('}'));
    name.and_then(env::var_os).map_or_else(|| in_home(text), PathBuf::from)
}
