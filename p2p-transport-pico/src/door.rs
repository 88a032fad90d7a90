//! Getting in: look up, connect, check the host's key, log in; over other machines where the way leads over them.
//!
//! All of it runs on a thread that may block, because key files, the agent and people at terminals block.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use async_std::future::timeout;
use async_std::net::ToSocketAddrs;
use async_std::task;
use futures::future::{self, Either};
use p2p_proto::board::BoardError;
use socket2::Socket;
use ssh2::{HashType, KnownHostFileKind, MethodType};

use crate::config::{PicoConfig, Step};
use crate::known_hosts::{self, KnownHost, Place, Standing};
use crate::native::Native;
use crate::route::{self, Path, Route};
use crate::ssh_config::Strict;
use crate::system;
use crate::wire::Wire;

mod jump;
mod login;
pub(crate) mod proxy_command;
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
    let wire = match route::plan(config).await? {
        Route::Native(path) => Wire::Native(task::spawn_blocking(move || async_io::block_on(walk(*path))).await?),
        Route::System(why) => {
            let system = system::enter(config, why.as_deref()).await?;
            config.did(Step::Key, || format!("the ssh program logged in to {}", config.address));
            Wire::System(system)
        }
    };
    config.entered(wire.is_hub());
    Ok(wire)
}

/// From one machine of the path to the next, logging in to each.
async fn walk(path: Path) -> Result<Native, BoardError> {
    let mut way = path.command.map_or(Way::Network, Way::Command);
    let mut stops = path.hops.iter().chain([&path.target]).peekable();
    while let Some(stop) = stops.next() {
        let wire = enter_one(stop, way).await?;
        let Some(next) = stops.peek() else { return Ok(wire) };
        let (host, port) = (next.address.host(), next.address.port());
        let beyond = timeout(stop.connect_timeout, jump::beyond(wire, host, port)).await;
        let socket = beyond.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        way = Way::Socket(socket.map_err(|fault| {
            BoardError::Unreachable(format!(
                "{} does not connect any further, to {host} port {port}: {fault}. Check that it may forward connections, and that it \
                 knows that name",
                stop.address
            ))
        })?);
    }
    Err(BoardError::Closed)
}

/// How to get to a machine's port.
enum Way {
    Network,
    /// By what this command reads and writes.
    Command(String),
    /// It is there already.
    Socket(UnixStream),
}

async fn enter_one(config: &PicoConfig, way: Way) -> Result<Native, BoardError> {
    let limit = config.connect_timeout;
    let known = read_known_hosts(config)?;
    let shaken = timeout(limit, shake_hands(config, &known, way)).await;
    let wire = shaken.unwrap_or_else(|_| Err(too_slow(config)))?;
    check_host_key(config, &known, &wire)?;
    login::log_in(config, &wire).await?;
    Ok(wire)
}

async fn shake_hands(config: &PicoConfig, known: &KnownHost, way: Way) -> Result<Native, BoardError> {
    let lost = |fault: &io::Error| unreachable(config, &reach::why(fault));
    let by_network = matches!(way, Way::Network);
    match &way {
        Way::Network => {}
        Way::Command(command) => config.did(Step::Name, || format!("left to the ProxyCommand {command}")),
        Way::Socket(_) => {
            config.did(Step::Name, || format!("{} is left to the machine before it", config.address.host()));
        }
    }
    let (socket, carrier) = match way {
        Way::Network => (into_socket(dial(config).await.map_err(|fault| lost(&fault))?), None),
        Way::Socket(socket) => (Ok(socket.into()), None),
        Way::Command(command) => {
            let (socket, child) = proxy_command::start(&command).map_err(|fault| lost(&fault))?;
            (Ok(socket.into()), Some(child))
        }
    };
    let mut wire = socket.and_then(|socket| Native::new(socket, carrier)).map_err(|fault| lost(&fault))?;
    if let Ok(supported) = wire.ssh.supported_algs(MethodType::HostKey) {
        let preferred = known.prefer(&supported).join(",");
        wire.ssh.method_pref(MethodType::HostKey, &preferred).map_err(|fault| unreachable(config, &fault))?;
    }
    let mut ssh = wire.ssh.clone();
    if by_network {
        greet(config, wire.drive(|| ssh.handshake())).await?;
    } else {
        wire.drive(|| ssh.handshake()).await.map_err(|fault| unreachable(config, &fault))?;
    }
    config.did(Step::Port, || {
        let banner = ssh.banner().unwrap_or("which does not say what it is");
        format!("{} is an SSH server: {}", config.address, banner.trim())
    });
    wire.ssh = ssh;
    Ok(wire)
}

