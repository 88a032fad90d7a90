//! The cache on a real disk: what it keeps, what goes first, what it refuses, and that it goes on where it was left.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use p2p_blobs::{Begun, Cache, CacheConfig, CacheError, Fill, Held, Shelf, name_bytes};
use p2p_proto::blob::{Recipe, Run};
use p2p_proto::link::item::CacheUse;
use proptest::prelude::*;
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;

struct World {
    dir: TempDir,
    capacity: u64,
    shared: bool,
}

impl World {
    fn new(capacity: u64) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), capacity, shared: false }
    }

    fn config(&self) -> CacheConfig {
        let folder = self.dir.path().join("cache");
        CacheConfig { folder, realm: "pico.sh alice/friends".to_owned(), capacity: self.capacity, shared: self.shared }
    }

    /// As a worker that starts.
    fn open(&self) -> Arc<Cache> {
        Cache::open(self.config()).unwrap()
    }

    fn shelf(&self, user: &str) -> Shelf {
        self.open().shelf(&user.parse().unwrap()).unwrap()
    }

    /// Every file in the cache.
    fn files(&self) -> Vec<PathBuf> {
        fn below(folder: &Path, files: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() { below(&entry.path(), files) } else { files.push(entry.path()) }
            }
        }
        let mut files = Vec::new();
        below(&self.dir.path().join("cache"), &mut files);
        files
    }

    fn file(&self, ending: &str) -> PathBuf {
        let mut files = self.files();
        files.retain(|path| path.to_str().unwrap().ends_with(ending));
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }
}

/// Bytes without patterns.
fn noise(seed: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    let mut state = seed * 2 + 1;
    for byte in &mut bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 33) as u8;
    }
    bytes
}

fn chunk<'a>(recipe: &Recipe, bytes: &'a [u8], index: u32) -> &'a [u8] {
    let chunk = recipe.chunks()[index as usize];
    let at = usize::try_from(chunk.at).unwrap();
    &bytes[at..at + chunk.size as usize]
}

fn begin(shelf: &Shelf, recipe: &Recipe) -> Result<Fill, CacheError> {
    match shelf.fill(&recipe.name())? {
        Begun::Fill(mut fill) => {
            if fill.wants_recipe() {
                fill.set_recipe(&recipe.to_bytes())?;
            }
            Ok(fill)
        }
        Begun::Held(held) => panic!("{held:?} is here already"),
    }
}

fn indices(runs: &[Run]) -> Vec<u32> {
    runs.iter().flat_map(|run| run.0..run.0 + run.1).collect()
}

/// Sends a blob whole. Returns how many bytes that took.
fn send(shelf: &Shelf, bytes: &[u8]) -> Result<(Held, usize), CacheError> {
    let recipe = name_bytes(bytes).unwrap();
    let fill = begin(shelf, &recipe)?;
    let mut sent = 0;
    for index in indices(&fill.missing()) {
        let chunk = chunk(&recipe, bytes, index);
        assert_eq!(fill.chunk_bytes(index), Some(chunk.len()));
        fill.put(index, chunk)?;
        sent += chunk.len();
    }
    Ok((fill.finish()?, sent))
}

fn has(shelf: &Shelf, bytes: &[u8]) -> bool {
    shelf.hold(&name_bytes(bytes).unwrap().name()).unwrap().is_some()
}

#[test]
fn what_was_sent_is_there_for_the_same_user_also_after_a_restart() {
    let world = World::new(64 * MIB);
    for size in [1, 70_000, MIB, 3 * MIB + 5] {
        let bytes = noise(size, size);
        let blob = name_bytes(&bytes).unwrap().name();
        let shelf = world.shelf("bob");
        assert!(shelf.hold(&blob).unwrap().is_none());
        let (held, sent) = send(&shelf, &bytes).unwrap();
        assert_eq!((held.read().unwrap() == bytes, sent as u64), (true, size));
        let again = world.shelf("bob").hold(&blob).unwrap().unwrap();
        assert!(again.read().unwrap() == bytes);
        assert!(world.shelf("carol").hold(&blob).unwrap().is_none(), "nobody learns what others have");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = world.files().remove(0);
    assert_eq!((mode(file.parent().unwrap()), mode(file.parent().unwrap().parent().unwrap())), (0o700, 0o700));
}

#[test]
fn a_shared_cache_is_everybodys() {
    let world = World { shared: true, ..World::new(64 * MIB) };
    let bytes = noise(1, 100_000);
    send(&world.shelf("bob"), &bytes).unwrap();
    assert!(has(&world.shelf("carol"), &bytes));
}

#[test]
fn what_is_not_what_its_name_says_is_dropped_and_can_be_sent_again() {
    type Harm = fn(&Path);
    let harms: [Harm; 3] = [
        |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[2_000_000] ^= 1;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(path, bytes).unwrap();
        },
        |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(2_500_000).unwrap(),
        |path| {
            let recipe = path.with_extension("recipe");
            fs::write(&recipe, &fs::read(&recipe).unwrap()[..36]).unwrap();
        },
    ];
    let bytes = noise(1, 3_000_000);
    for (nth, harm) in harms.into_iter().enumerate() {
        let world = World::new(64 * MIB);
        let shelf = world.shelf("bob");
        send(&shelf, &bytes).unwrap();
        let blob = name_bytes(&bytes).unwrap().name();
        let path = world.file(&blob.id.to_string());
        harm(&path);
        // The list is read after a restart only.
        let shelf = if nth == 2 { world.shelf("bob") } else { shelf };
        assert!(!has(&shelf, &bytes), "harm {nth}");
        assert!(!path.exists());
        assert!(send(&shelf, &bytes).unwrap().0.read().unwrap() == bytes);
    }
}

