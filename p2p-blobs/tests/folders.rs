//! Folders there and back: what is in them arrives as it was, and nothing gets out of them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{Cursor, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use p2p_blobs::{Folder, UnpackError, name_bytes, read_chunk, unpack_folder};
use p2p_proto::task::FailureKind;
use p2p_proto::tree::{Entry, EntryKind, Tree};
use proptest::prelude::*;

/// What is below a folder: each name with its kind, rights and content.
fn look(root: &Path) -> BTreeMap<String, (char, u32, Vec<u8>)> {
    let mut seen = BTreeMap::new();
    for found in walkdir::WalkDir::new(root).min_depth(1) {
        let found = found.unwrap();
        let name = found.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let mode = found.metadata().unwrap().permissions().mode() & 0o777;
        let kind = found.file_type();
        let entry = if kind.is_symlink() {
            ('l', 0, fs::read_link(found.path()).unwrap().into_os_string().into_encoded_bytes())
        } else if kind.is_dir() {
            ('d', mode, Vec::new())
        } else {
            ('f', mode, fs::read(found.path()).unwrap())
        };
        seen.insert(name, entry);
    }
    seen
}

fn bytes(folder: &Arc<Folder>) -> Vec<u8> {
    let mut bytes = Vec::new();
    folder.reader().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, folder.size());
    bytes
}

fn unpack(bytes: &[u8], to: &Path) -> Result<Vec<String>, UnpackError> {
    let mut seen = Vec::new();
    unpack_folder(Cursor::new(bytes), bytes.len() as u64, to, Duration::ZERO, |name, _| seen.push(name.to_owned()))?;
    Ok(seen)
}

fn example(root: &Path) {
    fs::create_dir_all(root.join("a/empty")).unwrap();
    fs::create_dir(root.join("closed")).unwrap();
    fs::write(root.join("closed/in"), "x").unwrap();
    fs::write(root.join("a/run.sh"), "#!/bin/sh\n").unwrap();
    fs::write(root.join("nothing"), "").unwrap();
    fs::write(root.join("a/large"), vec![7; 3_000_000]).unwrap();
    fs::write(root.join(".hidden"), "ü").unwrap();
    symlink("run.sh", root.join("a/link")).unwrap();
    symlink("../nothing", root.join("a/up")).unwrap();
    symlink("gone", root.join("dangling")).unwrap();
    for (name, mode) in [("a/run.sh", 0o755), ("nothing", 0o600), (".hidden", 0o444), ("closed", 0o755)] {
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn names_rights_links_and_empty_folders_arrive_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    example(&from);
    let folder = Arc::new(Folder::open(&from).unwrap());
    let seen = unpack(&bytes(&folder), &to).unwrap();
    assert_eq!(look(&from), look(&to));
    assert_eq!(seen.len(), 8, "{seen:?}");
    // The same files anywhere give the same bytes.
    assert_eq!(bytes(&folder), bytes(&Arc::new(Folder::open(&to).unwrap())));
}

#[test]
fn a_folder_has_the_name_of_its_bytes_and_each_part_of_it_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    example(dir.path());
    let folder = Arc::new(Folder::open(dir.path()).unwrap());
    let all = bytes(&folder);
    let (recipe, read) = folder.recipe().unwrap();
    assert_eq!((&*recipe, read), (&name_bytes(&all).unwrap(), folder.size()));
    assert_eq!(folder.recipe().unwrap().1, 0, "it is read once");
    for chunk in recipe.chunks() {
        let mut part = vec![0; chunk.size as usize];
        folder.read_exact_at(&mut part, chunk.at).unwrap();
        assert!(part == all[chunk.at as usize..][..part.len()]);
    }
    let whole = dir.path().join("whole");
    fs::write(&whole, &all).unwrap();
    let file = fs::File::open(whole).unwrap();
    assert!(recipe.chunks().iter().all(|chunk| read_chunk(&file, chunk).is_ok()));
    assert!(folder.read_exact_at(&mut [0; 2], folder.size() - 1).is_err());
}

