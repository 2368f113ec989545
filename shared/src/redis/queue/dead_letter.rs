//! Dead letters: listed jobs that were given up because workers or sandboxes failed under them. They are
//! kept with their payload and the evidence, until somebody drives them again, or for some days.

use redis::cmd;

use super::{JobFilter, Page, Queue};
use crate::error::{Error, ErrorCode};
use crate::execution::{Job, Terms};
use crate::id::{JobId, TenantId};
use crate::redis::client::failure;
use crate::redis::keys;

impl Queue {
    /// A page of this tenant's dead letters, newest first.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn dead_letters(
        &self,
        tenant: &TenantId,
        cursor: Option<JobId>,
        limit: usize,
    ) -> Result<Page, Error> {
        let list = keys::dead(self.shard_of(tenant), tenant);
        self.page(list, tenant, &JobFilter::default(), cursor, limit).await
    }

    /// What a dead letter of this tenant would run, and by which terms.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if it is none, [`ErrorCode::QueueUnavailable`].
    pub async fn dead_job(&self, tenant: &TenantId, id: JobId) -> Result<(Job, Terms), Error> {
        let mut read = cmd("HMGET");
        read.arg(keys::record(self.shard_of(tenant), id));
        read.arg("tenant").arg("dead").arg("payload").arg("terms");
        let fields: [Option<String>; 4] = self.inner.client.run(&read).await.map_err(failure)?;
        let [owner, dead, payload, terms] = fields;
        let is_ours = owner.as_deref() == Some(tenant.as_str()) && dead.is_some();
        let (Some(payload), Some(terms), true) = (payload, terms, is_ours) else {
            return Err(not_dead(id));
        };
        let unreadable = |error| {
            let message = format!("Dead letter {id} cannot be read by this version of isol8.");
            Error::new(ErrorCode::Internal, message).with_source(error)
        };
        let job = serde_json::from_str(&payload).map_err(unreadable)?;
        Ok((job, serde_json::from_str(&terms).map_err(unreadable)?))
    }

    /// Puts a dead letter of this tenant back into the queue, as `job`.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if it is none (any more), [`ErrorCode::QueueUnavailable`].
    pub async fn redrive(
        &self,
        tenant: &TenantId,
        id: JobId,
        job: &Job,
        terms: &Terms,
    ) -> Result<(), Error> {
        let payload = super::serialize(job)?;
        let (shard, name) = (self.shard_of(tenant), id.to_string());
        let keep_ms = terms.retention_ms;
        let done = self.inner.scripts.redrive(shard, tenant, &name, &payload, keep_ms).await;
        if done.map_err(failure)? == "queued" { Ok(()) } else { Err(not_dead(id)) }
    }

    /// Forgets a dead letter of this tenant.
    ///
    /// # Errors
    /// As [`redrive`](Self::redrive).
    pub async fn forget(&self, tenant: &TenantId, id: JobId) -> Result<(), Error> {
        let done = self.inner.scripts.forget(self.shard_of(tenant), tenant, &id.to_string()).await;
        if done.map_err(failure)? == "forgotten" { Ok(()) } else { Err(not_dead(id)) }
    }
}

fn not_dead(id: JobId) -> Error {
    Error::new(ErrorCode::NotFound, format!("There is no dead letter {id}"))
}
