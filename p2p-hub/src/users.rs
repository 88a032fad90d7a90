//! Who is who: public keys to user names, from a file that is read again when it changes, or from memory.
//!
//! A user is known by key alone; the user name of the SSH request means nothing, as on pico.sh.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use russh::keys::ssh_key::public::KeyData;
use russh::keys::{HashAlg, PublicKey};

use crate::HubError;
use crate::limits::{MAX_USER_BYTES, MAX_USERS_FILE_BYTES};
use crate::topics::{Caller, PUBLIC_USER};

/// Where the hub's users come from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum UsersSource {
    /// A file of `NAME KEYTYPE KEY [COMMENT]` lines; empty lines and lines that start with `#` are skipped.
    ///
    /// It is looked at on each login and read again if its size or time of change differ. A malformed line is reported
    /// with file and line number, and skipped. Several lines may give one user several keys. A key that is taken out cannot
    /// log in any more; connections that are open stay.
    File(PathBuf),
    /// A fixed list.
    List(Vec<UserKey>),
}

/// One key of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserKey {
    /// The user's name: 1 to 64 bytes of `A-Z a-z 0-9 -`, not `public`, and not another user's name with a `-` and more behind it: pico.sh
    /// shows `bob-laptop` for a key of bob's that has a name, so nobody must be able to take one for the other.
    pub name: String,
    /// The public key as OpenSSH writes it: `ssh-ed25519 AAAA...`, with or without a comment.
    pub key: String,
}

/// The users that are known now.
#[derive(Debug)]
pub(crate) struct Users {
    file: Option<(PathBuf, Stamp)>,
    table: Table,
}

type Stamp = Option<(u64, SystemTime)>;

#[derive(Debug, Default)]
struct Table {
    names: HashMap<KeyData, String>,
    since: HashMap<String, SystemTime>,
    /// What stands before a `-` in some name.
    heads: HashSet<String>,
    problems: Vec<String>,
}

impl Users {
    /// Reads the source for the first time.
    pub(crate) fn load(source: &UsersSource) -> Result<Users, HubError> {
        match source {
            UsersSource::File(path) => {
                let mut users = Users { file: Some((path.clone(), None)), table: Table::default() };
                users.refresh().map_err(|source| HubError::UsersFile { path: path.clone(), source })?;
                Ok(users)
            }
            UsersSource::List(list) => {
                let mut table = Table::default();
                for entry in list {
                    let user_error = |reason| HubError::User { name: entry.name.clone(), reason };
                    check_name(&entry.name).map_err(user_error)?;
                    let key = parse_key(&entry.key).map_err(user_error)?;
                    table.insert(&entry.name, key, SystemTime::now()).map_err(user_error)?;
                }
                Ok(Users { file: None, table })
            }
        }
    }

    /// Reads the file again if it changed. On an error the users stay as they were.
    pub(crate) fn refresh(&mut self) -> io::Result<()> {
        let Some((path, stamp)) = &mut self.file else {
            return Ok(());
        };
        let metadata = std::fs::metadata(&path)?;
        let now = Some((metadata.len(), metadata.modified()?));
        if *stamp == now {
            return Ok(());
        }
        let text = read_bounded(path)?;
        let mut table = parse_users(path, &text);
        for (name, since) in &mut table.since {
            if let Some(earlier) = self.table.since.get(name) {
                *since = *earlier;
            }
        }
        for problem in &table.problems {
            log::warn!("{problem}");
        }
        self.table = table;
        *stamp = now;
        Ok(())
    }

    /// Lines of the users file that could not be used, as `FILE:LINE: why`.
    pub(crate) fn problems(&self) -> &[String] {
        &self.table.problems
    }

    /// Who owns `key`; an unknown key is the user `public`.
    pub(crate) fn caller(&self, key: &PublicKey) -> Caller {
        let known = self.table.names.get(key.key_data());
        Caller {
            user: known.map_or_else(|| PUBLIC_USER.to_owned(), String::clone),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
        }
    }

    /// When the hub first saw this user in its present life.
    pub(crate) fn since(&self, name: &str) -> Option<SystemTime> {
        self.table.since.get(name).copied()
    }
}

