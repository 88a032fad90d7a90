//! `p2p worker`: offers this machine's slots to a cluster.

mod house;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use futures::FutureExt as _;
use p2p_blobs::{CacheConfig, DEFAULT_CAPACITY_BYTES};
use p2p_executor::{CommandConfig, CommandExecutor, NoR, R, RConfig, find_r};
use p2p_proto::board::message::Offer;
use p2p_proto::ids::UserName;
use p2p_scheduler::executor::Executor;
use p2p_scheduler::machine::admission::AdmissionEvent;
use p2p_scheduler::{TrustStore, Waiting, Worker, WorkerOffer, WorkerReport};

use self::house::House;
use super::Signals;
use crate::needs::mib;
use crate::options::Common;
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::wiring::{PERSONAL, Wiring, say_admission};

/// Options of `p2p worker`.
#[derive(Debug, Args)]
pub struct Options {
    /// Tasks to run at a time [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(p2p_proto::limits::SLOTS)))]
    pub slots: Option<u32>,

    /// Serve these users only.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub allow: Vec<UserName>,

    /// How long to work; what runs then is finished first.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,

    /// Memory for tasks, such as 8GiB [default: all that the machine has]
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<ByteSize>,

    /// A user's share, compared with 1 for everybody else; may be given several times.
    #[arg(long = "weight", value_name = "USER=N", value_parser = parse_weight)]
    pub weights: Vec<(UserName, u32)>,

    /// Words that tasks may ask for, such as `gpu`.
    #[arg(long = "label", value_name = "WORD")]
    pub labels: Vec<String>,

    /// Disk for what tasks were sent, so that it need not be sent again.
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize::b(DEFAULT_CAPACITY_BYTES))]
    pub cache_size: ByteSize,

    /// Where that is kept; workers of this machine may share a folder [default: the system's folder for caches]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// The Rscript that runs R futures, or `none` to run none [default: that of PATH, if it has the package future]
    #[arg(long, value_name = "PROGRAM")]
    pub rscript: Option<OsString>,

    /// R sessions that are kept, of about 60 MB each when idle [default: as many as slots]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(p2p_proto::limits::SLOTS)))]
    pub r_sessions: Option<u32>,

    /// Run each R future in a new process: nothing of one can be seen by the next, and each takes a third of a second longer.
    #[arg(long)]
    pub fresh_r: bool,

    /// Let users share what each of them has sent: they may learn by the time it takes what others have.
    #[arg(long)]
    pub share_cache: bool,
}

impl Options {
    /// What is kept for whom. Friends of another cluster or board are others, even of the same name.
    fn cache(&self, common: &Common, wiring: &Wiring) -> Option<CacheConfig> {
        // Without any folder it is kept while the worker runs.
        let folder = self.cache_dir.clone().or_else(|| wiring.home.cache())?;
        Some(CacheConfig {
            folder,
            realm: format!("{} {}", common.board, wiring.member.cluster),
            capacity: self.cache_size.as_u64(),
            shared: self.share_cache,
        })
    }
}

impl Options {
    /// The R that is offered. One that was not asked for is offered if it is there.
    async fn r(&self, slots: u32) -> Result<Option<R>, Trouble> {
        let program = self.rscript.clone().unwrap_or_else(|| "Rscript".into());
        if program == "none" {
            return Ok(None);
        }
        let sessions = self.r_sessions.unwrap_or(slots) as usize;
        match find_r(RConfig { program, sessions, fresh: self.fresh_r }).await {
            Ok(r) => Ok(Some(r)),
            Err(why) if self.rscript.is_some() => Err(Trouble::new(Code::Input, why.to_string())),
            Err(why @ NoR::Missing(_)) => {
                log::info!("R futures do not run here: {why}");
                Ok(None)
            }
            Err(why) => {
                say::info(&format!("R futures do not run here: {why}"));
                Ok(None)
            }
        }
    }
}

