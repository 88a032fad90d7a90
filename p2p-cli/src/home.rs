//! The folder of keys and of what is trusted: `identity.key` (secret), and one file per cluster.
//!
//! Files are written whole and put in place by renaming, so that a crash leaves the old or the new one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use p2p_proto::ids::{ClusterName, UserName};
use p2p_proto::trust::Identity;
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

use crate::trouble::{Code, Trouble};
use crate::trusted::{Session, Trusted};

const IDENTITY_FILE: &str = "identity.key";
const CLUSTERS_FOLDER: &str = "clusters";
const LOCK_FILE: &str = ".lock";
const ACCOUNTS_FILE: &str = "accounts.json";
/// Accounts that are remembered; then all are forgotten, and asked for again.
const ACCOUNTS: usize = 64;
/// A cluster's file, bytes: far above what thousands of friends need.
const CLUSTER_FILE_BYTES: usize = 4 * 1024 * 1024;
/// A file that is read, bytes: what older versions have written takes several times as much for the same.
const FILE_BYTES: u64 = 32 * 1024 * 1024;

/// The folder.
#[derive(Debug)]
pub struct Home {
    folder: PathBuf,
    /// It is not the system's.
    named: bool,
    /// What this process goes by; [`Home::change`] is for all processes.
    pub(crate) sessions: Mutex<BTreeMap<ClusterName, Session>>,
}

