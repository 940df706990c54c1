//! The address of the client, also behind proxies that are trusted.

use super::{problem::Problem, request_record::RequestRecord};
use crate::config::{
    settings::{ProxyHeader, ServerConfig},
    units,
};
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client: that of the connection, or the one that proxies of `server.trusted_proxies` name.
///
/// A client that is no such proxy cannot choose it. In a test without a listener, it comes from axum's extension
/// `ConnectInfo<SocketAddr>` of the request. Without that, a handler that takes `Option<ClientAddress>` gets `None`,
/// and one that takes `ClientAddress` answers 500.
///
/// ```
/// use vestibule::ClientAddress;
///
/// async fn whoami(client: ClientAddress) -> String {
///     client.ip().to_string()
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// Returns the IP address. One that IPv6 maps from IPv4 is an IPv4 address here.
    pub fn ip(self) -> IpAddr {
        self.0
    }

    fn of(parts: &Parts) -> Option<Self> {
        parts.extensions.get::<Arc<RequestRecord>>()?.client.map(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts).ok_or_else(|| Problem::internal().with_cause("the request came on no connection"))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(Self::of(parts))
    }
}

/// The addresses of proxies, in the configuration: a network such as `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyNetwork(IpNet);

impl ProxyNetwork {
    /// Reads a network or an address. Returns `None` if the text is neither. One that IPv6 maps from IPv4 is an IPv4 network
    /// here, as the addresses of connections are.
    pub fn parse(text: &str) -> Option<Self> {
        let network: IpNet = text.parse().ok().or_else(|| Some(text.parse::<IpAddr>().ok()?.into()))?;
        let bits_of_ipv4 = network.prefix_len().checked_sub(96);
        match (network, network.addr().to_canonical(), bits_of_ipv4) {
            (IpNet::V6(_), IpAddr::V4(address), Some(bits)) => Some(Self(Ipv4Net::new(address, bits).ok()?.into())),
            _ => Some(Self(network)),
        }
    }

    /// Returns `true` for the network of all addresses.
    pub(crate) fn is_everybody(self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl<'de> Deserialize<'de> for ProxyNetwork {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        units::text(deserializer, "a network such as \"10.0.0.0/8\", or an address", Self::parse)
    }
}

impl Serialize for ProxyNetwork {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for ProxyNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The proxies whose word on the client counts.
pub(crate) struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ProxyHeader,
}

impl TrustedProxies {
    pub(crate) fn of(config: &ServerConfig) -> Self {
        Self { networks: config.trusted_proxies.iter().map(|network| network.0).collect(), header: config.proxy_header }
    }

    /// Returns the client's address. Each proxy appends the address that it was called from. So the last entry that no
    /// trusted proxy has written is the client; everything before it is the client's own word.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trust(client) {
            return client;
        }
        let name = match self.header {
            ProxyHeader::XForwardedFor => X_FORWARDED_FOR,
            ProxyHeader::Forwarded => header::FORWARDED,
        };
        for line in headers.get_all(name).iter().rev() {
            for entry in rsplit_unquoted(line.as_bytes(), b',') {
                let Some(hop) = self.address(entry) else { return client };
                client = hop;
                if !self.trust(client) {
                    return client;
                }
            }
        }
        client
    }

    /// Returns `true` if this address is one of a trusted proxy.
    pub(super) fn trust(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Returns the address in an entry of the header. `None` if it is malformed, or hidden by the proxy.
    fn address(&self, entry: &[u8]) -> Option<IpAddr> {
        let node = match self.header {
            ProxyHeader::XForwardedFor => std::str::from_utf8(entry).ok()?.trim(),
            ProxyHeader::Forwarded => forwarded_for(entry)?,
        };
        let address = match node.parse::<SocketAddr>() {
            Ok(with_port) => with_port.ip(),
            Err(_) => node.strip_prefix('[').and_then(|node| node.strip_suffix(']')).unwrap_or(node).parse().ok()?,
        };
        Some(address.to_canonical())
    }
}

/// Returns the node that an element of `Forwarded` names as its client (RFC 7239, section 4): `for="[2001:db8::1]:4711"`.
/// `None` if it names none, or more than one.
fn forwarded_for(element: &[u8]) -> Option<&str> {
    let mut node = None;
    for pair in rsplit_unquoted(element, b';') {
        let pair = pair.trim_ascii();
        let (name, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        if name.eq_ignore_ascii_case(b"for") && node.replace(&value[1..]).is_some() {
            return None;
        }
    }
    let node = std::str::from_utf8(node?).ok()?;
    Some(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node))
}

