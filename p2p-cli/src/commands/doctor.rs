//! `p2p doctor`: tries each leg of the way to friends, and says what is wrong and what to do.

mod clock;
mod legs;
mod probes;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use p2p_transport_pico::Step;

use self::legs::{Examination, Leg, name};
use crate::options::Common;
use crate::terminal;
use crate::trouble::Trouble;

/// Options of `p2p doctor`.
#[derive(Debug, Args)]
pub struct Options {
    /// How long each leg may take.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = limit)]
    pub wait: Duration,
}

/// What makes sense: a board far away needs seconds, and nobody looks on for minutes.
const WAIT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

fn limit(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|fault| fault.to_string())?;
    if WAIT.contains(&time) { Ok(time) } else { Err("it is 1s to 5m".to_owned()) }
}

/// Tries everything, says how each leg is as soon as that is known, and exits with the code of the first that failed.
pub async fn doctor(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let show = |leg: &Leg| {
        if !common.json {
            println!("{}", leg.shown(terminal::width()));
        }
    };
    let mut examination = Examination::new(show);
    probes::examine(common, options.wait, &mut examination).await?;
    let legs = examination.into_legs();
    let first = legs.iter().find_map(|leg| Some((leg, leg.code()?)));
    if common.json {
        let all: Vec<_> = legs.iter().map(Leg::json).collect();
        println!("{}", serde_json::json!({ "board": common.board.to_string(), "well": first.is_none(), "legs": all }));
    } else {
        match first {
            None => println!("all is well, as far as one can see from here"),
            Some((leg, _)) => println!("begin with: {}", leg.name),
        }
    }
    Ok(first.map_or(ExitCode::SUCCESS, |(_, code)| code.into()))
}

/// The legs that lead into the board, in order.
const WAY_IN: [Step; 4] = [Step::Name, Step::Port, Step::HostKey, Step::Key];

fn leg_of(step: Step) -> &'static str {
    match step {
        Step::Name => name::NAME,
        Step::Port => name::PORT,
        Step::HostKey => name::HOST_KEY,
        Step::Key => name::KEY,
    }
}
