//! The gateway's side of a job: putting it into the queue and asking where it stands.

use std::fmt::Write as _;
use std::time::Duration;

use redis::cmd;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use super::{Cancelled, JobState, Queue, Quota, SESSION_LOST, serialize};
use crate::error::{Error, ErrorCode};
use crate::execution::{Call, Job, Terms};
use crate::id::{GatewayId, JobId, SessionId, TenantId};
use crate::labels::Labels;
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::scripts::{Account, NewCall, NewJob, NewListing, NewSubmission, Refusal};
use crate::sealing::{Owner, Place, Purpose};
use crate::webhook::Webhook;

/// How long a call waits for the end of a former session of the same name, and how often it looks.
const CLOSING_PATIENCE: Duration = Duration::from_secs(5);
const CLOSING_PAUSE: Duration = Duration::from_millis(50);

/// Calls that may wait in one session.
const MAX_WAITING_CALLS: u32 = 1000;

/// Who asks, and where the answer goes.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// On whose account.
    pub tenant: &'a TenantId,
    /// The job's identifier; repeating a submission with the same one is safe.
    pub id: JobId,
    /// Whoever waits for the ending, if anybody does.
    pub reply_to: Option<GatewayId>,
    /// What the tenant may have.
    pub quota: Quota,
}

/// What makes a job outlive its request: it is listed, and kept once it has ended.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// What holds for it.
    pub terms: &'a Terms,
    /// What makes a repeated request the same job.
    pub once: Option<&'a Once>,
}

/// An idempotency key, and the request it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    pub(super) key: String,
    pub(super) request: String,
}

impl Once {
    /// The key of a batch, whose request is known by its SHA-256 alone. It has nothing to do with the same
    /// key of a job.
    #[must_use]
    pub fn of_batch(key: &[u8], request: &[u8]) -> Self {
        Self { key: format!("b{}", digest(key)), request: digest(request) }
    }

    /// A key in its client's words. `request` is all of the request that matters.
    #[must_use]
    pub fn new(key: &[u8], request: &[u8]) -> Self {
        // Neither what clients write nor what they send becomes the name of a key.
        Self { key: digest(key), request: digest(request) }
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// A listed job that is in the queue, or was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The job.
    pub id: JobId,
    /// Whether it is that of an earlier request with the same idempotency key.
    pub is_repeated: bool,
}

/// Where a call goes.
#[derive(Clone, Copy, Debug)]
pub struct ToSession<'a> {
    /// The session.
    pub id: &'a SessionId,
    /// Whether the call may open it; only one that runs a program can.
    pub may_open: bool,
    /// Sessions that the tenant may have.
    pub max_sessions: u32,
    /// What the worker must have that opens it.
    pub labels: &'a Labels,
}

impl Queue {
    /// Puts a job into its tenant's shard.
    ///
    /// # Errors
    /// [`ErrorCode::QueueFull`] if `redis.maxQueued` jobs wait in the shard already,
    /// [`ErrorCode::RateLimited`] or [`ErrorCode::TooManyJobs`] beyond the quota, all three with a
    /// time to come back; [`ErrorCode::NotSupported`] if it has secrets and there is no key to encrypt them
    /// with; [`ErrorCode::QueueUnavailable`] if Redis cannot be reached; the job may be queued then.
    pub async fn enqueue(&self, submission: Submission<'_>, job: &Job) -> Result<(), Error> {
        self.enqueue_placed(submission, Labels::none(), job).await
    }

    /// The same for a job that only a worker with `labels` may run.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); [`ErrorCode::QueueFull`] also if jobs require as many different sets
    /// of labels as may be.
    pub async fn enqueue_placed(
        &self,
        submission: Submission<'_>,
        labels: &Labels,
        job: &Job,
    ) -> Result<(), Error> {
        let payload = self.payload(submission, job, job.has_secrets())?;
        self.ready().await?;
        let job = self.new_job(submission, &payload, job.listens(), labels);
        let step = job.step();
        let bytes = step.size();
        refused(self.groups(job.shard).enqueue.take(step, bytes).await.map_err(failure)?)
    }

