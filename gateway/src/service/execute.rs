//! One execution from admission to answer, in two steps: into the queue, and out of it again.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::execution::{Call, ExecuteEnvelope, Failure};
use shared::id::{JobId, SessionId, TenantId};
use shared::redis::{Submission, ToSession};
use shared::{Error, ErrorCode};
use tracing::{debug, warn};

use super::admit::Refusals;
use super::durability::{Confirmed, confirm};
use super::mailbox::Mailbox;
use super::wait::{self, Waiter};
use crate::state::State;

/// How the caller follows its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Following {
    /// It waits for the result.
    Result,
    /// It sees output as it comes.
    Output,
    /// It sees output and can send signals.
    Signals,
    /// It sees output, can send signals, and standard input stays open for what it sends.
    Conversation,
}

/// A job in the queue, and whoever waits for it.
///
/// If this is dropped, nobody waits any more; the job is cancelled, if the server is set so.
pub(crate) struct Queued {
    pub(super) state: State,
    pub(super) tenant: TenantId,
    pub(super) waiter: Waiter,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) timeout_ms: u64,
    pub(super) started: Instant,
    pub(super) cancel: CancelOnDrop,
    pub(super) confirmed: Confirmed,
}

/// Admits a request and puts it into the queue; into that of its session, if it names one.
///
/// # Errors
/// Admission errors and queue errors.
pub(crate) async fn submit(
    state: &State,
    tenant: &TenantId,
    mut envelope: ExecuteEnvelope,
    following: Following,
) -> Result<Queued, Error> {
    let started = Instant::now();
    let session = envelope.session_id.take().filter(|id| !id.is_empty());
    let session = session.map(SessionId::new).transpose()?;
    let wish = envelope.queue.take().unwrap_or_default();
    let refusals = Refusals::new(state, tenant, session.as_ref(), &envelope.request);
    let labels = wish.labels(state.admission.policy(tenant));
    let admitted = labels.and_then(|labels| Ok((labels, state.admission.admit(tenant, envelope)?)));
    let (mut labels, mut job) = admitted.inspect_err(|error| refusals.record(error))?;
    labels.add_isolation([job.isolation]);
    let can_run = state.fleet.require(&state.queue, &labels, session.is_some()).await;
    can_run.inspect_err(|error| {
        if error.code() != ErrorCode::QueueUnavailable {
            refusals.record(error);
        }
    })?;
    job.stream = following != Following::Result;
    job.interactive = following == Following::Conversation;
    job.signals = matches!(following, Following::Signals | Following::Conversation);
    let (id, timeout_ms) = (JobId::generate(), job.timeout_ms);
    // Registered before the job is in the queue: its answer may come before `enqueue` returns.
    let mailbox = Arc::<Mailbox>::default();
    let waiter = state.registry.register(id, job.stream.then(|| Arc::clone(&mailbox)));
    let mut cancel = CancelOnDrop {
        state: Arc::clone(state),
        tenant: tenant.clone(),
        job: id,
        is_armed: state.streaming.cancel_on_disconnect,
    };
    let submission =
        Submission { tenant, id, reply_to: Some(state.id), quota: state.quota(tenant) };
    let queued = match &session {
        None => state.queue.enqueue_placed(submission, &labels, &job).await,
        Some(session) => {
            let max_sessions = state.admission.policy(tenant).max_sessions;
            let to = ToSession { id: session, may_open: true, max_sessions, labels: &labels };
            state.queue.enqueue_call(submission, to, &Call::Execute { job }).await
        }
    };
    if let Err(error) = queued {
        if error.code() != ErrorCode::QueueUnavailable {
            refusals.record(&error);
        }
        return Err(not_queued(error, &mut cancel));
    }
    debug!(job = %id, "queued");
    let confirmed = confirm(state, tenant, id, wish.durability).await;
    let confirmed = confirmed.map_err(|error| not_queued(error, &mut cancel))?;
    let (state, tenant) = (Arc::clone(state), tenant.clone());
    Ok(Queued { state, tenant, waiter, mailbox, timeout_ms, started, cancel, confirmed })
}

/// What it means that a job was not put into the queue. If Redis did not answer, it may be there all
/// the same: then it is still to be cancelled, and the caller is told.
pub(super) fn not_queued(error: Error, cancel: &mut CancelOnDrop) -> Error {
    if error.code() == ErrorCode::QueueUnavailable {
        return wait::unreachable(cancel.job, error);
    }
    cancel.disarm();
    error
}

