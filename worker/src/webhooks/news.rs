//! What there is to tell a webhook: the end that a job or a batch has by now.

use shared::id::TenantId;
use shared::redis::{BatchRecord, JobRecord, JobState, Queue};
use shared::webhook::{Subject, WebhookEvent};
use shared::{ErrorCode, Result};

use super::message;

/// The end of something.
pub(super) enum News {
    Job(JobRecord),
    Batch(BatchRecord),
}

impl News {
    /// What became of it; `None` if it is not there any more, or has no end.
    ///
    /// # Errors
    /// `QUEUE_UNAVAILABLE`, `INTERNAL` if its record cannot be read.
    pub(super) async fn read(
        queue: &Queue,
        tenant: &TenantId,
        subject: Subject,
    ) -> Result<Option<Self>> {
        match subject {
            Subject::Job(id) => {
                let record = queue.job(tenant, id).await?;
                let ended = record.filter(|it| matches!(it.state, JobState::Finished(_)));
                Ok(ended.map(Self::Job))
            }
            Subject::Batch(id) => match queue.batch(tenant, id).await {
                Ok(record) => Ok(Some(record).filter(|it| it.state == "finished").map(Self::Batch)),
                Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    /// How it ended.
    pub(super) fn event(&self) -> WebhookEvent {
        match self {
            Self::Job(record) => WebhookEvent::of_job(record),
            Self::Batch(record) => WebhookEvent::of_batch(record),
        }
    }

    /// The body of a delivery about it, of at most `max_bytes` or little more.
    ///
    /// # Errors
    /// `QUEUE_UNAVAILABLE`, `INTERNAL` if it cannot be written.
    pub(super) async fn into_body(self, queue: &Queue, max_bytes: usize) -> Result<String> {
        match self {
            Self::Job(record) => {
                let attempts = match record.has_attempts {
                    true => queue.attempts(&record.tenant, record.id).await?,
                    false => Vec::new(),
                };
                message::of_job(record, attempts, max_bytes)
            }
            Self::Batch(record) => message::of_batch(record),
        }
    }
}
