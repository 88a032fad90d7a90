//! What bad input and bad luck get: a message of what, why and what to do, and a documented exit code (docs/exit-codes.md).

mod cluster;

use std::fs;

use cluster::{Cluster, Done, PATIENCE, Running, within};

/// The exit code and every one of these words, in stderr.
#[track_caller]
fn says(done: &Done, code: i32, words: &[&str]) {
    assert_eq!(done.code, Some(code), "{done}");
    for words in words {
        assert!(done.stderr.contains(words), "it did not say {words:?}: {done}");
    }
}

#[test]
fn who_may_not_enter_is_told_why_and_what_to_do() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    // On no list.
    let done = cluster.run("mallory", &["run", "--", "true"]);
    says(&done, 68, &["does not let you into alice/friends", "not on its list", "ask alice to run: p2p host"]);
    // A cluster that is not there.
    let done = cluster.run("bob", &["run", "--cluster", "alice/nosuch", "--", "true"]);
    says(&done, 68, &["alice/nosuch", "the name is wrong"]);
    // A name that cannot be one.
    let done = cluster.run("bob", &["run", "--cluster", "friends", "--", "true"]);
    says(&done, 2, &["OWNER/NAME"]);
    // A worker waits, because its host may come; but it says so.
    let mut command = cluster.command("mallory", &["worker"]);
    command.stderr(std::process::Stdio::piped());
    let folder = tempfile::tempdir().expect("a folder");
    let mut worker = cluster::Background::start("mallory", command, folder.path());
    worker.wait_for("waiting: the board does not let you into alice/friends");
}

#[test]
fn without_a_host_newcomers_wait_and_say_for_whom() {
    let cluster = Cluster::without_host();
    let done = cluster.run("bob", &["run", "--", "true"]);
    says(&done, 68, &["alice is not hosting it now"]);
    // The owner's own commands wait for her host too: nobody else can sign her key.
    let done = cluster.run("alice", &["run", "--", "true"]);
    says(&done, 68, &["nobody hosts your cluster alice/friends now", "p2p host --cluster alice/friends"]);
}

#[test]
fn whoever_comes_before_the_host_is_let_in_when_she_comes() {
    let mut cluster = Cluster::without_host();
    let folder = tempfile::tempdir().expect("a folder");
    // The owner's own worker must not keep her list out by being there first.
    let mut workers = ["alice", "bob"].map(|user| {
        let command = cluster.command(user, &["worker", "--slots", "1"]);
        cluster::Background::start(user, command, folder.path())
    });
    for (worker, words) in workers.iter_mut().zip(["nobody hosts your cluster", "the board does not let you into"]) {
        worker.wait_for(&format!("waiting: {words} alice/friends"));
    }
    cluster.start_host();
    for worker in &mut workers {
        worker.wait_for("at work for alice/friends");
    }
    let done = cluster.run("carol", &["run", "--", "true"]);
    assert_eq!(done.code, Some(0), "{done}");
}

#[test]
fn without_a_worker_the_wait_is_explained_and_ends() {
    let cluster = Cluster::start();
    let done = cluster.run("bob", &["run", "--wait", "2s", "--", "true"]);
    says(
        &done,
        69,
        &["waiting: no worker is in alice/friends now", "p2p worker --cluster alice/friends", "--wait changes that"],
    );
}

#[test]
fn a_command_that_cannot_run_has_the_shell_s_exit_codes() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let done = cluster.run("alice", &["run", "--", "no-such-program"]);
    says(&done, 127, &["bob@", "no-such-program", "not found on this worker"]);
    fs::write(cluster.work("alice").join("plain"), "no program").expect("a file");
    let done = cluster.run("alice", &["run", "--in", "plain", "--", "./plain"]);
    says(&done, 126, &["plain"]);
    let done = cluster.run("alice", &["run", "--timeout", "1s", "--", "sleep", "1000"]);
    says(&done, 124, &["ran longer than --timeout 1s"]);
}

