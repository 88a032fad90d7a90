//! What `NO_PROXY` names: hosts that are reached without a proxy.
#![warn(clippy::disallowed_methods)]

use std::net::IpAddr;

/// Entries that are kept; a longer list is cut.
const ENTRIES: usize = 256;

/// Names with everything below them, addresses, subnets, each perhaps with a port; or `*` for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    All,
    /// In lower case, without a leading dot.
    Name(String, Option<u16>),
    Net(IpAddr, u8, Option<u16>),
}

impl Exempt {
    /// Reads a list that is separated by commas or blanks. What cannot be read exempts nothing.
    pub fn new(list: &str) -> Self {
        let words = list.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        Self(words.take(ENTRIES).filter_map(entry).collect())
    }

    /// Whether this host, a name or an address, is reached without a proxy.
    pub fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok().map(|ip: IpAddr| ip.to_canonical());
        self.0.iter().any(|entry| match entry {
            Entry::All => true,
            Entry::Name(name, only) => {
                let below = || host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                only.is_none_or(|only| only == port) && (host == *name || (address.is_none() && below()))
            }
            Entry::Net(net, prefix, only) => {
                only.is_none_or(|only| only == port) && address.is_some_and(|ip| contains(*net, *prefix, ip))
            }
        })
    }
}

fn entry(word: &str) -> Option<Entry> {
    if word == "*" {
        return Some(Entry::All);
    }
    if let Some((net, prefix)) = word.split_once('/') {
        let net: IpAddr = net.parse().ok()?;
        let longest = if net.is_ipv4() { 32 } else { 128 };
        return prefix.parse().ok().filter(|prefix| *prefix <= longest).map(|prefix| Entry::Net(net, prefix, None));
    }
    let (host, port) = match word.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':')?.parse().ok()?)),
        None if word.matches(':').count() == 1 => {
            let (host, port) = word.split_once(':')?;
            (host, Some(port.parse().ok()?))
        }
        None => (word, None),
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(Entry::Net(ip, if ip.is_ipv4() { 32 } else { 128 }, port));
    }
    let name = host.trim_start_matches("*.").trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
    (!name.is_empty()).then_some(Entry::Name(name, port))
}

fn contains(net: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    net.is_ipv4() == ip.is_ipv4() && (bits(net) ^ bits(ip)) & mask == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_subnets_are_exempt() {
        let exempt = Exempt::new(
            "localhost, .example.org *.lan, Hub.Example.net:2222 ,127.0.0.0/8,192.0.2.7,[::1]:22,fd00::/8,x/99,:9",
        );
        let yes = [
            ("localhost", 1),
            ("example.org", 1),
            ("a.EXAMPLE.org.", 1),
            ("nas.lan", 1),
            ("hub.example.net", 2222),
            ("x.hub.example.net", 2222),
            ("127.1.2.3", 1),
            ("::ffff:127.0.0.1", 1),
            ("192.0.2.7", 1),
            ("::1", 22),
            ("fd12::3", 1),
        ];
        for (host, port) in yes {
            assert!(exempt.covers(host, port), "{host}:{port}");
        }
        let no = [
            ("badexample.org", 1),
            ("hub.example.net", 22),
            ("128.0.0.1", 1),
            ("192.0.2.70", 1),
            ("::1", 23),
            ("fe12::3", 1),
            ("x", 9),
        ];
        for (host, port) in no {
            assert!(!exempt.covers(host, port), "{host}:{port}");
        }
        assert!(Exempt::new("*").covers("anything", 1) && !Exempt::new("").covers("anything", 1));
        assert!(Exempt::new("0.0.0.0/0").covers("8.8.8.8", 1) && !Exempt::new("0.0.0.0/0").covers("::1", 1));
    }
}
