//! Folders in and out, whatever way they come.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{Cursor, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_std::task::block_on;
use p2p_blobs::{Folder, unpack_folder};
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Content, Ended, FailureKind, File, TaskSpec};
use p2p_proto::tree::{Entry, EntryKind};
use support::{Done, Rig, input, shell};

/// A folder's bytes, with a large file if wanted.
fn packed(large: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    fs::write(root.join("sub/run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(root.join("sub/run"), Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join(".hidden"), "x").unwrap();
    symlink("sub/run", root.join("link")).unwrap();
    if large {
        fs::write(root.join("large"), vec![7; 3_000_000]).unwrap();
    }
    pack(root)
}

fn pack(root: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    Arc::new(Folder::open(root).unwrap()).reader().read_to_end(&mut bytes).unwrap();
    bytes
}

/// What is below a folder, by name: the kind, and what a link says or how long a file is.
fn look(root: &Path) -> BTreeMap<String, String> {
    let found = walkdir::WalkDir::new(root).min_depth(1).into_iter().map(|found| {
        let found = found.unwrap();
        let name = found.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let about = found.metadata().unwrap();
        let what = match found.file_type() {
            kind if kind.is_dir() => "folder".to_owned(),
            kind if kind.is_symlink() => format!("-> {}", fs::read_link(found.path()).unwrap().display()),
            _ => format!("{} bytes {:o}", about.len(), about.permissions().mode() & 0o111),
        };
        (name, what)
    });
    found.collect()
}

fn folder(name: &str, content: Content) -> File {
    File { content, folder: true, ..input(name, "") }
}

fn task(line: &str, content: Content, outputs: &[&str]) -> TaskSpec {
    TaskSpec {
        inputs: vec![folder("in/tree", content)],
        outputs: outputs.iter().map(|name| (*name).to_owned()).collect(),
        ..shell(line)
    }
}

/// The bytes of the only output.
fn brought(done: &Done) -> Vec<u8> {
    assert_eq!(*done.ended(), Ended::Exit(0), "{} {:?}", done.stderr(), done.seen.notes);
    let [file] = &done.end.outputs[..] else { panic!("{:?}", done.end.outputs) };
    assert!(file.folder && file.name == "out", "{file:?}");
    match &file.content {
        Content::Inline(bytes) => bytes.clone(),
        Content::Streamed(size) => {
            let bytes = done.seen.streams[&Channel::Output(0)].clone();
            assert_eq!(bytes.len() as u64, *size);
            bytes
        }
        Content::Blob(_) => panic!("{file:?}"),
    }
}

#[test]
fn a_folder_goes_in_and_comes_back_with_all_that_is_in_it() {
    let rig = Rig::new();
    for large in [false, true] {
        let bytes = packed(large);
        let line = "in/tree/link && test -d in/tree/sub/empty && cp -a in/tree out";
        let inline = rig.run(task(line, Content::Inline(bytes.clone()), &["out/"]));
        let streamed = block_on(async {
            let attempt = rig.start(task(line, Content::Streamed(bytes.len() as u64), &["out/"]));
            for piece in bytes.chunks(60_000) {
                attempt.send(Channel::Input(0), piece, false);
            }
            attempt.send(Channel::Input(0), b"", true);
            attempt.end().await
        });
        let blob = block_on(async {
            let name = p2p_blobs::name_bytes(&bytes).unwrap().name();
            let mut attempt = rig.start(task(line, Content::Blob(name), &["out/"]));
            attempt.blobs.insert(Channel::Input(0), bytes.clone());
            attempt.end().await
        });
        for done in [inline, streamed, blob] {
            assert!(brought(&done) == bytes, "it is what was sent");
            assert_eq!(done.stdout(), "ran\n");
        }
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        unpack_folder(Cursor::new(&bytes), bytes.len() as u64, &to, Duration::ZERO, |_, _| {}).unwrap();
        let mut wanted = vec![
            (".hidden", "1 bytes 0"),
            ("link", "-> sub/run"),
            ("sub", "folder"),
            ("sub/empty", "folder"),
            ("sub/run", "19 bytes 111"),
        ];
        wanted.extend(large.then_some(("large", "3000000 bytes 0")));
        assert_eq!(look(&to), wanted.into_iter().map(|(name, what)| (name.to_owned(), what.to_owned())).collect());
    }
    rig.assert_clean();
}

#[test]
fn patterns_bring_back_what_changed_in_an_input_folder_and_not_the_rest() {
    let rig = Rig::new();
    let line = "echo more >> in/tree/sub/run; echo new > in/tree/new";
    let done = rig.run(task(line, Content::Inline(packed(true)), &["in/**"]));
    let names: Vec<_> = done.end.outputs.iter().map(|file| file.name.as_str()).collect();
    // The link leads to what changed, and is itself as it was.
    assert_eq!(names, ["in/tree/new", "in/tree/sub/run"]);
    rig.assert_clean();
}

#[test]
fn a_hostile_folder_is_refused_and_nothing_of_it_is_written() {
    let rig = Rig::new();
    let lie = |entries: &[Entry]| {
        let mut list = Vec::new();
        ciborium::into_writer(entries, &mut list).unwrap();
        [&u32::try_from(list.len()).unwrap().to_le_bytes()[..], &list].concat()
    };
    let file = |name: &str| Entry { name: name.into(), kind: EntryKind::File(0, 0o644) };
    let link = Entry { name: "l".into(), kind: EntryKind::Link("../..".into()) };
    for (bytes, kind) in [
        (lie(&[file("../evil")]), FailureKind::BadName),
        (lie(&[file("/tmp/evil")]), FailureKind::BadName),
        (lie(&[file("nul.txt")]), FailureKind::BadName),
        (lie(&[link, file("l/evil")]), FailureKind::BadName),
        (u32::MAX.to_le_bytes().to_vec(), FailureKind::TooLarge),
        (b"none".to_vec(), FailureKind::TooLarge),
    ] {
        let done = rig.run(task("echo ran", Content::Inline(bytes), &[]));
        assert_eq!(done.failure().kind, kind, "{}", done.failure().message);
        assert!(done.failure().message.contains("in/tree") && done.stdout().is_empty());
    }
    let mut clash = task("echo ran", Content::Inline(packed(false)), &[]);
    clash.inputs.push(input("in/tree/sub/run", "other"));
    assert_eq!(rig.run(clash).failure().kind, FailureKind::BadName);
    rig.assert_clean();
}

#[test]
fn an_output_folder_that_cannot_come_back_is_told() {
    let rig = Rig::new();
    for (line, word) in [
        ("true", "left no folder out/"),
        ("echo x > out", "without the /"),
        ("mkdir out; ln -s /etc out/l", "leads out"),
        ("mkdir out; mkfifo out/pipe", "pipe"),
        ("ln -s /etc out", "leads out of the task's folder"),
    ] {
        let done = rig.run(TaskSpec { outputs: vec!["out/".to_owned()], ..shell(line) });
        assert!(done.failure().message.contains(word), "{line}: {}", done.failure().message);
    }
    let failed = rig.run(TaskSpec { outputs: vec!["out/".to_owned()], ..shell("exit 3") });
    assert_eq!(*failed.ended(), Ended::Exit(3));
    rig.assert_clean();
}