/// Works until it is interrupted or the time is over.
pub async fn worker(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let mut signals = Signals::listen()?;
    let wiring = Wiring::new(common, PERSONAL).await?;
    let slots = options.slots.unwrap_or_else(processors);
    let r = options.r(slots).await?;
    let mut labels = options.labels.clone();
    if let Some(r) = &r {
        say::info(&format!("R {} runs futures here", r.version));
        labels.extend(r.labels.iter().cloned());
    }
    let config = CommandConfig { cache: options.cache(common, &wiring), r, ..CommandConfig::default() };
    let executor = CommandExecutor::new(config).map_err(|fault| Trouble::new(Code::System, fault.to_string()))?;
    let memory_mib = mib(options.mem.unwrap_or_else(all_memory));
    let offer = WorkerOffer {
        offer: Offer { slots, free: slots, memory_mib, labels, ..Offer::default() },
        allow: (!options.allow.is_empty()).then(|| options.allow.iter().cloned().collect()),
        weights: options.weights.iter().cloned().collect(),
    };
    let store = Arc::clone(&wiring.home) as Arc<dyn TrustStore>;
    let executor = Arc::new(executor);
    let running = Arc::clone(&executor) as Arc<dyn Executor>;
    let worker = Worker::join(&wiring.member, offer, running, wiring.board(), wiring.transport(), store)
        .map_err(|fault| Trouble::new(Code::Input, fault.to_string()))?;
    let cluster = &wiring.member.cluster;
    say::info(&format!("joining {cluster} with {slots} slots"));
    let mut over = Box::pin(after(options.duration).fuse());
    let mut left = Box::pin(worker.left().fuse());
    let mut told = Told::default();
    let mut house = House::new(common, &wiring)?;
    let mut stops = 0;
    let mut trouble = None;
    loop {
        futures::select! {
            () = left => break,
            () = signals.next().fuse() => {
                stops += 1;
                match stops {
                    1 => worker.drain(),
                    2 => {
                        say::info("killing what runs, handing back what waits");
                        worker.stop();
                    }
                    _ => return Ok(Code::Interrupted.into()),
                }
            }
            () = over => {
                say::info("the time is over (--duration)");
                worker.drain();
            }
            () = house.tend(&wiring).fuse() => {}
            report = worker.report().fuse() => match report {
                Some(report) => match told.say(house.hear(&report), cluster) {
                    Ok(()) => {}
                    // Friends' tasks run over links, which need no board.
                    Err(fault) if told.at_work => {
                        say::info(&format!("{fault}; what is here is finished first"));
                        trouble = Some(fault);
                        worker.drain();
                    }
                    Err(fault) => return Err(fault),
                },
                None => break,
            },
        }
    }
    house.leave().await;
    executor.close();
    say::info("left");
    trouble.map_or(Ok(ExitCode::SUCCESS), Err)
}

async fn after(duration: Option<Duration>) {
    match duration {
        Some(duration) => async_std::task::sleep(duration).await,
        None => futures::future::pending().await,
    }
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}

/// What the machine has in all, swap not counted.
fn all_memory() -> ByteSize {
    let system = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "it has 32 bits on small machines")]
    ByteSize::b(u64::from(system.totalram).saturating_mul(u64::from(system.mem_unit)))
}

/// `USER=N`.
fn parse_weight(text: &str) -> Result<(UserName, u32), String> {
    let (user, weight) = text.split_once('=').ok_or("write it as USER=N")?;
    let most = p2p_proto::limits::WEIGHT;
    let weight = weight.parse().ok().filter(|weight| (1..=most).contains(weight));
    let weight = weight.ok_or_else(|| format!("N is 1 to {most}"))?;
    Ok((user.parse().map_err(|fault: p2p_proto::ids::NameError| fault.to_string())?, weight))
}

/// What was said already: a worker may try for days, and says each thing once until it changes.
#[derive(Default)]
struct Told {
    last: Option<String>,
    at_work: bool,
}

impl Told {
    fn say(&mut self, report: &WorkerReport, cluster: &p2p_proto::ids::ClusterName) -> Result<(), Trouble> {
        match report {
            WorkerReport::BoardUp => {
                log::info!("the board is up");
            }
            WorkerReport::BoardDown { reason, retry_in } if !retry_in.is_zero() => {
                self.once(format!("the board is away: {reason}; it is tried again, running tasks go on"));
            }
            WorkerReport::BoardDown { reason, .. } => log::info!("{reason}; back at once"),
            WorkerReport::Misrouted { why, .. } => {
                self.once(format!("waiting: {}", Waiting::Misrouted(cluster.clone(), *why)));
            }
            WorkerReport::Failed(error) => return Err(error.clone().into()),
            WorkerReport::AtWork => {
                self.at_work = true;
                self.once(format!("at work for {cluster}"));
            }
            WorkerReport::Admission(AdmissionEvent::Denied(why)) => {
                self.once(format!("waiting: {}", Waiting::Denied(cluster.clone(), *why)));
            }
            WorkerReport::Admission(event) => say_admission(event, cluster),
            WorkerReport::Linked { user, path } => say::info(&format!("{user} is linked, {path}")),
            WorkerReport::Broken { user, error } => {
                log::info!("the connection to {user} broke: {error}; what runs for him goes on")
            }
            WorkerReport::Resumed { user, path } => log::info!("{user} is connected again, {path}"),
            WorkerReport::Unlinked { user, error } => log::info!("the link to {user} ended: {error}"),
            WorkerReport::Refused { why } => say::info(why),
            WorkerReport::Draining { running: 0, queued: 0 } => say::info("leaving"),
            WorkerReport::Draining { running, queued: 0 } => {
                say::info(&format!("no more tasks; {running} still run (interrupt again to kill them)"));
            }
            WorkerReport::Draining { running, queued } => {
                let again = "interrupt again to kill the first and hand back the others";
                say::info(&format!("no more tasks; {running} still run and {queued} wait ({again})"));
            }
        }
        Ok(())
    }

    fn once(&mut self, text: String) {
        if self.last.as_ref() != Some(&text) {
            say::info(&text);
            self.last = Some(text);
        }
    }
}
