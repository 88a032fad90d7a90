//! A board of one's own: an SSH server that behaves as pico.sh's pipe does, for local networks, offline use and tests.
//!
//! People meet on a *topic*: what one client of `ssh HUB pipe TOPIC` writes, every other one reads. Who they are is decided
//! by their SSH keys, who may join by the owner's access list (`-a bob,carol`). Nothing is stored.
//!
//! ```no_run
//! use p2p_hub::{HostKeySource, Hub, HubConfig, UsersSource};
//!
//! let hub = Hub::start(HubConfig {
//!     listen: ([0, 0, 0, 0], 2222).into(),
//!     users: UsersSource::File("users".into()),
//!     host_key: HostKeySource::File("host_key".into()),
//! })?;
//! println!("listening on {}, host key {}", hub.local_addr(), hub.host_key_fingerprint());
//! # Ok::<(), p2p_hub::HubError>(())
//! ```
//!
//! Where it differs from pico.sh on purpose:
//! - A client that does not read is cut off after a bounded backlog ([`limits::BACKLOG_BYTES`]); there it stalls its topic.
//! - An access list is removed by the end of the session that brought it only, and nobody gets past it.
//! - A `pub` that has sent everything says so and ends with exit status 0; there its session is closed without one.
//! - A topic that a list denies cannot be joined by an unknown key without `-p` either.
//! - Patterns (`*`) in topic names, monitors, key names in `ls` and administrators do not exist; RSA keys and SSH certificates
//!   cannot log in.
//! - The traffic that keeps connections alive is the channel request `xon-xoff`, not `ping@pico.sh`: no reply wanted either.
//!
//! Events are reported by the [`log`] crate: who joined, left or was cut off, and lines of the users file that are wrong.

#![forbid(unsafe_code)]

mod board;
mod channel;
mod command;
mod connection;
mod error;
mod flags;
mod gate;
mod host_key;
pub mod limits;
mod listing;
mod outbox;
mod registry;
mod server;
mod topics;
mod users;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use russh::keys::HashAlg;
use tokio::sync::oneshot;

pub use crate::error::HubError;
pub use crate::host_key::{HostKeySource, make_user_key};
pub use crate::users::{UserKey, UsersSource};

/// What a hub needs to start.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// The address to listen on; port 0 takes any free port, see [`Hub::local_addr`].
    pub listen: SocketAddr,
    /// Whose keys belong to whom.
    pub users: UsersSource,
    /// The key by which clients recognise the hub.
    pub host_key: HostKeySource,
}

/// A running hub. It has a thread of its own; [`Hub::stop`] or dropping it closes all its connections.
#[derive(Debug)]
pub struct Hub {
    addr: SocketAddr,
    public_key: String,
    fingerprint: String,
    users_problems: Vec<String>,
    stop: Option<oneshot::Sender<()>>,
    stopped: Receiver<()>,
}

impl Hub {
    /// Starts a hub; when this returns, clients can connect.
    ///
    /// # Errors
    /// If the address is taken, the users or the host key cannot be read or made, others can read the host key, or the
    /// system has no thread left.
    pub fn start(config: HubConfig) -> Result<Hub, HubError> {
        let key = host_key::host_key(&config.host_key)?;
        let users = users::Users::load(&config.users)?;
        let listen_error = |source| HubError::Listen { addr: config.listen, source };
        let listener = TcpListener::bind(config.listen).map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        let addr = listener.local_addr().map_err(listen_error)?;

        let system_error = |what| move |source| HubError::System { what, source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system_error("event loop"))?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(system_error("event loop"))?
        };
        let public_key =
            key.public_key().to_openssh().map_err(|error| system_error("host key")(io::Error::other(error)))?;
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let users_problems = users.problems().to_vec();

        let (stop, stopping) = oneshot::channel();
        let (finished, stopped) = channel();
        thread::Builder::new()
            .name("p2p-hub".into())
            .spawn(move || {
                runtime.block_on(server::serve(listener, key, users, stopping));
                // The connections are tasks of the runtime, and end with it.
                drop(runtime);
                drop(finished);
            })
            .map_err(system_error("thread"))?;
        log::info!("listening on {addr}, host key {fingerprint}");
        Ok(Hub { addr, public_key, fingerprint, users_problems, stop: Some(stop), stopped })
    }

    /// The address that the hub listens on, with the port that was taken if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The host key's fingerprint, `SHA256:...`, to be compared with what `ssh` shows at the first connection.
    pub fn host_key_fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The host's public key as OpenSSH writes it: `ssh-ed25519 AAAA...`.
    pub fn host_public_key(&self) -> &str {
        &self.public_key
    }

    /// The line for `known_hosts` by which `ssh` recognises the hub under the name or address `host`.
    ///
    /// ```
    /// # use p2p_hub::{HostKeySource, Hub, HubConfig, UsersSource};
    /// # let hub = Hub::start(HubConfig {
    /// #     listen: ([127, 0, 0, 1], 0).into(),
    /// #     users: UsersSource::List(vec![]),
    /// #     host_key: HostKeySource::Ephemeral,
    /// # })?;
    /// let port = hub.local_addr().port();
    /// let line = hub.known_hosts_line("localhost");
    /// assert!(line.starts_with(&format!("[localhost]:{port} ssh-ed25519 ")));
    /// # Ok::<(), p2p_hub::HubError>(())
    /// ```
    pub fn known_hosts_line(&self, host: &str) -> String {
        let key = &self.public_key;
        match self.addr.port() {
            22 => format!("{host} {key}"),
            port => format!("[{host}]:{port} {key}"),
        }
    }

    /// The lines of the users file that were skipped at the start, each as `FILE:LINE: why`.
    pub fn users_problems(&self) -> &[String] {
        &self.users_problems
    }

    /// Stops the hub, closes all connections, and waits for at most [`limits::STOP_LIMIT`]. Dropping the hub does the same.
    pub fn stop(self) {}
}

impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.stop.take());
        // An error means that the thread has ended, which is what is waited for.
        let _ = self.stopped.recv_timeout(limits::STOP_LIMIT);
    }
}

/// A panic elsewhere must not take the hub down with it: every change under a lock of ours is complete at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
