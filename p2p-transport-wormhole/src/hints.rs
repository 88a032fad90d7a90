//! Which addresses to offer, and which of a peer's to dial (L-07).
//!
//! Hints are an attack tool: a peer could make this machine knock at doors that only this machine can reach. So:
//!
//! | a peer's address | dialled |
//! |---|---|
//! | unspecified, multicast, broadcast, link-local, metadata services, tunnels to an IPv4 address that may not be dialled, port 0 | never |
//! | loopback | when this machine and the peer both have nothing else, or [`Policy::loopback`] |
//! | private and other special ranges (RFC 6890) | when it lies in a subnet of this machine, or [`Policy::lan`] |
//! | anything else | yes |
//! | a relay | when it is in this machine's own list |
//!
//! **The same machine** is not recognised by an address that both have: every machine with Docker has 172.17.0.1, and behind
//! two home routers live two machines called 192.168.1.10. It need not be recognised either: two processes of one machine reach each other
//! at any of its other addresses, which lie in its own subnets. Only a machine that has nothing but loopback needs loopback, and
//! such a machine can reach only itself; a peer who offers only loopback to it is there too. Hence the rule above, and loopback is
//! offered by the same rule.
#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use p2p_proto::limits;
use p2p_proto::link::{Hint, Hints};

use crate::config::{RELAYS, RelayAddress};

/// What this machine's rules about addresses depend on.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// This machine's addresses with their prefix lengths, loopback included.
    pub own: Vec<(IpAddr, u8)>,
    /// Dial private addresses outside this machine's subnets.
    pub lan: bool,
    /// Offer and dial loopback though there are other addresses.
    pub loopback: bool,
    /// Whether direct connections are wanted at all.
    pub direct: bool,
    /// The relays of this side.
    pub relays: Vec<RelayAddress>,
}

/// What to do with a peer's hints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dials {
    /// To dial directly.
    pub direct: Vec<SocketAddr>,
    /// Where to meet the peer.
    pub relays: Vec<RelayAddress>,
    /// What is not dialled, and why.
    pub refused: Vec<(String, &'static str)>,
}

impl Policy {
    /// What this side offers: its addresses at the ports where it listens, most reachable first, then its relays; at most
    /// [`limits::HINTS`] in all and [`RELAYS`] relays.
    pub fn offer(&self, port_v4: Option<u16>, port_v6: Option<u16>) -> Hints {
        let relays: Vec<_> = self.relays.iter().take(RELAYS).collect();
        let mut addresses: Vec<IpAddr> = self.own.iter().map(|(ip, _)| *ip).filter(|ip| self.offers(*ip)).collect();
        addresses.sort_by_key(|ip| (rank(*ip), ip.is_ipv6()));
        addresses.dedup();
        let port = |ip: &IpAddr| if self.direct { if ip.is_ipv4() { port_v4 } else { port_v6 } } else { None };
        let direct = addresses.iter().filter_map(|ip| port(ip).map(|port| Hint::Direct(SocketAddr::new(*ip, port))));
        let mut hints: Vec<_> = direct.take(limits::HINTS - relays.len()).collect();
        hints.extend(relays.iter().map(|relay| Hint::Relay { host: relay.host().to_owned(), port: relay.port() }));
        Hints(hints)
    }

    /// What of the peer's hints to dial, at most [`limits::HINTS`] in all, each once.
    pub fn judge(&self, theirs: &Hints) -> Dials {
        let only_loopback = theirs.direct().all(|address| canonical(address.ip()).is_loopback());
        let mut dials = Dials::default();
        for hint in theirs.0.iter().take(limits::HINTS) {
            match hint {
                Hint::Direct(address) => {
                    // Flow labels and scopes are a matter of the peer's machine.
                    let address = SocketAddr::new(canonical(address.ip()), address.port());
                    match self.judge_address(address, only_loopback) {
                        Ok(()) if dials.direct.contains(&address) => {}
                        Ok(()) => dials.direct.push(address),
                        Err(why) => dials.refused.push((address.to_string(), why)),
                    }
                }
                Hint::Relay { host, port } => {
                    let ours = self.relays.iter().take(RELAYS);
                    match ours
                        .into_iter()
                        .find(|relay| relay.port() == *port && relay.host().eq_ignore_ascii_case(host))
                    {
                        Some(relay) if dials.relays.contains(relay) => {}
                        Some(relay) => dials.relays.push(relay.clone()),
                        None => dials
                            .refused
                            .push((format!("relay {host}:{port}"), "it is not in this side's list of relays")),
                    }
                }
            }
        }
        dials
    }

    fn offers(&self, ip: IpAddr) -> bool {
        match kind(ip) {
            Kind::Never(_) => false,
            Kind::Loopback => self.loopback || self.has_only_loopback(),
            Kind::Local | Kind::Public => true,
        }
    }