impl Home {
    /// Opens `folder`, or the system's folder for configuration.
    pub fn open(folder: Option<&Path>) -> Result<Self, Trouble> {
        let named = folder.is_some();
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => directories::ProjectDirs::from("", "", "p2p")
                .map(|dirs| dirs.config_dir().to_owned())
                .ok_or_else(|| Trouble::new(Code::System, "no home folder is known: name a folder with --home DIR"))?,
        };
        let home = Self { folder, named, sessions: Mutex::default() };
        make_folder(&home.folder.join(CLUSTERS_FOLDER))
            .map_err(|fault| home.trouble("the folder of keys cannot be made", &home.folder, &fault))?;
        check_folder(&home.folder)?;
        Ok(home)
    }

    /// Where a worker keeps what it was sent: the system's folder for caches, or a part of a folder that was named.
    pub fn cache(&self) -> Option<PathBuf> {
        if self.named {
            return Some(self.folder.join("cache"));
        }
        directories::ProjectDirs::from("", "", "p2p").map(|dirs| dirs.cache_dir().join("blobs"))
    }

    /// Where a client keeps the names of large files that it has read.
    pub fn names(&self) -> Option<PathBuf> {
        if self.named {
            return Some(self.folder.join("names"));
        }
        directories::ProjectDirs::from("", "", "p2p").map(|dirs| dirs.cache_dir().join("names"))
    }

    /// This machine's identity, made at the first call.
    pub fn identity(&self) -> Result<Identity, Trouble> {
        let path = self.folder.join(IDENTITY_FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                check_private(&path)?;
                let secret: [u8; 32] = bytes.try_into().map_err(|_| {
                    let words = format!(
                        "{} is no key of this program: restore it, or move it away to get a new one",
                        path.display()
                    );
                    Trouble::new(Code::System, words)
                })?;
                Ok(Identity::from_secret(&secret))
            }
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => self.make_identity(&path),
            Err(fault) => Err(self.trouble("the machine's key cannot be read", &path, &fault)),
        }
    }

    fn make_identity(&self, path: &Path) -> Result<Identity, Trouble> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|fault| Trouble::system("the system has no randomness for a key", fault))?;
        match place_new(path, &secret) {
            Ok(()) => Ok(Identity::from_secret(&secret)),
            // Another process of ours was quicker: its key counts.
            Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => self.identity(),
            Err(fault) => Err(self.trouble("the machine's key cannot be kept", path, &fault)),
        }
    }

    /// What is trusted in a cluster; nothing if there is no file.
    pub fn trusted(&self, cluster: &ClusterName) -> Result<Trusted, Trouble> {
        let path = self.cluster_file(cluster);
        let too_large = fs::metadata(&path).is_ok_and(|meta| meta.len() > FILE_BYTES);
        match fs::read(&path) {
            Ok(bytes) if !too_large => match serde_json::from_slice::<Trusted>(&bytes) {
                Ok(mut trusted) => {
                    trusted.renew();
                    Ok(trusted)
                }
                Err(fault) => {
                    let words = format!(
                        "{} cannot be understood ({fault}): mend it, or remove it to trust anew",
                        path.display()
                    );
                    Err(Trouble::new(Code::System, words))
                }
            },
            Ok(_) => Err(Trouble::new(Code::System, format!("{} is far too large to be ours", path.display()))),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(Trusted::default()),
            Err(fault) => Err(self.trouble("what is trusted cannot be read", &path, &fault)),
        }
    }

    /// Changes what is trusted in a cluster.
    pub fn change(&self, cluster: &ClusterName, change: impl FnOnce(&mut Trusted)) -> Result<(), Trouble> {
        let _one_at_a_time = self.lock()?;
        let mut trusted = self.trusted(cluster)?;
        change(&mut trusted);
        let path = self.cluster_file(cluster);
        let text = serde_json::to_vec_pretty(&trusted)
            .map_err(|fault| Trouble::system("what is trusted cannot be written", fault))?;
        if text.len() > CLUSTER_FILE_BYTES {
            let words = format!(
                "{cluster} would need {} bytes for what is trusted there, and {CLUSTER_FILE_BYTES} are allowed: it stays as it was. Take machines off \
                 that are not used any more (p2p members, p2p trust forget), or users",
                text.len()
            );
            return Err(Trouble::new(Code::System, words));
        }
        replace(&path, &text).map_err(|fault| self.trouble("what is trusted cannot be kept", &path, &fault))
    }

    /// The user's name for this way to log in, if the board has told it before.
    pub fn account(&self, way: &str) -> Option<UserName> {
        self.accounts().remove(way)
    }

    /// Remembers it; `None` forgets it. What cannot be kept is asked for again, so that is no trouble.
    pub fn remember_account(&self, way: &str, user: Option<&UserName>) {
        let kept = self.lock().map_err(|trouble| trouble.to_string()).and_then(|_one_at_a_time| {
            let mut accounts = self.accounts();
            if accounts.get(way) == user {
                return Ok(());
            }
            if accounts.len() >= ACCOUNTS {
                accounts.clear();
            }
            match user {
                Some(user) => accounts.insert(way.to_owned(), user.clone()),
                None => accounts.remove(way),
            };
            let text = serde_json::to_vec_pretty(&accounts).map_err(|fault| fault.to_string())?;
            replace(&self.folder.join(ACCOUNTS_FILE), &text).map_err(|fault| fault.to_string())
        });
        if let Err(fault) = kept {
            log::info!("the account's name cannot be kept: {fault}");
        }
    }

    /// A file that is not there, or cannot be understood, holds nothing.
    fn accounts(&self) -> BTreeMap<String, UserName> {
        let mut text = Vec::new();
        let read = File::open(self.folder.join(ACCOUNTS_FILE))
            .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, FILE_BYTES), &mut text));
        read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Held while a file is changed: a host and her client are two processes with one folder.
    fn lock(&self) -> Result<File, Trouble> {
        let path = self.folder.join(CLUSTERS_FOLDER).join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let locked = options.open(&path).and_then(|file| {
            retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
            Ok(file)
        });
        locked.map_err(|fault| self.trouble("what is trusted cannot be locked", &path, &fault))
    }

    /// The clusters of which something is kept.
    pub fn clusters(&self) -> Result<Vec<ClusterName>, Trouble> {
        let folder = self.folder.join(CLUSTERS_FOLDER);
        let entries =
            fs::read_dir(&folder).map_err(|fault| self.trouble("what is trusted cannot be listed", &folder, &fault))?;
        let mut clusters: Vec<ClusterName> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.strip_suffix(".json")?.replacen('+', "/", 1).parse().ok())
            .collect();
        clusters.sort();
        Ok(clusters)
    }

    /// Where the folder is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `+` is in no user's and no cluster's name.
    fn cluster_file(&self, cluster: &ClusterName) -> PathBuf {
        self.folder.join(CLUSTERS_FOLDER).join(format!("{}+{}.json", cluster.owner(), cluster.name()))
    }

    fn trouble(&self, what: &str, path: &Path, fault: &io::Error) -> Trouble {
        let words = format!(
            "{what} in {}: {fault}; check its rights and room, or name another folder with --home DIR",
            path.display()
        );
        Trouble::new(Code::System, words)
    }
}

