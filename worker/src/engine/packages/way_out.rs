//! The way of an installer to its registries, and to nothing else.

use std::collections::BTreeSet;

use shared::config::NetworkFilter;
use shared::execution::{Egress, EgressLimits, EgressPhases};

use super::install::Failure;
use crate::egress::{Gate, Outside};

/// Package managers fetch many files at once.
const MAX_CONNECTIONS: u32 = 64;
/// Bytes both ways; what is unpacked is bounded by its room.
const MAX_BYTES: u64 = 8 << 30;

/// A gate to `hosts`. They are the operator's choice, so their addresses may be private: a mirror is.
pub(super) fn gate(outside: &Outside, hosts: &BTreeSet<String>) -> Result<Gate, Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::Engine(error.to_string());
    let everywhere = ["0.0.0.0/0", "::/0"].into_iter().map(str::parse);
    let egress = Egress {
        filter: NetworkFilter {
            whitelist: hosts.iter().map(|host| pattern(host)).collect(),
            ..NetworkFilter::default()
        },
        private_addresses: everywhere.collect::<Result<_, _>>().map_err(|error| broken(&error))?,
        limits: EgressLimits {
            max_connections: MAX_CONNECTIONS,
            max_bytes: MAX_BYTES,
            max_bytes_per_second: 0,
        },
        phases: EgressPhases { setup: true, run: false },
        ..Egress::default()
    };
    outside.gate(&egress).map_err(|error| broken(&error))
}

/// Matches one host, literally.
fn pattern(host: &str) -> String {
    let mut pattern = String::from("^");
    for character in host.chars() {
        if !character.is_ascii_alphanumeric() {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('$');
    pattern
}

#[cfg(test)]
mod tests {
    use shared::net::HostFilter;

    use super::*;

    #[test]
    fn a_pattern_fits_one_host_alone() {
        let whitelist = vec![pattern("my-mirror.example"), pattern("::1")];
        let filter = NetworkFilter { whitelist, ..NetworkFilter::default() };
        let filter = HostFilter::compile("test", &filter).unwrap();
        for (host, is_allowed) in [
            ("my-mirror.example", true),
            ("my-mirrorXexample", false),
            ("evil.my-mirror.example", false),
            ("my-mirror.example.evil", false),
            ("[::1]", true),
        ] {
            assert_eq!(filter.allows(&host.parse().unwrap()), is_allowed, "{host}");
        }
    }
}