#[test]
fn a_link_in_the_place_of_a_blob_is_not_followed() {
    let world = World::new(64 * MIB);
    let bytes = noise(1, 100_000);
    let shelf = world.shelf("bob");
    send(&shelf, &bytes).unwrap();
    let path = world.file(&name_bytes(&bytes).unwrap().name().id.to_string());
    let elsewhere = world.dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(matches!(shelf.hold(&name_bytes(&bytes).unwrap().name()), Err(CacheError::Io { .. })));
}

#[test]
fn what_came_before_a_cut_is_not_sent_again() {
    let world = World::new(64 * MIB);
    let bytes = noise(1, 5 * MIB);
    let recipe = name_bytes(&bytes).unwrap();
    let fill = begin(&world.shelf("bob"), &recipe).unwrap();
    let wanted = indices(&fill.missing());
    assert!(wanted.len() > 5);
    for index in &wanted[..3] {
        fill.put(*index, chunk(&recipe, &bytes, *index)).unwrap();
    }
    drop(fill);
    // Its last chunk was torn by a crash.
    let part = world.file(".part");
    let mut torn = fs::read(&part).unwrap();
    torn[usize::try_from(recipe.chunks()[2].at).unwrap()] ^= 1;
    fs::write(&part, torn).unwrap();
    let fill = begin(&world.shelf("bob"), &recipe).unwrap();
    assert_eq!(indices(&fill.missing()), wanted[2..]);
    drop(fill);
    assert!(send(&world.shelf("bob"), &bytes).unwrap().0.read().unwrap() == bytes);
}

#[test]
fn chunks_that_other_blobs_have_are_not_sent() {
    let world = World::new(64 * MIB);
    let shelf = world.shelf("bob");
    let mut bytes = noise(1, 8 * MIB);
    send(&shelf, &bytes).unwrap();
    bytes.splice(4_000_000..4_000_000, noise(2, 100_000));
    for shelf in [&shelf, &world.shelf("bob")] {
        let (held, sent) = send(shelf, &bytes).unwrap();
        assert!(held.read().unwrap() == bytes);
        assert!(sent < 4_000_000, "{sent} bytes were sent");
        bytes.splice(6_000_000..6_000_000, noise(3, 100_000));
    }
    // Another user's are not asked.
    assert_eq!(send(&world.shelf("carol"), &bytes).unwrap().1, bytes.len());
}

#[test]
fn wrong_chunks_and_lists_are_refused_and_nothing_else_is_lost() {
    let world = World::new(64 * MIB);
    let shelf = world.shelf("bob");
    let bytes = noise(1, 3 * MIB);
    let recipe = name_bytes(&bytes).unwrap();
    let Begun::Fill(mut fill) = shelf.fill(&recipe.name()).unwrap() else { panic!("it is not here") };
    assert!(fill.wants_recipe() && fill.missing().is_empty());
    let other = name_bytes(&noise(2, 3 * MIB)).unwrap();
    for bad in [other.to_bytes(), Vec::new(), recipe.to_bytes()[1..].to_vec()] {
        assert!(matches!(fill.set_recipe(&bad), Err(CacheError::Wrong(_))));
    }
    fill.set_recipe(&recipe.to_bytes()).unwrap();
    fill.put(0, chunk(&recipe, &bytes, 0)).unwrap();
    let wrong = chunk(&recipe, &bytes, 0);
    for (index, bytes) in [(1, wrong), (1, &[][..]), (u32::MAX, wrong)] {
        assert!(matches!(fill.put(index, bytes), Err(CacheError::Wrong(_))));
    }
    assert!(matches!(fill.finish(), Err(CacheError::Wrong(_))), "it is not whole");
    assert!(send(&shelf, &bytes).unwrap().1 < bytes.len());
}

