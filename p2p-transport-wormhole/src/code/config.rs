//! What a person may choose about transfers: the mailbox server, the ways, and how long to wait.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{self, BoxFuture, Shared};
use p2p_proto::limits;

use super::error::CodeError;
use crate::config::WormholeConfig;

/// Magic Wormhole's public mailbox server.
pub const PUBLIC_MAILBOX: &str = "ws://relay.magic-wormhole.io:4000/v1";

/// How transfers are made.
#[derive(Clone, Debug)]
pub struct CodeConfig {
    /// Where the two meet.
    pub mailbox: MailboxAddress,
    /// How they connect: relays, what may be dialled. A relay of the other side is dialled too, since the two may have none in common.
    pub links: WormholeConfig,
    /// How long to wait for what.
    pub waits: Waits,
    /// Ends the transfer, and tells the other side so.
    pub stop: Stop,
}

impl Default for CodeConfig {
    fn default() -> Self {
        Self {
            mailbox: MailboxAddress(PUBLIC_MAILBOX.to_owned()),
            links: WormholeConfig::default(),
            waits: Waits::default(),
            stop: Stop::never(),
        }
    }
}

/// How long each stage may take. None is without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// The mailbox server answers.
    pub mailbox: Duration,
    /// The other side takes up the code.
    pub join: Duration,
    /// The sender makes his offer, once both are there.
    pub offer: Duration,
    /// The receiver takes it or refuses; a person may be asked.
    pub answer: Duration,
    /// A connection comes about.
    pub connect: Duration,
    /// Bytes move on.
    pub stall: Duration,
    /// The receiver confirms; he may have to unpack first.
    pub confirmation: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            mailbox: Duration::from_secs(30),
            join: Duration::from_secs(3600),
            offer: Duration::from_secs(60),
            answer: Duration::from_secs(600),
            connect: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            confirmation: Duration::from_secs(600),
        }
    }
}

/// Ends transfers from outside.
#[derive(Clone)]
pub struct Stop(Shared<BoxFuture<'static, ()>>);

impl Stop {
    /// Ends them once `signal` is ready.
    pub fn when(signal: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(signal.boxed().shared())
    }

    /// Ends nothing.
    pub fn never() -> Self {
        Self::when(future::pending())
    }

    /// Waits for the signal.
    pub async fn stopped(self) {
        self.0.await;
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stop(..)")
    }
}

/// Where a mailbox server listens, written `ws://HOST:PORT[/PATH]`; the path is `/v1` unless given.
///
/// ```
/// use p2p_transport_wormhole::code::MailboxAddress;
///
/// let address: MailboxAddress = "ws://127.0.0.1:4000".parse().unwrap();
/// assert_eq!(address.to_string(), "ws://127.0.0.1:4000/v1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxAddress(String);

impl MailboxAddress {
    /// Its URL.
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl FromStr for MailboxAddress {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let wrong = |why: &str| {
            Err(CodeError::Misuse(format!(
                "{text:?} is not a mailbox server's address ({why}): write it as ws://HOST:PORT, such as {PUBLIC_MAILBOX}"
            )))
        };
        if text.starts_with("wss://") {
            return wrong("TLS is not spoken here; nothing that passes the server is readable to it anyway");
        }
        let Some(rest) = text.strip_prefix("ws://") else { return wrong("it does not begin with ws://") };
        let (place, path) = rest.split_once('/').map_or((rest, "v1"), |(place, path)| (place, path));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if place.is_empty() || place.len() > limits::RELAY_HOST_BYTES + 8 || !place.chars().all(plain) {
            return wrong("its host makes no sense");
        }
        if path.len() > 256 || !path.chars().all(|c| c.is_ascii_graphic()) {
            return wrong("its path makes no sense");
        }
        Ok(Self(format!("ws://{place}/{}", if path.is_empty() { "v1" } else { path })))
    }
}

impl fmt::Display for MailboxAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_mailbox_servers() {
        let parsed = |text: &str| text.parse::<MailboxAddress>().map(|address| address.0);
        assert_eq!(parsed(PUBLIC_MAILBOX).unwrap(), PUBLIC_MAILBOX);
        assert_eq!(parsed("ws://[::1]:4000/").unwrap(), "ws://[::1]:4000/v1");
        assert!(parsed("wss://example.org/v1").unwrap_err().to_string().contains("TLS is not spoken"));
        for wrong in ["", "ws://", "http://a:1", "ws:///v1", "ws://a b/v1", "ws://a/\n"] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
