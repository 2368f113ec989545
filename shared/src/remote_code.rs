//! Which addresses code may be fetched from. A gateway asks before it queues
//! a job; the worker asks again at each hop on the way to the text.

use url::Url;

use crate::config::RemoteCode;
use crate::error::{Error, ErrorCode};
use crate::net::{AddressRules, Host, HostPatterns, Reason};

/// Longest address that is taken.
const MAX_URL_BYTES: usize = 8192;

/// The rules of a configuration, ready to be asked.
#[derive(Clone, Debug)]
pub struct RemoteCodeRules {
    /// As configured.
    pub settings: RemoteCode,
    allowed_hosts: HostPatterns,
    blocked_hosts: HostPatterns,
}

/// Code to be fetched, as far as it can be checked without a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteAddress {
    /// Where.
    pub url: Url,
    /// SHA-256 it must have, in lower-case hex.
    pub hash: Option<String>,
}

impl RemoteCodeRules {
    /// The rules of `settings`.
    ///
    /// # Errors
    /// An invalid-request error if a host pattern is none.
    pub fn new(settings: &RemoteCode) -> Result<Self, Error> {
        let compile = |key: &str, patterns: &[String]| {
            HostPatterns::compile(&format!("remoteCode.{key}"), patterns)
        };
        Ok(Self {
            settings: settings.clone(),
            allowed_hosts: compile("allowedHosts", &settings.allowed_hosts)?,
            blocked_hosts: compile("blockedHosts", &settings.blocked_hosts)?,
        })
    }

    /// Checks what a request says, without asking anybody.
    ///
    /// # Errors
    /// A policy violation, or an invalid-request error for what is no address or no hash.
    pub fn check_request(
        &self,
        address: &str,
        hash: Option<&str>,
        allows_insecure: bool,
        addresses: &AddressRules,
    ) -> Result<RemoteAddress, Error> {
        if !self.settings.enabled {
            return Err(violation(
                "Remote code fetching is disabled on this server (remoteCode.enabled)",
            ));
        }
        if address.len() > MAX_URL_BYTES {
            let message = format!("codeUrl is longer than {MAX_URL_BYTES} bytes");
            return Err(Error::invalid(message));
        }
        let url = Url::parse(address.trim()).map_err(|error| {
            let message = "codeUrl is no address; expected one like https://code.example/main.py";
            Error::invalid(message).with_source(error)
        })?;
        if leads_elsewhere(address) {
            return Err(Error::invalid(format!(
                "codeUrl has . or .. in its path, and leads to {url}: write that if it is meant"
            )));
        }
        self.check(&url, allows_insecure, addresses)?;
        let hash = hash.map(str::trim).filter(|hash| !hash.is_empty());
        if self.settings.require_hash && hash.is_none() {
            return Err(violation(
                "Hash verification required: give the SHA-256 of the code as codeHash \
                 (remoteCode.requireHash)",
            ));
        }
        let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        if !hash.is_none_or(is_hash) {
            return Err(Error::invalid("codeHash is not a SHA-256: give 64 hexadecimal digits"));
        }
        Ok(RemoteAddress { url, hash: hash.map(str::to_ascii_lowercase) })
    }

    /// Checks one address on the way to the code: the one asked for, or one it leads to. A name may
    /// still turn out to lead to an address that is refused.
    ///
    /// # Errors
    /// A policy violation in the contract's words, or an invalid-request error.
    pub fn check(
        &self,
        url: &Url,
        allows_insecure: bool,
        addresses: &AddressRules,
    ) -> Result<(), Error> {
        let scheme = url.scheme();
        if scheme == "http" && !allows_insecure {
            return Err(violation("Insecure code URL blocked: http:// needs allowInsecureCodeUrl"));
        }
        let is_allowed =
            |allowed: &String| allowed.eq_ignore_ascii_case(scheme) && scheme.starts_with("http");
        if !self.settings.allowed_schemes.iter().any(is_allowed) {
            return Err(violation(format!("URL scheme not allowed: {scheme}")));
        }
        if !url.username().is_empty() || url.password().is_some() || url.port() == Some(0) {
            return Err(Error::invalid("A code URL must have no user, no password and no port 0"));
        }
        let host: Host =
            url.host_str().unwrap_or_default().parse().map_err(|error| {
                Error::invalid(format!("The code URL has no usable host: {error}"))
            })?;
        let is_asked_for = self.allowed_hosts.is_empty() || self.allowed_hosts.matches(&host);
        if !is_asked_for || self.blocked_hosts.matches(&host) {
            return Err(violation(format!("Blocked code URL host: {host}")));
        }
        let Host::Address(address) = host else { return Ok(()) };
        match addresses.refuses(address) {
            Some(reason) => Err(blocked(&host, reason)),
            None => Ok(()),
        }
    }
}

/// Whether the path of an address, as it is written, has parts that stand for another one: what was put together
/// from parts of somebody else's would be fetched from a place that nobody named.
fn leads_elsewhere(address: &str) -> bool {
    // What the parser of addresses passes over, it passes over inside a part too.
    let address: String = address.chars().filter(|it| !matches!(it, '\t' | '\r' | '\n')).collect();
    let path = address.split(['?', '#']).next().unwrap_or_default();
    let is_dots =
        |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    path.trim().split(['/', '\\']).any(is_dots)
}

