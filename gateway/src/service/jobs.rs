//! Jobs that outlive their request: submitting, looking at, waiting for and cancelling them.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use shared::execution::{
    Call, ExecuteEnvelope, ExecutionOptions, ExecutionRequest, Job, QueueOptions, Terms,
};
use shared::id::{JobId, SessionId, TenantId};
use shared::redis::{
    Accepted, Cancelled, JobRecord, JobState, Listing, Once, Submission, ToSession,
};
use shared::webhook::SubjectKind;
use shared::{Error, ErrorCode};
use tokio::time::timeout;
use tracing::debug;

use super::admit::Refusals;
use super::durability::{Confirmed, confirm};
use super::mailbox::Mailbox;
use super::wait::{self, Waiter};
use crate::state::State;

/// How long a cancelled job may take until nothing of it runs any more: its worker may have died,
/// and then its lease has to run out first.
const CONFIRMATION: Duration = Duration::from_secs(60);

/// Body of a submission.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobEnvelope {
    request: ExecutionRequest,
    #[serde(default)]
    options: Option<ExecutionOptions>,
    #[serde(default)]
    session_id: Option<String>,
    #[serde(default)]
    pub(crate) queue: Option<QueueOptions>,
}

/// Admits a job and puts it into the queue. One whose safety cannot be confirmed stays there: the
/// caller may repeat the submission with its idempotency key.
///
/// # Errors
/// Admission errors and queue errors.
pub(crate) async fn submit(
    state: &State,
    tenant: &TenantId,
    envelope: JobEnvelope,
    once: Option<&Once>,
) -> Result<(Accepted, Confirmed), Error> {
    let JobEnvelope { request, options, session_id, queue } = envelope;
    let session = session_id.filter(|id| !id.is_empty()).map(SessionId::new).transpose()?;
    let refusals = Refusals::new(state, tenant, session.as_ref(), &request);
    let policy = state.admission.policy(tenant);
    let envelope =
        ExecuteEnvelope { request, options: options.unwrap_or_default(), ..Default::default() };
    let queue = queue.unwrap_or_default();
    let durability = queue.durability;
    if session.is_some() && !queue.suits_sessions() {
        return Err(Error::invalid(
            "queue: the calls of a session run one at a time and in order. Of a job with a sessionId, \
             only tags, retentionMs, durability, webhook and labels can be chosen",
        ));
    }
    let admitted = admit(state, tenant, envelope, queue);
    let (terms, job) = admitted.inspect_err(|error| refusals.record(error))?;
    let id = JobId::generate();
    let submission = Submission { tenant, id, reply_to: None, quota: state.quota(tenant) };
    let listing = Listing { terms: &terms, once };
    let accepted = match &session {
        None => state.queue.submit(submission, listing, &job).await,
        Some(session) => {
            let (max_sessions, labels) = (policy.max_sessions, &terms.labels);
            let to = ToSession { id: session, may_open: true, max_sessions, labels };
            state.queue.submit_call(submission, to, listing, &Call::Execute { job }).await
        }
    };
    let accepted = accepted.inspect_err(|error| {
        if error.code() != ErrorCode::QueueUnavailable {
            refusals.record(error);
        }
    })?;
    debug!(job = %accepted.id, is_repeated = accepted.is_repeated, "submitted");
    let confirmed = confirm(state, tenant, accepted.id, durability).await?;
    Ok((accepted, confirmed))
}

/// Lets in what a listed job is to run, and how it is to be queued.
///
/// # Errors
/// Admission errors.
pub(super) fn admit(
    state: &State,
    tenant: &TenantId,
    envelope: ExecuteEnvelope,
    mut queue: QueueOptions,
) -> Result<(Terms, Job), Error> {
    let webhook = queue.webhook.take();
    let mut terms = queue.into_terms(state.admission.policy(tenant), state.job_retention_ms)?;
    let mut job = state.admission.admit(tenant, envelope)?;
    terms.labels.add_isolation([job.isolation]);
    let admit = |it| state.webhooks.admit(tenant, SubjectKind::Job, it);
    terms.webhook = webhook.map(admit).transpose()?;
    // Whoever comes later can see what it wrote.
    job.stream = true;
    Ok((terms, job))
}

/// A job that this gateway hears of from now on.
pub(super) struct Heard {
    pub(super) waiter: Waiter,
    /// Where its output comes in.
    pub(super) mailbox: Arc<Mailbox>,
    is_finished: bool,
}

