//! `p2p map` with real processes.

mod cluster;

use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use cluster::{Cluster, PATIENCE, Running, tree, within};
use rustix::process::Signal;

/// Files that any Debian has, under names that need care, and some that it does not have.
fn copy_files(into: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut count = 0;
    for root in ["/usr/share/doc", "/usr/share", "/usr/lib"] {
        let walk = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().flatten();
        for entry in
            walk.filter(|entry| entry.file_type().is_file() && entry.metadata().is_ok_and(|m| m.len() < 300_000))
        {
            let name = entry.path().strip_prefix("/usr").expect("it is below");
            let good = name.to_str().is_some_and(|name| !name.contains('\\') && !name.ends_with(".xz"));
            if count == 510 {
                break;
            }
            if good && let Ok(bytes) = fs::read(entry.path()) {
                let to = into.join(name);
                fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
                fs::write(to, bytes).expect("a copy");
                count += 1;
            }
        }
    }
    assert_eq!(count, 510, "this machine has too few files to copy");
    for (name, bytes) in [
        ("a b", &b"blank"[..]),
        ("it's", b"quote"),
        ("\"double\"", b"double"),
        ("$HOME `x`", b"dollar"),
        ("[ab]*?", b"pattern"),
        ("a", b"not the pattern's"),
        ("ü{.}é", b"unicode"),
        ("empty", b""),
        ("-dash/-k", b"dash"),
        (".hidden", b"hidden"),
    ] {
        let to = into.join("odd").join(name);
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::write(to, bytes).expect("a file");
    }
    // Too large to travel inside a message.
    let noise: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(into.join("odd/large"), noise).expect("a file");
    tree(into)
}

#[test]
fn hundreds_of_files_come_back_as_if_made_here() {
    let cluster = Cluster::start();
    let _workers = [cluster.worker("bob", 2), cluster.worker("carol", 2)];
    let (there, here) = (cluster.work("alice").join("doc"), cluster.work("bob").join("doc"));
    let files = copy_files(&there);
    copy_files(&here);
    let names: Vec<String> = files.keys().map(|name| format!("doc/{name}\0")).collect();
    let words = ["map", "-0", "--in", "{}", "--out", "{}.xz", "xz -9 -k -- {}"];
    let done = cluster.run_with("alice", &words, names.concat().as_bytes());
    assert_eq!(done.code, Some(0), "{done}");
    assert!(done.stderr.contains(&format!("p2p: {} done, 0 failed", files.len())), "{done}");
    for worker in ["bob@", "carol@"] {
        assert!(done.stderr.contains(&format!("p2p: {worker}")), "{done}");
    }
    for batch in files.keys().collect::<Vec<_>>().chunks(100) {
        let local = Command::new("xz").args(["-9", "-k", "--"]).args(batch).current_dir(&here).status();
        assert!(local.expect("xz is needed by this test: install the Debian package xz-utils").success());
    }
    let (got, expected) = (tree(&there), tree(&here));
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &got {
        assert!(*bytes == expected[name], "{name} is not what is made here");
    }
    assert_eq!(tree(&cluster.work("alice")).len(), got.len(), "something else was left");
}

#[test]
fn output_comes_as_tasks_end_or_in_order() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let flag = cluster.work("alice").join("flag");
    // The first task waits for the second one.
    let command = format!(
        "if [ {{#}} = 1 ]; then until [ -e '{0}' ]; do sleep 0.05; done; else touch '{0}'; fi; echo {{}}; echo {{}}",
        flag.display()
    );
    let done = cluster.run("alice", &["map", "-k", &command, ":::", "one", "two"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "one\none\ntwo\ntwo\n"), "{done}");
    // The first task goes on only once what the second one printed was read here.
    let read = cluster.work("alice").join("read");
    let command = format!(
        "if [ {{#}} = 1 ]; then until [ -e '{}' ]; do sleep 0.05; done; fi; echo {{}}; echo {{}}",
        read.display()
    );
    let mut child = cluster.command("alice", &["map", &command, ":::", "one", "two"]);
    let mut child = child.stdout(std::process::Stdio::piped()).spawn().expect("the program starts");
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("its stdout")).lines();
    let mut line = || stdout.next().expect("a line comes").expect("a line can be read");
    assert_eq!([line(), line()], ["two", "two"]);
    fs::write(&read, "").expect("a file");
    assert_eq!([line(), line()], ["one", "one"]);
    assert!(child.wait().expect("it ends").success());

    let numbers: String = (1..=300).map(|number| format!("{number}\n")).collect();
    let sometimes_slow = "[ $(({} % 7)) = 0 ] && sleep 0.03; echo {}";
    let done = cluster.run_with("alice", &["map", "--keep-order", sometimes_slow], numbers.as_bytes());
    assert_eq!((done.code, &done.stdout), (Some(0), &numbers), "{done}");
}