    fn judge_address(&self, address: SocketAddr, only_loopback: bool) -> Result<(), &'static str> {
        let ip = address.ip();
        if !self.direct {
            return Err("direct connections are switched off");
        }
        if address.port() == 0 {
            return Err("it has no port");
        }
        if self.own.iter().any(|own| is_broadcast(*own, ip)) {
            return Err("it is a broadcast address");
        }
        match kind(ip) {
            Kind::Never(why) => Err(why),
            Kind::Loopback if self.loopback || (only_loopback && self.has_only_loopback()) => Ok(()),
            Kind::Loopback => Err("it is a loopback address, and this machine has others"),
            Kind::Local if self.lan || self.own.iter().any(|own| contains(*own, ip)) => Ok(()),
            Kind::Local => Err("it is private and in no subnet of this machine"),
            Kind::Public => Ok(()),
        }
    }

    fn has_only_loopback(&self) -> bool {
        self.own.iter().all(|(ip, _)| matches!(kind(*ip), Kind::Loopback | Kind::Never(_)))
    }
}

/// This machine's addresses with their prefix lengths.
///
/// # Errors
/// When the system does not tell.
pub fn interfaces() -> std::io::Result<Vec<(IpAddr, u8)>> {
    let addresses = if_addrs::get_if_addrs()?.into_iter().map(|interface| match interface.addr {
        if_addrs::IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
        if_addrs::IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
    });
    Ok(addresses.collect())
}

/// Whether it means the same everywhere, so that a proxy may be asked for it.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    kind(ip) == Kind::Public
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Never(&'static str),
    Loopback,
    /// Means something only nearby.
    Local,
    Public,
}

/// Addresses that cloud providers answer with secrets of the machine that asks. Link-local ones are refused anyway.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

fn kind(ip: IpAddr) -> Kind {
    if METADATA.contains(&ip) {
        return Kind::Never("it is a metadata service's");
    }
    match canonical(ip) {
        IpAddr::V4(v4) => kind_v4(v4),
        IpAddr::V6(v6) => kind_v6(v6),
    }
}

fn kind_v4(ip: Ipv4Addr) -> Kind {
    let [a, b, c, _] = ip.octets();
    match (a, b, c) {
        (0, ..) => Kind::Never("it is unspecified"),
        (127, ..) => Kind::Loopback,
        (169, 254, _) => Kind::Never("it is link-local"),
        (224..=239, ..) => Kind::Never("it is a multicast address"),
        (255, 255, 255) if ip.is_broadcast() => Kind::Never("it is a broadcast address"),
        (240..=255, ..) => Kind::Never("it is reserved"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Kind::Local,
        // Carrier-grade NAT, protocol assignments, documentation, 6to4 relays, benchmarks.
        (100, 64..=127, _) | (192, 0, 0 | 2) | (198, 51, 100) | (203, 0, 113) | (192, 88, 99) | (198, 18..=19, _) => {
            Kind::Local
        }
        _ => Kind::Public,
    }
}

fn kind_v6(ip: Ipv6Addr) -> Kind {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b) {
        _ if ip.is_unspecified() => Kind::Never("it is unspecified"),
        _ if ip.is_loopback() => Kind::Loopback,
        (0xff00..=0xffff, _) => Kind::Never("it is a multicast address"),
        (0xfe80..=0xfebf, _) => Kind::Never("it is link-local"),
        // What a translator or tunnel turns into IPv4 is judged as that.
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => tunnelled(embedded(g, h)),
        (0x2002, _) => tunnelled(embedded(b, c)),
        (0x2001, 0) | (0x64, 0xff9b) => Kind::Never("it is a tunnel's"),
        (0, _) => Kind::Never("it is reserved"),
        (0xfc00..=0xfdff, _) | (0xfec0..=0xfeff, _) | (0x2001, 0x0db8) | (0x100, 0) => Kind::Local,
        _ => Kind::Public,
    }
}

fn tunnelled(inside: Ipv4Addr) -> Kind {
    if kind(IpAddr::V4(inside)) == Kind::Public {
        Kind::Public
    } else {
        Kind::Never("it is a tunnel to a special address")
    }
}

/// An IPv4 address in IPv6 clothes is an IPv4 address.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Lower is offered first, and dialled first.
fn rank(ip: IpAddr) -> u8 {
    match kind(ip) {
        Kind::Public => 0,
        Kind::Local => 1,
        Kind::Loopback => 2,
        Kind::Never(_) => 3,
    }
}

fn contains((own, prefix): (IpAddr, u8), ip: IpAddr) -> bool {
    match (own, ip) {
        (IpAddr::V4(own), IpAddr::V4(ip)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            u32::from(own) & mask == u32::from(ip) & mask
        }
        (IpAddr::V6(own), IpAddr::V6(ip)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            u128::from(own) & mask == u128::from(ip) & mask
        }
        _ => false,
    }
}

fn is_broadcast(own: (IpAddr, u8), ip: IpAddr) -> bool {
    let (IpAddr::V4(_), IpAddr::V4(v4), 1..=30) = (own.0, ip, own.1) else { return false };
    contains(own, ip) && u32::from(v4) | (u32::MAX << (32 - u32::from(own.1))) == u32::MAX
}
