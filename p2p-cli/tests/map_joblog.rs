//! `--joblog` and `--resume` of `p2p map`, with real processes, beside GNU parallel's own.

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use cluster::{Cluster, PATIENCE, Running, within};
use rustix::process::Signal;

const HEADER: &str = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand";

/// The whole lines of a log but the first one, each as its columns.
fn lines(log: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _torn)| whole);
    whole.lines().skip(1).map(|line| line.splitn(9, '\t').map(ToOwned::to_owned).collect()).collect()
}

fn numbers(log: &Path) -> Vec<u64> {
    lines(log).iter().map(|columns| columns[0].parse().expect("a number")).collect()
}

#[test]
fn a_log_is_the_one_that_parallel_writes() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let work = cluster.work("alice");
    let command = "printf '%s\\n' {}; echo more >&2; exit 3";
    let values = ["a", "b c", "tab\ttab", "new\nline", "it's", "ü"];
    let mut words = vec!["map", "--joblog", "ours", command, ":::"];
    words.extend(values);
    let done = cluster.run("alice", &words);
    assert_eq!(done.code, Some(6), "{done}");
    let input = values.join("\0");
    fs::write(work.join("values"), input).expect("a file");
    let theirs = ["-0", "-a", "values", "--joblog", "theirs", command];
    let parallel = Command::new("parallel").args(theirs).current_dir(&work).env("HOME", &work).output();
    parallel.expect("GNU parallel is needed by this test: install the Debian package parallel");

    let [mut ours, mut theirs] = ["ours", "theirs"].map(|name| lines(&work.join(name)));
    for log in ["ours", "theirs"] {
        let text = fs::read_to_string(work.join(log)).expect("a log");
        assert_eq!(text.lines().next(), Some(HEADER));
    }
    ours.sort();
    theirs.sort();
    assert_eq!(ours.len(), values.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for column in [0, 4, 5, 6, 7, 8] {
            assert_eq!(ours[column], theirs[column], "column {column} of {ours:?} and {theirs:?}");
        }
        assert!(ours[1].starts_with("bob@"), "{ours:?}");
        for (column, width) in [(2, 14), (3, 10)] {
            let forms = [&ours[column], &theirs[column]].map(|time| {
                assert!(time.trim_start().parse::<f64>().is_ok_and(|time| time >= 0.0), "{time:?}");
                (time.len(), time.rsplit_once('.').map(|(_, fraction)| fraction.len()))
            });
            assert_eq!(forms, [(width, Some(3)); 2], "{ours:?} and {theirs:?}");
        }
    }

    // Each reads what the other wrote.
    let done = cluster.run("alice", &["map", "-0", "-a", "values", "--joblog", "theirs", "--resume", command]);
    assert_eq!(done.code, Some(0), "{done}");
    assert!(done.stderr.contains("p2p: 6 tasks are in the --joblog and are not run again"), "{done}");
    assert!(done.stderr.contains("p2p: 0 done, 0 failed"), "{done}");
    let again = ["-0", "-a", "values", "--joblog", "ours", "--resume", command];
    let again = Command::new("parallel").args(again).current_dir(&work).env("HOME", &work).output().expect("as before");
    assert!(again.status.success() && again.stdout.is_empty(), "{again:?}");
}

#[test]
fn every_end_has_its_line() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let work = cluster.work("alice");
    fs::write(work.join("in"), "12345").expect("a file");
    let commands = ["true", "kill -9 $$", "no-such-program", "sleep 1000", "cat in; cp in out"];
    let mut words = vec!["map", "--timeout", "5", "--joblog", "log", "--in", "in", "--out", "o*", ":::"];
    words.extend(commands);
    let done = cluster.run("alice", &words);
    assert_eq!(done.code, Some(3), "{done}");
    let mut lines = lines(&work.join("log"));
    lines.sort();
    let ends: Vec<[&str; 4]> =
        lines.iter().map(|columns| [4, 5, 6, 7].map(|column| columns[column].as_str())).collect();
    let expected = [
        ["5", "0", "0", "0"],
        ["5", "0", "0", "9"],
        ["5", "0", "127", "0"],
        ["5", "0", "-1", "15"],
        ["5", "10", "0", "0"],
    ];
    assert_eq!(ends, expected, "{done}");
    assert!(lines[3][3].trim_start().parse::<f64>().is_ok_and(|time| time >= 5.0), "{lines:?}");

    // What cannot even be sent has a line too.
    let done = cluster.run("alice", &["map", "--joblog", "log", "--in", "{}", "cat", ":::", "in", "missing"]);
    assert_eq!(done.code, Some(1), "{done}");
    let missing = self::lines(&work.join("log")).into_iter().find(|columns| columns[0] == "2").expect("its line");
    assert_eq!([1, 6, 7, 8].map(|column| missing[column].as_str()), [":", "-1", "0", "cat missing"]);
}

