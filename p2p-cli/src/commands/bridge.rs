//! `p2p bridge`: a client for programs in other languages, by lines of JSON on stdin and stdout ([docs/bridge.md]).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::bridge;
use crate::options::Common;
use crate::trouble::Trouble;
use crate::wiring::{PERSONAL, Wiring};

/// Options of `p2p bridge`.
#[derive(Debug, Args)]
pub struct Options {
    /// How long tasks wait for a worker before all of them are given up.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub wait: Duration,

    /// How long to wait for a worker whose connection broke, at most 10m; tasks that may run again start elsewhere after 5s.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub grace: Duration,

    /// Where the files of results are put, in a folder of their own that is removed at the end [default: the system's folder for such]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Serves until stdin ends.
pub async fn bridge(common: &Common, options: Options) -> Result<ExitCode, Trouble> {
    let wiring = Wiring::new(common, PERSONAL).await?;
    let client = wiring.client_with_grace(options.grace)?;
    bridge::serve(client, wiring.member.cluster.clone(), options.wait, options.folder).await
}