#[test]
fn what_two_tasks_print_is_never_mixed() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let command = "for i in 1 2 3 4 5 6 7 8; do printf {}; sleep 0.01; printf {}; echo {} >&2; done; echo";
    let done = cluster.run("alice", &["map", "-q", command, ":::", "a", "b", "c", "d"]);
    assert_eq!(done.code, Some(0), "{done}");
    let line = |letter: &str| letter.repeat(16);
    assert_eq!(done.sorted(), [line("a"), line("b"), line("c"), line("d")], "{done}");
    let said: Vec<&str> = done.stderr.lines().collect();
    let groups: Vec<_> = said.chunk_by(|one, other| one == other).map(<[_]>::len).collect();
    assert_eq!(groups, [8, 8, 8, 8], "{done}");
    // More than is kept in memory, in order, of several tasks at once.
    let done = cluster.run("alice", &["map", "-k", "yes {} | head -c 3000000", ":::", "a", "b", "c"]);
    let expected: String = ["a\n", "b\n", "c\n"].iter().map(|line| line.repeat(1_500_000)).collect();
    assert!(done.code == Some(0) && done.stdout == expected, "{} bytes, {}", done.stdout.len(), done.stderr);
}

#[test]
fn failures_are_counted_and_told_with_their_reasons() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let command = "echo out {}; for i in 1 2 3 4 5 6 7; do printf 'bad \\033[31m%s\\n' $i >&2; done; exit {}";
    let done = cluster.run("alice", &["map", "-k", command, ":::", "0", "7", "0", "9"]);
    assert_eq!(done.code, Some(2), "{done}");
    assert_eq!(done.stdout, "out 0\nout 7\nout 0\nout 9\n", "{done}");
    let told = "p2p: failed: 7 on bob@";
    let from = done.stderr.find(told).unwrap_or_else(|| panic!("{done}"));
    let told: Vec<&str> = done.stderr[from..].lines().take(6).collect();
    assert!(told[0].ends_with(": exit code 7"), "{done}");
    assert_eq!(told[1..].to_vec(), (3..8).map(|i| format!("    bad \\u{{1b}}[31m{i}")).collect::<Vec<_>>(), "{done}");
    assert!(done.stderr.contains(": exit code 9") && done.stderr.contains("p2p: 2 done, 2 failed"), "{done}");

    let done = cluster.run("alice", &["map", ":::", "true", "kill -9 $$", "no-such-program", "sh -c 'exit 300'"]);
    assert_eq!(done.code, Some(3), "{done}");
    assert!(done.stderr.contains("ended by signal 9"), "{done}");
    assert!(done.stderr.contains("no-such-program: not found on this worker"), "{done}");

    let done = cluster.run("alice", &["map", "--timeout", "1s", "-q", "sleep", ":::", "0", "1000"]);
    assert_eq!(done.code, Some(1), "{done}");
    assert!(done.stderr.contains(": killed: it ran longer than --timeout 1s"), "{done}");
    assert!(!done.stderr.contains(" a second"), "{done}");
}

#[test]
fn the_exit_code_counts_to_a_hundred() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 4);
    for (failing, code) in [(100, 100), (101, 101), (150, 101)] {
        let values: String = (0..failing).map(|number| format!("{number}\n")).collect();
        let done = cluster.run_with("alice", &["map", "false"], values.as_bytes());
        assert_eq!(done.code, Some(code), "{done}");
        assert_eq!(done.stderr.matches("p2p: failed: ").count(), 20, "{done}");
        assert!(done.stderr.contains(&format!("p2p: and {} more failed", failing - 20)), "{done}");
        assert!(done.stderr.contains(&format!("p2p: 0 done, {failing} failed")), "{done}");
    }
    let done = cluster.run("alice", &["map", "false", ":::"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "{done}");
    assert_eq!(cluster.run_with("alice", &["map", "false"], b"").code, Some(0));
}

