//! Futures of R in warm sessions. They need an R with the package future, as `scripts/r-root` makes one:  scripts/test r

mod support;

use std::process::Command as Program;
use std::sync::LazyLock;

use async_std::task;
use p2p_executor::{NoR, R, RConfig, find_r};
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Command, Content, Ended, FailureKind, File, R_RUNTIME, R_VALUE, TaskSpec};
use p2p_scheduler::executor::Stop;
use support::*;

static R_HERE: LazyLock<R> = LazyLock::new(|| task::block_on(find_r(config("Rscript"))).unwrap());

fn config(program: &str) -> RConfig {
    RConfig { program: program.into(), sessions: 1, fresh: false }
}

/// A worker with one session.
fn rig() -> Rig {
    Rig::with(|config| config.r = Some(R_HERE.clone()))
}

/// Runs R here, and returns what it prints.
fn r(code: &str, arguments: &[&str]) -> String {
    let done = Program::new("Rscript").args(["--vanilla", "-e", code]).args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The future of this expression, as a client describes it.
fn future(expression: &str) -> TaskSpec {
    let file = tempfile::NamedTempFile::new().unwrap();
    let code = format!(
        "options(future.globals.onMissing = 'ignore'); f <- future::future({{ {expression} }}, lazy = TRUE);
         to <- file(commandArgs(TRUE), 'wb'); serialize(future:::getFutureData(f), to, xdr = FALSE); close(to)"
    );
    r(&code, &[file.path().to_str().unwrap()]);
    let content = Content::Inline(std::fs::read(file.path()).unwrap());
    let payload = Command { argv: vec![serde_bytes::ByteBuf::from("future")], env: Vec::new() }.to_cbor();
    TaskSpec {
        runtime: R_RUNTIME.to_owned(),
        payload: Content::Inline(payload),
        inputs: vec![File { name: "future".to_owned(), content, executable: false, folder: false }],
        outputs: vec![R_VALUE.to_owned()],
        ..TaskSpec::default()
    }
}

/// What `shown` of the result prints, where `result` is the result of the future.
fn shown(done: &Done, shown: &str) -> String {
    assert_eq!(done.ended(), &Ended::Exit(0), "{}", done.stderr());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &done.outputs()[R_VALUE]).unwrap();
    let code = format!("from <- file(commandArgs(TRUE), 'rb'); result <- unserialize(from); cat({shown})");
    r(&code, &[file.path().to_str().unwrap()])
}

#[test]
#[ignore = "needs R"]
fn a_future_brings_its_value_and_what_it_said() {
    let done = rig().run(future("cat('printed\\n'); message('told'); 6 * 7"));
    assert_eq!(shown(&done, "result$value, result$stdout"), "42 printed\n");
    assert_eq!(shown(&done, "conditionMessage(result$conditions[[1]]$condition)"), "told\n");
}

#[test]
#[ignore = "needs R"]
fn an_error_comes_back_as_what_it_is() {
    let done = rig()
        .run(future("stop(structure(class = c('mine', 'error', 'condition'), list(message = 'no', call = NULL)))"));
    assert_eq!(shown(&done, "class(result$conditions[[1]]$condition)"), "mine error condition");
}

#[test]
#[ignore = "needs R"]
fn one_session_serves_one_task_after_another_and_forgets_each() {
    let rig = rig();
    let leave = "x <<- 1; options(digits = 3); Sys.setenv(MINE = '1'); set.seed(1); library(tools); sink(tempfile());
        writeLines('mine', file.path(tempdir(), 'mine')); writeLines('mine', '~/mine'); file('here', 'w'); Sys.getpid()";
    let look = "paste(exists('x'), getOption('digits'), Sys.getenv('MINE'), exists('.Random.seed', globalenv()),
        'package:tools' %in% search(), sink.number(), file.exists(file.path(tempdir(), 'mine')), file.exists('~/mine'),
        nrow(showConnections()), Sys.getpid())";
    let first = shown(&rig.run(future(leave)), "result$value");
    let second = shown(&rig.run(future(look)), "result$value");
    // The sink of the future itself, and the two pipes of the session.
    assert_eq!(second, format!("FALSE 7  FALSE FALSE 1 FALSE FALSE 3 {first}"));
}

#[test]
#[ignore = "needs R"]
fn with_fresh_sessions_each_task_has_a_process_of_its_own() {
    let fresh = task::block_on(find_r(RConfig { fresh: true, ..config("Rscript") })).unwrap();
    let rig = Rig::with(|config| config.r = Some(fresh));
    let mut pids = [(); 3].map(|()| shown(&rig.run(future("Sys.getpid()")), "result$value"));
    pids.sort();
    assert!(pids.windows(2).all(|pair| pair[0] != pair[1]), "{pids:?}");
}

