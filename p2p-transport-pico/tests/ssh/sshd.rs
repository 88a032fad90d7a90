//! OpenSSH's `sshd`, one process a connection, as `inetd` would start it: no port to race for, nothing to wait for.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::kit::{make_key, public_half, tool};

/// What the server runs for whoever logs in. `cat` gives everything back, as a pipe with `-r` does that nobody else is on.
const PIPE: &str = "#!/bin/sh
case \"$SSH_ORIGINAL_COMMAND\" in
user) echo alice; echo 12ab; date; echo ;;
ls) echo 'no pubsub channels found' ;;
much) head -c 3000000 /dev/zero ;;
pipe*refused*) echo 'no such place' >&2; exit 1 ;;
pipe*) exec cat ;;
*) echo 'unknown command' >&2; exit 1 ;;
esac
";

pub(crate) struct Sshd {
    pub(crate) dir: TempDir,
    pub(crate) address: SocketAddr,
    host_key: PathBuf,
    served: Arc<AtomicUsize>,
}

impl Sshd {
    /// A server that lets these keys in. It serves until the test process ends.
    pub(crate) fn start(users: &[&Path], dir: TempDir) -> Self {
        let program = program();
        if fs::metadata("/proc/self").is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0) {
            fs::create_dir_all("/run/sshd").expect("sshd needs /run/sshd when it runs as root");
        }
        let host_key = make_key(dir.path(), "host", "ed25519", "");
        make_key(dir.path(), "host_ecdsa", "ecdsa", "");
        let keys: String = users.iter().map(|user| public_half(user) + "\n").collect();
        fs::write(dir.path().join("authorized_keys"), keys).unwrap();
        let pipe = dir.path().join("pipe.sh");
        fs::write(&pipe, PIPE).unwrap();
        fs::set_permissions(&pipe, fs::Permissions::from_mode(0o755)).unwrap();
        let folder = dir.path().display();
        let settings = format!(
            "HostKey {folder}/host\nHostKey {folder}/host_ecdsa\nAuthorizedKeysFile {folder}/authorized_keys\nForceCommand {folder}/pipe.sh\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        );
        let authority = dir.path().join("user_ca.pub");
        let trusted =
            if authority.exists() { format!("TrustedUserCAKeys {}\n", authority.display()) } else { String::new() };
        fs::write(dir.path().join("sshd_config"), settings + &trusted).unwrap();

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let settings = dir.path().join("sshd_config");
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let output = OwnedFd::from(connection.try_clone().unwrap());
                let mut server = Command::new(&program);
                server.arg("-i").arg("-e").arg("-f").arg(&settings);
                server.stdin(Stdio::from(OwnedFd::from(connection))).stdout(Stdio::from(output)).stderr(Stdio::null());
                let mut server = server.spawn().unwrap();
                thread::spawn(move || server.wait());
            }
        });
        Self { dir, address, host_key, served }
    }

    /// Where to log in; `sshd`, unlike a board, wants to know as whom.
    pub(crate) fn url(&self) -> String {
        let login = String::from_utf8(tool("coreutils", "id", &["-un"]).stdout).unwrap();
        format!("ssh://{}@{}", login.trim(), self.address)
    }

    /// How many connections there have been.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// The line for `known_hosts`.
    pub(crate) fn known_hosts_line(&self) -> String {
        format!("[{}]:{} {}\n", self.address.ip(), self.address.port(), public_half(&self.host_key))
    }

    /// As `ssh-keygen -l` prints it.
    pub(crate) fn fingerprint(&self) -> String {
        let file = self.host_key.with_extension("pub");
        let shown = tool("openssh-client", "ssh-keygen", &["-l", "-f", file.to_str().unwrap()]).stdout;
        String::from_utf8(shown).unwrap().split_whitespace().nth(1).unwrap().to_owned()
    }
}

/// `sshd` insists on being called by its whole path.
fn program() -> PathBuf {
    let places = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"];
    let found = places.iter().map(PathBuf::from).find(|place| place.exists());
    found.expect("there is no sshd here; install the package openssh-server")
}
