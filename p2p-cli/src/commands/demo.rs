//! `p2p demo`.

use std::process::ExitCode;

use clap::Args;

use crate::options::Common;
use crate::trouble::{Code, Trouble};

/// Options of `p2p demo`.
#[derive(Debug, Args)]
pub struct Options {}

/// Runs them all.
pub async fn demo(_: &Common, _: Options) -> Result<ExitCode, Trouble> {
    Err(Trouble::new(Code::Usage, "not here yet"))
}