impl Queued {
    /// Its identifier.
    pub(crate) fn job(&self) -> JobId {
        self.waiter.job()
    }

    /// How safe it is.
    pub(crate) fn confirmed(&self) -> Confirmed {
        self.confirmed
    }

    /// Waits for the result, which is returned as the JSON the worker wrote.
    ///
    /// # Errors
    /// The failure the job ended with, or that its ending cannot be learnt.
    pub(crate) async fn answer(mut self) -> Result<Bytes, Error> {
        let job = self.waiter.job();
        let ending = wait::wait(&self.state, &self.tenant, self.waiter, self.timeout_ms).await;
        // Nobody left: there is an answer, if only that there will be none.
        self.cancel.disarm();
        let ending = ending?;
        self.state.metrics.execute_took(self.started.elapsed());
        answer(ending, job)
    }
}

/// Cancels a job when whoever waits for it goes away.
pub(super) struct CancelOnDrop {
    state: State,
    tenant: TenantId,
    job: JobId,
    is_armed: bool,
}

impl CancelOnDrop {
    /// Cancels a job, whatever it is about.
    pub(super) fn new(state: &State, tenant: &TenantId, job: JobId) -> Self {
        Self { state: Arc::clone(state), tenant: tenant.clone(), job, is_armed: true }
    }

    /// Whether the job does not outlive its caller.
    pub(super) fn is_armed(&self) -> bool {
        self.is_armed
    }

    /// The job has ended, or is to go on.
    pub(super) fn disarm(&mut self) {
        self.is_armed = false;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let (state, tenant, job) = (Arc::clone(&self.state), self.tenant.clone(), self.job);
        self.state.tasks.spawn(async move {
            match state.queue.cancel(&tenant, job).await {
                Ok(outcome) => debug!(%job, ?outcome, "cancelled: nobody waits for it any more"),
                Err(error) => warn!(%job, %error, "cannot cancel a job that nobody waits for"),
            }
        });
    }
}

/// An `Ending`, read as far as `R` wants to know.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Ending<R> {
    Result(R),
    Error(Failure),
}

/// Reads an ending.
///
/// # Errors
/// `INTERNAL` if it cannot be read.
pub(crate) fn read<'a, R: Deserialize<'a>>(text: &'a str, id: JobId) -> Result<Ending<R>, Error> {
    serde_json::from_str(text).map_err(|error| {
        Error::new(ErrorCode::Internal, format!("The result of job {id} cannot be read"))
            .with_source(error)
    })
}

/// Takes the result out of its envelope without copying it.
fn answer(ending: Box<RawValue>, id: JobId) -> Result<Bytes, Error> {
    let text = String::from(Box::<str>::from(ending));
    let range = match read::<&RawValue>(&text, id)? {
        Ending::Result(result) => {
            let start = result.get().as_ptr() as usize - text.as_ptr() as usize;
            start..start + result.get().len()
        }
        Ending::Error(failure) => return Err(Error::new(failure.code, failure.message)),
    };
    Ok(Bytes::from(text).slice(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.into()).unwrap()
    }

    #[test]
    fn a_result_passes_through_byte_for_byte() {
        for result in [r#"{"stdout":"\u00e9 {}","exitCode": 0 , "later":[1.50]}"#, "{}"] {
            for ending in
                [format!(r#"{{"result":{result}}}"#), format!(r#" {{ "result" : {result} }} "#)]
            {
                let bytes = answer(raw(ending.trim()), JobId::generate()).unwrap();
                assert_eq!(bytes, result.as_bytes());
            }
        }
    }

    #[test]
    fn a_failure_keeps_its_code_and_words() {
        let ending = raw(r#"{"error":{"code":"WORKER_LOST","message":"gone"}}"#);
        let error = answer(ending, JobId::generate()).unwrap_err();
        assert_eq!((error.code(), error.message()), (ErrorCode::WorkerLost, "gone"));
    }

    #[test]
    fn an_unknown_ending_is_our_fault() {
        for ending in [r#"{"later":1}"#, r#"{"error":{"code":"NEW","message":""}}"#, "null"] {
            let error = answer(raw(ending), JobId::generate()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Internal, "{ending}");
        }
    }
}
