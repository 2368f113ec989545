//! The fleet in numbers.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::error::ClientError;

/// The numbers of one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// Of the whole fleet; for the master key alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetStats>,
    /// Of the tenants with most open jobs; for other keys, of their own.
    #[serde(default)]
    pub tenants: Vec<TenantStats>,
}

/// The numbers of a fleet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetStats {
    /// Jobs that wait for a worker.
    pub waiting: u64,
    /// Jobs that workers hold.
    pub running: u64,
    /// Jobs that are not to begin yet.
    pub delayed: u64,
    /// Jobs that wait for other jobs of their tenants.
    pub backlogged: u64,
    /// How long the oldest waits for a worker, in milliseconds.
    pub oldest_wait_ms: Option<u64>,
    /// Sessions.
    pub sessions: u64,
    /// Tenants that have jobs.
    pub tenants: u64,
    /// All else that the server sent.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The numbers of a tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantStats {
    /// Which.
    pub tenant_id: String,
    /// Jobs that stand in line or run, as far as they are counted.
    pub active: u64,
    /// Jobs that wait for these.
    pub backlogged: u64,
    /// Listed jobs that have not ended.
    pub open: u64,
    /// Bytes of their payloads.
    pub open_bytes: u64,
    /// Jobs that were given up.
    pub dead_letters: u64,
    /// All else that the server sent.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Client {
    /// The fleet in numbers, or, without the master key, one tenant.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`], [`ClientError::Response`].
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        let request = self.request(Method::GET, &["v1", "stats"]);
        self.fetch("Failed to read the fleet's numbers", request).await
    }
}