#[test]
fn a_killed_client_started_again_does_the_rest_and_only_the_rest() {
    const TASKS: u64 = 1_000;
    let cluster = Cluster::start();
    let _workers = [cluster.worker("bob", 2), cluster.worker("carol", 2)];
    let work = cluster.work("alice");
    let (log, runs, go) = (work.join("log"), work.join("runs"), work.join("go"));
    // From a certain number on they wait, so that the first client can never end.
    let command = format!(
        "[ {{}} -le 600 ] || until [ -e '{}' ]; do sleep 0.05; done; echo {{}} >> '{}'; echo {{}}",
        go.display(),
        runs.display()
    );
    let values: String = (1..=TASKS).map(|number| format!("{number}\n")).collect();
    let words = ["map", "--joblog", "log", "--resume", &command];
    let mut first = Running::start(cluster.command("alice", &words));
    first.write(values.as_bytes());
    within(PATIENCE, || (lines(&log).len() >= 300).then_some(())).expect("tasks are done");
    first.signal(Signal::KILL);
    let killed = first.done();
    assert_eq!(killed.code, None, "{killed}");
    let before: BTreeSet<u64> = numbers(&log).into_iter().collect();
    assert!((300..=600).contains(&before.len()), "{} lines", before.len());
    let printed: BTreeSet<u64> = killed.stdout.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(before.is_subset(&printed), "a line is written when its task's output is out");
    // A part of a line, as a kill may leave one.
    let mut torn = fs::read(&log).expect("a log");
    torn.extend_from_slice(b"1000\tbob@");
    fs::write(&log, torn).expect("a log");

    fs::write(&go, "").expect("a file");
    let second = cluster.run_with("alice", &words, values.as_bytes());
    assert_eq!(second.code, Some(0), "{second}");
    let rest = TASKS - before.len() as u64;
    assert!(second.stderr.contains(&format!("p2p: {} tasks are in the --joblog", before.len())), "{second}");
    assert!(second.stderr.contains(&format!("p2p: {rest} done, 0 failed")), "{second}");
    let told: BTreeSet<u64> = second.stdout.lines().map(|line| line.parse().expect("a number")).collect();
    assert!(told.is_disjoint(&before) && told.len() as u64 == rest, "the rest and only the rest");

    let mut all = numbers(&log);
    all.sort_unstable();
    assert!(all.iter().copied().eq(1..=TASKS), "every number has one line");
    let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
    for number in fs::read_to_string(&runs).expect("what ran").lines() {
        *counts.entry(number.parse().expect("a number")).or_default() += 1;
    }
    assert!(counts.keys().copied().eq(1..=TASKS), "every task ran");
    for (number, count) in counts {
        let most = if before.contains(&number) { 1 } else { 2 };
        assert!(count <= most, "number {number} ran {count} times");
    }
    // Nothing is left to do.
    let third = cluster.run_with("alice", &words, values.as_bytes());
    assert_eq!((third.code, third.stdout.as_str()), (Some(0), ""), "{third}");
}

#[test]
fn what_failed_runs_again_if_that_is_wanted() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let work = cluster.work("alice");
    let flag = work.join("flag").display().to_string();
    let command = format!("echo {{}}; [ {{}} != 2 ] || [ -e '{flag}' ]");
    let map = |options: &[&str]| {
        let mut words = vec!["map", "-k", "--joblog", "log"];
        words.extend(options);
        words.extend([command.as_str(), ":::", "1", "2", "3"]);
        cluster.run("alice", &words)
    };
    let table: [(&[&str], i32, &str); 6] = [
        (&[], 1, "1\n2\n3\n"),
        (&["--resume"], 0, ""),
        (&["--resume-failed"], 1, "2\n"),
        (&["--resume-failed", "--resume", "--dry-run"], 0, "dry"),
        (&["--resume-failed"], 0, "2\n"),
        (&["--resume-failed"], 0, ""),
    ];
    for (index, (options, code, stdout)) in table.into_iter().enumerate() {
        if index == 4 {
            fs::write(&flag, "").expect("a file");
        }
        let done = map(options);
        let expected = if stdout == "dry" { command.replace("{}", "2") + "\n" } else { stdout.to_owned() };
        assert_eq!((done.code, done.stdout), (Some(code), expected), "{index}: {}", done.stderr);
    }
    let ends: Vec<(String, String)> =
        lines(&work.join("log")).iter().map(|columns| (columns[0].clone(), columns[6].clone())).collect();
    let ends: Vec<(&str, &str)> = ends.iter().map(|(number, exit)| (number.as_str(), exit.as_str())).collect();
    assert_eq!(ends, [("1", "0"), ("2", "1"), ("3", "0"), ("2", "1"), ("2", "0")]);
    // Without --resume it begins anew, as in GNU parallel.
    assert_eq!(map(&[]).stdout, "1\n2\n3\n");
    assert_eq!(numbers(&work.join("log")), [1, 2, 3]);
}

