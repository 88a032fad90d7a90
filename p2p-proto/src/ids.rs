//! Names for people, keys for machines: users, clusters, peers, and the ids of tasks, attempts and set-ups.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// What a peer does in a cluster. A process has one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Says who may use the cluster; carries no work and no data.
    Host,
    /// Runs attempts.
    Worker,
    /// Hands out tasks.
    Client,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Worker => "worker",
            Self::Client => "client",
        })
    }
}

/// A name that breaks the rules for names; the text says which.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} is not valid: {rule}")]
pub struct NameError {
    what: &'static str,
    name: String,
    rule: String,
}

/// A user's name on the board: 1 to [`limits::USER_BYTES`] of letters, digits, `-` and `_`, the first one a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        check_name("the user name", name, limits::USER_BYTES, "-_").map(Self)
    }
}

/// A cluster: its owner's user name and a name of hers, written `OWNER/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName {
    owner: UserName,
    name: String,
}

impl ClusterName {
    /// The cluster `name` of `owner`.
    ///
    /// # Errors
    /// A name that is not 1 to [`limits::CLUSTER_NAME_BYTES`] of letters, digits, `.`, `-` and `_`, or starts with one of the last three.
    pub fn new(owner: UserName, name: &str) -> Result<Self, NameError> {
        let name = check_name("the cluster name", name, limits::CLUSTER_NAME_BYTES, "-_.")?;
        Ok(Self { owner, name })
    }

    /// Who hosts it.
    pub fn owner(&self) -> &UserName {
        &self.owner
    }

    /// Its name without the owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The board topic of this cluster, shared with the older package's dialect: `OWNER/NAME/future.p2p`.
    pub fn topic(&self) -> String {
        format!("{self}/future.p2p")
    }

    /// The private topic that the board gives to `guest` in place of [`ClusterName::topic`] when it does not let him in (B-04).
    pub fn twin_topic(&self, guest: &UserName) -> String {
        format!("{}/{}", guest.0, self.topic())
    }

    /// The side topic in which the host sees whether a process is there by the login of `user` (T-02): `OWNER/NAME/admit/USER/`, the digits
    /// of its machine key's fingerprint, and the first of its own key's, since a machine's processes would be one guest too many to one
    /// another. The same keys claimed by two users are looked for in two topics: what is seen in one says nothing about the other.
    pub fn admit_topic(&self, user: &UserName, claimant: PeerKeys) -> String {
        format!("{self}/admit/{}/{}/{}", user.0, claimant.machine.digits(), claimant.process.digits())
    }

    /// The side topic in which a process of `guest` sees by whose login the host's key is there (T-02): it is his own, so the owner enters as
    /// a guest.
    pub fn host_topic(&self, guest: &UserName, host: MachineKey, process: ProcessKey) -> String {
        format!("{}/{self}/host/{}/{}", guest.0, host.digits(), process.digits())
    }
}

impl FromStr for ClusterName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (owner, name) = text.split_once('/').ok_or_else(|| NameError {
            what: "the cluster",
            name: text.to_owned(),
            rule: "write it as OWNER/NAME, such as alice/friends".to_owned(),
        })?;
        Self::new(owner.parse()?, name)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner.0, self.name)
    }
}

/// How people see a peer: `USER@HOST:PID`. It proves nothing; machines go by [`PeerKeys`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerName(String);

impl PeerName {
    /// The name of a process of `user`. Characters of `host` that could confuse a terminal or a reader become `-`, and it is cut
    /// to [`limits::HOSTNAME_BYTES`].
    pub fn new(user: &UserName, host: &str, pid: u32) -> Self {
        let host: String = host
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' })
            .take(limits::HOSTNAME_BYTES)
            .collect();
        let host = if host.is_empty() { "unknown" } else { &host };
        Self(format!("{}@{host}:{pid}", user.0))
    }

    /// The user that the name claims.
    pub fn user(&self) -> &str {
        self.0.split('@').next().unwrap_or_default()
    }
}

impl FromStr for PeerName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts = text.split_once('@').and_then(|(user, rest)| {
            let (host, pid) = rest.rsplit_once(':')?;
            Some((user.parse::<UserName>().ok()?, host, pid.parse::<u32>().ok()?))
        });
        match parts {
            Some((user, host, pid)) if Self::new(&user, host, pid).0 == text => Ok(Self(text.to_owned())),
            _ => Err(NameError { what: "the peer name", name: cut(text), rule: "it is not USER@HOST:PID".to_owned() }),
        }
    }
}

macro_rules! text_type {
    ($($type:ident),*) => {$(
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    )*};
}
text_type!(UserName, ClusterName, PeerName, Fingerprint);

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The public Ed25519 key of a machine, kept in its configuration folder (T-01).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MachineKey(#[serde(with = "serde_bytes")] pub [u8; 32]);

/// The public X25519 key of one process, fresh at each start (T-01).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessKey(#[serde(with = "serde_bytes")] pub [u8; 32]);

/// How machines name a peer (T-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerKeys {
    /// Of the machine.
    #[serde(rename = "m")]
    pub machine: MachineKey,
    /// Of the process.
    #[serde(rename = "p")]
    pub process: ProcessKey,
}

