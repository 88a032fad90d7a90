//! Trees: a folder with all that is in it, as bytes, so that it travels like a file.
//!
//! ```text
//!  4 bytes, little-endian: the length of the list | the list of entries, CBOR | the content of its files, one after the other
//! ```
//!
//! The list comes first, so that a reader has checked every name before it writes anything. A folder stands before what is in it. Times,
//! owners and the rights of others to write are left out: the same files give the same bytes, wherever they are.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::limits::{FILE_BYTES, TREE_ENTRIES, TREE_LIST_BYTES};
use crate::task::{Failure, FailureKind, check_file_name};

/// Bytes before the list: its length.
pub const LENGTH_BYTES: usize = 4;
/// What of a file's mode travels: rights, and nothing that changes the user.
const MODE_BITS: u32 = 0o777;

/// The entries of a folder, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<Entry>,
    content: u64,
}

/// One thing in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Below the folder, `/` between parts.
    #[serde(rename = "n")]
    pub name: String,
    /// What it is.
    #[serde(rename = "k")]
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A folder, with its rights.
    #[serde(rename = "d")]
    Folder(u32),
    /// A regular file: its bytes, and its rights.
    #[serde(rename = "f")]
    File(u64, u32),
    /// A symbolic link, and where it leads.
    #[serde(rename = "l")]
    Link(String),
}

impl Tree {
    /// A tree of these entries.
    ///
    /// # Errors
    /// A [`Failure`] that names the entry: a name that is refused, twice there, or not below a folder that stands before it; a link that leads out of
    /// the tree; too many entries, or too much of them.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, Failure> {
        if entries.len() > TREE_ENTRIES {
            return Err(too_large(&format!("{} entries; up to {TREE_ENTRIES}", entries.len())));
        }
        let mut content = 0u64;
        let mut seen: HashMap<&str, bool> = HashMap::with_capacity(entries.len());
        for Entry { name, kind } in &entries {
            check_file_name(name)?;
            if let Some((parent, _)) = name.rsplit_once('/')
                && seen.get(parent) != Some(&true)
            {
                return Err(refused(name, "it is in no folder of its tree"));
            }
            match kind {
                EntryKind::Folder(_) => {}
                EntryKind::File(size, _) => content = content.saturating_add(*size),
                EntryKind::Link(target) => check_link(name, target)?,
            }
            if seen.insert(name, matches!(kind, EntryKind::Folder(_))).is_some() {
                return Err(refused(name, "it is there twice"));
            }
        }
        if content > FILE_BYTES {
            return Err(too_large(&format!("{content} bytes; up to {} GiB", FILE_BYTES >> 30)));
        }
        for entry in &mut entries {
            match &mut entry.kind {
                EntryKind::Folder(mode) | EntryKind::File(_, mode) => *mode &= MODE_BITS,
                EntryKind::Link(_) => {}
            }
        }
        Ok(Self { entries, content })
    }

    /// All of them, each folder before what is in it.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What comes before the content of the files.
    ///
    /// # Errors
    /// When the names are too many to travel.
    pub fn head(&self) -> Result<Vec<u8>, Failure> {
        let list = codec::encode(&self.entries);
        let length = u32::try_from(list.len()).ok().filter(|length| *length as usize <= TREE_LIST_BYTES);
        let Some(length) = length else {
            return Err(too_large(&format!("{} bytes of names; up to {} MiB", list.len(), TREE_LIST_BYTES >> 20)));
        };
        let mut head = length.to_le_bytes().to_vec();
        head.extend_from_slice(&list);
        Ok(head)
    }

    /// How long the list is, by the bytes before it.
    ///
    /// # Errors
    /// When that is more than a list may have.
    pub fn list_bytes(length: [u8; LENGTH_BYTES]) -> Result<usize, Failure> {
        let length = u32::from_le_bytes(length) as usize;
        if length > TREE_LIST_BYTES {
            return Err(too_large(&format!("{length} bytes of names; up to {} MiB", TREE_LIST_BYTES >> 20)));
        }
        Ok(length)
    }

    /// Reads the list of a tree that has `size` bytes in all.
    ///
    /// # Errors
    /// As [`Tree::new`], and when it is no list, or its files do not fill the tree.
    pub fn read(list: &[u8], size: u64) -> Result<Self, Failure> {
        let malformed = |what: String| Failure::new(FailureKind::Malformed, what);
        let entries = codec::decode("the list of a folder", list).map_err(|fault| malformed(fault.to_string()))?;
        let tree = Self::new(entries)?;
        let whole =
            (LENGTH_BYTES as u64).checked_add(list.len() as u64).and_then(|head| head.checked_add(tree.content));
        if whole != Some(size) {
            return Err(malformed("the folder that came is not as long as its list says".to_owned()));
        }
        Ok(tree)
    }

    /// The bytes of all its files.
    pub fn content_bytes(&self) -> u64 {
        self.content
    }
}