    /// Puts a job that outlives its request into its tenant's shard, together with whichever come at once.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), and [`ErrorCode::IdempotencyMismatch`].
    pub async fn submit(
        &self,
        submission: Submission<'_>,
        listing: Listing<'_>,
        job: &Job,
    ) -> Result<Accepted, Error> {
        let new = NewSubmission {
            account: Account { tenant: submission.tenant.clone(), quota: submission.quota },
            id: submission.id.to_string(),
            payload: self.payload(submission, job, job.has_secrets())?,
            reply_to: submission.reply_to.map(|it| it.to_string()).unwrap_or_default(),
            interactive: job.listens(),
            listing: self.new_listing(listing, submission.tenant, Owner::Job(submission.id))?,
        };
        self.ready().await?;
        let (shard, bytes) = (self.shard_of(submission.tenant), new.size());
        let answer = self.groups(shard).submit.take(new, bytes).await;
        accepted(submission.id, answer.map_err(failure)?)
    }

    /// Puts a call into the queue of a session of its tenant; opens the session with it if that is
    /// allowed and there is none.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), and [`ErrorCode::SessionNotFound`],
    /// [`ErrorCode::SessionLimit`] (also while a former session of the name takes long to close),
    /// [`ErrorCode::SessionLost`] (once: the session may be opened anew after that),
    /// [`ErrorCode::InvalidRequest`] if the session has another runtime.
    pub async fn enqueue_call(
        &self,
        submission: Submission<'_>,
        session: ToSession<'_>,
        call: &Call,
    ) -> Result<(), Error> {
        refused(self.offer_call(submission, session, None, call).await?)
    }

    /// The same for a call that outlives its request.
    ///
    /// # Errors
    /// As [`enqueue_call`](Self::enqueue_call), and [`ErrorCode::IdempotencyMismatch`].
    pub async fn submit_call(
        &self,
        submission: Submission<'_>,
        session: ToSession<'_>,
        listing: Listing<'_>,
        call: &Call,
    ) -> Result<Accepted, Error> {
        accepted(submission.id, self.offer_call(submission, session, Some(listing), call).await?)
    }

    /// Offers a call to its session, patiently if that is just being closed; what the script says.
    async fn offer_call(
        &self,
        submission: Submission<'_>,
        session: ToSession<'_>,
        listing: Option<Listing<'_>>,
        call: &Call,
    ) -> Result<Refusal, Error> {
        let job = call.job();
        let payload = self.payload(submission, call, job.is_some_and(Job::has_secrets))?;
        self.ready().await?;
        let runtime = job.map(|job| job.runtime.to_string()).unwrap_or_default();
        let interactive = job.is_some_and(Job::listens);
        let new = NewCall {
            job: self.new_job(submission, &payload, interactive, session.labels),
            listing: listing
                .map(|it| self.new_listing(it, submission.tenant, Owner::Job(submission.id)))
                .transpose()?,
            session: session.id,
            runtime: &runtime,
            may_open: session.may_open && job.is_some(),
            max_sessions: session.max_sessions,
            max_waiting: MAX_WAITING_CALLS,
            max_queued: self.inner.config.max_queued,
        };
        let give_up_at = Instant::now() + CLOSING_PATIENCE;
        loop {
            let answer = self.inner.scripts.enqueue_call(&new);
            let (word, detail) = answer.await.map_err(failure)?;
            match word.as_str() {
                // Its sandbox is being removed; in a moment there is none, and it can be opened.
                "closing" if Instant::now() < give_up_at => {
                    self.await_closed(submission.tenant, session.id, give_up_at).await?;
                }
                "closing" if new.may_open => {
                    return Err(Error::new(
                        ErrorCode::SessionLimit,
                        format!(
                            "Session \"{}\" is still being closed and cannot be opened anew yet. \
                             Try again in a moment.",
                            session.id
                        ),
                    )
                    .with_retry_after(Duration::from_secs(1)));
                }
                "runtime" => {
                    return Err(Error::invalid(format!(
                        "Cannot switch runtime from \"{detail}\" to \"{runtime}\": session \
                         \"{}\" has one for life. Open another session for {runtime}.",
                        session.id
                    )));
                }
                "sessions" => {
                    return Err(Error::new(
                        ErrorCode::SessionLimit,
                        format!(
                            "There are {} sessions already, as many as this tenant may have. \
                             Delete one, or wait until an idle one expires.",
                            session.max_sessions
                        ),
                    )
                    .with_retry_after(Duration::from_secs(1)));
                }
                _ => return Ok((word, detail)),
            }
        }
    }

