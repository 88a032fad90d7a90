//! What a person may choose about links: relays, what may be dialled, and how long things take.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use p2p_dial::Proxies;
use p2p_proto::limits;

/// Magic Wormhole's public Transit relay.
pub const PUBLIC_RELAY: &str = "tcp:transit.magic-wormhole.io:4001";
/// Relays that are offered to a peer and dialled, at most; the others of a longer list are not used.
pub const RELAYS: usize = 4;

/// How a [`crate::WormholeTransport`] connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WormholeConfig {
    /// The relays to use, the first [`RELAYS`] of them; a peer's relay is used only if it is among them (L-07). Empty: none.
    pub relays: Vec<RelayAddress>,
    /// Dial private addresses outside this machine's own subnets too (`--lan`).
    pub lan: bool,
    /// Connect directly where possible. Without it no port is opened and only relays are used.
    pub direct: bool,
    /// Offer and dial loopback addresses even though this machine has others. For tests on one machine.
    pub loopback: bool,
    /// Proxies for relays and for public addresses. What is nearby is dialled without, and nobody dials in by one.
    pub proxies: Proxies,
    /// How long things take.
    pub timing: Timing,
}

impl Default for WormholeConfig {
    fn default() -> Self {
        let public = PUBLIC_RELAY.parse().ok();
        Self {
            relays: public.into_iter().collect(),
            lan: false,
            direct: true,
            loopback: false,
            proxies: Proxies::none(),
            timing: Timing::default(),
        }
    }
}

/// How long things take. The defaults are the protocol's; tests and slow networks may want others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A set-up must have its link within this time.
    pub setup: Duration,
    /// Relays are dialled this long after the direct addresses, to spare them what connects directly.
    pub relay_delay: Duration,
    /// A leader that could go by a relay waits for a direct connection until this long after the beginning.
    pub head_start: Duration,
    /// After this long without a record an empty one is sent, or at most half as long again.
    pub keepalive: Duration,
    /// After this long without a record from the other side, it is given up.
    pub silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            setup: limits::SETUP_TIMEOUT,
            relay_delay: Duration::from_millis(250),
            head_start: Duration::from_millis(750),
            keepalive: limits::LINK_KEEPALIVE,
            silence: limits::LINK_SILENCE,
        }
    }
}

/// Where a Transit relay listens, written `tcp:HOST:PORT`.
///
/// ```
/// use p2p_transport_wormhole::RelayAddress;
///
/// let relay: RelayAddress = "tcp:transit.magic-wormhole.io:4001".parse().unwrap();
/// assert_eq!((relay.host(), relay.port()), ("transit.magic-wormhole.io", 4001));
/// let relay: RelayAddress = "tcp:[::1]:4001".parse().unwrap();
/// assert_eq!((relay.host(), relay.to_string().as_str()), ("::1", "tcp:[::1]:4001"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    host: String,
    port: u16,
}

impl RelayAddress {
    /// The relay at `port` of `host`, a name or an address (an IPv6 address without brackets).
    ///
    /// # Errors
    /// A host that is empty, over [`limits::RELAY_HOST_BYTES`], or not of letters, digits, `.`, `-` and `:`; port 0.
    pub fn new(host: &str, port: u16) -> Result<Self, RelayAddressError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        if host.is_empty() || host.len() > limits::RELAY_HOST_BYTES || !host.chars().all(plain) || port == 0 {
            return Err(RelayAddressError(format!("{host}:{port}")));
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }

    /// Its name or address, in lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for RelayAddress {
    type Err = RelayAddressError;

    fn from_str(text: &str) -> Result<Self, RelayAddressError> {
        let wrong = || RelayAddressError(text.to_owned());
        let (host, port) = text.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // An IPv6 address without brackets leaves open where the port begins.
        if bracketed.is_none() && host.contains(':') {
            return Err(wrong());
        }
        Self::new(bracketed.unwrap_or(host), port.parse().map_err(|_| wrong())?).map_err(|_| wrong())
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "tcp:[{}]:{}", self.host, self.port)
        } else {
            write!(f, "tcp:{}:{}", self.host, self.port)
        }
    }
}

/// A relay's address that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a relay's address: write it as tcp:HOST:PORT, such as {PUBLIC_RELAY}")]
pub struct RelayAddressError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_be_used_are_refused() {
        let long = format!("tcp:{}:1", "a".repeat(limits::RELAY_HOST_BYTES + 1));
        for text in
            ["", "tcp:", "tcp:host", "tcp::4001", "host:4001", "tcp:host:0", "tcp:host:65536", "tcp:::1:4001", &long]
        {
            assert!(text.parse::<RelayAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_public_relay_is_the_default() {
        assert_eq!(WormholeConfig::default().relays[0].to_string(), PUBLIC_RELAY);
    }
}
