//! `ssh://[LOGIN@]HOST[:PORT]`.
#![warn(clippy::disallowed_methods)]

use std::fmt;
use std::str::FromStr;

/// pico.sh's pipe.
const DEFAULT_HOST: &str = "pipe.pico.sh";
/// A board tells its users apart by key alone, so any login name does.
const DEFAULT_LOGIN: &str = "p2p";
/// A DNS name, bytes (RFC 1035).
const HOST_BYTES: usize = 253;

/// Where a board is: `ssh://[LOGIN@]HOST[:PORT]`, by default `ssh://pipe.pico.sh`, port 22. An IPv6 address stands in brackets.
///
/// ```
/// use p2p_transport_pico::BoardAddress;
/// let address: BoardAddress = "ssh://[::1]:2222".parse().unwrap();
/// assert_eq!((address.host(), address.port()), ("::1", 2222));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BoardAddress {
    login: String,
    host: String,
    port: u16,
}

/// Text that is not a board's address; says why and how it should look.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the board {text:?} is not an address: {fault}; write it as ssh://HOST or ssh://HOST:PORT")]
pub struct AddressError {
    text: String,
    fault: &'static str,
}

impl BoardAddress {
    /// SSH's.
    pub(crate) const DEFAULT_PORT: u16 = 22;

    /// The machine of this name or IP address.
    ///
    /// # Errors
    /// What a name may not be.
    pub(crate) fn new(login: &str, host: &str, port: u16) -> Result<Self, &'static str> {
        let plain = |text: &str, extra: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c));
        if host.is_empty() || host.len() > HOST_BYTES || !plain(host, ".-_:%") || host.starts_with('-') {
            return Err("the host name is not one");
        }
        if login.is_empty() || !plain(login, ".-_+") || login.starts_with('-') {
            return Err("the login name is not one");
        }
        Ok(Self { login: login.to_owned(), host: host.to_ascii_lowercase(), port })
    }

    /// The host's name or IP address, in lower case and without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name to log in with; pico.sh and the hub ignore it.
    pub fn login(&self) -> &str {
        &self.login
    }

    /// Whether the port is another one than SSH's.
    pub(crate) fn has_port(&self) -> bool {
        self.port != Self::DEFAULT_PORT
    }

    /// How `known_hosts` names this server: `HOST`, or `[HOST]:PORT` for ports other than 22.
    pub fn known_as(&self) -> String {
        match self.port {
            Self::DEFAULT_PORT => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        }
    }

    /// The server that answers questions about accounts: on pico.sh another host than its pipe.
    pub(crate) fn account_server(&self) -> Option<Self> {
        (self.host == DEFAULT_HOST).then(|| Self { host: "pico.sh".to_owned(), ..self.clone() })
    }
}

impl Default for BoardAddress {
    fn default() -> Self {
        Self { login: DEFAULT_LOGIN.to_owned(), host: DEFAULT_HOST.to_owned(), port: Self::DEFAULT_PORT }
    }
}

impl FromStr for BoardAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fault = |fault| AddressError { text: text.chars().take(HOST_BYTES).collect(), fault };
        let rest = text.strip_prefix("ssh://").ok_or_else(|| fault("it does not start with ssh://"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = rest.rsplit_once('@').unwrap_or((DEFAULT_LOGIN, rest));
        let (host, port) = match place.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner.split_once(']').ok_or_else(|| fault("a bracket is not closed"))?;
                (host, after.strip_prefix(':').or(after.is_empty().then_some("")).ok_or_else(|| fault("text after ]"))?)
            }
            None => place.split_once(':').unwrap_or((place, "")),
        };
        let port = match port {
            "" => Self::DEFAULT_PORT,
            port => port.parse().ok().filter(|&port| port != 0).ok_or_else(|| fault("the port is not 1 to 65535"))?,
        };
        Self::new(login, host, port).map_err(fault)
    }
}

impl fmt::Display for BoardAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let login = if self.login == DEFAULT_LOGIN { String::new() } else { format!("{}@", self.login) };
        match self.port {
            Self::DEFAULT_PORT => write!(f, "ssh://{login}{host}"),
            port => write!(f, "ssh://{login}{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_alike() {
        for text in ["ssh://pipe.pico.sh", "ssh://h:2222", "ssh://[::1]", "ssh://[fe80::1]:7", "ssh://me@h"] {
            assert_eq!(text.parse::<BoardAddress>().unwrap().to_string(), text);
        }
        assert_eq!("ssh://pipe.pico.sh".parse(), Ok(BoardAddress::default()));
        assert_eq!("ssh://Pipe.Pico.sh:22/".parse(), Ok(BoardAddress::default()));
        for bad in ["", "h", "http://h", "ssh://", "ssh://:22", "ssh://h:0", "ssh://h:x", "ssh://h:99999", "ssh://[::1"]
        {
            assert!(bad.parse::<BoardAddress>().is_err(), "{bad:?} was accepted");
        }
        for bad in ["ssh://-oProxy", "ssh://a b", "ssh://@h", "ssh://h\n", "ssh://[::1]x", "ssh://-l@h"] {
            assert!(bad.parse::<BoardAddress>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn other_ports_are_known_by_port() {
        assert_eq!("ssh://h".parse::<BoardAddress>().unwrap().known_as(), "h");
        assert_eq!("ssh://h:23".parse::<BoardAddress>().unwrap().known_as(), "[h]:23");
    }

    #[test]
    fn only_pico_keeps_accounts_elsewhere() {
        assert_eq!(BoardAddress::default().account_server().unwrap().host(), "pico.sh");
        assert_eq!("ssh://hub.example".parse::<BoardAddress>().unwrap().account_server(), None);
    }
}
