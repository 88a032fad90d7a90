//! Sockets as links want them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use async_io::Async;
use async_std::net::ToSocketAddrs as _;
use p2p_dial::{Proxies, Proxy};
use p2p_proto::limits;
use socket2::{Domain, SockRef, Socket, Type};

use crate::config::RelayAddress;
use crate::hints;

/// Connections that the system accepts for us before we do.
const BACKLOG: i32 = 128;
/// How long bytes may be under way without an acknowledgement. Linux counts the time in which the other side does not read, too, even
/// though it answers: so this is longer than the silence after which a link is given up anyway.
#[cfg(any(target_os = "linux", target_os = "android"))]
const USER_TIMEOUT: Duration = Duration::from_secs(4 * limits::LINK_SILENCE.as_secs());
/// What the system may hold of a connection that it has not sent yet, bytes. It takes more when it has less than that, so this much of bulk,
/// and what one write adds, is in front of a cancel; what is under way is not counted, so no line gets slower by it (docs/decisions.md,
/// "Control is never behind bulk").
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 16 * 1024;
/// Addresses of one relay's name that are tried, one after the other.
const RELAY_ADDRESSES: usize = 4;

/// Listens at one port for IPv4 and at one for IPv6, or at that of the two which this machine has.
///
/// # Errors
/// When it has neither.
pub(super) fn listen() -> io::Result<Vec<Async<TcpListener>>> {
    let v4 = listen_at((Ipv4Addr::UNSPECIFIED, 0).into());
    let v6 = listen_at((Ipv6Addr::UNSPECIFIED, 0).into());
    match (v4, v6) {
        (Err(error), Err(_)) => Err(error),
        (v4, v6) => Ok(v4.into_iter().chain(v6).collect()),
    }
}

fn listen_at(address: SocketAddr) -> io::Result<Async<TcpListener>> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // IPv4 has a socket of its own, so that addresses are never IPv4 in IPv6 clothes.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Async::new(socket.into())
}

/// Connects to `address`; by a proxy if it is far away and there is one.
///
/// # Errors
/// The system's.
pub(super) async fn dial(address: SocketAddr, proxies: &Proxies) -> io::Result<Async<TcpStream>> {
    let ip = address.ip();
    match proxies.of(&ip.to_string(), address.port()).filter(|_| hints::is_public(ip)) {
        Some(proxy) => by_proxy(proxy, &ip.to_string(), address.port()).await,
        None => dial_straight(address).await,
    }
}

async fn by_proxy(proxy: &Proxy, host: &str, port: u16) -> io::Result<Async<TcpStream>> {
    let stream = proxy.dial(host, port).await?;
    prepare(&stream)?;
    Ok(stream)
}

async fn dial_straight(address: SocketAddr) -> io::Result<Async<TcpStream>> {
    let stream = Async::<TcpStream>::connect(address).await?;
    // A port that listens nowhere can connect to itself when the system happens to dial from it.
    if stream.get_ref().local_addr()? == stream.get_ref().peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    prepare(&stream)?;
    Ok(stream)
}

/// Connects to a relay at the first of its addresses that answers, or by a proxy.
///
/// # Errors
/// That of the name look-up, or of the last address.
pub(super) async fn dial_relay(relay: &RelayAddress, proxies: &Proxies) -> io::Result<Async<TcpStream>> {
    if let Some(proxy) = proxies.of(relay.host(), relay.port()) {
        return by_proxy(proxy, relay.host(), relay.port()).await;
    }
    let addresses = (relay.host(), relay.port()).to_socket_addrs().await?;
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "its name has no address"));
    for address in addresses.take(RELAY_ADDRESSES) {
        result = dial_straight(address).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Sets what every connection needs: small records go out at once, little waits unsent in the system, and a dead network ends what waits to
/// be written.
///
/// # Errors
/// The system's; the connection is then of no use.
pub(super) fn prepare(stream: &Async<TcpStream>) -> io::Result<()> {
    stream.get_ref().set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let socket = SockRef::from(stream.get_ref());
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    }
    Ok(())
}
