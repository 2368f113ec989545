//! Where a proxy request is to go, read strictly: what two readers could take for two places is refused.

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use shared::net::Host;

use super::refusal::Refusal;

/// Ports that a URI need not name.
const HTTP_PORT: u16 = 80;
const CONNECT_PORT: u16 = 443;

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Target {
    /// Of `CONNECT host:port`.
    pub(super) fn of_connect(uri: &Uri) -> Result<Self, Refusal> {
        let is_bare = uri.scheme().is_none() && uri.path_and_query().is_none();
        let authority = uri.authority().filter(|_| is_bare);
        let authority = authority.ok_or_else(|| bad("CONNECT takes host:port"))?;
        Self::of_authority(authority, CONNECT_PORT)
    }

    /// Of `GET http://host/path`, and the path.
    pub(super) fn of_request(uri: &Uri) -> Result<(Self, PathAndQuery), Refusal> {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(bad("this is a proxy: ask for a whole URI, like http://example.com/"));
        };
        if *scheme != Scheme::HTTP {
            return Err(bad("only http:// can be asked for; for others use CONNECT"));
        }
        // A URI may end behind its host, or go on with a query or a fragment; a request may not.
        let path = match uri.path_and_query() {
            Some(path) if path.as_str().starts_with('/') => path.clone(),
            path => {
                let query = path.and_then(PathAndQuery::query);
                let path = query.map_or_else(|| "/".to_owned(), |query| format!("/?{query}"));
                path.parse().map_err(|_| bad("the path is none"))?
            }
        };
        Ok((Self::of_authority(authority, HTTP_PORT)?, path))
    }

    /// Of `GET /path` inside of a connection to `self`, and the path.
    pub(super) fn of_inner(&self, uri: &Uri) -> Result<(Self, PathAndQuery), Refusal> {
        let path = uri.path_and_query().filter(|_| uri.authority().is_none());
        let path = path.ok_or_else(|| bad("inside of CONNECT ask for a path only"))?;
        Ok((self.clone(), path.clone()))
    }

    fn of_authority(authority: &Authority, default_port: u16) -> Result<Self, Refusal> {
        let text = authority.as_str();
        if text.contains('@') {
            return Err(bad("a user name in the address is not taken; use a header"));
        }
        let host = authority.host();
        let port = match text[host.len()..].strip_prefix(':') {
            None if text.len() == host.len() => default_port,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port > 0).ok_or_else(|| bad("no such port"))?
            }
            _ => return Err(bad("what follows the host is no port")),
        };
        // What contains a colon without brackets has been cut somewhere.
        if host.contains(':') && !host.starts_with('[') {
            return Err(bad("an IPv6 address belongs into brackets"));
        }
        let host = host.parse().map_err(|error: shared::net::HostError| bad(&error.to_string()))?;
        Ok(Self { host, port })
    }

    /// As a `Host` header says it.
    pub(super) fn authority(&self) -> String {
        let host = match &self.host {
            Host::Address(std::net::IpAddr::V6(address)) => format!("[{address}]"),
            host => host.to_string(),
        };
        if self.port == HTTP_PORT { host } else { format!("{host}:{}", self.port) }
    }
}

fn bad(words: &str) -> Refusal {
    Refusal::Bad(words.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_one_way_only() {
        let connect =
            |text: &str| Target::of_connect(&text.parse().unwrap()).map(|it| it.authority());
        assert_eq!(connect("Example.COM:443").unwrap(), "example.com:443");
        assert_eq!(connect("example.com.:80").unwrap(), "example.com");
        assert_eq!(connect("[2001:DB8::1]:8443").unwrap(), "[2001:db8::1]:8443");
        let request = |text: &str| {
            let (target, path) = Target::of_request(&text.parse().unwrap())?;
            Ok::<_, Refusal>((target.authority(), path.as_str().to_owned()))
        };
        let answer = |host: &str, path: &str| (host.to_owned(), path.to_owned());
        assert_eq!(request("http://a.test").unwrap(), answer("a.test", "/"));
        assert_eq!(request("http://a.test#b").unwrap(), answer("a.test", "/"));
        assert_eq!(request("http://a.test:81?b#c").unwrap(), answer("a.test:81", "/?b"));
        assert_eq!(request("http://A.test:81/b?c").unwrap(), answer("a.test:81", "/b?c"));
        assert_eq!(request("HTTP://192.0.2.1/").unwrap(), answer("192.0.2.1", "/"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in
            "user@a.test:443 user:pass@a.test:443 a.test:0 a.test:65536 a.test:+80 127.1:80 \
            2130706433:80 0x7f.0.0.1:80 0177.0.0.1:80 [::1%25lo]:80 a..test:80 -:x"
                .split_ascii_whitespace()
        {
            for uri in [text.to_owned(), format!("http://{text}/")] {
                let Ok(uri) = uri.parse::<Uri>() else { continue };
                let refused = if uri.scheme().is_some() {
                    Target::of_request(&uri).map(|(target, _)| target)
                } else {
                    Target::of_connect(&uri)
                };
                assert!(matches!(refused, Err(Refusal::Bad(_))), "{uri}: {refused:?}");
            }
        }
        for text in ["/path", "https://a.test/", "ftp://a.test/", "*"] {
            let refused = Target::of_request(&text.parse().unwrap());
            assert!(matches!(refused, Err(Refusal::Bad(_))), "{text}");
        }
    }
}
