//! What can go wrong when a hub starts. Each message says what happened, why, and what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {addr}: {source}; choose another address or port (port 0 takes any free one), \
         or stop the program that uses it"
    )]
    Listen {
        /// The address that was asked for.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The host key file cannot be read, made or kept.
    #[error("host key {path}: {source}; check that the folder exists and is writable for this user")]
    HostKeyFile {
        /// The host key's path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Others on this machine can read the host key.
    #[error(
        "host key {path} is accessible to others (mode {mode:04o}): whoever reads it can pose as this hub; \
         run 'chmod 600 {path}', or delete the file to have a new key made"
    )]
    HostKeyExposed {
        /// The host key's path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The host key file holds no usable key.
    #[error(
        "host key {path} is not an unencrypted OpenSSH ed25519 private key ({reason}); restore it from a copy, \
         or delete the file to have a new key made (clients will then warn of a changed host key)"
    )]
    HostKeyMalformed {
        /// The host key's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The users file cannot be read.
    #[error("users file {path}: {source}; it holds one 'NAME KEYTYPE KEY' a line, '#' starts a comment")]
    UsersFile {
        /// The users file's path.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A user handed over in memory is malformed.
    #[error("user {name:?}: {reason}")]
    User {
        /// The user's name as given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system gave no randomness, no thread or no event queue.
    #[error("cannot start the hub's {what}: {source}; the system seems to be out of resources")]
    System {
        /// What could not be had.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}