#[test]
fn the_least_recently_used_makes_room_but_nothing_in_use() {
    let world = World::new(8 * MIB);
    let shelf = world.shelf("bob");
    let blobs: Vec<_> = (0..12).map(|seed| noise(seed, MIB)).collect();
    let first = send(&shelf, &blobs[0]).unwrap().0;
    for bytes in &blobs[1..7] {
        send(&shelf, bytes).unwrap();
        thread::sleep(Duration::from_millis(20));
        assert!(has(&shelf, &blobs[1]), "it is used all the time");
    }
    for bytes in &blobs[7..] {
        send(&shelf, bytes).unwrap();
    }
    let here = |shelf: &Shelf| blobs.iter().map(|bytes| has(shelf, bytes)).collect::<Vec<_>>();
    let found = here(&shelf);
    assert_eq!(found[..4], [true, true, false, false], "{found:?}");
    assert!(found[7..].iter().all(|here| *here), "{found:?}");
    drop(first);
    let size: u64 = world.files().iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(size <= world.capacity, "{size}");
}

#[test]
fn what_another_worker_of_this_machine_uses_stays_if_it_is_large() {
    let world = World::new(40 * MIB);
    let (here, there) = (world.shelf("bob"), world.shelf("bob"));
    let bytes = noise(1, 20 * MIB);
    let held = send(&there, &bytes).unwrap().0;
    send(&here, &noise(2, 15 * MIB)).unwrap();
    // It is more than the cache may take, until nobody uses it any more.
    send(&here, &noise(3, 30 * MIB)).unwrap();
    assert!(has(&there, &bytes) && !has(&there, &noise(2, 15 * MIB)));
    drop(held);
    send(&here, &noise(4, 30 * MIB)).unwrap();
    assert!(!has(&there, &bytes));
}

#[test]
fn what_never_fits_is_refused_and_leaves_nothing() {
    let world = World::new(MIB);
    let fault = send(&world.shelf("bob"), &noise(1, 2 * MIB)).unwrap_err();
    assert!(matches!(fault, CacheError::TooLarge { .. }) && fault.to_string().contains("--cache-size"), "{fault}");
    assert_eq!(world.files(), [] as [PathBuf; 0]);
}

#[test]
fn two_workers_of_a_machine_do_not_ask_for_the_same_blob_twice() {
    let world = World::new(64 * MIB);
    let (here, there) = (world.shelf("bob"), world.shelf("bob"));
    let bytes = noise(1, 3 * MIB);
    let recipe = name_bytes(&bytes).unwrap();
    let fill = begin(&here, &recipe).unwrap();
    let waits = thread::spawn(move || there.fill(&recipe.name()).unwrap());
    thread::sleep(Duration::from_millis(100));
    assert!(!waits.is_finished());
    let recipe = name_bytes(&bytes).unwrap();
    for index in indices(&fill.missing()) {
        fill.put(index, chunk(&recipe, &bytes, index)).unwrap();
    }
    fill.finish().unwrap();
    let Begun::Held(held) = waits.join().unwrap() else { panic!("it would be sent twice") };
    assert!(held.read().unwrap() == bytes);
    assert!(!world.files().iter().any(|path| path.to_str().unwrap().ends_with(".part")));
}

#[test]
fn files_of_tasks_are_their_own() {
    let world = World::new(64 * MIB);
    let shelf = world.shelf("bob");
    let bytes = noise(1, MIB);
    let (held, _) = send(&shelf, &bytes).unwrap();
    let place = |name: &str, executable| {
        let path = world.dir.path().join(name);
        held.place(&path, executable).unwrap();
        path
    };
    let (plain, program) = (place("plain", false), place("program", true));
    assert!(held.place(&plain, false).is_err(), "nothing is written over");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o700;
    assert_eq!((mode(&plain), mode(&program)), (0o600, 0o700));
    fs::write(&plain, b"the task's").unwrap();
    assert!(fs::read(&program).unwrap() == bytes && held.read().unwrap() == bytes);
}

