//! How safe a submission is, and how its caller is told.

use http::{HeaderMap, HeaderName, HeaderValue};
use shared::Error;
use shared::execution::Durability;
use shared::id::{BatchId, JobId, TenantId};

use crate::state::State;

const HEADER: HeaderName = HeaderName::from_static("x-isol8-durability");

/// Whether a job is as safe as its caller asked; nothing if it did not ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Confirmed(Option<(Durability, bool)>);

/// Waits until a job that was queued is as safe as asked, or it is clear that it is not.
///
/// # Errors
/// `QUEUE_UNAVAILABLE` if that cannot be learnt, or the job was lost.
pub(crate) async fn confirm(
    state: &State,
    tenant: &TenantId,
    job: JobId,
    asked: Option<Durability>,
) -> Result<Confirmed, Error> {
    let Some(durability) = asked else { return Ok(Confirmed::default()) };
    let is_met = state.queue.confirm(tenant, job, durability).await?;
    Ok(Confirmed(Some((durability, is_met))))
}

/// The same for a batch.
///
/// # Errors
/// As [`confirm`].
pub(crate) async fn confirm_batch(
    state: &State,
    tenant: &TenantId,
    batch: BatchId,
    asked: Option<Durability>,
) -> Result<Confirmed, Error> {
    let Some(durability) = asked else { return Ok(Confirmed::default()) };
    let is_met = state.queue.confirm_batch(tenant, batch, durability).await?;
    Ok(Confirmed(Some((durability, is_met))))
}

impl Confirmed {
    /// Says so in the head of an answer.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let Some(confirmed) = self.0 else { return };
        let text = match confirmed {
            (Durability::Fast, _) => "fast; met",
            (Durability::Replicated, true) => "replicated; met",
            (Durability::Replicated, false) => "replicated; missed",
            (Durability::Synced, true) => "synced; met",
            (Durability::Synced, false) => "synced; missed",
        };
        headers.insert(HEADER, HeaderValue::from_static(text));
    }
}
