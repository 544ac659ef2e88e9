//! Where a request comes from: the peer of its connection, or, when that is a proxy of ours, who the
//! proxy says it speaks for.
//!
//! Anybody can write an `X-Forwarded-For`. What counts is the right-most address that is no proxy of
//! ours: everything left of it was written by somebody we don't trust. `Forwarded` (RFC 7239) is not
//! read: of two headers that say the same, an attacker would use the one that the proxy leaves alone.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The network that one IPv6 customer has at least, in bits: single addresses cost nothing.
const V6_PREFIX_BITS: u32 = 64;

/// The address that a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// Whom a limit counts as one: an IPv4 address, or a /64 of IPv6.
    #[must_use]
    pub fn network(self) -> IpAddr {
        network(self.0)
    }
}

/// Whom a limit counts as one: an IPv4 address, or a /64 of IPv6.
#[must_use]
pub fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(v6) => {
            let mask = u128::MAX << (u128::BITS - V6_PREFIX_BITS);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
        v4 => v4,
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    /// All that come by another way than [`crate::server`] count as one.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let known = parts.extensions.get::<Self>().copied();
        Ok(known.unwrap_or(Self(Ipv4Addr::UNSPECIFIED.into())))
    }
}

/// Networks, separated by commas, as `10.0.0.0/8`; an address without a prefix is itself alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Arc<[IpNet]>);

/// Text that is no list of networks.
#[derive(Debug, thiserror::Error)]
#[error("must be addresses or networks such as 10.0.0.0/8, separated by commas")]
pub struct InvalidNetworks;

impl FromStr for Networks {
    type Err = InvalidNetworks;

    fn from_str(text: &str) -> Result<Self, InvalidNetworks> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let networks = parts.map(|part| {
            let network = part.parse::<IpNet>();
            network.or_else(|_| part.parse::<IpAddr>().map(IpNet::from))
        });
        let networks = networks.collect::<Result<Vec<_>, _>>();
        networks
            .map(|list| Self(list.into()))
            .map_err(|_| InvalidNetworks)
    }
}

impl Networks {
    /// Whether an address is in one of them.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        self.0.iter().any(|network| network.contains(&addr))
    }

    /// Who makes a request that came from `peer`, when these are our proxies.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let mut client = peer.to_canonical();
        if !self.contains(client) {
            return ClientAddress(client);
        }
        for value in headers.get_all(FORWARDED_FOR).iter().rev() {
            let text = value.to_str().unwrap_or_default();
            for part in text.rsplit(',') {
                // What can't be read was not written by a proxy of ours; the one before it was.
                let Some(addr) = address(part.trim()) else {
                    return ClientAddress(client);
                };
                client = addr;
                if !self.contains(addr) {
                    return ClientAddress(client);
                }
            }
        }
        ClientAddress(client)
    }
}

/// An address, of which some proxies also write the port.
fn address(text: &str) -> Option<IpAddr> {
    let addr = text.parse().ok();
    let addr = addr.or_else(|| {
        text.parse()
            .ok()
            .map(|with_port: SocketAddr| with_port.ip())
    });
    let addr = addr.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
    addr.map(|addr: IpAddr| addr.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Networks {
        text.parse().unwrap()
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_of_ours() {
        let ours = networks("10.0.0.0/8, 192.0.2.7,fd00::/8");
        for (peer, headers, expected) in [
            // No proxy of ours: whatever it says.
            ("203.0.113.9", &[][..], "203.0.113.9"),
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("203.0.113.9", &["10.0.0.1"], "203.0.113.9"),
            ("192.0.2.8", &["198.51.100.1"], "192.0.2.8"),
            // One of ours.
            ("10.1.2.3", &[], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("192.0.2.7", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("fd00::1", &["2001:db8::5"], "2001:db8::5"),
            // What the client made up stands further left.
            ("10.1.2.3", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["10.9.9.9,198.51.100.1"], "198.51.100.1"),
            // Two proxies of ours.
            (
                "10.1.2.3",
                &["1.1.1.1, 198.51.100.1 ,10.4.5.6"],
                "198.51.100.1",
            ),
            ("10.1.2.3", &["198.51.100.1", "192.0.2.7"], "198.51.100.1"),
            // Nobody but us.
            ("10.1.2.3", &["10.4.5.6"], "10.4.5.6"),
            // With a port, in brackets, in disguise.
            ("10.1.2.3", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.1.2.3", &["[2001:db8::5]:4711"], "2001:db8::5"),
            ("10.1.2.3", &["[2001:db8::5]"], "2001:db8::5"),
            ("10.1.2.3", &["::ffff:198.51.100.1"], "198.51.100.1"),
            // Nonsense is no address, and hides those left of it.
            ("10.1.2.3", &["unknown"], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.1,"], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.1, x, 10.4.5.6"], "10.4.5.6"),
            ("10.1.2.3", &["198.51.100.1", "\u{e9}"], "10.1.2.3"),
        ] {
            let mut all = HeaderMap::new();
            for value in headers {
                let value = axum::http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
                all.append(FORWARDED_FOR, value);
            }
            let client = ours.client(peer.parse().unwrap(), &all);
            let expected = ClientAddress(expected.parse().unwrap());
            assert_eq!(client, expected, "{peer} {headers:?}");
        }
    }

    #[test]
    fn without_proxies_only_the_peer_counts() {
        let headers = HeaderMap::from_iter([(FORWARDED_FOR, "1.1.1.1".parse().unwrap())]);
        let peer = "127.0.0.1".parse().unwrap();
        assert_eq!(networks("").client(peer, &headers), ClientAddress(peer));
    }

    #[test]
    fn lists_of_networks() {
        assert_eq!(networks(" , "), Networks::default());
        assert!(networks("::1").contains("::1".parse().unwrap()));
        for bad in ["x", "10.0.0.0/33", "10.0.0/8", "1.1.1.1;2.2.2.2"] {
            assert!(bad.parse::<Networks>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_ipv6_customer_is_one() {
        let network = |text: &str| ClientAddress(text.parse().unwrap()).network();
        assert_eq!(network("2001:db8:1:2:3::4"), network("2001:db8:1:2:ffff::"));
        assert_ne!(network("2001:db8:1:2::"), network("2001:db8:1:3::"));
        assert_ne!(network("198.51.100.1"), network("198.51.100.2"));
        assert_eq!(network("198.51.100.1"), network("::ffff:198.51.100.1"));
    }
}