#[test]
fn inputs_that_cannot_travel_are_refused_before_anything_runs() {
    let cluster = Cluster::start();
    let work = cluster.work("alice");
    let run = |words: &[&str]| cluster.run("alice", &[&["run"], words, &["--", "true"]].concat());
    says(&run(&["--in", "missing.txt"]), 65, &["missing.txt", "cannot be read", "check its name"]);
    fs::create_dir(work.join("folder")).expect("a folder");
    says(&run(&["--in", "folder"]), 65, &["folder", "write it as folder/"]);
    std::os::unix::fs::symlink("/etc", work.join("folder/out")).expect("a link");
    says(&run(&["--in", "folder/"]), 65, &["\"out\"", "leads out of its folder", "leave it out"]);
    fs::remove_file(work.join("folder/out")).expect("it was there");
    fs::write(work.join("folder/aux.c"), "").expect("a file");
    says(&run(&["--in", "folder/"]), 65, &["aux.c", "a device on Windows"]);
    says(&run(&["--in", "missing/"]), 65, &["missing", "cannot be read"]);
    says(&run(&["--out", "res*/"]), 65, &["a pattern matches files"]);
    says(&run(&["--in", "/etc/hostname"]), 65, &["absolute", "use a relative name"]);
    says(&run(&["--in", "../secret"]), 65, &["climbs out of the folder"]);
    says(&run(&["--out", "../result"]), 65, &["climbs out of the folder"]);
    says(&run(&["--out", "["]), 2, &["makes no sense"]);
    let sparse = fs::File::create(work.join("huge")).expect("a file");
    sparse.set_len(16 * 1024 * 1024 * 1024 + 1).expect("a sparse file");
    says(&run(&["--in", "huge"]), 65, &["huge", "16 GiB", "split it"]);
}

#[test]
fn an_input_without_the_right_to_read_it_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let open = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("rights");
    };
    let folder = tempfile::tempdir().expect("a folder");
    open(folder.path(), 0o755);
    // A copy, because whoever may read all files here may still not show others where this program is.
    let program = folder.path().join("p2p");
    fs::copy(env!("CARGO_BIN_EXE_p2p"), &program).expect("a copy");
    open(&program, 0o755);
    fs::write(folder.path().join("closed"), "").expect("a file");
    open(&folder.path().join("closed"), 0o000);
    // Rights do not bind root.
    let root = rustix::process::geteuid().is_root();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut words: Vec<&std::ffi::OsStr> = nobody.iter().filter(|_| root).map(std::ffi::OsStr::new).collect();
    words.push(program.as_os_str());
    let mut command = std::process::Command::new(words[0]);
    command.args(&words[1..]).args(["run", "--in", "closed", "--", "true"]).current_dir(folder.path());
    says(&Running::start(command).done(), 65, &["closed", "cannot be read", "check its name and rights"]);
}

#[test]
fn results_that_cannot_be_had_are_named() {
    let cluster = Cluster::start();
    let _worker = cluster.worker("bob", 1);
    let work = cluster.work("alice");
    let done = cluster.run("alice", &["run", "--out", "missing", "--", "true"]);
    says(&done, 125, &["bob@", "left no file missing", "check the name"]);
    let done = cluster.run("alice", &["run", "--out", "folder", "--", "mkdir", "folder"]);
    says(&done, 65, &["folder is a folder", "folder/**"]);
    // A file in place of a folder, here: nothing of ours is overwritten.
    fs::write(work.join("taken"), "mine").expect("a file");
    let done =
        cluster.run("alice", &["run", "--out", "taken/x", "--", "sh", "-c", "mkdir taken; echo theirs > taken/x"]);
    says(&done, 73, &["taken", "cannot be written"]);
    assert_eq!(fs::read_to_string(work.join("taken")).expect("a file"), "mine");
    // A link that leads out of the worker's folder brings nothing back.
    let done = cluster.run("alice", &["run", "--out", "out", "--", "ln", "-s", "/etc/hostname", "out"]);
    assert_ne!(done.code, Some(0), "{done}");
    assert!(!work.join("out").exists(), "{done}");
}