#[test]
#[ignore = "needs R"]
fn conditions_are_heard_while_the_future_runs() {
    let signal = "for (text in c('one', 'two')) signalCondition(structure(
        class = c('immediateCondition', 'condition'), list(message = text, call = NULL))); Sys.sleep(3600)";
    let rig = rig();
    let mut attempt = rig.start(future(signal));
    let frames = |seen: &Seen| {
        let mut bytes = seen.streams.get(&Channel::Value).map_or(&[][..], Vec::as_slice);
        let mut count = 0;
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let Some(after) = rest.get(u32::from_be_bytes(*length) as usize..) else { break };
            (bytes, count) = (after, count + 1);
        }
        count
    };
    task::block_on(attempt.until(|seen| frames(seen) == 2));
    attempt.stop(Stop::Interrupt);
    assert_eq!(task::block_on(attempt.end()).ended(), &Ended::Cancelled);
    // Its worker can be used again.
    assert_eq!(shown(&rig.run(future("1")), "result$value"), "1");
}

#[test]
#[ignore = "needs R"]
fn an_r_that_dies_ends_its_task_and_nothing_else() {
    let rig = rig();
    let done = rig.run(future("system('echo last words >&2'); tools::pskill(Sys.getpid(), 9)"));
    assert_eq!(done.ended(), &Ended::Signal(9));
    assert!(done.stderr().contains("last words"), "{}", done.stderr());
    let failure = rig.run(future("quit('no')"));
    assert!(failure.failure().message.contains("R ended in the middle"), "{}", failure.failure().message);
    assert_eq!(shown(&rig.run(future("1")), "result$value"), "1");
}

#[test]
#[ignore = "needs R"]
fn what_a_future_left_running_is_killed() {
    let rig = rig();
    let done = rig.run(future("system('setsid sleep 3599 >/dev/null 2>&1 &'); 1"));
    assert_eq!(shown(&done, "result$value"), "1");
    // The one session is used again only after that.
    rig.run(future("1"));
    let left: Vec<_> = rig.processes().into_iter().filter(|process| process.contains("3599")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
#[ignore = "needs R"]
fn limits_and_kills_end_a_future_that_does_not_listen() {
    let rig = Rig::with(|config| {
        config.r = Some(R_HERE.clone());
        config.interrupt_grace = std::time::Duration::from_millis(100);
    });
    let deaf = "repeat tryCatch(Sys.sleep(3600), interrupt = function(i) NULL)";
    let limited = TaskSpec { timeout_ms: 300, ..future(deaf) };
    assert_eq!(rig.run(limited).ended(), &Ended::TimedOut);
    let mut attempt = rig.start(future(&format!("system('echo up'); {deaf}")));
    task::block_on(attempt.says("up"));
    attempt.stop(Stop::Kill);
    assert_eq!(task::block_on(attempt.end()).ended(), &Ended::Cancelled);
}

#[test]
#[ignore = "needs R"]
fn a_package_that_is_missing_is_named_before_anything_runs() {
    let mut missing = future("1");
    let file = tempfile::NamedTempFile::new().unwrap();
    let code = "f <- future::future(1, lazy = TRUE); f$packages <- 'nosuchpackage';
        to <- file(commandArgs(TRUE), 'wb'); serialize(future:::getFutureData(f), to, xdr = FALSE); close(to)";
    r(code, &[file.path().to_str().unwrap()]);
    missing.inputs[0].content = Content::Inline(std::fs::read(file.path()).unwrap());
    let done = rig().run(missing);
    assert_eq!(done.failure().kind, FailureKind::FunctionFailed);
    assert!(done.failure().message.contains("has no package nosuchpackage"), "{}", done.failure().message);
}

#[test]
#[ignore = "needs R"]
fn rubbish_is_refused_in_words() {
    let mut rubbish = future("1");
    rubbish.inputs[0].content = Content::Inline(b"no future".to_vec());
    let rig = rig();
    assert!(rig.run(rubbish).failure().message.contains("cannot run the future"));
    assert_eq!(shown(&rig.run(future("1")), "result$value"), "1");
}

#[test]
fn a_machine_without_r_says_how_to_get_it() {
    let why = task::block_on(find_r(config("/no/such/Rscript"))).unwrap_err();
    assert!(matches!(why, NoR::Missing(_)) && why.to_string().contains("apt install r-base-core"), "{why}");
    let why = task::block_on(find_r(config("false"))).unwrap_err();
    assert!(matches!(why, NoR::Broken(_)), "{why}");
    let failure = Rig::new().run(TaskSpec { runtime: R_RUNTIME.to_owned(), ..shell("true") });
    assert_eq!(failure.failure().kind, FailureKind::UnknownRuntime);
}
