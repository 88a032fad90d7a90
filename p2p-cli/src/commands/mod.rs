//! One file per subcommand: its options, and what it does.

pub mod demo;
pub mod host;
pub mod hub;
pub mod id;
pub mod map;
pub mod run;
pub mod status;
pub mod trust;
pub mod worker;

use std::process::ExitCode;

use crate::options::{Arguments, Command};
use crate::trouble::Trouble;

/// Runs the command that was asked for.
pub async fn run(arguments: Arguments) -> Result<ExitCode, Trouble> {
    let common = arguments.common;
    match arguments.command {
        Command::Run(options) => run::run(&common, options).await,
        Command::Map(options) => map::map(&common, options).await,
        Command::Worker(options) => worker::worker(&common, options).await,
        Command::Host(options) => host::host(&common, options).await,
        Command::Status(options) => status::status(&common, options).await,
        Command::Hub(options) => hub::hub(&common, options).await,
        Command::Id(options) => id::id(&common, options).await,
        Command::Trust(options) => trust::trust(&common, options),
        Command::Demo(options) => demo::demo(&common, options).await,
    }
}

/// Waits for an interrupt or a request to end.
pub struct Signals(async_signal::Signals);

impl Signals {
    /// From now on these signals are heard here instead of ending the process.
    pub fn listen() -> Result<Self, Trouble> {
        use async_signal::Signal;
        async_signal::Signals::new([Signal::Int, Signal::Term])
            .map(Self)
            .map_err(|fault| Trouble::system("signals cannot be heard", fault))
    }

    /// The next one. Cancel-safe.
    pub async fn next(&mut self) {
        use futures::StreamExt as _;
        if self.0.next().await.is_none() {
            futures::future::pending().await
        }
    }
}
