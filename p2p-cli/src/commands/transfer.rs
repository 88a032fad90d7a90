//! What `p2p send` and `p2p receive` have in common: the mailbox server, how to end, and the bar.

use std::io::IsTerminal as _;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2p_transport_wormhole::code::{CodeConfig, MailboxAddress, Report, Stop, Waits};

use super::Signals;
use crate::options::Common;
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::wiring::link_config;

/// Redraws a second.
const REDRAWS: u8 = 10;

/// Options of both.
#[derive(Debug, Args)]
pub struct Meet {
    /// The mailbox server where the two meet [default: Magic Wormhole's public one]
    #[arg(long, env = "P2P_MAILBOX", value_name = "ws://HOST:PORT")]
    pub mailbox: Option<MailboxAddress>,
}

impl Meet {
    /// How to make the transfer; `wait` is for the other side to come. `linked` is a server that the code's link names.
    pub fn config(
        &self,
        common: &Common,
        linked: Option<MailboxAddress>,
        wait: Duration,
        stop: Stop,
    ) -> Result<CodeConfig, Trouble> {
        let mut config = CodeConfig { links: link_config(common)?, stop, ..CodeConfig::default() };
        if let Some(mailbox) = self.mailbox.clone().or(linked) {
            config.mailbox = mailbox;
        }
        config.waits = Waits { join: wait, ..Waits::default() };
        Ok(config)
    }
}

/// The first interrupt ends the transfer in order: the other side hears of it, and nothing stays behind. The second one ends the process.
pub fn stop_by_signal() -> Result<Stop, Trouble> {
    let mut signals = Signals::listen()?;
    Ok(Stop::when(async move {
        signals.next().await;
        async_std::task::spawn(async move {
            signals.next().await;
            std::process::exit(i32::from(Code::Interrupted as u8));
        });
    }))
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// The bar on stderr, while a person looks at it.
pub struct Bar {
    drawn: Option<ProgressBar>,
}

impl Bar {
    /// Draws a bar if stderr is a terminal and the person wants to know.
    pub fn new(common: &Common) -> Self {
        let drawn = (!common.quiet && std::io::stderr().is_terminal()).then(|| {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS));
            let bar = bars.add(ProgressBar::new(0).with_style(style()));
            say::set_bars(Some(bars));
            bar
        });
        Self { drawn }
    }

    /// Follows the transfer.
    pub fn follow(&mut self, report: &Report) {
        match report {
            Report::Connected(path) => {
                log::info!("connected, {path}");
                if let Some(bar) = &self.drawn {
                    // The time of waiting for the other side is not that of the transfer.
                    bar.reset();
                    bar.set_message(path.to_string());
                }
            }
            Report::Bytes { done, total } => {
                if let Some(bar) = &self.drawn {
                    bar.set_length(*total);
                    bar.set_position(*done);
                }
            }
            Report::Unpacking => {
                self.clear();
                say::info("all of it arrived; unpacking");
            }
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.drawn.take() {
            bar.finish_and_clear();
            say::set_bars(None);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style() -> ProgressStyle {
    let template = "{wide_bar} {bytes}/{total_bytes}, {binary_bytes_per_sec}, {eta} left; {msg}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
