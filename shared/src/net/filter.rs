//! Which hosts a program may name: patterns on the host as it is normalised by [`Host`], an allow list
//! and a deny list that wins over it.

use std::net::IpAddr;

use regex::bytes::{RegexBuilder, RegexSet, RegexSetBuilder};

use super::host::Host;
use crate::config::NetworkFilter;
use crate::error::Error;

/// Patterns of one list, and bytes of one pattern.
const MAX_PATTERNS: usize = 256;
const MAX_PATTERN_BYTES: usize = 1024;
/// Memory that one list may take when compiled.
const MAX_COMPILED_BYTES: usize = 4 << 20;

/// Patterns of hosts, in the dialect of Rust's `regex` crate: in either case, anywhere in the host
/// unless anchored.
#[derive(Clone, Debug)]
pub struct HostPatterns(RegexSet);

impl HostPatterns {
    /// Compiles the patterns of the list called `field`.
    ///
    /// # Errors
    /// An invalid-request error that names the pattern and what is wrong with it.
    pub fn compile(field: &str, patterns: &[String]) -> Result<Self, Error> {
        if patterns.len() > MAX_PATTERNS {
            let count = patterns.len();
            return Err(Error::invalid(format!(
                "{field} has {count} patterns; the most is {MAX_PATTERNS}"
            )));
        }
        for pattern in patterns {
            check_length(field, pattern)?;
        }
        let mut builder = RegexSetBuilder::new(patterns);
        // Hosts are ASCII: tables of all letters of the world would only take time and room.
        builder.case_insensitive(true).unicode(false);
        let set = builder.size_limit(MAX_COMPILED_BYTES).dfa_size_limit(MAX_COMPILED_BYTES);
        // All at once: each by itself would cost as much again, and a request has many.
        set.build().map(Self).map_err(|_| fault(field, patterns))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them fits `host`. IPv6 addresses may be written with or without brackets, and
    /// one that only wraps an IPv4 address is that address.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => self.0.is_match(name.as_bytes()),
            Host::Address(address) => match address.to_canonical() {
                IpAddr::V4(address) => self.0.is_match(address.to_string().as_bytes()),
                IpAddr::V6(address) => {
                    let (plain, bracketed) = (address.to_string(), format!("[{address}]"));
                    self.0.is_match(plain.as_bytes()) || self.0.is_match(bracketed.as_bytes())
                }
            },
        }
    }
}

fn check_length(field: &str, pattern: &str) -> Result<(), Error> {
    if pattern.is_empty() {
        return Err(Error::invalid(format!("{field} has an empty pattern, which fits every host")));
    }
    if !pattern.is_ascii() {
        return Err(Error::invalid(format!(
            "{field}: \"{}\" has letters beyond ASCII, which no host has on the wire: write its xn-- form",
            shown(pattern)
        )));
    }
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(Error::invalid(format!(
            "{field}: \"{}\u{2026}\" has {} bytes; the most is {MAX_PATTERN_BYTES}",
            shown(pattern),
            pattern.len()
        )));
    }
    Ok(())
}

fn shown(pattern: &str) -> String {
    pattern.chars().take(100).collect()
}

/// What is wrong with patterns that cannot be compiled together. Each is looked at with its share of the
/// room, so that looking costs no more than compiling all of them did.
fn fault(field: &str, patterns: &[String]) -> Error {
    let room = MAX_COMPILED_BYTES / patterns.len().max(1);
    let alone = patterns.iter().find_map(|pattern| {
        let mut builder = RegexBuilder::new(pattern);
        let builder = builder.case_insensitive(true).unicode(false).size_limit(room);
        let error = builder.build().err()?;
        let is_too_large = matches!(error, regex::Error::CompiledTooBig(_));
        if is_too_large && patterns.len() > 1 {
            return None;
        }
        let reason = error.to_string();
        // The last line says what is wrong; those before draw a picture of where.
        let reason = reason.lines().last().unwrap_or_default();
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        let shown = shown(pattern);
        Some(Error::invalid(format!("{field}: \"{shown}\" is not a valid pattern: {reason}")))
    });
    alone.unwrap_or_else(|| {
        Error::invalid(format!("{field} is too large together; use fewer or plainer patterns"))
    })
}

/// An allow list and a deny list.
#[derive(Clone, Debug)]
pub struct HostFilter {
    allowed: HostPatterns,
    denied: HostPatterns,
}

impl HostFilter {
    /// Compiles a filter; `field` is where it is written.
    ///
    /// # Errors
    /// As [`HostPatterns::compile`].
    pub fn compile(field: &str, filter: &NetworkFilter) -> Result<Self, Error> {
        Ok(Self {
            allowed: HostPatterns::compile(&format!("{field}.whitelist"), &filter.whitelist)?,
            denied: HostPatterns::compile(&format!("{field}.blacklist"), &filter.blacklist)?,
        })
    }

    /// Whether `host` may be named.
    #[must_use]
    pub fn allows(&self, host: &Host) -> bool {
        !self.denied.matches(host) && (self.allowed.is_empty() || self.allowed.matches(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(allow: &[&str], deny: &[&str]) -> HostFilter {
        let list = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect();
        let filter = NetworkFilter { whitelist: list(allow), blacklist: list(deny) };
        HostFilter::compile("networkFilter", &filter).unwrap()
    }

    #[test]
    fn deny_beats_allow_and_an_empty_allow_list_allows_all() {
        for (allow, deny, host, is_allowed) in [
            (&[][..], &[][..], "example.com", true),
            (&["^example\\.com$"], &[], "example.com", true),
            (&["^example\\.com$"], &[], "EXAMPLE.com.", true),
            (&["^EXAMPLE\\.com$"], &[], "example.com", true),
            (&["^example\\.com$"], &[], "example.com.evil.test", false),
            (&["^example\\.com$"], &[], "notexample.com", false),
            (&["example"], &[], "my-example.test", true),
            (&["example"], &["^my-"], "my-example.test", false),
            (&[], &["evil"], "evil.test", false),
            (&[], &["evil"], "good.test", true),
            (&[], &["^10\\."], "[::ffff:10.0.0.1]", false),
            (&[], &["^203\\.0\\.113\\.7$"], "::ffff:203.0.113.7", false),
            (&[], &["^::1$"], "[::1]", false),
            (&[], &["^\\[::1\\]$"], "[0:0::1]", false),
            (&["^[a-z0-9-]+\\.example$"], &[], "xn--bcher-kva.example", true),
        ] {
            let host: Host = host.parse().unwrap();
            assert_eq!(filter(allow, deny).allows(&host), is_allowed, "{allow:?} {deny:?} {host}");
        }
    }

    #[test]
    fn a_bad_pattern_is_named_with_what_is_wrong() {
        let long = "a".repeat(2000);
        for (pattern, expected) in [
            ("(", "unclosed group"),
            ("a(?=b)", "look-around"),
            ("[z-a]", "invalid"),
            ("", "empty pattern"),
            ("b\u{fc}cher", "xn-- form"),
            ("(a{1000}){1000}", "size limit"),
            (&long, "the most is 1024"),
        ] {
            let error = HostPatterns::compile("network.blacklist", &[pattern.into()]).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("network.blacklist") && text.contains(expected), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        let many = vec!["a".to_owned(); 1000];
        assert!(HostPatterns::compile("x", &many).unwrap_err().to_string().contains("1000"));
    }
}
