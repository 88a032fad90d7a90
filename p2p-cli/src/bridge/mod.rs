//! A client for another program: it asks in lines of JSON on stdin, and is answered in such lines on stdout; files go by their paths.
//!
//! Three tasks and a thread, none of which decides anything: `serve` reads what is asked for, a follower for each task turns its events into
//! answers, and the thread writes answers. Answers wait in one bounded queue, so a program that does not read holds up its tasks and
//! not this process's memory. All ends when stdin does: the program is gone, or wants no more.

mod lines;

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_signal::Signal;
use async_std::channel::{Receiver, Sender, bounded};
use async_std::io::BufReader;
use async_std::io::ReadExt as _;
use async_std::io::prelude::BufReadExt as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::FutureExt as _;
use p2p_proto::ids::{ClusterName, PeerName};
use p2p_proto::link::LinkError;
use p2p_proto::link::item::Channel;
use p2p_proto::task::Command;
use p2p_scheduler::{Client, Outcome, Task, TaskEvent, TaskHandle, Waiting, WorkerStatus};
use serde_bytes::ByteBuf;

use self::lines::{Answer, End, Request, Submit};
use crate::commands::{Signals, run::lost, status};
use crate::outputs::Outputs;
use crate::trouble::{Code, Trouble};
use crate::wiring::Patience;

/// A request's line, bytes. Content goes by files.
const LINE_BYTES: u64 = 1024 * 1024;
/// Answers that wait for the other program to read them.
const ANSWERS: usize = 1024;
/// Of the lines, as docs/bridge.md has them.
const PROTOCOL: u32 = 1;
/// Questions after the cluster that wait for somebody to come.
const LOOKS: usize = 64;
/// They are answered after this at the latest.
const LOOK_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Whoever comes within this after the first one is counted, too.
const SETTLE: Duration = Duration::from_millis(300);
/// At the end, answers that nobody reads are given up after this.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until stdin ends, or nothing can be done any more.
pub async fn serve(
    client: Client,
    cluster: ClusterName,
    wait: Duration,
    folder: Option<PathBuf>,
) -> Result<ExitCode, Trouble> {
    let folder = tempfile::Builder::new()
        .prefix("p2p-bridge-")
        .tempdir_in(folder.unwrap_or_else(std::env::temp_dir))
        .map_err(|fault| Trouble::system("the bridge has no folder for results", fault))?;
    let (answers, written) = writer();
    let ready = Answer::Ready {
        version: env!("CARGO_PKG_VERSION"),
        protocol: PROTOCOL,
        cluster: cluster.to_string(),
        folder: folder.path().to_owned(),
    };
    // Whoever is there is linked to before the first task comes.
    client.survey();
    let mut bridge = Bridge {
        client: client.clone(),
        folder: folder.path().to_owned(),
        answers,
        tasks: HashMap::new(),
        looks: Vec::new(),
        at_work: Arc::default(),
    };
    bridge.say(ready).await;
    let ended = bridge.run(wait).await;
    if let Err(trouble) = &ended {
        bridge.say(Answer::Fatal { message: trouble.to_string() }).await;
    }
    drop(bridge);
    client.close().await;
    // Whoever does not read any more misses the last lines.
    let _ = async_std::future::timeout(LAST_WORDS, written.recv()).await;
    ended.map(|()| ExitCode::SUCCESS)
}

/// Writes answers to stdout; the other end of what is returned closes when all are written, or nobody reads.
fn writer() -> (Sender<Answer>, Receiver<()>) {
    let (answers, queue) = bounded::<Answer>(ANSWERS);
    let (alive, written) = bounded(1);
    std::thread::spawn(move || {
        let _alive = alive;
        let mut stdout = io::stdout().lock();
        while let Ok(answer) = queue.recv_blocking() {
            let mut line = serde_json::to_vec(&answer).unwrap_or_else(|fault| {
                let message = format!("an answer is no JSON: {fault}; choose a --folder whose name is UTF-8");
                serde_json::json!({ "is": "fatal", "message": message }).to_string().into_bytes()
            });
            line.push(b'\n');
            if stdout.write_all(&line).and_then(|()| stdout.flush()).is_err() {
                return;
            }
        }
    });
    (answers, written)
}

