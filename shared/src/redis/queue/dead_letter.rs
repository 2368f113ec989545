//! Dead letters: listed jobs that were given up because workers or sandboxes failed under them. They are
//! kept with their payload and the evidence, until somebody drives them again, or for some days.

use redis::cmd;

use super::submit::refused;
use super::{JobFilter, Page, Queue, Submission};
use crate::error::{Error, ErrorCode};
use crate::execution::{Job, Terms};
use crate::id::{JobId, TenantId};
use crate::redis::client::failure;
use crate::redis::keys;
use crate::sealing::{Owner, Place, Purpose};

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
    /// [`ErrorCode::NotFound`] if it is none, [`ErrorCode::SecretsUnreadable`],
    /// [`ErrorCode::QueueUnavailable`].
    pub async fn dead_job(&self, tenant: &TenantId, id: JobId) -> Result<(Job, Terms), Error> {
        let mut read = cmd("HMGET");
        read.arg(keys::record(self.shard_of(tenant), id));
        read.arg("tenant").arg("dead").arg("payload").arg("terms");
        type Fields = (Option<String>, Option<String>, Option<Vec<u8>>, Option<String>);
        let fields: Fields = self.inner.client.run(&read).await.map_err(failure)?;
        let (owner, dead, payload, terms) = fields;
        let is_ours = owner.as_deref() == Some(tenant.as_str()) && dead.is_some();
        let (Some(mut payload), Some(terms), true) = (payload, terms, is_ours) else {
            return Err(not_dead(id));
        };
        let unreadable = |error| {
            let message = format!(
                "Dead letter {id} cannot be read by this version of isol8. Upgrade the gateway, or \
                 forget it and submit it again."
            );
            Error::new(ErrorCode::Internal, message).with_source(error)
        };
        let place = Place { tenant, owner: Owner::Job(id), purpose: Purpose::Payload };
        let payload = self.unseal(place, &mut payload)?;
        let job = serde_json::from_slice(payload).map_err(unreadable)?;
        Ok((job, serde_json::from_str(&terms).map_err(unreadable)?))
    }

    /// Puts a dead letter of `submission`'s tenant and name back into the queue, as `job`.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if it is none (any more); as [`submit`](Self::submit) if its tenant has as many
    /// open jobs as it may, or the queue is full: it stays a dead letter then.
    pub async fn redrive(
        &self,
        submission: Submission<'_>,
        job: &Job,
        terms: &Terms,
    ) -> Result<(), Error> {
        let payload = self.payload(submission, job, job.has_secrets())?;
        let new = self.new_job(submission, &payload, false, &terms.labels);
        let max_queued = self.inner.config.max_queued;
        let answer = self.inner.scripts.redrive(&new, terms.retention_ms, max_queued).await;
        match answer.map_err(failure)? {
            (word, _) if word == "alive" || word == "unknown" => Err(not_dead(submission.id)),
            answer => refused(answer),
        }
    }

    /// Forgets a dead letter of this tenant.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] if it is none, [`ErrorCode::QueueUnavailable`].
    pub async fn forget(&self, tenant: &TenantId, id: JobId) -> Result<(), Error> {
        let done = self.inner.scripts.forget(self.shard_of(tenant), tenant, &id.to_string()).await;
        if done.map_err(failure)? == "forgotten" { Ok(()) } else { Err(not_dead(id)) }
    }
}

fn not_dead(id: JobId) -> Error {
    Error::new(ErrorCode::NotFound, format!("There is no dead letter {id}"))
}
