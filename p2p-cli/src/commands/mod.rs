//! One file per subcommand: its options, and what it does.

pub mod approve;
pub mod bridge;
pub mod demo;
pub mod doctor;
pub mod host;
pub mod hub;
pub mod id;
pub mod map;
pub mod members;
pub mod receive;
pub mod run;
pub mod send;
pub mod status;
mod transfer;
pub mod trust;
pub mod worker;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use p2p_scheduler::Client;

use crate::options::{Arguments, Command};
use crate::trouble::{Code, Trouble};

/// A command that was interrupted twice ends by itself within this time: it removes what arrived in part.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// Runs the command that was asked for.
pub async fn run(arguments: Arguments) -> Result<ExitCode, Trouble> {
    let common = arguments.common;
    let ended = dispatch(&common, arguments.command).await;
    if ended.as_ref().is_err_and(|trouble| matches!(trouble.code(), Code::NoCluster | Code::Denied)) {
        crate::wiring::forget_user(&common);
    }
    ended
}

async fn dispatch(common: &crate::options::Common, command: Command) -> Result<ExitCode, Trouble> {
    match command {
        Command::Run(options) => run::run(common, options).await,
        Command::Map(options) => map::map(common, options).await,
        Command::Worker(options) => worker::worker(common, options).await,
        Command::Host(options) => host::host(common, options).await,
        Command::Status(options) => status::status(common, options).await,
        Command::Hub(options) => hub::hub(common, options).await,
        Command::Send(options) => send::send(common, options).await,
        Command::Receive(options) => receive::receive(common, options).await,
        Command::Bridge(options) => bridge::bridge(common, options).await,
        Command::Doctor(options) => doctor::doctor(common, options).await,
        Command::Id(options) => id::id(common, options).await,
        Command::Approve(options) => approve::approve(common, &options),
        Command::Members(options) => members::members(common, &options),
        Command::Trust(options) => trust::trust(common, options),
        Command::Demo(options) => demo::demo(common, options).await,
    }
}

/// Waits for an interrupt or a request to end.
pub struct Signals(async_signal::Signals);

impl Signals {
    /// From now on these signals are heard here instead of ending the process.
    pub fn listen() -> Result<Self, Trouble> {
        use async_signal::Signal;
        Self::of(&[Signal::Int, Signal::Term])
    }

    /// The same for these signals.
    pub fn of(signals: &[async_signal::Signal]) -> Result<Self, Trouble> {
        async_signal::Signals::new(signals).map(Self).map_err(|fault| Trouble::system("signals cannot be heard", fault))
    }

    /// As [`Self::listen`], for a command that may be stuck in a write which nobody reads: after the second one it has a moment to end in
    /// order, then the process ends.
    pub fn insist() -> Result<Insistent, Trouble> {
        let mut signals = Self::listen()?;
        let (told, heard) = async_std::channel::unbounded();
        let leaving = Arc::new(OnceLock::<Client>::new());
        let client = Arc::clone(&leaving);
        let listen = async move {
            for _ in 0..2 {
                signals.next().await;
                // Nobody hears it any more: the command is ending.
                let _ = told.send(()).await;
            }
            // A worker that hears no goodbye keeps what runs there for the whole grace.
            let goodbye = async {
                if let Some(client) = client.get() {
                    let _ = async_std::future::timeout(LAST_MOMENT, client.clone().close()).await;
                }
            };
            futures::join!(goodbye, async_io::Timer::after(LAST_MOMENT));
            std::process::exit(i32::from(Code::Interrupted as u8));
        };
        // A thread of its own: one of the executor's may be the one that is stuck.
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(|| async_io::block_on(listen))
            .map_err(|fault| Trouble::system("signals cannot be heard", fault))?;
        Ok(Insistent { heard, leaving })
    }

    /// The next one. Cancel-safe.
    pub async fn next(&mut self) {
        use futures::StreamExt as _;
        if self.0.next().await.is_none() {
            futures::future::pending().await
        }
    }
}

/// Signals of which the second one is obeyed in any case.
pub struct Insistent {
    heard: async_std::channel::Receiver<()>,
    leaving: Arc<OnceLock<Client>>,
}

impl Insistent {
    /// This client says goodbye before the process ends. Only the first one does.
    pub fn leaves(&self, client: &Client) {
        let _ = self.leaving.set(client.clone());
    }

    /// The next one. Cancel-safe.
    pub async fn next(&self) {
        if self.heard.recv().await.is_err() {
            futures::future::pending().await
        }
    }
}