#[test]
fn a_wrong_key_or_a_wrong_server_is_refused() {
    let cluster = Cluster::start();
    let stranger = cluster.work("alice").join("stranger");
    let made =
        std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&stranger).status();
    assert!(made.expect("ssh-keygen, of openssh-client").success());
    let done = cluster.run("alice", &["run", "--identity", "stranger", "--", "true"]);
    says(&done, 77, &["which account this key belongs to", "Make the key known to the server"]);
    let done = cluster.run("alice", &["run", "--identity", "no-such-key", "--", "true"]);
    says(&done, 77, &["no-such-key"]);
    let done = cluster
        .run("alice", &["run", "--board-key", "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "--", "true"]);
    says(&done, 77, &["showed the host key SHA256:", "ask its operator"]);
    // Nobody is at a terminal to be asked about a key that was never seen.
    let mut command = cluster.command("alice", &["run", "--known-hosts", "nobody-known", "--", "true"]);
    command.env_remove("P2P_BOARD_KEY");
    says(&Running::start(command).done(), 77, &["was never seen before", "nobody is at a terminal", "SHA256:"]);
    // A key that changed is not even asked about.
    let address = cluster.board().trim_start_matches("ssh://").to_owned();
    let (host, port) = address.rsplit_once(':').expect("a port");
    let public = fs::read_to_string(stranger.with_extension("pub")).expect("a key");
    let line = format!("[{host}]:{port} {public}");
    fs::write(cluster.work("alice").join("other-known"), line).expect("a file");
    let mut command = cluster.command("alice", &["run", "--known-hosts", "other-known", "--", "true"]);
    command.env_remove("P2P_BOARD_KEY");
    says(
        &Running::start(command).done(),
        77,
        &["other-known", "HAS CHANGED", &format!("ssh-keygen -R '[{host}]:{port}'")],
    );
}

#[test]
fn a_first_contact_is_asked_about_at_a_terminal() {
    let cluster = Cluster::start();
    let known = cluster.work("alice").join("known");
    let at_a_terminal = |answer: &str| {
        let program = env!("CARGO_BIN_EXE_p2p");
        let mut command = std::process::Command::new("script");
        let words = cluster.command("alice", &["id"]);
        command.args(["-qec", &format!("{program} id --known-hosts known"), "/dev/null"]);
        command.current_dir(cluster.work("alice"));
        for (name, value) in words.get_envs() {
            match value {
                Some(value) if name != "P2P_BOARD_KEY" => command.env(name, value),
                _ => command.env_remove(name),
            };
        }
        let mut running = Running::start(command);
        running.write(answer.as_bytes());
        running.done()
    };
    let done = at_a_terminal("no\n");
    assert_eq!(done.code, Some(77), "{done}");
    assert!(done.stdout.contains("was never seen before") && done.stdout.contains("SHA256:"), "{done}");
    assert!(!known.exists(), "{done}");
    let done = at_a_terminal("yes\n");
    assert_eq!(done.code, Some(0), "{done}");
    assert!(done.stdout.contains("user   alice"), "{done}");
    // Known from now on: nobody is asked, at a terminal or not.
    let mut command = cluster.command("alice", &["id", "--known-hosts", "known"]);
    command.env_remove("P2P_BOARD_KEY");
    let done = Running::start(command).done();
    assert_eq!(done.code, Some(0), "{done}");
}

#[test]
fn what_is_trusted_and_cannot_be_read_is_not_taken_for_nothing() {
    let cluster = Cluster::start();
    let done = cluster.run("bob", &["id", "--offline"]);
    assert_eq!(done.code, Some(0), "{done}");
    let clusters = cluster.home("bob").join("clusters");
    fs::write(clusters.join("alice+friends.json"), "{ \"host\": \"half a k").expect("a file");
    for role in [&["run", "--", "true"][..], &["worker"], &["host"], &["status"]] {
        let done = cluster.run("bob", role);
        says(&done, 71, &["alice+friends.json", "mend it"]);
    }
}

#[test]
fn a_folder_of_keys_that_others_can_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let cluster = Cluster::start();
    let home = cluster.home("bob");
    let id = || cluster.run("bob", &["id", "--offline"]);
    assert_eq!(id().code, Some(0));
    let mode = || fs::metadata(&home).expect("the folder").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o700, "as it is made");
    for open in [0o710, 0o702, 0o755] {
        fs::set_permissions(&home, fs::Permissions::from_mode(open)).expect("a mode");
        says(&id(), 71, &["others on this machine may enter", &format!("chmod 700 {}", home.display())]);
        assert_eq!(mode(), open, "it is left as it is");
    }
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("a mode");
    assert_eq!(id().code, Some(0));
}