impl MachineKey {
    /// `P2P:` and 32 hexadecimal digits of the key's BLAKE3 hash, in groups of four: short enough to read aloud, 128 bits long.
    pub fn fingerprint(&self) -> String {
        let hash = blake3::hash(&self.0);
        let groups: Vec<String> = hash.as_bytes()[..16].chunks(2).map(hex).collect();
        format!("P2P:{}", groups.join("-"))
    }

    /// The digits of [`MachineKey::fingerprint`], without what makes them readable.
    pub fn digits(&self) -> String {
        hex(&blake3::hash(&self.0).as_bytes()[..16])
    }
}

impl ProcessKey {
    /// Its first 8 bytes.
    fn digits(&self) -> String {
        hex(&self.0[..8])
    }
}

/// A machine key's fingerprint as people exchange it: what they type is read whatever its case, with or without `P2P:` and dashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Whether `key` has it.
    pub fn fits(&self, key: MachineKey) -> bool {
        self.0 == key.digits()
    }
}

impl From<MachineKey> for Fingerprint {
    fn from(key: MachineKey) -> Self {
        Self(key.digits())
    }
}

impl FromStr for Fingerprint {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let lower = text.trim().to_ascii_lowercase();
        let digits: String = lower.strip_prefix("p2p:").unwrap_or(&lower).chars().filter(|c| *c != '-').collect();
        if digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(digits));
        }
        let rule = "it is P2P: and 32 hexadecimal digits, as p2p id shows it".to_owned();
        Err(NameError { what: "the fingerprint", name: cut(text), rule })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<&str> =
            self.0.as_bytes().chunks(4).filter_map(|group| std::str::from_utf8(group).ok()).collect();
        write!(f, "P2P:{}", groups.join("-"))
    }
}

impl fmt::Debug for MachineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineKey({})", hex(&self.0[..4]))
    }
}

impl fmt::Debug for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessKey({})", hex(&self.0[..4]))
    }
}

/// A unit of work, numbered by the client that submitted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub u64);

/// One try of a task on one worker, numbered by the client; never used again on the same link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptId(pub u64);

/// One link set-up between two peers: the caller's counter, which also orders its set-ups (L-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetupId(pub u64);

fn check_name(what: &'static str, name: &str, max: usize, extra: &str) -> Result<String, NameError> {
    let fault = |rule: String| Err(NameError { what, name: cut(name), rule });
    let ok = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    match name.chars().next() {
        None => fault("it is empty".to_owned()),
        Some(first) if !first.is_ascii_alphanumeric() => fault("it must start with a letter or a digit".to_owned()),
        Some(_) if name.len() > max => fault(format!("it is longer than {max} characters")),
        Some(_) if !name.chars().all(ok) => fault(format!("only letters, digits and {extra:?} may be in it")),
        Some(_) => Ok(name.to_owned()),
    }
}

/// A hostile name is shown in part only.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_written_owner_slash_name() {
        let cluster: ClusterName = "alice/friends".parse().unwrap();
        assert_eq!(cluster.topic(), "alice/friends/future.p2p");
        assert_eq!(cluster.twin_topic(&"bob".parse().unwrap()), "bob/alice/friends/future.p2p");
        for bad in ["", "alice", "/x", "alice/", "alice/a/b", "../x", "alice/-x", "al ice/x", "alice/.."] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_side_topic_names_the_user_and_fits_the_board() {
        let (longest, name) =
            ("u".repeat(limits::USER_BYTES).parse::<UserName>().unwrap(), "n".repeat(limits::CLUSTER_NAME_BYTES));
        let cluster = ClusterName::new(longest.clone(), &name).unwrap();
        let keys = PeerKeys { machine: MachineKey([7; 32]), process: ProcessKey([8; 32]) };
        let carol = cluster.admit_topic(&"carol".parse().unwrap(), keys);
        assert_ne!(carol, cluster.admit_topic(&"bob".parse().unwrap(), keys));
        assert!(carol.starts_with(&format!("{cluster}/admit/carol/")));
        // What pico.sh takes for a topic's name.
        for topic in [cluster.admit_topic(&longest, keys), cluster.host_topic(&longest, keys.machine, keys.process)] {
            assert!(topic.len() <= 256, "{topic} has {} bytes", topic.len());
        }
    }

    #[test]
    fn a_fingerprint_is_read_as_people_write_it() {
        let key = MachineKey([7; 32]);
        let shown: Fingerprint = key.fingerprint().parse().unwrap();
        assert_eq!(shown.to_string(), key.fingerprint());
        let typed: Fingerprint = key.digits().to_uppercase().parse().unwrap();
        assert!(typed == shown && shown.fits(key) && !shown.fits(MachineKey([8; 32])));
        for bad in ["", "P2P:", "P2P:12", &format!("{}0", key.fingerprint()), &key.fingerprint().replace('-', "x")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn peer_names_cannot_carry_terminal_codes() {
        let name = PeerName::new(&"bob".parse().unwrap(), "my host\u{1b}[2J", 7);
        assert_eq!(name.to_string(), "bob@my-host--2J:7");
        assert_eq!(name.user(), "bob");
        for bad in ["bob", "bob@h", "bob@h:x", "b b@h:1", "bob@h\n:1", "bob@:1"] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad:?} was accepted");
        }
    }
}