fn into_socket(socket: Async<TcpStream>) -> io::Result<Socket> {
    socket.into_inner().map(Socket::from)
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
    if let Some(proxy) = config.proxies.of(place.0, place.1) {
        config.did(Step::Name, || format!("{} is left to the proxy {proxy}", place.0));
        return proxy.dial(place.0, place.1).await;
    }
    let found = place.to_socket_addrs().await.map_err(|fault| reach::no_name(config.address.host(), &fault))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES).collect();
    config.did(Step::Name, || {
        let all: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        format!("{} is {}", place.0, all.join(", "))
    });
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
    let name = config.known_as();
    let ssh = ssh2::Session::new().map_err(|fault| unreachable(config, &fault))?;
    let mut known = KnownHost::default();
    for (number, file) in known_hosts_files(config).enumerate() {
        let text = match fs::read(file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => continue,
            Err(fault) => {
                let file = file.display();
                let text = format!("cannot read the known host keys in {file}: {fault}; make it readable");
                return Err(BoardError::HostKey(text));
            }
        };
        known.read(number, &text, &name, |field| stands_for(&ssh, field, &name));
    }
    Ok(known)
}

/// Those that one reads; new keys are noted in the first one.
fn known_hosts_files(config: &PicoConfig) -> impl Iterator<Item = &FilePath> {
    std::iter::once(&config.known_hosts).chain(&config.more_known_hosts).map(PathBuf::as_path)
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
    let board = &config.address;
    let named =
        |place: Place| (known_hosts_files(config).nth(place.file).unwrap_or(&config.known_hosts).display(), place.line);
    let shown = known_hosts::fingerprint(hash);
    if let Some(wanted) = &config.accept_host_key {
        if wanted.trim_end_matches('=') == shown {
            config.did(Step::HostKey, || format!("{board} has the key that was asked for, {shown}"));
            return Ok(());
        }
        return fault(format!(
            "{board} showed the host key {shown}, but {wanted} was asked for. Either that fingerprint is wrong or somebody stands \
             between you and the server; ask its operator for the fingerprint"
        ));
    }
    match known.standing(key) {
        Standing::Known => {
            config.did(Step::HostKey, || format!("{board} has the key that is known, {shown}"));
            Ok(())
        }
        Standing::Revoked(place) => {
            let (file, line) = named(place);
            fault(format!(
                "the host key of {board} is marked as revoked in {file}, line {line}; do not use this server"
            ))
        }
        Standing::Changed(place) => {
            let (file, line) = named(place);
            fault(format!(
                "THE HOST KEY OF {board} HAS CHANGED: it now shows {} {shown}, and {file}, line {line}, knows another one. Somebody may \
             stand between you and the server. If its operator confirms the new fingerprint, forget the old one and try again:\n  \
             ssh-keygen -R '{}' -f {file}",
                known_hosts::key_kind(key),
                config.known_as()
            ))
        }
        Standing::New => {
            first_contact(config, key, &shown)?;
            config.did(Step::HostKey, || format!("{board} has a key that was accepted just now, {shown}"));
            Ok(())
        }
    }
}

fn first_contact(config: &PicoConfig, key: &[u8], shown: &str) -> Result<(), BoardError> {
    let (board, kind) = (&config.address, known_hosts::key_kind(key));
    let note = || {
        // Refusing to go on only because the file cannot be written would help nobody: the key was accepted.
        if let Err(fault) = append(&config.known_hosts, &known_hosts::new_line(&config.known_as(), key)) {
            let file = config.known_hosts.display();
            log::warn!("cannot note the host key of {board} in {file}: {fault}; it will be asked about again");
        }
    };
    if config.strict == Strict::AcceptNew {
        log::warn!("{board} was never seen before; its {kind} key {shown} is accepted, as StrictHostKeyChecking says");
        note();
        return Ok(());
    }
    let Some(prompt) = config.prompt.as_ref().filter(|_| config.strict != Strict::Refuse) else {
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
    note();
    Ok(())
}

/// Adds a line to a file that may be missing or may lack its last newline.
fn append(file: &FilePath, line: &str) -> io::Result<()> {
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