#[test]
fn a_bad_file_fails_its_own_task_only() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let work = cluster.work("alice");
    fs::write(work.join("good"), "good\n").expect("a file");
    fs::create_dir(work.join("folder")).expect("a folder");
    fs::File::create(work.join("huge")).and_then(|file| file.set_len(1 << 40)).expect("a file with a hole");
    fs::write(work.parent().expect("a folder").join("above"), "secret").expect("a file");
    let values = ["good", "missing", "folder", "../above", "huge", "a\nb", "a\\b", "", "./good"];
    let done = cluster.run_with("alice", &["map", "-0", "-k", "--in", "{}", "cat"], values.join("\0").as_bytes());
    assert_eq!((done.code, done.stdout.as_str()), (Some(7), "good\ngood\n"), "{done}");
    for words in [
        "failed: missing: the input file missing cannot be read: No such file",
        "failed: folder: the input folder is a folder",
        "failed: ../above: the file name \"../above\" climbs",
        "failed: huge: huge has 1099511627776 bytes",
        "failed: a\\nb: the file name \"a\\nb\" is refused: it has a control character",
        "failed: a\\b: the file name",
        "failed: number 8: \"\" names no file",
    ] {
        assert!(done.stderr.contains(words), "{words}: {done}");
    }

    // What should come back and does not, and what must not.
    fs::write(work.join("in-the-way"), "").expect("a file");
    let values = ["here", "not-made", "../climbs", "a/../../climbs", "in-the-way/x", "a[1]"];
    let command = "case {} in here) echo made > here;; in*) mkdir in-the-way; echo > {};; a*) echo > a1;; esac";
    let mut words = vec!["map", "-k", "--out", "{}", command, ":::"];
    words.extend(values);
    let done = cluster.run("alice", &words);
    assert_eq!(done.code, Some(5), "{done}");
    assert_eq!(fs::read_to_string(work.join("here")).expect("it came back"), "made\n");
    assert!(!work.join("a1").exists() && !work.parent().expect("a folder").join("climbs").exists());
    for value in &values[1..] {
        assert!(done.stderr.contains(&format!("p2p: failed: {value}")), "{value}: {done}");
    }
    assert!(done.stderr.contains("left no file not-made"), "{done}");
}

#[test]
fn absolute_names_lead_back_to_where_they_are() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let folder = cluster.home("alice").parent().expect("a folder").join("else where");
    fs::create_dir(&folder).expect("a folder");
    let large: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    let files = [("small", "1\n2\n"), ("large", large.as_str())];
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("a file");
    }
    let path = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    let words =
        ["--in", "{}", "--out", "{}.back", "--out", "{/}.l*", "tac {} > {}.back; wc -l {} > {/}.lines; echo {}"];
    let mut all = vec!["map", "-k"];
    all.extend(words);
    let (small, large_path) = (path("small"), path("large"));
    all.extend([":::", &small, &large_path]);
    let done = cluster.run("alice", &all);
    assert_eq!(done.code, Some(0), "{done}");
    assert_eq!(done.stdout, format!("{}\n{}\n", &small[1..], &large_path[1..]), "{done}");
    for (name, text) in files {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.reverse();
        assert!(fs::read_to_string(path(&format!("{name}.back"))).expect("it came back").lines().eq(lines), "{name}");
        assert!(cluster.work("alice").join(format!("{name}.lines")).exists(), "{name}");
    }
    // Without files nothing is changed.
    assert_eq!(cluster.run("alice", &["map", "echo", ":::", "/usr"]).stdout, "/usr\n");
}

#[test]
fn options_reach_the_tasks() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let done = cluster.run(
        "alice",
        &["map", "--tag", "--env", "X=a b", "--cpus", "2", "echo $X $P2P_CPUS; cat; printf x {}", ":::", "1 2"],
    );
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "1 2\ta b 2\n1 2\tx"), "{done}");
    let done = cluster.run(
        "alice",
        &["--json", "map", "--once", "-k", "echo {1}; echo {2} >&2; exit {2}", ":::", "a", ":::", "0", "3"],
    );
    assert_eq!(done.code, Some(1), "{done}");
    let tasks: Vec<serde_json::Value> =
        done.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(tasks.len(), 2, "{done}");
    assert_eq!(tasks[0]["arguments"], serde_json::json!(["a", "0"]));
    assert_eq!((&tasks[0]["ended"], &tasks[0]["exit"]), (&"done".into(), &0.into()));
    assert_eq!((&tasks[1]["ended"], &tasks[1]["exit"]), (&"failed".into(), &3.into()));
    assert_eq!((&tasks[1]["stdout"], &tasks[1]["stderr"]), (&"a\n".into(), &"3\n".into()));
    assert_eq!((&tasks[1]["number"], &tasks[1]["why"]), (&2.into(), &"exit code 3".into()));
    assert!(tasks[1]["worker"].as_str().is_some_and(|name| name.starts_with("bob@")), "{done}");

    let done = cluster.run("alice", &["map", "--wait", "1s", "--cpus", "3", "true", ":::", "1"]);
    assert_eq!(done.code, Some(69), "{done}");
    assert!(done.stderr.contains("no worker here offers to run commands with 3 slots"), "{done}");
    for (words, code) in [
        (&["map", "echo", "::::", "no such file"][..], 65),
        (&["map", "echo {%}", ":::", "1"], 2),
        (&["map", "echo", ":::", "1", ":::+", "2"], 2),
    ] {
        assert_eq!(cluster.run("alice", words).code, Some(code), "{words:?}");
    }
}

