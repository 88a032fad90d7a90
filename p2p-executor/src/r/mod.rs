//! The runtime `r`: futures of R, in R sessions that are kept warm.
//!
//! `find` asks this machine's R what it is, once. `Sessions` keeps as many sessions as may run at a time, started when they are first needed and
//! used by one attempt after another; `session` is one of them, and `session.R` its other side. Between attempts a session is brought back to
//! what it was, as far as R allows; one that was stopped or does not come back is replaced.

mod session;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use async_process::{Command, Stdio};
use async_std::channel::{Receiver, Sender, bounded};
use async_std::future::timeout;
use async_std::task;
use p2p_proto::limits;
use p2p_proto::task::{Failure, FailureKind};

use self::session::Session;
pub(crate) use self::session::{Ran, Request, Run, Setting};

/// How long R may take to say what it is: a machine with a slow disk loads it for seconds.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// Sessions that are started before anybody needs them: each takes some 60 MB.
const WARM: usize = 2;
/// The oldest package future on a worker: with it, clients and workers describe a future alike.
const OLDEST_FUTURE: [u32; 2] = [1, 67];
/// What every answer begins with: a start-up file may print, too.
const MARK: &str = "p2p:";

/// How R is run.
#[derive(Clone, Debug)]
pub struct RConfig {
    /// The program `Rscript`, by name or path.
    pub program: OsString,
    /// Sessions at a time; at least 1.
    pub sessions: usize,
    /// A new process for every task.
    pub fresh: bool,
}

/// R as it is on this machine.
#[derive(Clone, Debug)]
pub struct R {
    config: RConfig,
    /// Its version, such as `4.5.2`.
    pub version: String,
    /// What words a worker offers for it: version, platform, version of future, and a hash of all packages with their versions.
    pub labels: Vec<String>,
    /// Where its packages are, as `R_LIBS` has it.
    libraries: String,
}

/// Why this machine offers no R.
#[derive(Debug, thiserror::Error)]
pub enum NoR {
    /// There is no such program.
    #[error(
        "there is no R here: {0} cannot be started; install R (Debian: apt install r-base-core), or name its Rscript (--rscript)"
    )]
    Missing(String),
    /// It does not work.
    #[error("R does not answer: {0}")]
    Broken(String),
    /// It lacks the package that runs futures.
    #[error("R {version} is here, but {lack}: run install.packages(\"future\") in R")]
    NoFuture {
        /// Of R.
        version: String,
        /// What it has instead.
        lack: String,
    },
}

/// Asks R what it is.
///
/// # Errors
/// Why it cannot be offered.
pub async fn find(config: RConfig) -> Result<R, NoR> {
    let shown = config.program.to_string_lossy().into_owned();
    let mut asking = Command::new(&config.program);
    asking.args(["--no-save", "--no-restore", "-e", include_str!("about.R")]);
    asking.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let asking = asking.output();
    let answer = match timeout(ASK_TIMEOUT, asking).await {
        Err(_) => return Err(NoR::Broken(format!("{shown} said nothing for {} s", ASK_TIMEOUT.as_secs()))),
        Ok(Err(_)) => return Err(NoR::Missing(shown)),
        Ok(Ok(answer)) if !answer.status.success() => {
            let words = String::from_utf8_lossy(&answer.stderr);
            return Err(NoR::Broken(format!("{shown} ended with {}: {}", answer.status, words.trim())));
        }
        Ok(Ok(answer)) => answer,
    };
    let text = String::from_utf8_lossy(&answer.stdout);
    about(config, &text)
}

fn about(config: RConfig, text: &str) -> Result<R, NoR> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(MARK));
    let mut next =
        || lines.next().map(str::to_owned).ok_or_else(|| NoR::Broken("it did not say what it is".to_owned()));
    let (version, platform, libraries, future) = (next()?, next()?, next()?, next()?);
    let mut parts = future.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let have = [parts.next().unwrap_or(0), parts.next().unwrap_or(0)];
    if have < OLDEST_FUTURE {
        let [major, minor] = OLDEST_FUTURE;
        let lack = match future.as_str() {
            "" => "not its package future".to_owned(),
            old => format!("its package future is {old}, and {major}.{minor} is the oldest that will do"),
        };
        return Err(NoR::NoFuture { version, lack });
    }
    let mut packages: Vec<_> = lines.collect();
    packages.sort_unstable();
    let hash = blake3::hash(packages.join("\n").as_bytes()).to_hex();
    let mut labels = vec![
        format!("r-{version}"),
        format!("r-platform-{platform}"),
        format!("r-future-{future}"),
        format!("r-packages-{}", &hash[..16]),
    ];
    // A strange build's platform may be a long word.
    labels.retain(|label| label.len() <= limits::LABEL_BYTES);
    Ok(R { config, version, labels, libraries })
}

/// The sessions of one worker.
#[derive(Debug)]
pub(crate) struct Sessions {
    r: R,
    setting: Arc<Setting>,
    /// One place for each session that may be: a warm one, or none yet. Whoever has a place may run.
    places: (Sender<Option<Session>>, Receiver<Option<Session>>),
}