#[test]
fn a_hundred_thousand_files_are_a_few_chunks() {
    // In memory where that can be: the disk has nothing to do with it.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for outer in 0..100 {
        let sub = dir.path().join(format!("{outer}"));
        fs::create_dir(&sub).unwrap();
        for inner in 0..1000 {
            fs::write(sub.join(format!("{inner}.txt")), format!("{outer} {inner}")).unwrap();
        }
    }
    let folder = Arc::new(Folder::open(dir.path()).unwrap());
    assert_eq!(folder.tree().entries().len(), 100_100);
    let (recipe, _) = folder.recipe().unwrap();
    // Two requests bring all of it: the list, and one run of chunks.
    assert!((2..200).contains(&recipe.chunks().len()), "{} chunks", recipe.chunks().len());
}

#[test]
fn a_file_that_became_shorter_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log"), "before").unwrap();
    let folder = Arc::new(Folder::open(dir.path()).unwrap());
    fs::write(dir.path().join("log"), "b").unwrap();
    let fault = folder.recipe().unwrap_err().to_string();
    assert!(fault.contains("log") && fault.contains("has changed"), "{fault}");
}

#[test]
fn what_cannot_travel_is_named_before_anything_is_sent() {
    let refuses = |make: &dyn Fn(&Path), words: &str| {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let failure = Folder::open(dir.path()).unwrap_err();
        assert!(failure.message.contains(words), "{}", failure.message);
    };
    refuses(&|at| symlink("/etc", at.join("out")).unwrap(), "\"out\"");
    refuses(&|at| symlink("..", at.join("out")).unwrap(), "leads out");
    refuses(&|at| fs::write(at.join("aux.c"), "").unwrap(), "aux.c");
    refuses(&|at| drop(std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap()), "socket");
    let missing = Folder::open(Path::new("/no/such/folder")).unwrap_err();
    assert!(missing.message.contains("/no/such/folder cannot be read"), "{}", missing.message);
}

#[test]
fn nothing_is_written_of_a_folder_that_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let list = |entries: Vec<Entry>| {
        // As a liar writes it: unchecked.
        let mut list = Vec::new();
        ciborium::into_writer(&entries, &mut list).unwrap();
        [&u32::try_from(list.len()).unwrap().to_le_bytes()[..], &list].concat()
    };
    let file = |name: &str, size| Entry { name: name.into(), kind: EntryKind::File(size, 0o644) };
    let link = Entry { name: "l".into(), kind: EntryKind::Link("/etc".into()) };
    for (bytes, kind) in [
        (list(vec![file("ok", 0), file("../evil", 0)]), FailureKind::BadName),
        (list(vec![link, file("l/evil", 0)]), FailureKind::BadName),
        (list(vec![file("ok", 5)]), FailureKind::Malformed),
        (u32::MAX.to_le_bytes().to_vec(), FailureKind::TooLarge),
        (vec![9, 0, 0, 0, 1], FailureKind::Malformed),
        (Vec::new(), FailureKind::Malformed),
    ] {
        match unpack(&bytes, &to) {
            Err(UnpackError::Refused(failure)) => assert_eq!(failure.kind, kind),
            other => panic!("{other:?}"),
        }
        assert!(!to.exists());
    }
    // A folder that is there already is not written into.
    fs::create_dir(&to).unwrap();
    let empty = Tree::default().head().unwrap();
    assert!(matches!(unpack(&empty, &to), Err(UnpackError::Io { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_folder_arrives_as_it_was(files in proptest::collection::btree_map("[a-d]{1,2}(/[a-d]{1,2}){0,3}", proptest::collection::vec(any::<u8>(), 0..2000), 0..12)) {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        for (name, content) in files {
            let path = from.join(name);
            // One name may need a folder where another one is a file.
            if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.is_dir() {
                fs::write(path, content).unwrap();
            }
        }
        let folder = Arc::new(Folder::open(&from).unwrap());
        unpack(&bytes(&folder), &to).unwrap();
        prop_assert_eq!(look(&from), look(&to));
    }
}