#[test]
fn no_network_is_said_at_once() {
    let cluster = Cluster::start();
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr()).expect("a port");
    let nobody = format!("ssh://{free}");
    let done = cluster.run("alice", &["run", "--board", &nobody, "--", "true"]);
    says(&done, 69, &["cannot reach the board", &nobody, "Check the network"]);
    let done = cluster.run("alice", &["run", "--board", "ssh://no-such-host.invalid", "--", "true"]);
    says(&done, 69, &["no-such-host.invalid", "Check the network"]);
}

#[test]
fn what_answers_in_place_of_the_board_is_named() {
    let cluster = Cluster::start();
    let portal = stranger("HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n");
    let done = cluster.run("alice", &["run", "--board", &portal, "--", "true"]);
    says(&done, 69, &[&portal, "a web server answers there", "HTTP/1.1 302 Found", "open any web page in a browser"]);
    let other = stranger("220 mail.example ESMTP\r\n");
    let done = cluster.run("alice", &["run", "--board", &other, "--", "true"]);
    says(&done, 69, &[&other, "no SSH server", "220 mail.example ESMTP", "Check the address"]);
}

/// Says this to everybody who has sent it an empty line, and hangs up; where it is.
fn stranger(answer: &'static str) -> String {
    use std::io::{BufRead as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let lines = std::io::BufReader::new(&connection).lines();
                // Whoever goes away before has said enough.
                let _ = lines.map_while(Result::ok).take(2).count();
                let _ = (&connection).write_all(answer.as_bytes());
            });
        }
    });
    format!("ssh://{address}")
}

#[test]
fn a_machine_without_a_network_is_told_so() {
    // A network namespace of its own has no network at all.
    let mut command = std::process::Command::new("unshare");
    command.args(["--map-root-user", "--net", env!("CARGO_BIN_EXE_p2p"), "id", "--board", "ssh://192.0.2.77"]);
    let folder = tempfile::tempdir().expect("a folder");
    command.env("P2P_HOME", folder.path().join("p2p"));
    let done = Running::start(command).done();
    says(&done, 69, &["cannot reach the board ssh://192.0.2.77", "this machine has no network that leads there"]);
}

#[test]
fn a_locked_key_without_an_agent_is_told_so() {
    let cluster = Cluster::start();
    let locked = cluster.work("alice").join("locked");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "open sesame", "-f"])
        .arg(&locked)
        .status();
    assert!(made.expect("ssh-keygen, of openssh-client").success());
    let done = cluster.run("alice", &["run", "--identity", "locked", "--", "true"]);
    says(&done, 77, &["locked needs a passphrase", "nobody is at a terminal", "`ssh-add locked`", "ssh-agent"]);
}

#[test]
fn a_hub_that_goes_takes_no_running_task_with_it() {
    let mut cluster = Cluster::start();
    let mut worker = cluster.worker("bob", 1);
    let (marker, go_on) = (cluster.work("bob").join("running"), cluster.work("bob").join("go-on"));
    let script =
        format!("touch {}; while [ ! -e {} ]; do sleep 0.05; done; echo done", marker.display(), go_on.display());
    let running = Running::start(cluster.command("alice", &["run", "-n", "--", "sh", "-c", &script]));
    within(PATIENCE, || marker.exists().then_some(())).expect("the command runs");
    cluster.stop_hub();
    worker.wait_for("the board is away");
    fs::write(&go_on, "").expect("a file");
    let done = running.done();
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "done\n"), "{done}");
    let done = cluster.run("alice", &["run", "--", "true"]);
    says(&done, 69, &["cannot reach the board", "that the server runs"]);
}