#[test]
fn large_files_take_no_room_twice_and_a_task_that_writes_to_one_harms_no_other() {
    let world = World::new(64 * MIB);
    let shelf = world.shelf("bob");
    let bytes = noise(1, 20 * MIB);
    let (held, _) = send(&shelf, &bytes).unwrap();
    let path = world.dir.path().join("input");
    held.place(&path, false).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    let about = fs::metadata(&path).unwrap();
    if about.nlink() == 1 {
        eprintln!("this file system clones files");
        return;
    }
    assert_eq!(about.permissions().mode() & 0o222, 0, "a link is read-only");
    // It could still be forced.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, b"not any more").unwrap();
    drop(held);
    assert!(!has(&shelf, &bytes), "that is noticed");
    assert_eq!(send(&shelf, &bytes).unwrap().1, bytes.len());
}

#[test]
fn what_a_task_made_is_there_as_an_input_also_where_users_share() {
    for shared in [false, true] {
        let world = World { shared, ..World::new(100 * MIB) };
        let shelf = world.shelf("bob");
        let made = world.dir.path().join("made");
        for bytes in [noise(1, 100_000), noise(2, 3 * MIB)] {
            fs::write(&made, &bytes).unwrap();
            shelf.keep(&made).unwrap();
            shelf.keep(&made).unwrap();
            fs::remove_file(&made).unwrap();
            assert!(has(&shelf, &bytes) && has(&world.shelf("bob"), &bytes));
        }
        assert!(!world.files().iter().any(|path| path.extension().is_some_and(|ext| ext == "part")));
        // Of a changed one what changed is sent.
        let mut bytes = noise(2, 3 * MIB);
        bytes.splice(1_500_000..1_500_000, [7; 10]);
        let (_, sent) = send(&shelf, &bytes).unwrap();
        assert!(sent < 2 * MIB as usize, "{sent} bytes were sent");
    }
}

#[test]
fn what_a_task_made_and_others_write_to_is_dropped() {
    let world = World::new(100 * MIB);
    let (shelf, made) = (world.shelf("bob"), world.dir.path().join("made"));
    let bytes = noise(1, 3 * MIB);
    fs::write(&made, &bytes).unwrap();
    let late = fs::OpenOptions::new().write(true).open(&made).unwrap();
    shelf.keep(&made).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&late, b"changed", 5).unwrap();
    assert!(!has(&shelf, &bytes));
    fs::write(&made, b"").ok();
    assert!(shelf.keep(&world.dir.path().join("missing")).is_err());
    let small = World::new(MIB);
    fs::remove_file(&made).unwrap();
    fs::write(&made, &bytes).unwrap();
    assert!(matches!(small.shelf("bob").keep(&made), Err(CacheError::TooLarge { .. })));
    assert_eq!(small.files(), Vec::<PathBuf>::new());
}

#[test]
fn it_says_what_it_was_good_for() {
    let world = World::new(64 * MIB);
    let cache = world.open();
    let shelf = cache.shelf(&"bob".parse().unwrap()).unwrap();
    let bytes = noise(1, 3 * MIB);
    let blob = name_bytes(&bytes).unwrap().name();
    send(&shelf, &bytes).unwrap();
    shelf.count_hit(&blob);
    let usage = cache.usage(&"bob".parse().unwrap());
    assert_eq!((usage.hits, usage.saved_bytes, usage.fetched_bytes, usage.coming), (1, blob.size, blob.size, 0));
    assert_eq!(cache.usage(&"carol".parse().unwrap()), CacheUse::default(), "nobody learns what others have");

    let bytes = noise(2, 3 * MIB);
    let recipe = name_bytes(&bytes).unwrap();
    let fill = begin(&shelf, &recipe).unwrap();
    fill.put(0, chunk(&recipe, &bytes, 0)).unwrap();
    let usage = cache.usage(&"bob".parse().unwrap());
    let first = u64::from(recipe.chunks()[0].size);
    assert_eq!((usage.coming, usage.coming_done_bytes, usage.coming_bytes), (1, first, 3 * MIB));
    assert!(usage.rate_bytes > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Chunks come in any order, with restarts between them.
    #[test]
    fn any_order_of_chunks_makes_the_blob(order in Just((0..40_u32).collect::<Vec<_>>()).prop_shuffle(), cut in 1_usize..10) {
        let world = World::new(64 * MIB);
        let bytes = noise(7, 4 * MIB);
        let recipe = name_bytes(&bytes).unwrap();
        let mut fill = begin(&world.shelf("bob"), &recipe).unwrap();
        for (nth, index) in order.into_iter().filter(|index| fill.chunk_bytes(*index).is_some()).collect::<Vec<_>>().into_iter().enumerate() {
            if nth % cut == 0 {
                drop(fill);
                fill = begin(&world.shelf("bob"), &recipe).unwrap();
            }
            fill.put(index, chunk(&recipe, &bytes, index)).unwrap();
        }
        prop_assert!(fill.finish().unwrap().read().unwrap() == bytes);
    }
}