impl Sessions {
    pub(crate) fn new(r: R, setting: Setting) -> Arc<Self> {
        let most = r.config.sessions.max(1);
        let places = bounded(most);
        for _ in 0..most {
            // There is room for all of them.
            let _ = places.0.try_send(None);
        }
        let sessions = Arc::new(Self { r, setting: Arc::new(setting), places });
        for _ in 0..most.min(WARM) {
            task::spawn(Arc::clone(&sessions).warm());
        }
        sessions
    }

    /// Starts a session where there is room for one and nobody needs the place now.
    async fn warm(self: Arc<Self>) {
        let place = match self.places.1.try_recv() {
            Ok(None) => Session::start(&self.r, &self.setting).await,
            Ok(warm) => return self.settle(warm),
            Err(_) => return,
        };
        // Whoever needs one tries again, and is told.
        self.settle(place.inspect_err(|failure| log::warn!("{}", failure.message)).ok());
    }

    /// Puts a place back.
    fn settle(&self, place: Option<Session>) {
        // It was taken from there, so there is room.
        let _ = self.places.0.try_send(place);
    }

    /// Ends those that wait. No more can be had.
    pub(crate) fn close(&self) {
        self.places.1.close();
        while self.places.1.try_recv().is_ok() {}
    }

    /// Waits for a session. Cancel-safe.
    ///
    /// # Errors
    /// When none can be started.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Taken, Failure> {
        let gone = |_| Failure::new(FailureKind::Worker, "the worker's R sessions are gone");
        let session = self.places.1.recv().await.map_err(gone)?;
        let mut taken = Taken { session, idle: true, sessions: Arc::clone(self) };
        // A warm one rather than a new one.
        for _ in 1..self.r.config.sessions {
            if taken.session.is_some() {
                break;
            }
            let Ok(other) = self.places.1.try_recv() else { break };
            self.settle(std::mem::replace(&mut taken.session, other));
        }
        if !taken.session.as_ref().is_some_and(Session::is_alive) {
            taken.session = None;
            taken.session = Some(Session::start(&self.r, &self.setting).await?);
        }
        taken.idle = false;
        Ok(taken)
    }
}

/// A session that is somebody's. Dropped while it may run something, it ends, and another one may be started.
#[derive(Debug)]
pub(crate) struct Taken {
    session: Option<Session>,
    idle: bool,
    sessions: Arc<Sessions>,
}

impl Taken {
    /// Runs one task, once.
    pub(crate) async fn run(&mut self, request: &Request<'_>, run: Run<'_>) -> Ran {
        match &mut self.session {
            Some(session) => session.run(request, run).await,
            None => Ran::Lost(Failure::new(FailureKind::Worker, "the R session is gone").into()),
        }
    }

    /// After a task that came to its end: lets others have the session once it is as it was before.
    pub(crate) fn give_back(mut self) {
        task::spawn(async move {
            let sessions = Arc::clone(&self.sessions);
            if let Some(session) = self.session.as_mut().filter(|_| !sessions.r.config.fresh) {
                match session.settle().await {
                    Ok(()) => self.idle = true,
                    Err(fault) => log::warn!("an R session is replaced: {fault}"),
                }
            }
            drop(self);
            sessions.warm().await;
        });
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // One that is not idle ends here.
        let session = self.session.take().filter(|_| self.idle);
        self.sessions.settle(session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Result<R, NoR> {
        about(RConfig { program: "Rscript".into(), sessions: 1, fresh: false }, text)
    }

    #[test]
    fn what_r_says_of_itself_becomes_labels() {
        let said = "hello from a start-up file\np2p:4.5.2\np2p:x86_64-pc-linux-gnu\np2p:/lib/R\np2p:1.75.0\np2p:b 1\np2p:a 2\n";
        let r = heard(said).unwrap();
        assert_eq!(r.labels[..3], ["r-4.5.2", "r-platform-x86_64-pc-linux-gnu", "r-future-1.75.0"]);
        // The same packages in another order are the same packages.
        assert_eq!(r.labels[3], heard(&said.replace("p2p:b 1\np2p:a 2", "p2p:a 2\np2p:b 1")).unwrap().labels[3]);
        assert_ne!(r.labels[3], heard(&said.replace("a 2", "a 3")).unwrap().labels[3]);
    }

    #[test]
    fn an_r_without_a_future_is_not_offered() {
        let said = |future: &str| format!("p2p:4.5.2\np2p:x\np2p:/lib/R\np2p:{future}\n");
        assert!(heard(&said("")).unwrap_err().to_string().contains("not its package future: run install.packages"));
        assert!(heard(&said("1.31.0")).unwrap_err().to_string().contains("its package future is 1.31.0, and 1.67"));
        assert!(heard(&said("1.67.0")).is_ok());
        assert!(heard("p2p:4.5.2\n").unwrap_err().to_string().contains("did not say what it is"));
    }
}
