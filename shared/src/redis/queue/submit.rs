//! The gateway's side of a job: putting it into the queue and asking where it stands.

use serde_json::value::RawValue;

use redis::cmd;

use super::{JobState, Queue};
use crate::error::{Error, ErrorCode};
use crate::execution::Job;
use crate::id::{GatewayId, JobId, TenantId};
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::scripts::NewJob;

impl Queue {
    /// Puts a job into its tenant's shard. Repeating the call with the same identifier is safe.
    ///
    /// # Errors
    /// [`ErrorCode::QueueFull`] if `redis.maxQueued` jobs wait in the shard already,
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached; the job may be queued then.
    pub async fn enqueue(
        &self,
        tenant: &TenantId,
        id: JobId,
        job: &Job,
        reply_to: GatewayId,
    ) -> Result<(), Error> {
        let payload = serde_json::to_string(job).map_err(|error| {
            Error::new(ErrorCode::Internal, "The job could not be written as JSON.")
                .with_source(error)
        })?;
        self.ready().await?;
        let limit = self.inner.config.max_queued;
        let job = NewJob {
            shard: keys::shard_of(tenant, self.inner.config.shards),
            id: id.to_string(),
            tenant: tenant.as_str(),
            payload: &payload,
            reply_to: reply_to.to_string(),
        };
        if self.inner.scripts.enqueue(&job, limit).await.map_err(failure)? {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::QueueFull,
            format!("The queue is full: {limit} jobs wait already. Try again in a few seconds."),
        ))
    }

    /// Where a job of this tenant stands, by its record.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn state(&self, tenant: &TenantId, id: JobId) -> Result<JobState, Error> {
        let record = keys::record(keys::shard_of(tenant, self.inner.config.shards), id);
        let mut read = cmd("HMGET");
        read.arg(record).arg("tenant").arg("state").arg("result");
        let (owner, state, result): (Option<String>, Option<String>, Option<String>) =
            self.inner.client.run(&read).await.map_err(failure)?;
        if owner.as_deref() != Some(tenant.as_str()) {
            return Ok(JobState::Unknown);
        }
        match (state.as_deref(), result) {
            (Some("queued"), _) => Ok(JobState::Queued),
            (Some("running"), _) => Ok(JobState::Running),
            (Some("finished"), Some(result)) => {
                RawValue::from_string(result).map(JobState::Finished).map_err(|error| {
                    let message = format!("The stored result of job {id} is not JSON.");
                    Error::new(ErrorCode::Internal, message).with_source(error)
                })
            }
            (state, _) => Err(Error::new(
                ErrorCode::Internal,
                format!("The record of job {id} is in no known state ({state:?})."),
            )),
        }
    }
}
