//! `p2p map`: a command for each of many inputs, on all workers.

use std::process::ExitCode;

use clap::Args;

use crate::options::Common;
use crate::trouble::{Code, Trouble};

/// Options of `p2p map`.
#[derive(Debug, Args)]
pub struct Options {}

/// Runs them all.
pub async fn map(_: &Common, _: Options) -> Result<ExitCode, Trouble> {
    Err(Trouble::new(Code::Usage, "not here yet"))
}
