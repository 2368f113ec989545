//! What became of telling the webhooks of jobs and batches.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::error::ClientError;

/// A delivery to a webhook.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Its identifier, which the receiver gets as `webhook-id`.
    pub id: String,
    /// `pending`, `delivered`, `failed`, `skipped` or `superseded`.
    pub state: String,
    /// Where to, without its query.
    pub url: String,
    /// What the receiver is told, like `job.succeeded` or `batch.completed`.
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
        self.deliveries_of(["v1", "jobs", id, "deliveries"]).await
    }

    /// What became of telling a batch's webhook.
    ///
    /// # Errors
    /// Those of [`Self::batch`].
    pub async fn batch_deliveries(&self, id: &str) -> Result<Vec<Delivery>, ClientError> {
        self.deliveries_of(["v1", "batches", id, "deliveries"]).await
    }

    /// Has a delivery about a job made once more, or sooner than it would be.
    ///
    /// # Errors
    /// Those of [`Self::job`].
    pub async fn retry_delivery(&self, id: &str, delivery: &str) -> Result<(), ClientError> {
        self.retry_of(["v1", "jobs", id, "deliveries", delivery, "retry"]).await
    }

    /// The same for a delivery about a batch.
    ///
    /// # Errors
    /// Those of [`Self::batch`].
    pub async fn retry_batch_delivery(&self, id: &str, delivery: &str) -> Result<(), ClientError> {
        self.retry_of(["v1", "batches", id, "deliveries", delivery, "retry"]).await
    }

    async fn deliveries_of(&self, path: [&str; 4]) -> Result<Vec<Delivery>, ClientError> {
        let request = self.request(Method::GET, &path);
        let list: Deliveries = self.fetch("Failed to list the deliveries", request).await?;
        Ok(list.deliveries)
    }

    async fn retry_of(&self, path: [&str; 6]) -> Result<(), ClientError> {
        let request = self.request(Method::POST, &path);
        self.send_ok("Failed to have it delivered again", request).await.map(drop)
    }
}
