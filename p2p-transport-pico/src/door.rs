//! Getting in: look up, connect, check the host's key, log in.
//!
//! All of it runs on a thread that may block, because key files, the agent and people at terminals block.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use async_std::future::timeout;
use async_std::net::ToSocketAddrs;
use async_std::task;
use futures::future::{self, Either};
use p2p_proto::board::BoardError;
use ssh2::{HashType, KnownHostFileKind, MethodType};

use crate::config::PicoConfig;
use crate::known_hosts::{self, KnownHost, Standing};
use crate::native::Native;
use crate::wire::Wire;

mod login;
mod reach;

/// Addresses of one name that are tried.
const ADDRESSES: usize = 6;
/// After this long without an SSH handshake a second connection finds out who it is that listens there.
const DOUBT: Duration = Duration::from_secs(3);

/// A connection that is logged in.
///
/// # Errors
/// [`BoardError::Unreachable`] when a retry may help, [`BoardError::HostKey`] and [`BoardError::Auth`] when a person must.
pub(crate) async fn enter(config: &PicoConfig) -> Result<Wire, BoardError> {
    let config = config.clone();
    task::spawn_blocking(move || async_io::block_on(enter_blocking(&config))).await
}

async fn enter_blocking(config: &PicoConfig) -> Result<Wire, BoardError> {
    let limit = config.connect_timeout;
    let known = read_known_hosts(config)?;
    let wire = timeout(limit, shake_hands(config, &known)).await.unwrap_or_else(|_| Err(too_slow(config)))?;
    check_host_key(config, &known, &wire)?;
    login::log_in(config, &wire).await?;
    Ok(Wire::Native(wire))
}

async fn shake_hands(config: &PicoConfig, known: &KnownHost) -> Result<Native, BoardError> {
    let socket = dial(config).await.map_err(|fault| unreachable(config, &reach::why(&fault)))?;
    let mut wire = Native::new(socket).map_err(|fault| unreachable(config, &fault))?;
    if let Ok(supported) = wire.ssh.supported_algs(MethodType::HostKey) {
        let preferred = known.prefer(&supported).join(",");
        wire.ssh.method_pref(MethodType::HostKey, &preferred).map_err(|fault| unreachable(config, &fault))?;
    }
    let mut ssh = wire.ssh.clone();
    let greeted = greet(config, wire.drive(|| ssh.handshake())).await;
    greeted?;
    wire.ssh = ssh;
    Ok(wire)
}

/// The handshake, unless what listens there turns out to be something else.
async fn greet(
    config: &PicoConfig,
    handshake: impl Future<Output = Result<(), ssh2::Error>>,
) -> Result<(), BoardError> {
    let handshake = std::pin::pin!(handshake);
    let doubt = std::pin::pin!(async {
        Timer::after(DOUBT).await;
        stranger(config).await
    });
    let greeted = match future::select(handshake, doubt).await {
        Either::Left((greeted, _)) => greeted,
        Either::Right((Some(stranger), _)) => return Err(stranger),
        Either::Right((None, handshake)) => handshake.await,
    };
    match greeted {
        Ok(()) => Ok(()),
        Err(fault) => Err(stranger(config).await.unwrap_or_else(|| unreachable(config, &fault))),
    }
}

/// What to say if it is no SSH server that listens there.
async fn stranger(config: &PicoConfig) -> Option<BoardError> {
    let who = reach::who_answers(dial(config).await.ok()?).await?;
    Some(BoardError::Unreachable(format!("cannot reach the board {}: {who}", config.address)))
}

/// Tries the addresses of the host one after the other; each gets its share of the time.
async fn dial(config: &PicoConfig) -> io::Result<Async<TcpStream>> {
    let place = (config.address.host(), config.address.port());
    let found = place.to_socket_addrs().await.map_err(|fault| reach::no_name(config.address.host(), &fault))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES).collect();
    let share = config.connect_timeout / (addresses.len() as u32 + 1);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match timeout(share, Async::<TcpStream>::connect(address)).await {
            Ok(Ok(socket)) => {
                socket.get_ref().set_nodelay(true)?;
                return Ok(socket);
            }
            Ok(Err(fault)) => last = fault,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(last)
}

fn read_known_hosts(config: &PicoConfig) -> Result<KnownHost, BoardError> {
    let text = match fs::read(&config.known_hosts) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => String::new(),
        Err(fault) => {
            let file = config.known_hosts.display();
            return Err(BoardError::HostKey(format!(
                "cannot read the known host keys in {file}: {fault}; make it readable"
            )));
        }
    };
    let name = config.address.known_as();
    let ssh = ssh2::Session::new().map_err(|fault| unreachable(config, &fault))?;
    Ok(KnownHost::read(&text, &name, |field| stands_for(&ssh, field, &name)))
}

