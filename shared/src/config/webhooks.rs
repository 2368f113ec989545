//! What is told to whoever asked to hear of a job's end, and how patiently.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::net::AddressRange;

/// Webhooks.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Webhooks {
    /// Whether an address may be plain `http`.
    pub allow_http: bool,
    /// Ranges of addresses that webhooks may reach although they are not public, like `10.1.0.0/16`.
    pub allow_private_addresses: Vec<AddressRange>,
    /// How long a receiver may take to answer, in milliseconds.
    pub timeout_ms: u64,
    /// How often a delivery is tried in all.
    pub max_attempts: u32,
    /// Pause before the second try, in milliseconds; doubled for each further one.
    pub backoff_ms: u64,
    /// Longest pause, in milliseconds.
    pub max_backoff_ms: u64,
    /// Largest body that is sent, in bytes; a longer result is cut.
    pub max_body_bytes: usize,
    /// Deliveries that a worker has under way at once; a quarter of them of one tenant.
    pub max_concurrent: usize,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            allow_http: false,
            allow_private_addresses: Vec::new(),
            timeout_ms: 10_000,
            max_attempts: 12,
            backoff_ms: 5_000,
            max_backoff_ms: 3_600_000,
            max_body_bytes: 256 << 10,
            max_concurrent: 32,
        }
    }
}
