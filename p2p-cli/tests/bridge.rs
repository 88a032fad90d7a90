//! `p2p bridge`: a client by lines of JSON, as docs/bridge.md has it.

mod cluster;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use cluster::{Cluster, PATIENCE, Running, within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// The longest line that is read, as the page says.
const LINE_BYTES: usize = 1024 * 1024;

/// A bridge, as the program at its other end sees it.
struct Bridge {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<Value>,
    folder: String,
}

impl Bridge {
    fn start(cluster: &Cluster, options: &[&str]) -> Self {
        let words: Vec<&str> = ["bridge"].into_iter().chain(options.iter().copied()).collect();
        let mut command = cluster.command("alice", &words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let answer = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
                if sender.send(answer).is_err() {
                    return;
                }
            }
        });
        let mut bridge = Self { stdin: child.stdin.take(), child, answers, folder: String::new() };
        let ready = bridge.next();
        assert_eq!((&ready["is"], &ready["protocol"]), (&json!("ready"), &json!(1)));
        bridge.folder = ready["folder"].as_str().unwrap().to_owned();
        bridge
    }

    fn ask(&mut self, line: Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn next(&mut self) -> Value {
        self.answers.recv_timeout(PATIENCE).expect("the bridge answers")
    }

    /// The next answer of this kind, and of this task if it has one.
    fn next_of(&mut self, is: &str, task: u64) -> Value {
        loop {
            let answer = self.next();
            if answer["is"] == is && answer.get("task").is_none_or(|of| *of == task) {
                return answer;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Closes its stdin; its exit code.
    fn close(mut self) -> Option<i32> {
        drop(self.stdin.take());
        let over = within(PATIENCE, || self.child.try_wait().unwrap()).expect("the bridge ends");
        assert!(!Path::new(&self.folder).exists(), "{} is left", self.folder);
        over.code()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_program_runs_tasks_by_lines() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let mut bridge = Bridge::start(&cluster, &[]);
    bridge.ask(json!({"do": "status", "runtime": "command", "wait_ms": 60_000}));
    let status = bridge.next_of("status", 0)["status"].clone();
    assert_eq!((&status["slots"], &status["workers"][0]["runtimes"][0]), (&json!(2), &json!("command")));

    let data = cluster.work("alice").join("data");
    fs::write(&data, "one\ntwo\n").unwrap();
    let words = ["sh", "-c", "wc -l < data > lines; echo said; echo told >&2; exit $CODE"];
    let submit = |code: &str| {
        json!({"do": "submit", "task": 7, "words": words, "env": [["CODE", code]], "outputs": ["lines"],
            "inputs": [{"name": "data", "path": data}]})
    };
    bridge.ask(submit("0"));
    let worker = bridge.next_of("sent", 7)["worker"].as_str().unwrap().to_owned();
    assert!(worker.starts_with("bob@"), "{worker}");
    let mut said = Vec::new();
    let end = loop {
        let answer = bridge.next();
        match answer["is"].as_str().unwrap() {
            "ended" => break answer,
            "stdout" | "stderr" => said.push(answer["text"].as_str().unwrap().to_owned()),
            _ => {}
        }
    };
    said.sort();
    assert_eq!(said, ["said\n", "told\n"]);
    assert_eq!((&end["how"], &end["code"], end["worker"].as_str()), (&json!("exit"), &json!(0), Some(worker.as_str())));
    let lines = end["outputs"][0].as_str().unwrap();
    assert!(lines.starts_with(&bridge.folder));
    assert_eq!(fs::read_to_string(lines).unwrap().trim(), "2");

    // The number is free again.
    bridge.ask(submit("3"));
    let end = bridge.next_of("ended", 7);
    assert_eq!((&end["how"], &end["code"]), (&json!("exit"), &json!(3)));
    assert_eq!(bridge.close(), Some(0));
}

#[test]
fn a_task_is_cancelled_and_bad_lines_are_refused_while_others_go_on() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let mut bridge = Bridge::start(&cluster, &[]);
    bridge.ask(json!({"do": "submit", "task": 1, "words": ["sh", "-c", "echo up; exec sleep 3600"]}));
    bridge.next_of("stdout", 1);
    for (line, why) in [
        (json!({"do": "dance"}), "makes no sense"),
        (json!({"do": "submit", "task": 2, "words": ["true"], "colour": "red"}), "makes no sense"),
        (json!({"do": "submit", "task": 1, "words": ["true"]}), "not finished yet"),
        (
            json!({"do": "submit", "task": 3, "words": ["true"], "inputs": [{"name": "x", "path": "/no/such/file"}]}),
            "/no/such/file",
        ),
        (json!({"do": "submit", "task": 4, "words": ["true"], "outputs": ["../x"]}), ".."),
    ] {
        bridge.ask(line);
        let refused = bridge.next();
        assert_eq!(refused["is"], "refused");
        assert!(refused["message"].as_str().unwrap().contains(why), "{refused}");
    }
    // One that is over, or never was, needs no end.
    bridge.ask(json!({"do": "cancel", "task": 99}));
    bridge.ask(json!({"do": "cancel", "task": 1}));
    assert_eq!(bridge.next_of("ended", 1)["how"], "cancelled");
    bridge.ask(json!({"do": "submit", "task": 5, "words": ["true"]}));
    assert_eq!(bridge.next_of("ended", 5)["code"], 0);
    assert_eq!(bridge.close(), Some(0));
}

#[test]
fn a_program_that_dies_takes_its_bridge_and_its_tasks_with_it() {
    let cluster = Cluster::start();
    let mut worker = cluster.worker("bob", 1);
    let mut bridge = Bridge::start(&cluster, &[]);
    bridge.ask(json!({"do": "submit", "task": 1, "words": ["sh", "-c", "echo up; trap 'echo gone > /dev/null' INT; exec sleep 3600"]}));
    bridge.next_of("stdout", 1);
    assert_eq!(bridge.close(), Some(0));
    // Its slot is free.
    let mut next = Bridge::start(&cluster, &[]);
    next.ask(json!({"do": "submit", "task": 1, "words": ["true"]}));
    assert_eq!(next.next_of("ended", 1)["code"], 0);
    assert_eq!(next.close(), Some(0));
    // So it is after a request to end. What is meant for the program at its other end, which may share a terminal with it, is not.
    let mut next = Bridge::start(&cluster, &[]);
    next.ask(json!({"do": "submit", "task": 1, "words": ["sh", "-c", "echo up; exec sleep 3600"]}));
    next.next_of("stdout", 1);
    next.signal(Signal::INT);
    next.ask(json!({"do": "status"}));
    next.next_of("status", 0);
    next.signal(Signal::TERM);
    assert_eq!(next.close(), Some(0));
    // A worker that leaves for good is waited for no longer than asked.

    worker.signal(Signal::TERM);
    worker.wait();
    let mut alone = Bridge::start(&cluster, &["--wait", "3s"]);
    alone.ask(json!({"do": "submit", "task": 1, "words": ["true"]}));
    let why = alone.next_of("waiting", 0)["why"].as_str().unwrap().to_owned();
    assert!(why.contains("worker"), "{why}");
    let fatal = alone.next_of("fatal", 0);
    assert!(fatal["message"].as_str().unwrap().contains("worker"), "{fatal}");
    let over = within(PATIENCE, || alone.child.try_wait().unwrap()).unwrap();
    assert_ne!(over.code(), Some(0));
}

#[test]
fn a_line_without_end_ends_the_bridge_and_not_its_memory() {
    let cluster = Cluster::start();
    let mut bridge = Bridge::start(&cluster, &[]);
    let long = vec![b'x'; LINE_BYTES];
    // It may be gone before all of it is written.
    let _ = bridge.stdin.as_mut().unwrap().write_all(&long);
    let fatal = bridge.next_of("fatal", 0);
    assert!(fatal["message"].as_str().unwrap().contains("give content by files"), "{fatal}");
    let over = within(PATIENCE, || bridge.child.try_wait().unwrap()).unwrap();
    assert_ne!(over.code(), Some(0));
}

#[test]
fn who_asks_for_a_worker_is_answered_when_one_comes() {
    let cluster = Cluster::start();
    let mut bridge = Bridge::start(&cluster, &["--wait", "20m"]);
    // Longer than this test waits for anything.
    bridge.ask(json!({"do": "status", "runtime": "command", "wait_ms": u64::MAX}));
    std::thread::sleep(Duration::from_secs(1));
    let _worker = cluster.worker("bob", 3);
    assert_eq!(bridge.next_of("status", 0)["status"]["slots"], 3);
    assert_eq!(bridge.close(), Some(0));
}

#[test]
fn an_idle_bridge_takes_no_time_and_waits_for_its_next_task() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let mut bridge = Bridge::start(&cluster, &["--wait", "2s"]);
    // Longer than a task would wait.
    std::thread::sleep(Duration::from_secs(4));
    bridge.ask(json!({"do": "submit", "task": 1, "words": ["true"]}));
    assert_eq!(bridge.next_of("ended", 1)["code"], 0);
    assert_eq!(bridge.close(), Some(0));
}

#[test]
fn the_python_example_runs() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 2);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bridge.py");
    let like = cluster.command::<&str>("alice", &[]);
    let mut command = Command::new("python3");
    command.arg(&example).current_dir(cluster.work("alice")).env_clear();
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("P2P_EXECUTABLE", env!("CARGO_BIN_EXE_p2p")).env("PATH", std::env::var_os("PATH").unwrap());
    let mut running = Running::start(command);
    running.write(b"sleep 1; echo first\necho $((6 * 7))\n");
    let done = running.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "first\n42\n"), "{done}");
}