impl Table {
    fn insert(&mut self, name: &str, key: PublicKey, now: SystemTime) -> Result<(), String> {
        let heads = || name.match_indices('-').map(|(at, _)| &name[..at]);
        if let Some(other) = heads().find(|head| self.since.contains_key(*head)) {
            return Err(format!("{name:?} could be taken for a key of user {other:?}: give one of them another name"));
        }
        if self.heads.contains(name) {
            return Err(format!("a user's name starts with \"{name}-\" already: give one of them another name"));
        }
        let data = key.key_data().clone();
        match self.names.get(&data) {
            Some(other) if other != name => {
                return Err(format!("this key belongs to user {other:?} already"));
            }
            _ => self.names.insert(data, name.to_owned()),
        };
        self.heads.extend(heads().map(str::to_owned));
        self.since.entry(name.to_owned()).or_insert(now);
        Ok(())
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_USERS_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_USERS_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {MAX_USERS_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// One bad line must not lock everybody else out, so it is noted and skipped.
fn parse_users(path: &Path, text: &[u8]) -> Table {
    let mut table = Table::default();
    let now = SystemTime::now();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let parsed = std::str::from_utf8(line)
            .map_err(|_| "not UTF-8".to_owned())
            .and_then(|line| parse_line(line.trim()))
            .and_then(|entry| match entry {
                Some((name, key)) => table.insert(name, key, now),
                None => Ok(()),
            });
        if let Err(reason) = parsed {
            let number = index + 1;
            table.problems.push(format!("{}:{number}: {reason}", path.display()));
        }
    }
    table
}

fn parse_line(line: &str) -> Result<Option<(&str, PublicKey)>, String> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, key) = line.split_once(char::is_whitespace).ok_or("expected 'NAME KEYTYPE KEY'")?;
    check_name(name)?;
    Ok(Some((name, parse_key(key)?)))
}

/// Only these characters: `ls` shows `NAME@ADDRESS`, and whoever reads that must not be able to take one name for another.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > MAX_USER_BYTES || !name.chars().all(allowed) {
        return Err(format!("a user name has 1 to {MAX_USER_BYTES} letters, digits or '-'"));
    }
    if name == PUBLIC_USER {
        return Err(format!("{PUBLIC_USER:?} is the name of everybody without an account"));
    }
    Ok(())
}

fn parse_key(key: &str) -> Result<PublicKey, String> {
    let key = PublicKey::from_openssh(key.trim())
        .map_err(|error| format!("not a public key of the form 'KEYTYPE KEY': {error}"))?;
    if key.algorithm().is_rsa() {
        return Err("RSA keys cannot log in here; make one with 'ssh-keygen -t ed25519'".into());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY_1: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAjiT19LjEICR37XUp9NaqDfYa6yy0NZ09tlZklAe8Gm";
    const KEY_2: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIArl7kpUO/C2mKDdgQNr2KCHSPGxKh+X/QQGtJiZQkoK";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).unwrap()
    }

    #[test]
    fn lines_are_parsed_and_bad_ones_reported_with_their_number() {
        let text = format!(
            "# friends\n\nalice {KEY_1} laptop\r\nalice\nbob ssh-ed25519 nonsense\npublic {KEY_2}\n\
             bo_b {KEY_2}\nmallory {KEY_1}\n  bob   {KEY_2}\n"
        );
        let table = parse_users(Path::new("users"), text.as_bytes());
        let numbers: Vec<_> = table.problems.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
        assert_eq!(numbers, ["users:4", "users:5", "users:6", "users:7", "users:8"]);
        assert_eq!(table.names[key(KEY_1).key_data()], "alice");
        assert_eq!(table.names[key(KEY_2).key_data()], "bob");
    }

    #[test]
    fn bytes_that_are_no_text_cost_one_line_only() {
        let mut text = b"\xff\xfe\n".to_vec();
        text.extend_from_slice(format!("bob {KEY_2}").as_bytes());
        let table = parse_users(Path::new("users"), &text);
        assert_eq!(table.problems, ["users:1: not UTF-8"]);
        assert_eq!(table.names.len(), 1);
    }

    #[test]
    fn a_name_and_a_file_have_their_bounds() {
        let names =
            |size: usize| parse_users(Path::new("users"), format!("{} {KEY_1}", "x".repeat(size)).as_bytes()).names;
        assert_eq!((names(MAX_USER_BYTES).len(), names(MAX_USER_BYTES + 1).len()), (1, 0));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        for (more, fits) in [(0, true), (1, false)] {
            File::create(&path).unwrap().set_len(MAX_USERS_FILE_BYTES + more).unwrap();
            assert_eq!(read_bounded(&path).is_ok(), fits, "{more} more");
        }
    }

    #[test]
    fn no_name_can_be_taken_for_a_key_of_somebody_else() {
        for (names, taken) in [
            (["bob", "bob-laptop"], 1),
            (["bob-laptop", "bob"], 1),
            (["bob-a", "bob-b"], 2),
            (["bob", "bobby-a"], 2),
            (["bob", "bob"], 1),
        ] {
            let text = format!("{} {KEY_1}\n{} {KEY_2}\n", names[0], names[1]);
            let table = parse_users(Path::new("users"), text.as_bytes());
            assert_eq!((table.since.len(), table.since.contains_key(names[0])), (taken, true), "{names:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_the_public_user() {
        let users = Users::load(&UsersSource::List(vec![UserKey { name: "alice".into(), key: KEY_1.into() }])).unwrap();
        assert_eq!(users.caller(&key(KEY_1)).user, "alice");
        assert_eq!(users.caller(&key(KEY_2)).user, "public");
        assert!(users.caller(&key(KEY_2)).fingerprint.starts_with("SHA256:"));
    }
}
