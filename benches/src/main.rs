//! `cargo run --release -p benches`: all figures; `-- WORD...` for those groups only.

use std::path::PathBuf;

use benches::child::{ROLE_FLAG, Role};
use benches::table::{Row, Table};
use benches::{Result, blobs, cluster, commands, functions, idle, links, wan};

/// What can be measured, and its name on the command line.
const GROUPS: [&str; 6] = ["links", "functions", "commands", "blobs", "idle", "wan"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, role] = arguments.as_slice()
        && flag == ROLE_FLAG
    {
        return serde_json::from_str::<Role>(role)?.play();
    }
    if let Some(word) = arguments.iter().find(|word| !GROUPS.contains(&word.as_str())) {
        return Err(format!("{word:?} is none of {}", GROUPS.join(", ")).into());
    }
    if cfg!(debug_assertions) {
        return Err("this is a debug build, whose figures mean nothing: use --release".into());
    }
    let program = std::env::current_exe()?;
    let wanted = |group: &str| arguments.is_empty() || arguments.iter().any(|word| word == group);
    println!("machine: {}", machine());
    let load_before = load();

    let mut table = Table::default();
    let mut group = |name: &str, measure: &dyn Fn() -> Result<Vec<Row>>| {
        if wanted(name) {
            eprintln!("measuring {name} ...");
            match measure() {
                Ok(rows) => table.0.extend(rows),
                Err(fault) => table.0.push(Row::missing(name, &fault.to_string())),
            }
        }
    };
    group("links", &|| links::measure(&program, links::Sizes::FULL));
    group("functions", &|| functions::measure(&program, functions::Sizes::FULL));
    group("commands", &|| commands::measure(&p2p(&program), commands::Sizes::FULL));
    group("blobs", &|| blobs::measure(&program, &p2p(&program), &blobs::Sizes::full()));
    group("idle", &|| idle::measure(&p2p(&program), idle::Sizes::FULL));
    group("wan", &|| wan::measure(&p2p(&program), wan::Sizes::FULL));
    println!("\n{table}");
    println!("load before and after: {load_before} / {}", load());
    Ok(())
}

/// The real program: `P2P`, or the one that was built beside this one.
fn p2p(program: &std::path::Path) -> PathBuf {
    cluster::program(program)
}

fn machine() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores of {}, Linux {}", model.unwrap_or("an unknown processor"), kernel.trim())
}

/// Who else was computing: with a load near the number of cores before it began, the figures are bad.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_owned()
}