struct Bridge {
    client: Client,
    folder: PathBuf,
    answers: Sender<Answer>,
    /// How each unfinished task is told to end.
    tasks: HashMap<u64, Sender<()>>,
    /// Who wants to know when somebody comes.
    looks: Vec<Looking>,
    /// A worker has had a task.
    at_work: Arc<AtomicBool>,
}

/// A question after the cluster that waits.
struct Looking {
    runtime: Option<String>,
    until: Instant,
    /// How many were there when that changed last, and since when.
    seen: (usize, Instant),
}

impl Looking {
    /// When it is answered if nobody else comes or goes.
    fn due(&self) -> Instant {
        let (seen, since) = self.seen;
        if seen == 0 { self.until } else { self.until.min(since + SETTLE) }
    }
}

impl Bridge {
    /// Nobody reads: then the end of stdin follows.
    async fn say(&self, answer: Answer) {
        let _ = self.answers.send(answer).await;
    }

    async fn run(&mut self, wait: Duration) -> Result<(), Trouble> {
        let mut stdin = BufReader::new(async_std::io::stdin());
        let mut interrupts = Signals::of(&[Signal::Int])?;
        let mut ends = Signals::of(&[Signal::Term])?;
        let (over, finished) = bounded::<u64>(ANSWERS);
        let mut patience = Patience::new(wait);
        let mut told = false;
        let mut line = Vec::new();
        loop {
            self.look().await;
            // Whoever comes is reported, as the client links to everybody.
            let now = Instant::now();
            let due = self.looks.iter().map(|look| look.due().saturating_duration_since(now)).min();
            let next = match (due, self.tasks.is_empty()) {
                (None, true) => None,
                (None, false) => Some(patience.next_look()),
                (Some(due), _) => Some(patience.next_look().min(due)),
            };
            let look = async {
                match next {
                    Some(next) => async_std::task::sleep(next).await,
                    None => futures::future::pending().await,
                }
            };
            futures::select_biased! {
                // An interrupt is meant for the program at the other end, which may share this one's terminal: its stdin ends when that does.
                () = interrupts.next().fuse() => {}
                () = ends.next().fuse() => return Ok(()),
                task = finished.recv().fuse() => {
                    self.tasks.remove(&task.unwrap_or_default());
                    patience.reset();
                }
                read = next_line(&mut stdin, &mut line).fuse() => match read {
                    Ok(true) => {
                        let text = std::mem::take(&mut line);
                        if self.tasks.is_empty() && self.looks.is_empty() {
                            patience.reset();
                        }
                        self.on_line(&text, &over).await;
                    }
                    Ok(false) => return Ok(()),
                    Err(fault) => return Err(Trouble::new(Code::Usage, format!("the bridge cannot read what is asked for: {fault}"))),
                },
                report = self.client.report().fuse() => if report.is_some() {
                    self.explain(&mut patience, &mut told).await?;
                },
                () = look.fuse() => self.explain(&mut patience, &mut told).await?,
            }
        }
    }

    /// Says why somebody waits, and when nobody does any more.
    async fn explain(&self, patience: &mut Patience, told: &mut bool) -> Result<(), Trouble> {
        if self.tasks.is_empty() && self.looks.is_empty() {
            patience.reset();
            return Ok(());
        }
        if self.at_work.load(Ordering::Relaxed) {
            patience.on_sent();
        }
        let waiting = self.client.waiting();
        let (why, busy) = if waiting.is_none() && std::mem::take(told) {
            (None, false)
        } else {
            let Some(why) = patience.judge(waiting)? else { return Ok(()) };
            *told = true;
            (Some(why.to_string()), matches!(why, Waiting::Busy { .. }))
        };
        self.say(Answer::Waiting { why, busy }).await;
        Ok(())
    }