/// Splits a header at a separator that stands in no quoted string (RFC 9110, section 5.6.4). The last part comes first: it
/// is read from the end, because no quote that a client left open before can change what a proxy appended.
fn rsplit_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        for (place, byte) in text.iter().enumerate().rev() {
            if *byte == b'"' && !ends_with_escape(&text[..place]) {
                is_quoted = !is_quoted;
            } else if *byte == separator && !is_quoted {
                rest = Some(&text[..place]);
                return Some(&text[place + 1..]);
            }
        }
        rest.take()
    })
}

/// Returns `true` if the byte after this text is escaped by a backslash.
fn ends_with_escape(text: &[u8]) -> bool {
    text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the client that a request of `peer` has, if `10.0.0.0/8` and `fd00::1` are trusted.
    fn client(header: ProxyHeader, peer: &str, lines: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "fd00::1"].map(|network| ProxyNetwork::parse(network).unwrap().0);
        let proxies = TrustedProxies { networks: networks.into(), header };
        let name = if header == ProxyHeader::Forwarded { header::FORWARDED } else { X_FORWARDED_FOR };
        let headers = lines.iter().map(|line| (name.clone(), line.parse().unwrap())).collect();
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_peer_that_is_not_trusted_cannot_choose_its_address() {
        for header in [ProxyHeader::XForwardedFor, ProxyHeader::Forwarded] {
            assert_eq!(client(header, "192.0.2.7", &["10.0.0.1", "for=10.0.0.1"]), "192.0.2.7");
        }
    }

    #[test]
    fn the_last_hop_that_is_not_trusted_is_the_client() {
        for (peer, lines, expected) in [
            ("10.0.0.1", &[][..], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
            ("::ffff:10.0.0.1", &["::ffff:192.0.2.7"], "192.0.2.7"),
            // The client's own word comes before the addresses that proxies wrote.
            ("10.0.0.1", &["198.51.100.1, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
            ("10.0.0.1", &["198.51.100.1", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
            ("10.0.0.1", &["192.0.2.7:4711"], "192.0.2.7"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["192.0.2.7, sentinel, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["192.0.2.7,"], "10.0.0.1"),
            ("fd00::2", &["192.0.2.7"], "fd00::2"),
        ] {
            assert_eq!(client(ProxyHeader::XForwardedFor, peer, lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_network_that_is_written_as_ipv6_maps_it_is_that_of_ipv4() {
        for (mapped, network) in
            [("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("::ffff:10.0.0.7", "10.0.0.7"), ("::ffff:0:0/96", "0.0.0.0/0")]
        {
            assert_eq!(ProxyNetwork::parse(mapped), ProxyNetwork::parse(network), "{mapped}");
        }
        assert!(ProxyNetwork::parse("::ffff:0:0/96").is_some_and(ProxyNetwork::is_everybody));
        assert_eq!(ProxyNetwork::parse("fd00::/8").unwrap().to_string(), "fd00::/8");
    }

    #[test]
    fn forwarded_names_the_client_in_its_for() {
        for (line, expected) in [
            ("for=192.0.2.7", "192.0.2.7"),
            ("for=198.51.100.1, For=\"192.0.2.7:80\";proto=https;by=10.0.0.1", "192.0.2.7"),
            ("proto=https; for=\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("for=192.0.2.7, for=_hidden", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("192.0.2.7", "10.0.0.1"),
            // A client chooses what stands in quotes, for example its Host.
            ("for=192.0.2.7;host=\"a,for=1.2.3.4;x=\"", "192.0.2.7"),
            ("for=192.0.2.7;host=\"a;for=1.2.3.4;x=\"", "192.0.2.7"),
            ("host=\"a;for=1.2.3.4\";for=192.0.2.7", "192.0.2.7"),
            ("for=192.0.2.7;host=\"\\\",for=1.2.3.4;x=\\\"\"", "192.0.2.7"),
            ("for=192.0.2.7;host=\"a\\\\\"", "192.0.2.7"),
            // A quote that it leaves open in its own part changes nothing in the part of the proxy.
            ("for=1.2.3.4;x=\", for=192.0.2.7;host=\";y=\"", "192.0.2.7"),
            ("for=1.2.3.4;x=\", for=192.0.2.7", "192.0.2.7"),
            ("for=192.0.2.7;host=\"a", "10.0.0.1"),
            ("for=1.2.3.4;for=192.0.2.7", "10.0.0.1"),
        ] {
            assert_eq!(client(ProxyHeader::Forwarded, "10.0.0.1", &[line]), expected, "{line}");
        }
    }
}
