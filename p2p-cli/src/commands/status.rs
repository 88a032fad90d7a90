//! `p2p status`: who is in a cluster.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use clap::Args;
use comfy_table::{Table, presets};
use p2p_proto::link::LinkPath;
use p2p_proto::link::item::CacheUse;
use p2p_proto::task::Command;
use p2p_scheduler::{Client, Status, Task, Waiting, WorkerStatus};

use crate::needs::Needs;
use crate::options::Common;
use crate::trouble::Trouble;
use crate::wiring::{PERSONAL, Patience, Wiring, next_report, say_report};

/// How long workers have to answer, once one is in the cluster.
const SURVEY: Duration = Duration::from_millis(1500);
/// Workers that answered are waited for until their round trip is known, at most for so long.
const SETTLE: Duration = Duration::from_millis(400);

/// Options of `p2p status`.
#[derive(Debug, Args)]
pub struct Options {
    /// How long to try to get into the cluster.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub wait: Duration,

    #[command(flatten)]
    pub needs: Needs,
}

/// Asks every worker, and prints a table or JSON, and whether a command with these needs would wait, and why.
pub async fn status(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let wiring = Wiring::new(common, PERSONAL).await?;
    let client = wiring.client()?;
    client.survey();
    let surveyed = survey(&client, options.wait).await;
    let status = client.status();
    let task = options.needs.of(Task::command(&Command::default()))?;
    let prospect = client.prospect(&task);
    client.close().await;
    surveyed?;
    if common.json {
        println!("{}", json(&status, prospect.as_ref()));
    } else {
        print_table(&status);
        match &prospect {
            None => println!("a command would start at once"),
            Some(why) => println!("a command would wait: {why}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until all workers that answer have been asked.
async fn survey(client: &Client, wait: Duration) -> Result<(), Trouble> {
    let mut patience = Patience::new(wait);
    let mut entered: Option<Instant> = None;
    let mut changed = Instant::now();
    let mut seen = 0;
    loop {
        if let Some(report) = next_report(client, Duration::from_millis(100)).await {
            say_report(&report, client);
        }
        let status = client.status();
        let known = status.workers.iter().filter(|worker| worker.round_trip.is_some()).count();
        let progress = status.workers.len() + known + usize::from(status.host_present);
        if progress != seen {
            seen = progress;
            changed = Instant::now();
        }
        let waiting = client.waiting();
        let inside = !matches!(
            waiting,
            Some(
                Waiting::Joining
                    | Waiting::BoardDown(_)
                    | Waiting::Misrouted(..)
                    | Waiting::Failed(_)
                    | Waiting::Unsigned(_)
                    | Waiting::Proving(_)
                    | Waiting::Denied(..)
            )
        );
        if !inside {
            patience.look(waiting)?;
            continue;
        }
        let since = *entered.get_or_insert_with(Instant::now);
        let host_known = status.host_present || !status.has_host;
        let complete = known > 0 && host_known && known == status.workers.len() && changed.elapsed() >= SETTLE;
        if complete || since.elapsed() >= SURVEY {
            return Ok(());
        }
    }
}

fn print_table(status: &Status) {
    let host = if status.host_present { "is here" } else { "is away: running links go on, new friends cannot enter" };
    if status.has_host {
        println!("cluster {}: its host {} {host}", status.cluster, status.cluster.owner());
    } else {
        println!("cluster {}: without a host, whoever is on its topic belongs", status.cluster);
    }
    if status.workers.is_empty() {
        let as_here = if status.has_host { "" } else { " --trust first-sight, and the --topic of this command" };
        println!("no worker is here; a friend adds one with: p2p worker --cluster {}{as_here}", status.cluster);
        return;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["worker", "busy/slots", "queued", "round trip", "link", "inputs kept"]);
    for worker in &status.workers {
        let busy = worker.busy.map_or("?".to_owned(), |busy| busy.to_string());
        let draining = if worker.draining { " (leaving)" } else { "" };
        table.add_row([
            format!("{}{draining}", worker.name),
            format!("{busy}/{}", worker.slots),
            worker.queued.map_or("?".to_owned(), |queued| queued.to_string()),
            worker.round_trip.map_or("?".to_owned(), |trip| format!("{:.2} ms", trip.as_secs_f64() * 1e3)),
            worker.path.as_ref().map_or("not reached".to_owned(), LinkPath::to_string),
            worker.cache.map_or(String::new(), |cache| kept(&cache)),
        ]);
    }
    println!("{table}");
    for worker in &status.workers {
        if let Some(cache) = worker.cache.filter(|cache| cache.coming > 0) {
            println!("{}: {}", worker.name, coming(&cache));
        }
    }
}

/// What a worker's cache was good for.
fn kept(cache: &CacheUse) -> String {
    let times = if cache.hits == 1 { "once" } else { &format!("{} times", cache.hits) };
    match cache.hits {
        0 if cache.saved_bytes == 0 => format!("{} sent", ByteSize::b(cache.fetched_bytes)),
        _ => format!(
            "{} sent, {} saved: found {times}",
            ByteSize::b(cache.fetched_bytes),
            ByteSize::b(cache.saved_bytes)
        ),
    }
}

/// What is on its way.
fn coming(cache: &CacheUse) -> String {
    let inputs = if cache.coming == 1 { "1 input is".to_owned() } else { format!("{} inputs are", cache.coming) };
    let (done, all) = (ByteSize::b(cache.coming_done_bytes), ByteSize::b(cache.coming_bytes));
    format!("{inputs} coming in, {done} of {all}, {}/s", ByteSize::b(cache.rate_bytes))
}

/// All of it, for programs.
pub fn json(status: &Status, prospect: Option<&Waiting>) -> serde_json::Value {
    let workers: Vec<_> = status.workers.iter().map(worker_json).collect();
    serde_json::json!({
        "cluster": status.cluster.to_string(),
        "host": { "user": status.cluster.owner().as_str(), "present": status.host_present, "needed": status.has_host },
        "peers": status.peers,
        "slots": status.workers.iter().map(|worker| u64::from(worker.slots)).sum::<u64>(),
        "busy": status.workers.iter().filter_map(|worker| worker.busy).map(u64::from).sum::<u64>(),
        "queued": status.workers.iter().filter_map(|worker| worker.queued).map(u64::from).sum::<u64>(),
        "would_wait": prospect.map(ToString::to_string),
        "workers": workers,
    })
}

fn worker_json(worker: &WorkerStatus) -> serde_json::Value {
    let (kind, via) = match &worker.path {
        Some(LinkPath::Direct(address)) => ("direct", Some(address.as_str())),
        Some(LinkPath::Relayed(relay)) => ("relayed", Some(relay.as_str())),
        Some(LinkPath::Memory) => ("memory", None),
        None => ("none", None),
    };
    serde_json::json!({
        "name": worker.name.to_string(),
        "slots": worker.slots,
        "busy": worker.busy,
        "queued": worker.queued,
        "round_trip_ms": worker.round_trip.map(|trip| trip.as_secs_f64() * 1e3),
        "link": kind,
        "via": via,
        "leaving": worker.draining,
        "runtimes": worker.runtimes,
        "labels": worker.labels,
        "cache": worker.cache.map(|cache| serde_json::json!({
            "hits": cache.hits,
            "saved_bytes": cache.saved_bytes,
            "sent_bytes": cache.fetched_bytes,
            "coming": cache.coming,
            "coming_done_bytes": cache.coming_done_bytes,
            "coming_bytes": cache.coming_bytes,
            "rate_bytes_s": cache.rate_bytes,
        })),
    })
}