#[test]
fn inputs_are_read_as_they_come_and_not_far_ahead() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let flag = cluster.work("alice").join("flag");
    let command = format!("touch '{}'; sleep 1000 #", flag.display());
    let mut running = Running::start(cluster.command("alice", &["map", &command]));
    running.write(b"first\n");
    within(PATIENCE, || flag.exists().then_some(())).expect("the first task starts while stdin is open");

    // Whoever writes to us without end has to wait at some point.
    let written = Arc::new(AtomicUsize::new(0));
    let mut stdin = running.take_stdin();
    let count = Arc::clone(&written);
    let writer = thread::spawn(move || {
        let mut line = [b'x'; 8192];
        line[8191] = b'\n';
        while stdin.write_all(&line).is_ok() {
            count.fetch_add(line.len(), Ordering::Relaxed);
        }
    });
    let mut last = (0, 0);
    within(PATIENCE, || {
        let now = written.load(Ordering::Relaxed);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        (now > 1_000_000 && last.1 >= 200).then_some(())
    })
    .unwrap_or_else(|| panic!("{} bytes of inputs were taken, and no end", last.0));
    // What a waiting task takes is counted with its values and its command line.
    assert!(last.0 < 100 * 1024 * 1024, "{} bytes of inputs were taken", last.0);
    let status = fs::read_to_string(format!("/proc/{}/status", running.id())).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 600 * 1024, "{peak} KiB of memory were taken");

    running.signal(Signal::INT);
    let done = running.done();
    writer.join().expect("the writer ends");
    assert_eq!(done.code, Some(130), "{}", done.stderr);
    assert!(done.stderr.contains("p2p: interrupted: stopping "), "{}", done.stderr);
    assert!(done.stderr.contains(" unfinished: "), "{}", done.stderr);
}

#[test]
fn an_interrupt_stops_what_runs_and_tells_what_is_unfinished() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let work = cluster.work("alice");
    let command =
        format!("cd '{}'; touch began{{}}; [ {{}} = 1 ] && exit; sleep 1000; touch ended{{}}", work.display());
    let running = Running::start(cluster.command("alice", &["map", &command, ":::", "1", "2", "3", "4"]));
    within(PATIENCE, || (work.join("began2").exists() && work.join("began3").exists()).then_some(()))
        .expect("tasks start");
    running.signal(Signal::INT);
    let done = running.done();
    assert_eq!(done.code, Some(130), "{done}");
    assert!(done.stderr.contains("p2p: 3 unfinished: "), "{done}");
    assert!(done.stderr.contains("p2p: 1 done, 0 failed"), "{done}");
    // The slots are free again.
    let done = cluster.run("alice", &["map", "--cpus", "2", "echo", ":::", "x"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "x\n"), "{done}");
    assert!(!work.join("ended2").exists() && !work.join("ended3").exists());
}

#[test]
fn a_second_interrupt_leaves_at_once() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let flag = cluster.work("alice").join("flag");
    // Its worker is gentle for some seconds.
    let command = format!("trap '' INT; touch '{}'; while :; do sleep 1; done #", flag.display());
    let running = Running::start(cluster.command("alice", &["map", &command, ":::", "1"]));
    within(PATIENCE, || flag.exists().then_some(())).expect("the task starts");
    running.signal(Signal::INT);
    thread::sleep(Duration::from_millis(300));
    running.signal(Signal::INT);
    let done = running.done();
    assert_eq!(done.code, Some(130), "{done}");
}

#[test]
fn a_reader_who_has_enough_ends_it() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let mut shell = Command::new("sh");
    let map = cluster.command("alice", &["map", "echo"]);
    shell.args(["-c", "yes | \"$0\" map echo | head -n 3"]).arg(map.get_program()).current_dir(cluster.work("alice"));
    shell.envs(map.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = Running::start(shell).done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "y\ny\ny\n"), "{done}");
}

#[test]
fn tasks_of_a_lost_worker_start_elsewhere() {
    let cluster = Cluster::start();
    let doomed = cluster.worker("carol", 2);
    let work = cluster.work("alice");
    let flag = |name: &str| work.join(name).display().to_string();
    // On carol's worker they print, and wait for ever.
    let command = format!("echo {{}}; [ -e '{}' ] || {{ touch '{}'; sleep 1000; }}", flag("go"), flag("began"));
    let running = Running::start(cluster.command("alice", &["map", "-k", &command, ":::", "1", "2", "3", "4"]));
    within(PATIENCE, || work.join("began").exists().then_some(())).expect("tasks start");
    fs::write(work.join("go"), "").expect("a file");
    let _other = cluster.worker("bob", 2);
    doomed.kill();
    let done = running.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "1\n2\n3\n4\n"), "{done}");
    assert!(done.stderr.contains("may run twice starts elsewhere"), "{done}");
}
