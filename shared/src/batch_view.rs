//! Batches as clients see them: what `GET /v1/batches/{id}` answers, and what webhooks bring.

use serde::Serialize;

use crate::execution::Priority;
use crate::id::BatchId;
use crate::labels::Labels;
use crate::redis::BatchRecord;
use crate::timestamp::iso8601;

/// Why a batch waits that nobody can run.
const NO_WORKER: &str = "no_worker";

/// A batch as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchView {
    id: BatchId,
    state: String,
    tenant_id: String,
    /// How it ended, or why it is being stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    tags: Vec<String>,
    priority: Priority,
    /// What the workers of its items must have.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_budget: Option<u64>,
    created_at: String,
    /// When it was whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_until: Option<String>,
    progress: ProgressView,
    failures: FailuresView,
    result_bytes: u64,
    /// Why its items wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<WaitingView>,
}

/// Its items, by where they are.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProgressView {
    items: u64,
    queued: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    not_begun: u64,
    results: u64,
}

/// Those that failed, by how.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FailuresView {
    nonzero_exit: u64,
    timed_out: u64,
    out_of_memory: u64,
    errors: u64,
}

#[derive(Serialize)]
struct WaitingView {
    reason: &'static str,
    /// The same in more words, where there is more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl From<BatchRecord> for BatchView {
    fn from(record: BatchRecord) -> Self {
        let progress = record.progress;
        let waiting = match record.state.as_str() {
            "running" if record.waits_for_readers => Some("results_full"),
            "running" if record.slots == 0 && progress.running == 0 => Some(NO_WORKER),
            _ => None,
        };
        let kept = |ended: u64| ended.saturating_add(record.keep_ms.unwrap_or_default());
        Self {
            id: record.id,
            state: record.state,
            tenant_id: record.tenant.to_string(),
            outcome: record.outcome,
            tags: record.terms.tags,
            priority: record.terms.priority,
            labels: record.terms.labels,
            failure_budget: record.failure_budget,
            created_at: iso8601(record.created_ms),
            started_at: record.started_ms.map(iso8601),
            finished_at: record.finished_ms.map(iso8601),
            kept_until: record.finished_ms.map(kept).map(iso8601),
            progress: ProgressView {
                items: progress.items,
                queued: progress.queued,
                running: progress.running,
                succeeded: progress.succeeded,
                failed: progress.failed,
                cancelled: progress.cancelled,
                not_begun: progress.not_begun,
                results: progress.results,
            },
            failures: FailuresView {
                nonzero_exit: progress.nonzero_exit,
                timed_out: progress.timed_out,
                out_of_memory: progress.out_of_memory,
                errors: progress.errors,
            },
            result_bytes: record.result_bytes,
            waiting: waiting.map(|reason| WaitingView { reason, message: None }),
        }
    }
}

impl BatchView {
    /// Whether it waits for a worker.
    #[must_use]
    pub fn has_no_worker(&self) -> bool {
        self.waiting.as_ref().is_some_and(|it| it.reason == NO_WORKER)
    }

    /// The same, if there is a worker for it after all.
    #[must_use]
    pub fn with_worker(self) -> Self {
        Self { waiting: None, ..self }
    }

    /// The same, with why there is no worker for it.
    #[must_use]
    pub fn without_worker(self, why: String) -> Self {
        let waiting = Some(WaitingView { reason: NO_WORKER, message: Some(why) });
        Self { waiting, ..self }
    }
}
