//! The network of a request: its mode, in each part of the job, and what may be reached over it.

use std::collections::BTreeMap;

use super::Asked;
use super::rules::Rules;
use crate::config::NetworkFilter;
use crate::error::Error;
use crate::execution::call::NetworkChange;
use crate::execution::egress::{BoundSecret, Egress, EgressLimits, EgressPhases};
use crate::execution::request::{FilterOptions, Network, NetworkChoice};
use crate::net::HostFilter;

impl Asked<'_> {
    /// The mode, and with the filtered one what may be reached. `server` is what the server lets any
    /// request name.
    pub(super) fn network(
        &self,
        server: &NetworkFilter,
        secrets: BTreeMap<String, BoundSecret>,
    ) -> Result<(Network, Option<Box<Egress>>), Error> {
        let choice = self.options.network.unwrap_or_else(|| self.defaults.network.into());
        let (setup, run) = match choice {
            NetworkChoice::Always(network) => (network, network),
            NetworkChoice::Phases { setup, run } => (setup, run),
        };
        for network in [setup, run] {
            if !self.rules.policy.networks.contains(&network) {
                let what = format!("network \"{}\"", network.name());
                return Err(self.rules.forbids(&what, "networks"));
            }
        }
        // Rules that mean nothing without the filtered network are to be rules all the same.
        let asked = filter(self.options.network_filter.clone().unwrap_or_default())?;
        check_secrets(&secrets, [setup, run].contains(&Network::Filtered))?;
        if setup == run && run != Network::Filtered {
            return Ok((run, None));
        }
        if [setup, run].contains(&Network::Host) {
            return Err(Error::invalid(
                "network: a sandbox on the host's network cannot leave it; setup and run may be \
                 none or filtered, or both host",
            ));
        }
        let phases =
            EgressPhases { setup: setup == Network::Filtered, run: run == Network::Filtered };
        Ok((Network::Filtered, Some(Box::new(self.egress(server, asked, phases, secrets)))))
    }

    fn egress(
        &self,
        server: &NetworkFilter,
        filter: NetworkFilter,
        phases: EgressPhases,
        secrets: BTreeMap<String, BoundSecret>,
    ) -> Egress {
        let policy = &self.rules.policy;
        Egress {
            server: server.clone(),
            filter,
            private_addresses: policy.allow_private_addresses.clone(),
            limits: EgressLimits {
                max_connections: policy.max_network_connections,
                max_bytes: policy.max_network_bytes,
                max_bytes_per_second: policy.max_network_bytes_per_second,
            },
            phases,
            log: self.options.log_network,
            secrets,
        }
    }
}

/// Refuses a change to a live session that no request could ask for.
pub(super) fn check_change(rules: &Rules, change: &NetworkChange) -> Result<(), Error> {
    if *change == NetworkChange::default() {
        return Err(Error::invalid("Give at least one of mode, whitelist and blacklist"));
    }
    match change.mode {
        Some(Network::Host) => {
            return Err(Error::invalid("mode is filtered or none; a live session cannot be moved"));
        }
        // Sealing only takes away.
        Some(Network::None) | None => {}
        Some(mode @ Network::Filtered) if !rules.policy.networks.contains(&mode) => {
            return Err(rules.forbids(&format!("network \"{}\"", mode.name()), "networks"));
        }
        Some(Network::Filtered) => {}
    }
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let filter =
        NetworkFilter { whitelist: list(&change.whitelist), blacklist: list(&change.blacklist) };
    HostFilter::compile("network", &filter).map(drop)
}

/// Refuses secrets that could never be put into a request.
fn check_secrets(secrets: &BTreeMap<String, BoundSecret>, is_filtered: bool) -> Result<(), Error> {
    for (name, secret) in secrets {
        let wrong = if !is_filtered {
            "is bound to hosts, which takes network \"filtered\"".to_owned()
        } else if secret.value.is_empty() {
            "is empty".to_owned()
        } else if secret.value.bytes().any(|byte| byte.is_ascii_control()) {
            "has control characters, which no header can carry".to_owned()
        } else if secret.hosts.is_empty() {
            "is bound to no host; name some, or give it as a plain text".to_owned()
        } else if let Err(error) = secret.places() {
            error
        } else {
            continue;
        };
        return Err(Error::invalid(format!("secrets: {name} {wrong}")));
    }
    Ok(())
}

/// A request's own filter, if its patterns are any.
fn filter(options: FilterOptions) -> Result<NetworkFilter, Error> {
    let FilterOptions { whitelist, blacklist } = options;
    let filter = NetworkFilter { whitelist, blacklist };
    HostFilter::compile("networkFilter", &filter)?;
    Ok(filter)
}
