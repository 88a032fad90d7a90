//! The hub's own key: made at the first start, kept for ever, readable for nobody else.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Algorithm, PrivateKey};

use crate::HubError;
use crate::limits::MAX_HOST_KEY_FILE_BYTES;

/// Where the hub's own ed25519 key comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HostKeySource {
    /// An OpenSSH private key file; made with mode 0600 if it does not exist.
    File(PathBuf),
    /// A new key at each start, for tests and demonstrations: clients cannot recognise the hub after a restart.
    Ephemeral,
}

/// Loads or makes the host key.
pub(crate) fn host_key(source: &HostKeySource) -> Result<PrivateKey, HubError> {
    let path = match source {
        HostKeySource::Ephemeral => return fresh_key(),
        HostKeySource::File(path) => path,
    };
    match File::open(path) {
        Ok(file) => load(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = fresh_key()?;
            store(path, &key)?;
            Ok(key)
        }
        Err(source) => Err(file_error(path, source)),
    }
}

/// Makes a user's key: a new ed25519 key file of OpenSSH's format at `path`, mode 0600, without a passphrase. Returns its public half as
/// a users file has it, `ssh-ed25519 AAAA...`.
///
/// # Errors
/// If `path` exists or cannot be written, or the system has no randomness.
pub fn make_user_key(path: &Path) -> Result<String, HubError> {
    let key = fresh_key()?;
    store(path, &key)?;
    key.public_key().to_openssh().map_err(|error| file_error(path, io::Error::other(error)))
}

fn load(path: &Path, file: File) -> Result<PrivateKey, HubError> {
    let metadata = file.metadata().map_err(|source| file_error(path, source))?;
    refuse_exposed(path, &metadata)?;
    let mut text = String::new();
    file.take(MAX_HOST_KEY_FILE_BYTES).read_to_string(&mut text).map_err(|source| file_error(path, source))?;
    let malformed = |reason: String| HubError::HostKeyMalformed { path: path.to_owned(), reason };
    let key = PrivateKey::from_openssh(&text).map_err(|error| malformed(error.to_string()))?;
    if key.is_encrypted() {
        return Err(malformed("it is protected by a passphrase".into()));
    }
    if key.algorithm() != Algorithm::Ed25519 {
        return Err(malformed(format!("it is of type {}", key.algorithm())));
    }
    Ok(key)
}

#[cfg(unix)]
fn refuse_exposed(path: &Path, metadata: &std::fs::Metadata) -> Result<(), HubError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(HubError::HostKeyExposed { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_exposed(_: &Path, _: &std::fs::Metadata) -> Result<(), HubError> {
    Ok(())
}

/// Writes to a sibling first: a hub killed half-way must not leave half a key behind, which no later start could use.
fn store(path: &Path, key: &PrivateKey) -> Result<(), HubError> {
    let text = key.to_openssh(LineEnding::LF).map_err(|error| file_error(path, io::Error::other(error)))?;
    let mut sibling = path.as_os_str().to_owned();
    sibling.push(format!(".{}", std::process::id()));
    let sibling = PathBuf::from(sibling);
    let written = create_private(&sibling)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        // A link, unlike a rename, does not replace the key of another hub that started at the same moment.
        .and_then(|()| std::fs::hard_link(&sibling, path));
    let _ = std::fs::remove_file(&sibling);
    written.map_err(|source| file_error(path, source))
}

fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

fn fresh_key() -> Result<PrivateKey, HubError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| HubError::System { what: "random numbers", source: io::Error::other(error.to_string()) })?;
    Ok(PrivateKey::from(Ed25519Keypair::from_seed(&seed)))
}

fn file_error(path: &Path, source: io::Error) -> HubError {
    HubError::HostKeyFile { path: path.to_owned(), source }
}
