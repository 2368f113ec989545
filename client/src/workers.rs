//! The workers of a fleet: what a master key may see and do.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::error::ClientError;

/// A worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// This life of it.
    pub id: String,
    /// Its name on its machine.
    pub name: String,
    /// `active`, `draining` or `drained`.
    pub state: String,
    /// Its version.
    pub version: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// Programs that it can run at once.
    pub slots: u64,
    /// Programs that it runs.
    pub running: u64,
    /// Sessions that it owns.
    pub sessions: u64,
    /// Containers that it has.
    #[serde(default)]
    pub sandboxes: u64,
    /// Programs that it was done with since it began.
    #[serde(default)]
    pub ended: u64,
    /// Those of them that could not be run.
    #[serde(default)]
    pub failed: u64,
    /// What it says of itself.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it takes only jobs that require labels.
    #[serde(default)]
    pub only_labelled: bool,
    /// Names of the keys that it decrypts secrets with; the first encrypts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets_keys: Vec<String>,
    /// All else that the server sent.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Deserialize)]
struct Workers {
    workers: Vec<Worker>,
}

impl Client {
    /// The workers that live, the oldest first.
    ///
    /// # Errors
    /// [`ClientError::Refused`] (403 without the master key), [`ClientError::Unreachable`],
    /// [`ClientError::Response`].
    pub async fn list_workers(&self) -> Result<Vec<Worker>, ClientError> {
        let request = self.request(Method::GET, &["v1", "workers"]);
        let found: Workers = self.fetch("Failed to list workers", request).await?;
        Ok(found.workers)
    }

    /// Has a worker take no more jobs; what it runs goes on.
    ///
    /// # Errors
    /// Those of [`Self::list_workers`], and 404 for an unknown one.
    pub async fn drain_worker(&self, id: &str) -> Result<(), ClientError> {
        let request = self.request(Method::POST, &["v1", "workers", id, "drain"]);
        self.send_ok("Failed to drain the worker", request).await.map(drop)
    }

    /// Has a worker that was drained take jobs again, as the master.
    ///
    /// # Errors
    /// If there is no such worker, and what every call may bring.
    pub async fn undrain_worker(&self, id: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["v1", "workers", id, "drain"]);
        self.send_ok("Failed to take the drain back", request).await.map(drop)
    }
}
