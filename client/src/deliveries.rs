//! What became of telling the webhooks of jobs.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::error::ClientError;

/// A delivery to a job's webhook.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Its identifier, which the receiver gets as `webhook-id`.
    pub id: String,
    /// `pending`, `delivered`, `failed`, `skipped` or `superseded`.
    pub state: String,
    /// Where to, without its query.
    pub url: String,
    /// What the receiver is told, like `job.succeeded`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// When it is tried next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// How often it was tried.
    pub tries: u64,
    /// The last attempts, oldest first.
    pub attempts: Vec<DeliveryAttempt>,
}

/// One attempt at a delivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryAttempt {
    /// When it began.
    pub at: DateTime<Utc>,
    /// How long it took.
    pub took_ms: u64,
    /// The worker that made it.
    pub worker: String,
    /// What the receiver answered, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Deserialize)]
struct Deliveries {
    deliveries: Vec<Delivery>,
}

impl Client {
    /// What became of telling a job's webhook, oldest first.
    ///
    /// # Errors
    /// Those of [`Self::job`].
    pub async fn deliveries(&self, id: &str) -> Result<Vec<Delivery>, ClientError> {
        let request = self.request(Method::GET, &["v1", "jobs", id, "deliveries"]);
        let list: Deliveries = self.fetch("Failed to list the deliveries", request).await?;
        Ok(list.deliveries)
    }

    /// Has a delivery made once more, or sooner than it would be.
    ///
    /// # Errors
    /// Those of [`Self::job`].
    pub async fn retry_delivery(&self, id: &str, delivery: &str) -> Result<(), ClientError> {
        let path = ["v1", "jobs", id, "deliveries", delivery, "retry"];
        let request = self.request(Method::POST, &path);
        self.send_ok("Failed to have it delivered again", request).await.map(drop)
    }
}