#[test]
fn a_log_of_something_else_stops_it_before_anything_runs() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let work = cluster.work("alice");
    let ran = work.join("ran").display().to_string();
    let command = format!("touch '{ran}'; echo {{}}");
    let map = |options: &[&str], command: &str, values: &[&str]| {
        let mut words = vec!["map"];
        words.extend(options);
        words.push(command);
        words.push(":::");
        words.extend(values);
        cluster.run("alice", &words)
    };
    let resume: &[&str] = &["--joblog", "log", "--resume"];
    assert_eq!(map(&["--joblog", "log"], &command, &["1", "2", "3"]).code, Some(0));
    let log = fs::read(work.join("log")).expect("a log");
    fs::remove_file(&ran).expect("it ran");
    let other = format!("touch '{ran}'; echo x{{}}");
    let table: [(&str, &[&str], &str); 3] = [
        (&other, &["1", "2", "3", "4"], "says that number 1 was `touch"),
        (&command, &["0", "1", "3"], "says that number"),
        (&command, &["1", "2"], "has a number 3, but now there are only 2 inputs"),
    ];
    for (command, values, words) in table {
        let done = map(resume, command, values);
        assert_eq!((done.code, done.stdout.as_str()), (Some(65), ""), "{done}");
        assert!(done.stderr.contains(words) && done.stderr.contains("the --joblog log "), "{done}");
    }
    assert_eq!(fs::read(work.join("log")).expect("a log"), log);

    fs::write(work.join("bad"), [&log[..], b"nonsense\n"].concat()).expect("a file");
    let done = map(&["--joblog", "bad", "--resume"], &command, &["1", "2", "3", "4"]);
    assert_eq!(done.code, Some(65), "{done}");
    assert!(done.stderr.contains("line 5") && done.stderr.contains("mend or remove that line"), "{done}");
    assert!(!Path::new(&ran).exists(), "nothing ran");

    for option in ["--resume", "--resume-failed"] {
        let done = map(&[option], &command, &["1"]);
        assert_eq!(done.code, Some(2), "{done}");
        assert!(done.stderr.contains("need --joblog FILE"), "{done}");
    }
    for log in ["-", "no/such/folder"] {
        let done = map(&["--joblog", log], &command, &["1"]);
        assert!(matches!(done.code, Some(2 | 73)), "{done}");
    }
}

#[test]
fn an_interrupted_run_says_how_to_go_on() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let work = cluster.work("alice");
    for (options, advice) in [
        (&["map", "--joblog", "log"][..], "with --joblog log --resume"),
        (&["map"][..], "with --joblog FILE, --resume could go on here"),
    ] {
        let (flag, go) = (work.join("flag"), work.join("go"));
        let command =
            format!("[ {{}} = 1 ] || [ -e '{}' ] || {{ touch '{}'; sleep 1000; }}", go.display(), flag.display());
        let mut words = options.to_vec();
        words.extend([command.as_str(), ":::", "1", "2", "3"]);
        let running = Running::start(cluster.command("alice", &words));
        within(PATIENCE, || flag.exists().then_some(())).expect("a task waits");
        running.signal(Signal::INT);
        let done = running.done();
        assert_eq!(done.code, Some(130), "{done}");
        assert_eq!(done.stderr.matches(advice).count(), 1, "{done}");
        fs::remove_file(&flag).expect("it was there");
        if options.len() > 1 {
            assert_eq!(numbers(&work.join("log")), [1], "what was stopped has no line");
            fs::write(&go, "").expect("a file");
            words.insert(1, "--resume");
            let done = cluster.run("alice", &words);
            assert_eq!(done.code, Some(0), "{done}");
            let mut numbers = numbers(&work.join("log"));
            numbers.sort_unstable();
            assert_eq!(numbers, [1, 2, 3]);
            fs::remove_file(&go).expect("it was there");
        }
    }
    // With many tasks it is said at the start that this program is needed until the end.
    let values: String = (0..301).map(|number| format!("{number}\n")).collect();
    let done = cluster.run_with("alice", &["map", "true"], values.as_bytes());
    assert_eq!(done.stderr.matches("this program has to stay up").count(), 1, "{done}");
    assert!(done.stderr.contains("with --joblog FILE, --resume can go on"), "{done}");
    let done = cluster.run("alice", &["map", "true", ":::", "1"]);
    assert!(!done.stderr.contains("has to stay up"), "{done}");
}
