//! A host as callers write it: an address in its one canonical notation, or a name. What a resolver
//! would read as an address in disguise (`127.1`, `0x7f.1`, `2130706433`) is refused.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Limits of the domain name system.
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// A host, normalised: lower case, without brackets and without the dot of the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// A name to resolve.
    Name(String),
}

/// What is wrong with a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// It is a number or an address, but not in the notation everybody reads alike.
    #[error("\"{0}\" is not a canonical address; write it like 192.0.2.1 or [2001:db8::1]")]
    OddAddress(String),
    /// There is more to it than a host: it begins like an address of the web, or goes on like one.
    #[error("\"{0}\" is more than a host: leave out the {1}")]
    MoreThanAHost(String, &'static str),
    /// It is no host name.
    #[error("\"{0}\" is not a host name")]
    NotAName(String),
}

impl Host {
    /// Reads a host, or a host and a port: `mirror.example`, `mirror.example:8080`, `[::1]:8080`.
    ///
    /// # Errors
    /// [`HostError`] if the host is none, or what follows it no port.
    pub fn with_port(text: &str) -> Result<(Self, Option<u16>), HostError> {
        let error = match text.parse() {
            Ok(host) => return Ok((host, None)),
            Err(error) => error,
        };
        let Some((host, digits)) = text.rsplit_once(':') else { return Err(error) };
        let port = digits.parse().ok().filter(|port| *port > 0);
        match port.filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit())) {
            Some(port) => Ok((host.parse()?, Some(port))),
            None => Err(error),
        }
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let odd = || HostError::OddAddress(text.escape_debug().to_string());
        if text.contains('/') {
            return Err(more_than_a_host(text));
        }
        if let Some(inside) = text.strip_prefix('[') {
            let inside = inside.strip_suffix(']').ok_or_else(odd)?;
            let address: Ipv6Addr = inside.parse().map_err(|_| odd())?;
            return Ok(Self::Address(address.into()));
        }
        if text.contains(':') {
            return text.parse::<Ipv6Addr>().map(|it| Self::Address(it.into())).map_err(|_| odd());
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let labels = || name.split('.');
        let is_name = name.len() <= MAX_NAME_BYTES && labels().all(is_label);
        if !is_name {
            return Err(HostError::NotAName(text.escape_debug().to_string()));
        }
        if labels().next_back().is_some_and(is_number) {
            return Err(odd());
        }
        Ok(Self::Name(name))
    }
}

fn more_than_a_host(text: &str) -> HostError {
    let (has_scheme, rest) = match text.split_once("://") {
        Some((_, rest)) => (true, rest),
        None => (false, text),
    };
    let what = match (has_scheme, rest.contains('/')) {
        (true, true) => "scheme and the path",
        (true, false) => "scheme",
        (false, _) => "path",
    };
    HostError::MoreThanAHost(text.escape_debug().to_string(), what)
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// No top-level domain is a number, so a name that ends in one is meant as an address.
fn is_number(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_digit())
        || label
            .strip_prefix("0x")
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_normalised() {
        for (text, normal) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("localhost", "localhost"),
            ("1.example", "1.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8::1]", "2001:db8::1"),
            ("2001:db8:0:0::1", "2001:db8::1"),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), normal, "{text}");
        }
    }

    #[test]
    fn a_port_may_follow() {
        let read = |text: &str| {
            let (host, port) = Host::with_port(text).ok()?;
            Some((host.to_string(), port))
        };
        let found = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(read("A.example"), found("a.example", None));
        assert_eq!(read("a.example:8080"), found("a.example", Some(8080)));
        assert_eq!(read("[::1]:9"), found("::1", Some(9)));
        assert_eq!(read("::1"), found("::1", None));
        for text in ["a:0", "a:65536", "a:+1", "a:", ":1", "a:b", "http://a", "a:1:2"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_in_disguise_are_refused() {
        for text in
            "127.1 0x7f.1 0x7f000001 2130706433 017700000001 0177.0.0.1 127.0.0.01 127.0.0.1. \
            1.2.3 1.2.3.4.5 256.1.1.1 example.0x1 0x example.1 [::1 [127.0.0.1] ::1%lo fe80::1%1 \
            [fe80::1%25eth0] ::ffff:0x7f000001 :::1 [::1]x"
                .split_ascii_whitespace()
        {
            let error = text.parse::<Host>().unwrap_err();
            assert!(matches!(error, HostError::OddAddress(_)), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_of_the_web_is_told_what_it_has_too_much_of() {
        for (text, what) in [
            ("http://a.b/", "the scheme and the path"),
            ("https://[::1]:9/x", "the scheme and the path"),
            ("https://a.b", "the scheme"),
            ("a.b/", "the path"),
            ("a/b", "the path"),
            ("//a.b", "the path"),
        ] {
            let error = text.parse::<Host>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("leave out {what}")), "{error}");
            assert_eq!(Host::with_port(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = ["a"; 130].join(".");
        for text in
            ["", ".", "..", "a..b", "a b", "a@b", "a\r\nb", "a%b", "bücher.example", "*", "a?"]
                .into_iter()
                .chain([long_label.as_str(), &long_name])
        {
            let error = text.parse::<Host>().unwrap_err();
            assert!(matches!(error, HostError::NotAName(_)), "{text}: {error}");
        }
    }
}
