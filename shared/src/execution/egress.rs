//! What a job may reach over the filtered network: decided at admission, kept to by its worker.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::result::with_milliseconds;
use crate::config::NetworkFilter;
use crate::net::{AddressRange, Host, HostError};

/// The way out of a job's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Egress {
    /// Hosts that the server lets requests name.
    pub server: NetworkFilter,
    /// Hosts that the request itself wants to be able to name; both must agree.
    pub filter: NetworkFilter,
    /// Addresses that may be dialled though they are not public.
    pub private_addresses: Vec<AddressRange>,
    /// How much of it.
    pub limits: EgressLimits,
    /// Which parts of the job have it.
    pub phases: EgressPhases,
    /// Whether its use is told in the result.
    pub log: bool,
    /// Secrets that the program has placeholders of, by the names of its variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, BoundSecret>,
}

/// A secret that never enters the sandbox: it takes its placeholder's place in the headers of requests
/// to certain hosts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundSecret {
    /// The secret.
    #[serde(deserialize_with = "super::forms::secret_value")]
    pub value: String,
    /// `HOST`, at its usual port, or `HOST:PORT`.
    pub hosts: Vec<String>,
    /// Whether the worker speaks TLS to them, though the program does not.
    #[serde(default = "yes")]
    pub tls: bool,
}

fn yes() -> bool {
    true
}

impl fmt::Debug for BoundSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundSecret").field("hosts", &self.hosts).field("tls", &self.tls).finish()
    }
}

impl BoundSecret {
    /// Where it goes: hosts and ports.
    ///
    /// # Errors
    /// What is wrong with an entry, in words.
    pub fn places(&self) -> Result<Vec<(Host, u16)>, String> {
        let usual_port = if self.tls { 443 } else { 80 };
        let place = |entry: &String| {
            let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let (host, port) = match entry.rsplit_once(':') {
                Some((host, port))
                    if is_port(port) && (!host.contains(':') || host.ends_with(']')) =>
                {
                    let port = port.parse().ok().filter(|port| *port > 0);
                    (host, port.ok_or_else(|| format!("\"{entry}\" has no such port"))?)
                }
                _ => (entry.as_str(), usual_port),
            };
            let without_tls = if entry.starts_with("http://") {
                "; for a host that is spoken to without TLS, set \"tls\": false"
            } else {
                ""
            };
            let host = host.parse().map_err(|error: HostError| format!("{error}{without_tls}"))?;
            Ok((host, port))
        };
        self.hosts.iter().map(place).collect()
    }
}

/// How much a job may make of the filtered network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressLimits {
    /// Connections that are served at once; further ones wait.
    pub max_connections: u32,
    /// Bytes both ways; 0 means any number.
    pub max_bytes: u64,
    /// Bytes both ways per second; 0 means any number.
    pub max_bytes_per_second: u64,
}

/// Which parts of a job have the filtered network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPhases {
    /// The setup script.
    pub setup: bool,
    /// The program.
    pub run: bool,
}

impl Default for EgressPhases {
    fn default() -> Self {
        Self { setup: true, run: true }
    }
}

/// One request of a program to the outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkLogEntry {
    /// When it came.
    #[serde(serialize_with = "with_milliseconds")]
    pub timestamp: DateTime<Utc>,
    /// HTTP method.
    pub method: String,
    /// Host asked for, normalised.
    pub host: String,
    /// Path without query; `None` for `CONNECT`.
    pub path: Option<String>,
    /// What became of it.
    pub action: NetworkAction,
    /// How long it took, to its last byte; 0 if it was blocked.
    pub duration_ms: u64,
}

/// What became of a request to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NetworkAction {
    /// It was let through, whether or not there was an answer.
    Allow,
    /// It was refused.
    Block,
}