/// The refusal of a host on account of where it leads.
#[must_use]
pub fn blocked(host: &Host, reason: Reason) -> Error {
    violation(format!(
        "Blocked code URL host: {host} (it leads to {} {reason} address)",
        reason.article()
    ))
}

fn violation(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::PolicyViolation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(settings: RemoteCode) -> RemoteCodeRules {
        RemoteCodeRules::new(&RemoteCode { enabled: true, ..settings }).unwrap()
    }

    fn check(rules: &RemoteCodeRules, url: &str, insecure: bool) -> Result<RemoteAddress, Error> {
        rules.check_request(url, None, insecure, &AddressRules::default())
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said_in_the_contracts_words() {
        let closed = RemoteCodeRules::new(&RemoteCode::default()).unwrap();
        let plain = rules(RemoteCode::default());
        let hosts = |allowed: &[&str], blocked: &[&str]| {
            let list = |it: &[&str]| it.iter().map(ToString::to_string).collect();
            rules(RemoteCode {
                allowed_hosts: list(allowed),
                blocked_hosts: list(blocked),
                ..RemoteCode::default()
            })
        };
        let strict = rules(RemoteCode { require_hash: true, ..RemoteCode::default() });
        for (rules, url, insecure, words) in [
            (&closed, "nonsense", false, "Remote code fetching is disabled"),
            (&plain, "nonsense", false, "codeUrl is no address"),
            (
                &plain,
                "https://raw.githubusercontent.com/../../x/y",
                false,
                "leads to https://raw.githubusercontent.com/x/y",
            ),
            (&plain, "https://example.com/a/%2E./b.py ", false, "has . or .. in its path"),
            (&plain, "https://example.com/a/.\t./b.py", false, "has . or .. in its path"),
            (&plain, "https://example.com/a\\..\\b.py", false, "has . or .. in its path"),
            (&plain, "http://example.com/a.py", false, "Insecure code URL blocked"),
            (&plain, "http://example.com/a.py", true, "URL scheme not allowed: http"),
            (&plain, "ftp://example.com/a.py", true, "URL scheme not allowed: ftp"),
            (&plain, "file:///etc/passwd", true, "URL scheme not allowed: file"),
            (&plain, "https://u:p@example.com/a.py", false, "no user, no password"),
            (&plain, "https://example.com:0/a.py", false, "no port 0"),
            (&plain, "https://LOCALHOST./a.py", false, "Blocked code URL host: localhost"),
            (&plain, "https://metadata.google.internal/", false, "Blocked code URL host: metadata"),
            (&plain, "https://[::1]/a.py", false, "Blocked code URL host: ::1"),
            (&plain, "https://2130706433/a.py", false, "Blocked code URL host: 127.0.0.1"),
            (&plain, "https://0x7f.1/a.py", false, "Blocked code URL host: 127.0.0.1"),
            (
                &plain,
                "https://[::ffff:10.0.0.1]/a.py",
                false,
                "Blocked code URL host: ::ffff:10.0.0.1",
            ),
            (&plain, "https://100.64.0.1/a.py", false, "it leads to a carrier-grade NAT address"),
            (&hosts(&["^good\\.example$"], &[]), "https://bad.example/", false, "Blocked code URL"),
            (&hosts(&["example"], &["^bad\\."]), "https://bad.example/", false, "Blocked code URL"),
            (&strict, "https://example.com/a.py", false, "Hash verification required"),
        ] {
            let message = check(rules, url, insecure).unwrap_err().to_string();
            assert!(message.contains(words), "{url}: {message}");
        }
        assert!(check(&hosts(&["^good\\."], &[]), "https://good.example/a", false).is_ok());
        assert!(check(&plain, "https://example.com/.a/b..py?../#/../", false).is_ok());
    }

    #[test]
    fn a_hash_is_checked_for_its_form_and_kept_in_lower_case() {
        let rules = rules(RemoteCode { require_hash: true, ..RemoteCode::default() });
        let check = |hash: &str| {
            let (url, addresses) = ("https://example.com/a.py#top", AddressRules::default());
            rules.check_request(url, Some(hash), false, &addresses)
        };
        let hash = "AB".repeat(32);
        assert_eq!(check(&hash).unwrap().hash, Some("ab".repeat(32)));
        for hash in ["abc", &"g".repeat(64), &"é".repeat(32)] {
            assert!(check(hash).unwrap_err().message().contains("64 hexadecimal digits"), "{hash}");
        }
        assert!(check(" ").unwrap_err().message().contains("Hash verification required"));
    }

    #[test]
    fn patterns_that_are_none_are_refused_with_their_key() {
        let settings = RemoteCode { blocked_hosts: vec!["(".into()], ..RemoteCode::default() };
        let message = RemoteCodeRules::new(&settings).unwrap_err().to_string();
        assert!(
            message.starts_with("remoteCode.blockedHosts: \"(\" is not a valid pattern"),
            "{message}"
        );
    }
}
