//! Who sends a request, as far as its address tells (pitfalls P32).

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

use crate::config::{ForwardedBy, ProxyConfig};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that a request is counted for: the peer's, or, if the peer is a trusted proxy, that of the last hop which is
/// not one. What stands to the left of that hop is the client's own claim and is never looked at. A hop that can't be read
/// ends the search at the proxy that sent it.
pub(super) fn client_of(peer: SocketAddr, headers: &HeaderMap, proxies: &ProxyConfig) -> IpAddr {
    let mut client = peer.ip().to_canonical();
    let (name, parse): (_, fn(&str) -> Option<IpAddr>) = match proxies.forwarded {
        // A connection through the PROXY protocol has its client's address already.
        ForwardedBy::None | ForwardedBy::ProxyProtocol => return client,
        ForwardedBy::XForwardedFor => (X_FORWARDED_FOR, address),
        ForwardedBy::Forwarded => (header::FORWARDED, forwarded_for),
    };
    // Fields of one name are one list, in their order.
    let fields = headers.get_all(name).iter().collect::<Vec<_>>();
    let hops = fields.iter().rev().flat_map(|field| field.to_str().unwrap_or_default().rsplit(','));
    for hop in hops {
        if !proxies.is_trusted(client) {
            break;
        }
        let Some(hop) = parse(hop.trim()) else { break };
        client = hop;
    }
    client
}

/// An address, with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = plain.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    parsed.map(|address: IpAddr| address.to_canonical())
}

/// The address in the `for` of one hop of a `Forwarded` field (RFC 7239): `for=192.0.2.60;proto=http`,
/// `For="[2001:db8::17]:4711"`.
fn forwarded_for(hop: &str) -> Option<IpAddr> {
    let value = hop.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    })?;
    address(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
}

impl ProxyConfig {
    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network: &IpNet| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use holdfast_common::http::network_of;

    use super::*;

    fn client(peer: &str, forwarded: ForwardedBy, fields: &[(HeaderName, &'static str)]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network")).into();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        let peer = peer.parse().expect("an address");
        client_of(peer, &headers, &ProxyConfig { trusted, forwarded }).to_string()
    }

    /// The last hop that is not a trusted proxy counts, and a peer that is none can claim nothing (pitfalls P32).
    #[test]
    fn a_forged_hop_gains_nothing() {
        let x = |peer, fields: &[&'static str]| {
            let fields: Vec<_> = fields.iter().map(|value| (X_FORWARDED_FOR, *value)).collect();
            client(peer, ForwardedBy::XForwardedFor, &fields)
        };
        assert_eq!(x("192.0.2.1:9", &["198.51.100.7"]), "192.0.2.1", "the peer is no proxy");
        assert_eq!(x("10.0.0.1:9", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(x("10.0.0.1:9", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7", "the left one is forged");
        assert_eq!(
            x("10.0.0.1:9", &["203.0.113.9", "198.51.100.7"]),
            "198.51.100.7",
            "in a field of its own too"
        );
        assert_eq!(x("10.0.0.1:9", &["203.0.113.9, 198.51.100.7, 10.2.2.2"]), "198.51.100.7", "two proxies");
        assert_eq!(x("10.0.0.1:9", &["198.51.100.7, unknown"]), "10.0.0.1", "not readable");
        assert_eq!(x("10.0.0.1:9", &["198.51.100.7:4711"]), "198.51.100.7", "with a port");
        assert_eq!(x("10.0.0.1:9", &[]), "10.0.0.1");
        assert_eq!(x("10.0.0.1:9", &["10.3.3.3"]), "10.3.3.3", "only proxies");
        assert_eq!(x("[::ffff:10.0.0.1]:9", &["198.51.100.7"]), "198.51.100.7", "IPv4 in IPv6");
    }

    /// `Forwarded` is read as RFC 7239 writes it; what is not switched on is not read.
    #[test]
    fn each_field_counts_only_where_it_is_switched_on() {
        let hop = r#"for=203.0.113.9, proto=https;For="[2001:db8::17]:4711";by=10.0.0.1"#;
        let fields = [(header::FORWARDED, hop), (X_FORWARDED_FOR, "198.51.100.7")];
        assert_eq!(client("[fd00::1]:9", ForwardedBy::Forwarded, &fields), "2001:db8::17");
        assert_eq!(client("[fd00::1]:9", ForwardedBy::XForwardedFor, &fields), "198.51.100.7");
        assert_eq!(client("[fd00::1]:9", ForwardedBy::None, &fields), "fd00::1");
        let hidden = [(header::FORWARDED, "for=_hidden")];
        assert_eq!(client("[fd00::1]:9", ForwardedBy::Forwarded, &hidden), "fd00::1");
    }

    /// A subscriber's whole /64 is one client.
    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let network = |text: &str| network_of(text.parse().expect("an address")).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("192.0.2.1"), "192.0.2.1");
    }
}
