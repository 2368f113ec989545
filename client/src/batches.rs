//! Batches: many jobs of one shape, uploaded in one go, and their results line by line.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{BoxStream, Stream, StreamExt as _};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::error::ClientError;

/// A batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    /// Its identifier.
    pub id: String,
    /// `uploading`, `running`, `stopping` or `finished`.
    pub state: String,
    /// How it ended: `completed`, `cancelled`, `failure_budget` or `items_lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// When its upload began; not told by the submission itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<DateTime<Utc>>,
    /// Its items, by where they are; not told by the submission itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<BatchProgress>,
    /// All else that the server sent: `waiting`, `failures`, `tags` and more.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The items of a batch, by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BatchProgress {
    /// All of them.
    pub items: u64,
    /// Those that wait.
    pub queued: u64,
    /// Those that run.
    pub running: u64,
    /// Those whose program ended with exit code 0.
    pub succeeded: u64,
    /// Those that ended otherwise, but for cancelled ones.
    pub failed: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// Those of them that never were in the queue, and have no result.
    pub not_begun: u64,
    /// Results there have been.
    pub results: u64,
}

/// Some batches, newest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchPage {
    /// The batches.
    pub batches: Vec<Batch>,
    /// Where the next page begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Which batches to list.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchQuery {
    /// The `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most batches on the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Another tenant, for the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
}

/// The results of a batch, line by line. To go on after a broken connection, read them again from
/// [`next_number`](Self::next_number) on.
pub struct BatchResults {
    pieces: BoxStream<'static, Result<Bytes, ClientError>>,
    buffer: Vec<u8>,
    /// Where in the buffer the next line begins.
    begin: usize,
    next: u64,
    is_last: bool,
    is_over: bool,
}

/// The parts of a line that are looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    number: Option<u64>,
    gap: Option<u64>,
    next: Option<u64>,
    end: bool,
}

impl BatchResults {
    /// The next result as the JSON it was sent as; `None` when the server says no more for now.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] and [`ClientError::StreamEnded`] if the connection breaks,
    /// [`ClientError::Response`].
    pub async fn next(&mut self) -> Option<Result<String, ClientError>> {
        while !self.is_over {
            let rest = &self.buffer[self.begin..];
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                self.buffer.drain(..std::mem::take(&mut self.begin));
                match self.pieces.next().await {
                    Some(Ok(piece)) => self.buffer.extend_from_slice(&piece),
                    Some(Err(error)) => return Some(Err(self.fail(error))),
                    None => {
                        let reason = "the connection was closed".to_owned();
                        return Some(Err(self.fail(ClientError::StreamEnded { reason })));
                    }
                }
                continue;
            };
            let line = rest[..length].to_vec();
            self.begin += length + 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let read: Line = match serde_json::from_slice(&line) {
                Ok(read) => read,
                Err(error) => return Some(Err(self.fail(ClientError::Response(error)))),
            };
            if read.next.is_some() {
                (self.is_over, self.is_last) = (true, read.end);
            } else if let Some(gap) = read.gap {
                self.next += gap;
            } else {
                self.next = read.number.map_or(self.next, |number| number + 1);
                return Some(Ok(String::from_utf8_lossy(&line).into_owned()));
            }
        }
        None
    }

    fn fail(&mut self, error: ClientError) -> ClientError {
        self.is_over = true;
        error
    }

    /// The number of the next result.
    #[must_use]
    pub const fn next_number(&self) -> u64 {
        self.next
    }

    /// Whether the batch has ended, and those were all its results.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.is_last
    }
}

impl Client {
    /// Uploads a batch: lines of JSON, what holds for all items first, then an item each. The same key with the
    /// same content is the same batch.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`] (also if `lines` fail), [`ClientError::Response`].
    pub async fn submit_batch<S>(
        &self,
        lines: S,
        idempotency_key: Option<&str>,
    ) -> Result<Batch, ClientError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let mut request = self.request(Method::POST, &["v1", "batches"]);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let request =
            request.header(CONTENT_TYPE, "application/x-ndjson").body(Body::wrap_stream(lines));
        self.fetch("Failed to submit the batch", request).await
    }

    /// A batch, at its end or after `wait_ms`, whichever comes first.
    ///
    /// # Errors
    /// Those of [`Self::submit_batch`], and 404 for an unknown one.
    pub async fn batch(&self, id: &str, wait_ms: u64) -> Result<Batch, ClientError> {
        let request = self.request(Method::GET, &["v1", "batches", id]);
        self.fetch("Failed to look at the batch", request.query(&[("wait", wait_ms)])).await
    }

    /// A page of batches.
    ///
    /// # Errors
    /// Those of [`Self::submit_batch`].
    pub async fn list_batches(&self, query: &BatchQuery) -> Result<BatchPage, ClientError> {
        let request = self.request(Method::GET, &["v1", "batches"]).query(query);
        self.fetch("Failed to list batches", request).await
    }

    /// Stops a batch; returns once nothing of it runs any more.
    ///
    /// # Errors
    /// Those of [`Self::batch`].
    pub async fn cancel_batch(&self, id: &str) -> Result<Batch, ClientError> {
        let request = self.request(Method::DELETE, &["v1", "batches", id]);
        self.fetch("Failed to cancel the batch", request).await
    }

    /// The results of a batch from number `from` on, and, if it is followed, until its end.
    ///
    /// # Errors
    /// Those of [`Self::batch`].
    pub async fn batch_results(
        &self,
        id: &str,
        from: u64,
        follow: bool,
    ) -> Result<BatchResults, ClientError> {
        let request = self.request(Method::GET, &["v1", "batches", id, "results"]);
        let request = request.query(&[("from", from.to_string()), ("follow", follow.to_string())]);
        let response = self.send_ok("Failed to read the results", request).await?;
        let client = self.clone();
        let pieces = response
            .bytes_stream()
            .map(move |piece| piece.map_err(|error| client.unreachable(error)))
            .boxed();
        let buffer = Vec::new();
        Ok(BatchResults { pieces, buffer, begin: 0, next: from, is_last: false, is_over: false })
    }

    /// Has the server forget the results of a batch before number `before`: they were read.
    ///
    /// # Errors
    /// Those of [`Self::batch`].
    pub async fn acknowledge_results(&self, id: &str, before: u64) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &["v1", "batches", id, "results"]);
        let request = request.query(&[("before", before)]);
        self.send_ok("Failed to acknowledge the results", request).await.map(drop)
    }
}