    async fn on_line(&mut self, text: &[u8], over: &Sender<u64>) {
        match serde_json::from_slice::<Request>(text) {
            Ok(Request::Submit(submit)) => self.submit(*submit, over).await,
            Ok(Request::Cancel { task }) => {
                // One that is over needs no end.
                if let Some(cancel) = self.tasks.get(&task) {
                    let _ = cancel.try_send(());
                }
            }
            Ok(Request::Status(look)) if look.wait_ms > 0 && self.looks.len() < LOOKS => {
                let now = Instant::now();
                let until = now + Duration::from_millis(look.wait_ms).min(LOOK_WAIT);
                self.looks.push(Looking { runtime: look.runtime, until, seen: (0, now) });
            }
            Ok(Request::Status(_)) => self.say_status().await,
            Err(fault) => {
                let message = format!("a line makes no sense: {fault}; see docs/bridge.md");
                self.say(Answer::Refused { task: None, message }).await;
            }
        }
    }

    async fn say_status(&self) {
        let status = status::json(&self.client.status(), None);
        self.say(Answer::Status { status }).await;
    }

    /// Answers the questions whose time has come.
    async fn look(&mut self) {
        if self.looks.is_empty() {
            return;
        }
        let (status, now) = (self.client.status(), Instant::now());
        let before = self.looks.len();
        self.looks.retain_mut(|look| {
            let runs =
                |worker: &&WorkerStatus| look.runtime.as_ref().is_none_or(|runtime| worker.runtimes.contains(runtime));
            let seen = status.workers.iter().filter(runs).count();
            if seen != look.seen.0 {
                look.seen = (seen, now);
            }
            now < look.due()
        });
        for _ in self.looks.len()..before {
            self.say_status().await;
        }
    }

    async fn submit(&mut self, submit: Submit, over: &Sender<u64>) {
        let id = submit.task;
        let refused = |message| Answer::Refused { task: Some(id), message };
        if self.tasks.contains_key(&id) {
            return self.say(refused(format!("task {id} is not finished yet: take another number"))).await;
        }
        let folder = self.folder.join(id.to_string());
        let made = Outputs::new(&submit.outputs, folder).and_then(|outputs| Ok((outputs, task(submit)?)));
        let (outputs, task) = match made {
            Ok(made) => made,
            Err(trouble) => return self.say(refused(trouble.to_string())).await,
        };
        let (cancel, cancelled) = bounded(1);
        self.tasks.insert(id, cancel);
        let follower = Follower { id, outputs, answers: self.answers.clone(), at_work: Arc::clone(&self.at_work) };
        let (client, over) = (self.client.clone(), over.clone());
        async_std::task::spawn(async move {
            follower.follow(&client, task, cancelled).await;
            let _ = over.send(id).await;
        });
    }
}

/// Reads the next line; `false` at the end.
async fn next_line(stdin: &mut BufReader<async_std::io::Stdin>, line: &mut Vec<u8>) -> io::Result<bool> {
    // What was read before this was dropped is still in `line`.
    let room = LINE_BYTES.saturating_sub(line.len() as u64);
    stdin.take(room).read_until(b'\n', line).await?;
    match line.last() {
        Some(b'\n') => Ok(true),
        _ if line.len() as u64 >= LINE_BYTES => {
            Err(io::Error::other(format!("a line has more than {LINE_BYTES} bytes: give content by files")))
        }
        _ => Ok(false),
    }
}