    /// Looks, without sending the call again, until a session is not being closed any more.
    async fn await_closed(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        give_up_at: Instant,
    ) -> Result<(), Error> {
        let key = keys::session(self.shard_of(tenant), &keys::session_name(tenant, session));
        let mut look = cmd("HEXISTS");
        look.arg(key).arg("closing");
        while Instant::now() < give_up_at {
            sleep(CLOSING_PAUSE).await;
            if !self.inner.client.run::<bool>(&look).await.map_err(failure)? {
                break;
            }
        }
        Ok(())
    }

    /// What a job runs, as it is to be stored.
    pub(super) fn payload(
        &self,
        submission: Submission<'_>,
        what: &impl Serialize,
        is_secret: bool,
    ) -> Result<Vec<u8>, Error> {
        let Submission { tenant, id, .. } = submission;
        let place = Place { tenant, owner: Owner::Job(id), purpose: Purpose::Payload };
        self.seal(place, write(what)?, is_secret)
    }

    /// What makes a job of this owner outlive its request, as it is to be stored.
    pub(super) fn new_listing(
        &self,
        listing: Listing<'_>,
        tenant: &TenantId,
        owner: Owner,
    ) -> Result<NewListing, Error> {
        let Listing { terms, once } = listing;
        let placement = terms.labels.placement();
        Ok(NewListing {
            keep_ms: terms.retention_ms,
            terms: serialize(terms)?,
            once: once.map(|once| once.key.clone()).unwrap_or_default(),
            request: once.map(|once| once.request.clone()).unwrap_or_default(),
            priority: keys::full_priority(terms.priority, placement.as_deref()).unwrap_or_default(),
            delay_ms: terms.delay_ms.unwrap_or_default(),
            run_at_ms: terms.run_at_ms.unwrap_or_default(),
            expires_ms: terms.expires_ms.unwrap_or_default(),
            webhook: self.webhook(terms.webhook.as_ref(), tenant, owner)?,
        })
    }

    /// A webhook as it is to be stored; nothing if there is none.
    pub(super) fn webhook(
        &self,
        webhook: Option<&Webhook>,
        tenant: &TenantId,
        owner: Owner,
    ) -> Result<Vec<u8>, Error> {
        let place = Place { tenant, owner, purpose: Purpose::Webhook };
        // It always has a secret: what its deliveries are signed with.
        let sealed = webhook.map(|webhook| self.seal(place, serialize(webhook)?, true));
        Ok(sealed.transpose()?.unwrap_or_default())
    }

    pub(super) fn new_job<'a>(
        &self,
        submission: Submission<'a>,
        payload: &'a [u8],
        interactive: bool,
        labels: &Labels,
    ) -> NewJob<'a> {
        NewJob {
            shard: self.shard_of(submission.tenant),
            id: submission.id.to_string(),
            tenant: submission.tenant,
            payload,
            reply_to: submission.reply_to.map(|it| it.to_string()).unwrap_or_default(),
            quota: submission.quota,
            interactive,
            placement: labels.placement(),
        }
    }

    /// Cancels a job of this tenant, waiting or running. One that runs ends a moment later, with an
    /// ending like every other.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn cancel(&self, tenant: &TenantId, id: JobId) -> Result<Cancelled, Error> {
        let shard = self.shard_of(tenant);
        let outcome = self.inner.scripts.cancel(shard, &id.to_string(), tenant).await;
        Ok(match outcome.map_err(failure)?.as_str() {
            "cancelled" => Cancelled::Now,
            "asked" => Cancelled::Asked,
            "finished" => Cancelled::TooLate,
            _ => Cancelled::Unknown,
        })
    }

    /// Where a job of this tenant stands, by its record; for whoever waits for it. One that has got lost
    /// while its record has not waits again, or ends, by this look.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn state(&self, tenant: &TenantId, id: JobId) -> Result<JobState, Error> {
        self.ready().await?;
        let (shard, name) = (self.shard_of(tenant), id.to_string());
        let found = self.inner.scripts.look(shard, tenant, &name).await;
        let (state, result, is_mended) = found.map_err(failure)?;
        if is_mended {
            tracing::warn!(job = name, "a job was not where its record says; put right");
        }
        match state.as_str() {
            "" => Ok(JobState::Unknown),
            "queued" => Ok(JobState::Queued),
            "running" => Ok(JobState::Running),
            "finished" => RawValue::from_string(result).map(JobState::Finished).map_err(|error| {
                let message = format!("The stored result of job {id} is not JSON.");
                Error::new(ErrorCode::Internal, message).with_source(error)
            }),
            state => Err(Error::new(
                ErrorCode::Internal,
                format!("The record of job {id} is in no known state ({state})."),
            )),
        }
    }
}