/// Makes a folder that is its user's alone.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes beside `path` under a name that no other process uses.
fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(io::Error::other)?;
    let beside = path.with_extension(format!("{:016x}.new", u64::from_ne_bytes(suffix)));
    let mut file = private_file(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(beside)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = write_beside(path, bytes)?;
    fs::rename(&beside, path)?;
    sync_folder(path)
}

/// A new name outlasts a power cut only when its folder has been written: without that a machine that was forgotten could be back.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Puts a file in place that must not be there yet: of several processes exactly one succeeds, and none sees half a file.
fn place_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = write_beside(path, bytes)?;
    let placed = fs::hard_link(&beside, path);
    fs::remove_file(&beside)?;
    placed?;
    sync_folder(path)
}

fn check_private(path: &Path) -> Result<(), Trouble> {
    if is_open_to_others(path) {
        let shown = path.display();
        let words = format!("others on this machine may read the secret key {shown}: run chmod 600 {shown}");
        return Err(Trouble::new(Code::System, words));
    }
    Ok(())
}

/// It is not changed here: whoever names another folder with --home may share that with others on purpose, as `/tmp`.
fn check_folder(path: &Path) -> Result<(), Trouble> {
    if is_open_to_others(path) {
        let shown = path.display();
        let words = format!(
            "others on this machine may enter the folder of keys {shown}: run chmod 700 {shown}, or name a folder with --home DIR that is yours alone"
        );
        return Err(Trouble::new(Code::System, words));
    }
    Ok(())
}

#[cfg(unix)]
fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_several_processes_all_last() {
        let folder = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "alice/friends".parse().unwrap();
        // A lock belongs to an open file: threads that each open it are to one another as processes are.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let home = Home::open(Some(&folder.path().join("p2p"))).unwrap();
                    for _ in 0..25 {
                        home.change(&cluster, |trusted| trusted.serial += 1).unwrap();
                    }
                });
            }
        });
        let home = Home::open(Some(&folder.path().join("p2p"))).unwrap();
        assert_eq!(home.trusted(&cluster).unwrap().serial, 200);
        assert_eq!(home.clusters().unwrap(), [cluster]);
    }

    #[test]
    fn what_could_not_be_read_back_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "alice/friends".parse().unwrap();
        let home = Home::open(Some(&folder.path().join("p2p"))).unwrap();
        home.change(&cluster, |trusted| trusted.serial = 7).unwrap();
        let many = |count: usize| vec![p2p_proto::ids::MachineKey([7; 32]); count];
        let bob: UserName = "bob".parse().unwrap();
        let fault =
            home.change(&cluster, |trusted| drop(trusted.members.insert(bob.clone(), many(60_000)))).unwrap_err();
        assert!(fault.to_string().contains("it stays as it was"), "{fault}");
        assert_eq!(home.trusted(&cluster).unwrap().serial, 7);
        home.change(&cluster, |trusted| drop(trusted.members.insert(bob.clone(), many(40_000)))).unwrap();
        assert_eq!(home.trusted(&cluster).unwrap().members[&bob].len(), 40_000);
    }
}
