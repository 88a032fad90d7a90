//! The listener: bounds the number of connections and the time to log in, and hands each connection to the SSH library.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::keys::PrivateKey;
use russh::server::{Config, run_stream};
use russh::{MethodKind, MethodSet, SshId};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::board::Board;
use crate::connection::Connection;
use crate::gate::GatedStream;
use crate::limits::{
    DEAD_AFTER, IDLE_CONNECTION, LOGIN_GRACE, MAX_AUTH_ATTEMPTS, MAX_CHUNK_BYTES, MAX_CONNECTIONS, MAX_LOGINS,
    MAX_PUBLIC_CONNECTIONS, PING_INTERVAL,
};
use crate::topics::Caller;
use crate::users::Users;

/// How long to wait when the system has no file descriptor left for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) board: Arc<Board>,
    pub(crate) users: Mutex<Users>,
    known: Arc<Semaphore>,
    public: Arc<Semaphore>,
}

/// A connection's permission to exist, given back when it is dropped.
pub(crate) type Place = OwnedSemaphorePermit;

impl Shared {
    fn new(users: Users) -> Self {
        Self {
            board: Arc::default(),
            users: Mutex::new(users),
            known: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            public: Arc::new(Semaphore::new(MAX_PUBLIC_CONNECTIONS)),
        }
    }

    /// A place for a connection that has logged in, unless all are taken.
    pub(crate) fn place(&self, caller: &Caller) -> Option<Place> {
        let places = if caller.is_known() { &self.known } else { &self.public };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

/// Serves until `stop` is used or dropped.
pub(crate) async fn serve(listener: TcpListener, key: PrivateKey, users: Users, stop: oneshot::Receiver<()>) {
    let shared = Arc::new(Shared::new(users));
    let config = Arc::new(ssh_config(key));
    let logins = Arc::new(Semaphore::new(MAX_LOGINS));
    let accepting = async {
        loop {
            let (tcp, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(login) = Arc::clone(&logins).try_acquire_owned() else {
                log::warn!("{peer} turned away: {MAX_LOGINS} connections are logging in already");
                continue;
            };
            let (config, shared) = (Arc::clone(&config), Arc::clone(&shared));
            tokio::spawn(async move {
                match converse(config, shared, tcp, peer, login).await {
                    Ok(()) => log::debug!("{peer} has gone"),
                    Err(error) => log::debug!("{peer} has gone: {error}"),
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = stop => {}
    }
}

async fn converse(
    config: Arc<Config>,
    shared: Arc<Shared>,
    tcp: TcpStream,
    peer: SocketAddr,
    login: Place,
) -> Result<(), russh::Error> {
    prepare(&tcp)?;
    let local = tcp.local_addr()?;
    let (stream, gate) = GatedStream::new(tcp);
    let (logged_in, login_over) = oneshot::channel();
    let connection = Connection::new(shared, Arc::clone(&gate), peer, local, login, logged_in);
    let starting = timeout(LOGIN_GRACE, run_stream(config, stream, connection));
    let Ok(session) = starting.await else {
        return Err(russh::Error::ConnectionTimeout);
    };
    let session = session?;
    if timeout(LOGIN_GRACE, login_over).await.is_err() {
        log::info!("{peer} closed: not logged in after {LOGIN_GRACE:?}");
        gate.kill();
    }
    session.await
}

/// Small chunks leave at once, and a peer that vanished is noticed: what is sent to it is not acknowledged.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(DEAD_AFTER).with_interval(PING_INTERVAL))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    Ok(())
}

fn ssh_config(key: PrivateKey) -> Config {
    Config {
        server_id: SshId::Standard(concat!("SSH-2.0-p2p-hub_", env!("CARGO_PKG_VERSION")).into()),
        methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
        // OpenSSH asks for the methods first, with an attempt that is always rejected.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key],
        maximum_packet_size: MAX_CHUNK_BYTES as u32,
        max_auth_attempts: MAX_AUTH_ATTEMPTS,
        inactivity_timeout: Some(IDLE_CONNECTION),
        nodelay: true,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UsersSource;
    use crate::topics::PUBLIC_USER;

    #[test]
    fn connections_are_bounded_and_strangers_take_no_users_place() {
        let shared = Shared::new(Users::load(&UsersSource::List(Vec::new())).unwrap());
        let caller = |user: &str| Caller { user: user.to_owned(), fingerprint: "SHA256:x".to_owned() };
        let (stranger, alice) = (caller(PUBLIC_USER), caller("alice"));
        let all = |caller: &Caller| std::iter::from_fn(|| shared.place(caller)).collect::<Vec<Place>>();
        let strangers = all(&stranger);
        assert_eq!(strangers.len(), MAX_PUBLIC_CONNECTIONS);
        let mut users = all(&alice);
        assert_eq!(users.len(), MAX_CONNECTIONS);
        users.pop();
        assert!(shared.place(&stranger).is_none());
        assert!(shared.place(&alice).is_some(), "who goes makes room");
    }
}
