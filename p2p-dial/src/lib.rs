//! TCP connections by a proxy, where the environment says so: `ALL_PROXY`, else `HTTPS_PROXY`, but for what `NO_PROXY` names.
//!
//! The proxy looks the names up: behind one there is often nobody else who can.
//!
//! | module | holds |
//! |---|---|
//! | `proxy` | one proxy: its address, and the handshake with it |
//! | `exempt` | what is reached without it; pure |
#![forbid(unsafe_code)]

mod exempt;
mod proxy;

pub use exempt::Exempt;
pub use proxy::{Proxy, ProxyError};

/// Which proxy to take for which host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    proxy: Option<Proxy>,
    exempt: Exempt,
}

impl Proxies {
    /// No proxy for anybody.
    pub fn none() -> Self {
        Self::default()
    }

    /// This proxy for all but `exempt`.
    pub fn new(proxy: Proxy, exempt: Exempt) -> Self {
        Self { proxy: Some(proxy), exempt }
    }

    /// What the variables say that `get` knows. In lower case they count first, as everywhere.
    ///
    /// ```
    /// use p2p_dial::Proxies;
    /// let get = |name: &str| match name {
    ///     "ALL_PROXY" => Some("socks5://localhost:9050".to_owned()),
    ///     "NO_PROXY" => Some("example.org,10.0.0.0/8".to_owned()),
    ///     _ => None,
    /// };
    /// let proxies = Proxies::of_environment(get).unwrap();
    /// assert!(proxies.of("pico.sh", 22).is_some() && proxies.of("hub.example.org", 22).is_none());
    /// ```
    ///
    /// # Errors
    /// A proxy's address that cannot be used: going without it could tell somebody what he is not to know.
    pub fn of_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let set = |name: &str| {
            [name.to_ascii_lowercase(), name.to_owned()]
                .iter()
                .find_map(|name| get(name))
                .filter(|value| !value.is_empty())
        };
        let Some(address) = set("ALL_PROXY").or_else(|| set("HTTPS_PROXY")) else { return Ok(Self::none()) };
        Ok(Self::new(address.parse()?, Exempt::new(&set("NO_PROXY").unwrap_or_default())))
    }

    /// The proxy for this host, a name or an address, or none.
    pub fn of(&self, host: &str, port: u16) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !self.exempt.covers(host, port))
    }
}
