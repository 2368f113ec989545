//! What became of telling the webhooks of jobs and batches.

use shared::id::TenantId;
use shared::redis::Delivery;
use shared::webhook::Subject;
use shared::{Error, ErrorCode};

use crate::state::State;

/// The deliveries to the webhook of a job or a batch.
///
/// # Errors
/// `NOT_FOUND`, `QUEUE_UNAVAILABLE`.
pub(crate) async fn list(
    state: &State,
    tenant: &TenantId,
    subject: Subject,
) -> Result<Vec<Delivery>, Error> {
    let found = state.queue.deliveries(tenant, subject).await?;
    found.ok_or_else(|| {
        let words = format!("{subject} not found: there was none, or it is not kept any more");
        Error::new(ErrorCode::NotFound, words)
    })
}

/// Has a delivery made once more, or sooner than it would be.
///
/// # Errors
/// `NOT_FOUND`, `INVALID_REQUEST` if a job has another end by now, `QUEUE_UNAVAILABLE`.
pub(crate) async fn retry(
    state: &State,
    tenant: &TenantId,
    subject: Subject,
    delivery: &str,
) -> Result<(), Error> {
    let number = subject.message_number(delivery).ok_or_else(|| {
        Error::new(ErrorCode::NotFound, format!("{subject} has no such delivery"))
    })?;
    state.queue.retry_webhook(tenant, subject, number).await
}