/// What a script's answer means for a listed job.
fn accepted(id: JobId, (word, detail): Refusal) -> Result<Accepted, Error> {
    if word != "repeated" {
        return refused((word, detail)).map(|()| Accepted { id, is_repeated: false });
    }
    let id = detail.parse().map_err(|error| {
        Error::new(ErrorCode::Internal, "An idempotency key stands for no job.").with_source(error)
    })?;
    Ok(Accepted { id, is_repeated: true })
}

fn write(payload: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(payload).map_err(|error| {
        Error::new(ErrorCode::Internal, "The job could not be written as JSON.").with_source(error)
    })
}

/// What a script's refusal means for the caller.
pub(super) fn refused((word, detail): Refusal) -> Result<(), Error> {
    let wait = Duration::from_millis(detail.parse().unwrap_or(1000));
    let error = |code, message: &str| Error::new(code, message).with_retry_after(wait);
    Err(match word.as_str() {
        "queued" => return Ok(()),
        "full" => error(
            ErrorCode::QueueFull,
            "The queue is full: as many jobs wait as may. Try again in a few seconds.",
        ),
        "placements" => error(
            ErrorCode::QueueFull,
            "Jobs that wait require as many different sets of labels as may be. Try again when fewer do, \
             or use labels that others use.",
        ),
        "rate" => error(
            ErrorCode::RateLimited,
            "This tenant asks more often than it may (policy.maxRequestsPerSecond). Slow down.",
        ),
        "busy" => error(
            ErrorCode::TooManyJobs,
            "This tenant has as many jobs waiting and running as it may \
             (policy.maxConcurrentJobs). Try again when one has ended.",
        ),
        "mismatch" => Error::new(
            ErrorCode::IdempotencyMismatch,
            "This Idempotency-Key came before, with another request. Use a new key for a new \
             request.",
        ),
        "jobs" => error(
            ErrorCode::TooManyJobs,
            "This tenant has as many jobs that have not ended as it may (policy.maxQueuedJobs). Try \
             again when some have.",
        ),
        "bytes" => error(
            ErrorCode::TooManyJobs,
            "The jobs of this tenant that have not ended take as much room as they may \
             (policy.maxQueuedBytes). Try again when some have.",
        ),
        "kept" => error(
            ErrorCode::TooManyJobs,
            "As many jobs of this tenant are kept as may be (policy.maxKeptJobs). Ask for a shorter \
             queue.retentionMs, or try again when some are forgotten.",
        ),
        "kept_bytes" => error(
            ErrorCode::TooManyJobs,
            "As much is kept of this tenant's jobs as may be (policy.maxKeptBytes). Ask for a shorter \
             queue.retentionMs, or try again when some are forgotten.",
        ),
        "absent" => Error::new(ErrorCode::SessionNotFound, "Session not found"),
        "lost" => Error::new(ErrorCode::SessionLost, SESSION_LOST),
        "closing" => error(
            ErrorCode::SessionNotFound,
            "The session is being closed and its worker has not finished. Try again in a moment.",
        ),
        word => Error::new(ErrorCode::Internal, format!("The queue refuses a job: {word}.")),
    })
}
