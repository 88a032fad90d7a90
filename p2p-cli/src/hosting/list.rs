//! The file of users, which may change while the host runs.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use p2p_proto::ids::UserName;

use crate::trouble::{Code, Trouble};

/// What a file of users may have, bytes: far above what thousands of friends need.
const FILE_BYTES: u64 = 1024 * 1024;

/// A file of names, separated by blanks, commas or lines; what follows a `#` on a line is left out.
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    users: Vec<UserName>,
    /// What was wrong at the last look; said once.
    wrong: Option<String>,
}

/// What a look at the file brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// What was known.
    Same,
    /// Another list.
    Changed(Vec<UserName>),
    /// The list stays what it was.
    Wrong(String),
}

impl UsersFile {
    /// Reads it for the first time.
    pub fn open(path: &Path) -> Result<Self, Trouble> {
        let users = read(path).map_err(|fault| Trouble::new(Code::Input, fault))?;
        Ok(Self { path: path.to_owned(), users, wrong: None })
    }

    /// Who is on it.
    pub fn users(&self) -> &[UserName] {
        &self.users
    }

    /// Reads it again.
    pub fn look(&mut self) -> Look {
        match read(&self.path) {
            Ok(users) => {
                self.wrong = None;
                if users == self.users {
                    return Look::Same;
                }
                self.users.clone_from(&users);
                Look::Changed(users)
            }
            Err(fault) if self.wrong.as_ref() == Some(&fault) => Look::Same,
            Err(fault) => {
                self.wrong = Some(fault.clone());
                Look::Wrong(fault)
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<UserName>, String> {
    let shown = path.display();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES + 1).read_to_string(&mut text));
    match read {
        Err(fault) => return Err(format!("the file of users {shown} cannot be read: {fault}")),
        Ok(size) if size as u64 > FILE_BYTES => {
            return Err(format!("the file of users {shown} is larger than {FILE_BYTES} bytes"));
        }
        Ok(_) => {}
    }
    let mut users = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let names = line.split('#').next().unwrap_or_default();
        for name in names.split([',', ' ', '\t']).filter(|name| !name.is_empty()) {
            users.push(name.parse().map_err(|fault| format!("line {number} of {shown}: {fault}"))?);
        }
    }
    users.sort();
    users.dedup();
    Ok(users)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn users(names: &[&str]) -> Vec<UserName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn it_is_read_as_people_write_it_and_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("friends");
        assert!(UsersFile::open(&path).is_err());
        std::fs::write(&path, "# my friends\ncarol, bob\n\n dave\t# from work\nbob\n").unwrap();
        let mut file = UsersFile::open(&path).unwrap();
        assert_eq!(file.users(), users(&["bob", "carol", "dave"]));
        assert_eq!(file.look(), Look::Same);
        std::fs::write(&path, "bob\r\n").unwrap();
        assert_eq!(file.look(), Look::Changed(users(&["bob"])));
        for bad in ["bob !\n", ""] {
            if bad.is_empty() {
                std::fs::remove_file(&path).unwrap();
            } else {
                std::fs::write(&path, bad).unwrap();
            }
            assert!(matches!(file.look(), Look::Wrong(_)));
            assert_eq!(file.look(), Look::Same);
        }
        assert_eq!(file.users(), users(&["bob"]));
    }
}
