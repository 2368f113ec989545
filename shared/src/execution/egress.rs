//! What a job may reach over the filtered network: decided at admission, kept to by its worker.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::result::with_milliseconds;
use crate::config::NetworkFilter;
use crate::net::AddressRange;

/// The way out of a job's sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
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

/// One request of a program to the outside (contract section 3.3).
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