/// Starts to follow a job; `None` if there is no such job of the tenant.
///
/// # Errors
/// `QUEUE_UNAVAILABLE`.
pub(super) async fn follow(
    state: &State,
    tenant: &TenantId,
    id: JobId,
    wants_output: bool,
) -> Result<Option<Heard>, Error> {
    let mailbox = Arc::<Mailbox>::default();
    // Registered before the queue is told to tell: the news may come before the answer.
    let waiter = state.registry.register(id, wants_output.then(|| Arc::clone(&mailbox)));
    let is_finished = match state.queue.follow(tenant, id, state.id).await? {
        JobState::Unknown => return Ok(None),
        JobState::Finished(_) => true,
        JobState::Queued | JobState::Running => false,
    };
    if is_finished {
        waiter.look_now();
    }
    Ok(Some(Heard { waiter, mailbox, is_finished }))
}

/// A job, at its end or after `patience`, whichever comes first.
///
/// # Errors
/// `NOT_FOUND`, `QUEUE_UNAVAILABLE`.
pub(crate) async fn find(
    state: &State,
    tenant: &TenantId,
    id: JobId,
    patience: Duration,
) -> Result<JobRecord, Error> {
    if !patience.is_zero() {
        let heard = follow(state, tenant, id, false).await?.ok_or_else(|| not_found(id))?;
        if !heard.is_finished {
            await_end(state, tenant, heard.waiter, patience).await?;
        }
    }
    state.queue.job(tenant, id).await?.ok_or_else(|| not_found(id))
}

/// Waits for the end of a job, but not for ever; whether it came.
async fn await_end(
    state: &State,
    tenant: &TenantId,
    waiter: Waiter,
    patience: Duration,
) -> Result<bool, Error> {
    let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let ending = wait::wait(state, tenant, waiter, patience_ms);
    Ok(timeout(patience, ending).await.ok().transpose()?.is_some())
}

/// Cancels a job and waits until nothing of it runs any more. One that has ended stays as it is.
///
/// # Errors
/// `NOT_FOUND`, `QUEUE_UNAVAILABLE`, also if its worker does not confirm in time.
pub(crate) async fn cancel(
    state: &State,
    tenant: &TenantId,
    id: JobId,
) -> Result<JobRecord, Error> {
    let heard = follow(state, tenant, id, false).await?.ok_or_else(|| not_found(id))?;
    if state.queue.cancel(tenant, id).await? == Cancelled::Asked
        && !await_end(state, tenant, heard.waiter, CONFIRMATION).await?
    {
        return Err(Error::new(
            ErrorCode::QueueUnavailable,
            format!(
                "Job {id} was told to stop, but its worker has not confirmed it within {} s. Look \
                 at the job again in a moment",
                CONFIRMATION.as_secs()
            ),
        ));
    }
    state.queue.job(tenant, id).await?.ok_or_else(|| not_found(id))
}

/// A dead letter, with its ending.
///
/// # Errors
/// `NOT_FOUND`, `QUEUE_UNAVAILABLE`.
pub(crate) async fn find_dead(
    state: &State,
    tenant: &TenantId,
    id: JobId,
) -> Result<JobRecord, Error> {
    let record = state.queue.job(tenant, id).await?.filter(|record| record.is_dead);
    record.ok_or_else(|| not_found(id))
}

/// Drives a dead letter again, with the limits changed that `options` names, within what the tenant may
/// ask for now.
///
/// # Errors
/// `NOT_FOUND`, admission errors, `TOO_MANY_JOBS`, `QUEUE_FULL`, `QUEUE_UNAVAILABLE`.
pub(crate) async fn redrive(
    state: &State,
    tenant: &TenantId,
    id: JobId,
    options: &ExecutionOptions,
) -> Result<JobRecord, Error> {
    let (mut job, terms) = state.queue.dead_job(tenant, id).await?;
    state.admission.change_limits(tenant, &mut job, options)?;
    let submission = Submission { tenant, id, reply_to: None, quota: state.quota(tenant) };
    state.queue.redrive(submission, &job, &terms).await?;
    state.queue.job(tenant, id).await?.ok_or_else(|| not_found(id))
}

/// What callers know as the answer to a job that is not there.
pub(crate) fn not_found(id: JobId) -> Error {
    Error::new(
        ErrorCode::NotFound,
        format!("Job {id} not found: there was none, or it is not kept any more"),
    )
}