/// Whether a hashed name field of `known_hosts` stands for `name`: libssh2 has the HMAC.
fn stands_for(ssh: &ssh2::Session, field: &str, name: &str) -> bool {
    const KEY: &[u8] = b"\0\0\0\x0bssh-ed25519\0\0\0\x01k";
    let line = known_hosts::new_line(field, KEY);
    let Ok(mut hosts) = ssh.known_hosts() else { return false };
    let read = hosts.read_str(&line, KnownHostFileKind::OpenSSH);
    read.is_ok() && matches!(hosts.check(name, KEY), ssh2::CheckResult::Match)
}

/// The host must be the one that was here before, the one that was named, or one that a person accepts.
fn check_host_key(config: &PicoConfig, known: &KnownHost, wire: &Native) -> Result<(), BoardError> {
    let fault = |text: String| Err(BoardError::HostKey(text));
    let (Some((key, _)), Some(hash)) = (wire.ssh.host_key(), wire.ssh.host_key_hash(HashType::Sha256)) else {
        return fault(format!("{} showed no host key; it is not an SSH server to trust", config.address));
    };
    let (board, file) = (&config.address, config.known_hosts.display());
    let shown = known_hosts::fingerprint(hash);
    if let Some(wanted) = &config.accept_host_key {
        if wanted.trim_end_matches('=') == shown {
            return Ok(());
        }
        return fault(format!(
            "{board} showed the host key {shown}, but {wanted} was asked for. Either that fingerprint is wrong or somebody stands \
             between you and the server; ask its operator for the fingerprint"
        ));
    }
    match known.standing(key) {
        Standing::Known => Ok(()),
        Standing::Revoked(line) => fault(format!(
            "the host key of {board} is marked as revoked in {file}, line {line}; do not use this server"
        )),
        Standing::Changed(line) => fault(format!(
            "THE HOST KEY OF {board} HAS CHANGED: it now shows {} {shown}, and {file}, line {line}, knows another one. Somebody may \
             stand between you and the server. If its operator confirms the new fingerprint, forget the old one and try again:\n  \
             ssh-keygen -R '{}' -f {file}",
            known_hosts::key_kind(key),
            board.known_as()
        )),
        Standing::New => first_contact(config, key, &shown),
    }
}

fn first_contact(config: &PicoConfig, key: &[u8], shown: &str) -> Result<(), BoardError> {
    let (board, kind) = (&config.address, known_hosts::key_kind(key));
    let Some(prompt) = &config.prompt else {
        let (host, port) = (board.host(), board.port());
        return Err(BoardError::HostKey(format!(
            "{board} was never seen before, and nobody is at a terminal to accept its key ({kind} {shown}). Compare that fingerprint \
             with the one its operator publishes; then run `ssh -p {port} {host}` once and accept it, or give that fingerprint as the \
             host key to accept"
        )));
    };
    let question = format!("{board} was never seen before. Its {kind} host key is\n  {shown}\nTrust it from now on?");
    if !prompt.accept_host_key(&question) {
        return Err(BoardError::HostKey(format!(
            "the host key of {board} was not accepted; try again to be asked again"
        )));
    }
    // Refusing to go on only because the file cannot be written would help nobody: the key was accepted by a person.
    if let Err(fault) = append(&config.known_hosts, &known_hosts::new_line(&board.known_as(), key)) {
        let file = config.known_hosts.display();
        log::warn!("cannot note the host key of {board} in {file}: {fault}; it will be asked about again");
    }
    Ok(())
}

/// Adds a line to a file that may be missing or may lack its last newline.
fn append(file: &Path, line: &str) -> io::Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let unfinished = fs::read(file).is_ok_and(|bytes| bytes.last().is_some_and(|&byte| byte != b'\n'));
    let text = format!("{}{line}", if unfinished { "\n" } else { "" });
    OpenOptions::new().append(true).create(true).mode(0o600).open(file)?.write_all(text.as_bytes())
}

fn too_slow(config: &PicoConfig) -> BoardError {
    let seconds = config.connect_timeout.as_secs_f32();
    unreachable(config, &format!("no SSH server answered within {seconds} s"))
}

/// Why nothing is to be had from the server right now.
pub(crate) fn unreachable(config: &PicoConfig, fault: &dyn std::fmt::Display) -> BoardError {
    BoardError::Unreachable(format!(
        "cannot reach the board {}: {fault}. Check the network, the address, and that the server runs",
        config.address
    ))
}

/// The time that is left of `limit`.
fn left(since: Instant, limit: Duration) -> Duration {
    limit.saturating_sub(since.elapsed())
}