fn task(submit: Submit) -> Result<Task, Trouble> {
    let argv = submit.words.into_iter().map(|word| ByteBuf::from(word.into_bytes())).collect();
    let payload = Command { argv, env: submit.env }.to_cbor();
    let input = |failure: p2p_proto::task::Failure| Trouble::new(Code::Input, failure.message);
    let mut task = Task::new(&submit.runtime, payload).cpus(submit.cpus.max(1)).memory_mib(submit.memory_mib);
    for file in &submit.inputs {
        task = task.input(&file.name, &file.path).map_err(input)?;
    }
    for name in &submit.outputs {
        task = task.output(name).map_err(input)?;
    }
    for label in &submit.labels {
        task = task.label(label).map_err(input)?;
    }
    if submit.timeout_ms > 0 {
        task = task.timeout(Duration::from_millis(submit.timeout_ms));
    }
    Ok(if submit.once { task.once() } else { task })
}

fn lost_words(worker: &PeerName, error: &LinkError, losses: &[PeerName]) -> String {
    lost(&worker.to_string(), &error.to_string(), losses).to_string()
}

/// Turns one task's events into answers.
struct Follower {
    id: u64,
    outputs: Outputs,
    answers: Sender<Answer>,
    at_work: Arc<AtomicBool>,
}

impl Follower {
    async fn follow(mut self, client: &Client, task: Task, cancelled: Receiver<()>) {
        let mut submitting = pin!(client.submit(task).fuse());
        let mut cancel = pin!(cancelled.recv().fuse());
        let handle = futures::select! {
            handle = submitting => handle,
            _ = cancel => return self.end(End::of(self.id, &Outcome::Cancelled)).await,
        };
        self.until_end(handle, cancelled).await;
    }

    async fn until_end(&mut self, mut handle: TaskHandle, cancelled: Receiver<()>) {
        let mut cancel = pin!(cancelled.recv().fuse());
        loop {
            let event = futures::select! {
                event = handle.next().fuse() => event,
                // An error says that the bridge ends.
                _ = cancel => {
                    handle.cancel();
                    continue;
                }
            };
            let id = self.id;
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let answer = match event {
                Some(TaskEvent::Sent(worker)) => {
                    self.at_work.store(true, Ordering::Relaxed);
                    Answer::Sent { task: id, worker: worker.to_string() }
                }
                Some(TaskEvent::Started) => Answer::Started { task: id },
                Some(TaskEvent::Data { channel: Channel::Stdout, bytes, .. }) => {
                    Answer::Stdout { task: id, text: text(bytes) }
                }
                Some(TaskEvent::Data { channel: Channel::Stderr, bytes, .. }) => {
                    Answer::Stderr { task: id, text: text(bytes) }
                }
                Some(TaskEvent::Data { channel: Channel::Value, bytes, .. }) => {
                    Answer::Value { task: id, base64: BASE64_STANDARD.encode(bytes) }
                }
                Some(TaskEvent::Data { channel: Channel::Output(index), bytes, .. }) => {
                    match self.outputs.write(index, &bytes) {
                        Ok(()) => continue,
                        Err(trouble) => return self.end(End::failed(id, trouble.to_string())).await,
                    }
                }
                Some(TaskEvent::Data { .. }) => continue,
                Some(TaskEvent::Note(text)) => Answer::Note { task: id, text: crate::say::harmless(&text) },
                Some(TaskEvent::Again) => {
                    self.outputs.discard();
                    Answer::Again { task: id }
                }
                Some(TaskEvent::Outcome(outcome)) => return self.on_outcome(outcome).await,
                None => return self.end(End::of(id, &Outcome::Cancelled)).await,
            };
            if self.answers.send(answer).await.is_err() {
                return;
            }
        }
    }

    async fn on_outcome(&mut self, outcome: Outcome) {
        let mut end = End::of(self.id, &outcome);
        if let Outcome::Finished { finished, .. } = &outcome {
            match self.outputs.place(&finished.outputs) {
                Ok(paths) => end.outputs = paths,
                Err(trouble) => end = End { how: "failed", message: Some(trouble.to_string()), ..end },
            }
        }
        self.end(end).await;
    }

    async fn end(&self, end: End) {
        let _ = self.answers.send(Answer::Ended(end)).await;
    }
}