/// Whether a symbolic link stays inside its tree: it is relative, and climbs no higher than the tree's folder, at its beginning only. Then it
/// cannot leave by way of other links either, which lead inside.
///
/// # Errors
/// [`FailureKind::BadName`] saying where it leads.
pub fn check_link(name: &str, target: &str) -> Result<(), Failure> {
    let out = || Err(refused(name, &format!("it is a link to {target:?}, which leads out of its folder")));
    if target.is_empty() || target.starts_with('/') || target.len() > crate::limits::FILE_NAME_BYTES {
        return out();
    }
    if target.chars().any(|c| c.is_control() || c == '\\') {
        return Err(refused(name, "it is a link to a name with a control character or a backslash"));
    }
    let depth = name.matches('/').count();
    let mut parts = target.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
    let climbs = std::iter::from_fn(|| parts.next_if(|part| *part == "..")).count();
    if climbs > depth || parts.any(|part| part == "..") { out() } else { Ok(()) }
}

fn refused(name: &str, why: &str) -> Failure {
    let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
    Failure::new(FailureKind::BadName, format!("\"{shown}\" cannot travel with its folder: {why}; leave it out"))
}

fn too_large(what: &str) -> Failure {
    Failure::new(
        FailureKind::TooLarge,
        format!("a folder has {what} can travel: send parts of it, or pack it into one file"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> Entry {
        Entry { name: name.into(), kind: EntryKind::Folder(0o755) }
    }

    fn file(name: &str, size: u64) -> Entry {
        Entry { name: name.into(), kind: EntryKind::File(size, 0o644) }
    }

    fn link(name: &str, target: &str) -> Entry {
        Entry { name: name.into(), kind: EntryKind::Link(target.into()) }
    }

    #[test]
    fn a_tree_is_read_as_it_was_written() {
        let entries = vec![folder("a"), file("a/b", 3), folder("a/empty"), link("a/l", "../c"), file("c", 5)];
        let tree = Tree::new(entries).unwrap();
        let head = tree.head().unwrap();
        let length = Tree::list_bytes(head[..LENGTH_BYTES].try_into().unwrap()).unwrap();
        assert_eq!(length, head.len() - LENGTH_BYTES);
        let size = head.len() as u64 + 8;
        assert_eq!(Tree::read(&head[LENGTH_BYTES..], size), Ok(tree));
        for size in [size - 1, size + 1, 0, u64::MAX] {
            assert_eq!(Tree::read(&head[LENGTH_BYTES..], size).unwrap_err().kind, FailureKind::Malformed);
        }
    }

    #[test]
    fn hostile_entries_are_refused_by_name() {
        let bad: [Vec<Entry>; 12] = [
            vec![file("../a", 0)],
            vec![file("/etc/passwd", 0)],
            vec![file("a\0b", 0)],
            vec![folder("CON")],
            vec![file("aux.txt", 0)],
            vec![file("a/b", 0)],
            vec![file("a", 0), file("a/b", 0)],
            vec![link("a", "b"), file("a/b", 0)],
            vec![file("a", 0), file("a", 0)],
            vec![file("a/b", 0), folder("a")],
            vec![link("a", "/etc")],
            vec![folder("a"), link("a/b", "../../x")],
        ];
        for entries in bad {
            let failure = Tree::new(entries.clone()).unwrap_err();
            assert_eq!(failure.kind, FailureKind::BadName, "{entries:?}");
        }
        let huge = vec![file("a", FILE_BYTES), file("b", 1)];
        assert_eq!(Tree::new(huge).unwrap_err().kind, FailureKind::TooLarge);
        assert_eq!(Tree::new(vec![file("a", u64::MAX), file("b", u64::MAX)]).unwrap_err().kind, FailureKind::TooLarge);
        let many = (0..=TREE_ENTRIES).map(|index| file(&index.to_string(), 0)).collect();
        assert_eq!(Tree::new(many).unwrap_err().kind, FailureKind::TooLarge);
        assert_eq!(Tree::list_bytes(u32::MAX.to_le_bytes()).unwrap_err().kind, FailureKind::TooLarge);
        assert_eq!(Tree::read(b"no list", 11).unwrap_err().kind, FailureKind::Malformed);
    }

    #[test]
    fn names_that_are_too_many_are_refused_where_they_are_written() {
        let long = "x".repeat(crate::limits::FILE_NAME_BYTES - 8);
        let names = (0..TREE_LIST_BYTES / long.len() + 1).map(|index| file(&format!("{index:08}{long}"), 0)).collect();
        let failure = Tree::new(names).unwrap().head().unwrap_err();
        assert_eq!(failure.kind, FailureKind::TooLarge);
    }

    #[test]
    fn links_stay_inside_also_by_way_of_other_links() {
        for (name, target) in [("l", "a"), ("l", "./a//b/"), ("a/l", ".."), ("a/b/l", "../../c"), ("a/l", "../a/x")] {
            assert_eq!(check_link(name, target), Ok(()), "{name} -> {target}");
        }
        // The last one would leave if `up` led to the folder above its own.
        for (name, target) in
            [("l", ".."), ("l", "/"), ("l", ""), ("a/l", "../.."), ("a/l", "b/.."), ("l", "a\\b"), ("l", "a/up/../x")]
        {
            assert!(check_link(name, target).is_err(), "{name} -> {target}");
        }
    }

    #[test]
    fn rights_that_change_the_user_do_not_travel() {
        let tree = Tree::new(vec![Entry { name: "a".into(), kind: EntryKind::File(0, 0o104_755) }]).unwrap();
        assert_eq!(tree.entries()[0].kind, EntryKind::File(0, 0o755));
    }
}
