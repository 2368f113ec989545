//! Who is at the other end, as far as that can be told: the address of the connection, or, if that is a
//! proxy's whom the operator trusts, the one that it names.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderName, Request};
use hyper::service::Service;
use shared::net::AddressRange;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Bits of an IPv6 address that one customer of a provider does not choose.
const NETWORK_BITS: u32 = 64;

/// The other end of a connection; in its requests' extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Proxies whose word is taken for whom they speak for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(Vec<AddressRange>);

impl Proxies {
    /// Those in these ranges.
    pub(crate) const fn new(trusted: Vec<AddressRange>) -> Self {
        Self(trusted)
    }

    /// Whether an address is one's.
    pub(crate) fn include(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address.to_canonical()))
    }

    /// On whose behalf a request comes. What it says itself counts only as far as proxies say it who are
    /// trusted: the last address that is none of theirs. Whatever stands before that, anybody may have written.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        let values = headers.get_all(FORWARDED_FOR).iter();
        let named: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        let mut named = named.iter().flat_map(|value| value.split(',')).rev();
        while self.include(client) {
            match named.next().map(|name| name.trim().parse()) {
                Some(Ok(address)) => client = address,
                _ => break,
            }
        }
        client.to_canonical()
    }
}

/// What counts as one address: of IPv6 the network, whose addresses are all its owner's.
pub(crate) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> (128 - NETWORK_BITS) << (128 - NETWORK_BITS);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

/// A service whose requests know their peer.
#[derive(Clone, Debug)]
pub(crate) struct WithPeer<S> {
    /// What answers.
    pub(crate) service: S,
    /// Who asks.
    pub(crate) peer: Peer,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for WithPeer<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.peer);
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_proxy_is_believed_only_if_it_is_trusted() {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let client = |peer: &str, values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
            }
            proxies.client(peer.parse().unwrap(), &headers).to_string()
        };
        for (peer, values, expected) in [
            ("192.0.2.1", &["198.51.100.7"][..], "192.0.2.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1, nobody"], "10.0.0.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
        ] {
            assert_eq!(client(peer, values), expected, "{peer} {values:?}");
        }
        assert_eq!(
            Proxies::default().client("10.0.0.1".parse().unwrap(), &HeaderMap::new()),
            "10.0.0.1".parse::<IpAddr>().unwrap()
        );
    }
}
