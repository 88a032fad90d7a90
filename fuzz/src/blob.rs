//! Lists of chunks, and folders: what is read of them is what would be written, and keeps its bounds.

use p2p_proto::blob::{BlobRef, Recipe};
use p2p_proto::limits::{BLOB_CHUNK_BYTES, BLOB_CHUNKS, FILE_BYTES, TREE_ENTRIES};
use p2p_proto::task::check_file_name;
use p2p_proto::tree::{EntryKind, LENGTH_BYTES, Tree};

/// The first byte says what the others are: a list of chunks, or a folder.
///
/// # Panics
/// When a promise breaks.
pub fn blob(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, list)) => chunks(list),
        Some((_, folder)) => tree(folder),
        None => {}
    }
}

fn chunks(bytes: &[u8]) {
    let Ok(recipe) = Recipe::read_unnamed(bytes) else { return };
    assert_eq!(recipe.to_bytes(), bytes, "a list is read as it was written");
    let mut at = 0;
    for chunk in recipe.chunks() {
        assert!(chunk.at == at && (1..=BLOB_CHUNK_BYTES).contains(&(chunk.size as usize)), "{chunk:?}");
        at += u64::from(chunk.size);
    }
    assert!(recipe.chunks().len() <= BLOB_CHUNKS);
    let name = recipe.name();
    assert_eq!((name.size, name.check().is_ok()), (at, at <= FILE_BYTES));
    if name.chunks > 1 && name.check().is_ok() {
        assert_eq!(Recipe::read(&name, bytes).as_ref(), Ok(&recipe));
        let other = BlobRef { size: name.size + 1, ..name };
        assert!(Recipe::read(&other, bytes).is_err(), "another blob has another list");
    }
}

fn tree(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return };
    let Ok(length) = Tree::list_bytes(*length) else { return };
    let Some(list) = rest.get(..length) else { return };
    // As long as its files are said to be: a fuzzer that had to guess that would get no further.
    let read = |content: u64| Tree::read(list, (LENGTH_BYTES + length) as u64 + content);
    let Ok(tree) = read(0).or_else(|_| read((rest.len() - length) as u64)) else { return };
    assert!(tree.entries().len() <= TREE_ENTRIES && tree.content_bytes() <= FILE_BYTES);
    for entry in tree.entries() {
        assert_eq!(check_file_name(&entry.name), Ok(()));
        let parent = entry.name.rsplit_once('/').map(|(parent, _)| parent);
        let is_folder = |name: &str| {
            tree.entries().iter().any(|other| other.name == name && matches!(other.kind, EntryKind::Folder(_)))
        };
        assert!(parent.is_none_or(is_folder), "{entry:?} is in no folder");
        if let EntryKind::Link(target) = &entry.kind {
            assert!(!target.starts_with('/') && stays_inside(&entry.name, target), "{entry:?}");
        }
    }
    let head = tree.head().expect("what was read can be written");
    let again = Tree::read(&head[LENGTH_BYTES..], head.len() as u64 + tree.content_bytes());
    assert_eq!(again.as_ref(), Ok(&tree));
}

/// Goes where a link leads, part by part.
fn stays_inside(name: &str, target: &str) -> bool {
    let mut depth = name.matches('/').count();
    target.split('/').filter(|part| !matches!(*part, "" | ".")).all(|part| {
        let inside = part != ".." || depth > 0;
        depth = if part == ".." { depth.saturating_sub(1) } else { depth + 1 };
        inside
    })
}
