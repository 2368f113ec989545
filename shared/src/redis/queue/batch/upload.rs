//! The upload of a batch: items come in one by one and go to Redis chunk by chunk, so that nobody ever
//! holds the whole.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::chunk::{ChunkWriter, Line};
use super::{BatchLimits, BatchTerms};
use crate::error::{Error, ErrorCode};
use crate::execution::{BaseJob, Job};
use crate::id::{BatchId, TenantId};
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::queue::{Once, Queue, Quota, serialize};
use crate::redis::scripts::{BatchKey, NewItems, Seal};
use crate::sealing::{Owner, Place, Purpose};

/// How long an upload is kept whose gateway gives no sign of life, in milliseconds, and how often it gives one.
const SILENCE_MS: u64 = 60_000;
const SIGN_EVERY: Duration = Duration::from_secs(10);

/// A batch on its way into the queue. Dropped before it is sealed, it is removed; so it is, after a while,
/// if its gateway dies.
pub struct BatchUpload {
    queue: Queue,
    key: BatchKey,
    tenant: TenantId,
    quota: Quota,
    limits: BatchLimits,
    terms: BatchTerms,
    base: Option<BaseJob>,
    /// Whether an item had secrets: from then on chunks are sealed.
    has_secrets: bool,
    /// Items that Redis has.
    stored: u64,
    chunk: ChunkWriter,
    signed: Instant,
    is_over: bool,
}

/// A batch that is in the queue, or was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The batch.
    pub id: BatchId,
    /// Whether it is that of an earlier request with the same idempotency key.
    pub is_repeated: bool,
}

impl Queue {
    /// Begins the upload of a batch.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyJobs`] if as many batches of the tenant are kept as may be,
    /// [`ErrorCode::RateLimited`], [`ErrorCode::QueueUnavailable`].
    pub async fn upload_batch(
        &self,
        tenant: &TenantId,
        quota: Quota,
        limits: BatchLimits,
        mut terms: BatchTerms,
    ) -> Result<BatchUpload, Error> {
        self.ready().await?;
        let key = self.batch_key(tenant, BatchId::generate());
        terms.items.batch = Some(key.id);
        let text = serialize(&terms.items)?;
        // From here on, as the answer may be lost while the batch is not.
        let upload = BatchUpload {
            queue: self.clone(),
            key,
            tenant: tenant.clone(),
            quota,
            limits,
            terms,
            base: None,
            has_secrets: false,
            stored: 0,
            chunk: ChunkWriter::new(),
            signed: Instant::now(),
            is_over: false,
        };
        let (max, rate) = (limits.max_batches, quota.per_second);
        let answer = self.inner.scripts.open_batch(key, tenant, max, rate, SILENCE_MS, &text).await;
        let (word, wait_ms) = answer.map_err(failure)?;
        let wait = Duration::from_millis(wait_ms.parse().unwrap_or(1000));
        match word.as_str() {
            "open" => Ok(upload),
            "batches" => Err(Error::new(
                ErrorCode::TooManyJobs,
                "As many batches of this tenant are kept as may be (policy.maxBatches). Try again when \
                 one has ended and its queue.retentionMs is over.",
            )
            .with_retry_after(wait)),
            _ => Err(Error::new(
                ErrorCode::RateLimited,
                "This tenant asks more often than it may (policy.maxRequestsPerSecond). Slow down.",
            )
            .with_retry_after(wait)),
        }
    }
}

impl BatchUpload {
    /// Its name to be.
    #[must_use]
    pub const fn id(&self) -> BatchId {
        self.key.id
    }

    /// How many items came.
    #[must_use]
    pub const fn items(&self) -> u64 {
        self.stored + self.chunk.items()
    }

    /// Adds an item, with its client's own name of it, or ''.
    ///
    /// # Errors
    /// [`ErrorCode::PolicyViolation`] if it is one too many, [`ErrorCode::TooManyJobs`] if the tenant's
    /// batches take up too much with it, [`ErrorCode::QueueUnavailable`].
    pub async fn add(&mut self, name: String, job: &Job) -> Result<(), Error> {
        let most = self.limits.max_items;
        if self.items() >= most {
            return Err(Error::new(
                ErrorCode::PolicyViolation,
                format!("A batch may have {most} items (policy.maxBatchItems). Submit several."),
            ));
        }
        let base = match &self.base {
            Some(base) => base,
            None => self.base.insert(BaseJob::new(job)?),
        };
        let delta = base.delta(job)?;
        self.has_secrets |= job.has_secrets();
        if self.chunk.push(&Line { name, delta })? {
            self.store().await?;
        }
        Ok(())
    }

    /// Says, if it is time to, that more will come.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`].
    pub async fn sign(&mut self) -> Result<(), Error> {
        if self.signed.elapsed() < SIGN_EVERY {
            return Ok(());
        }
        self.send(&[], &[], 0).await
    }

    async fn store(&mut self) -> Result<(), Error> {
        let count = self.chunk.items();
        let (chunk, base) = self.sealed()?;
        self.send(&chunk, &base, count).await?;
        self.stored += count;
        Ok(())
    }

    /// The chunk and, with the first one, the base, as they are to be stored.
    fn sealed(&mut self) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let chunk = self.chunk.take()?;
        let is_first = self.stored == 0;
        let base = match &self.base {
            Some(base) if is_first || self.has_secrets => base.to_text()?,
            _ => String::new(),
        };
        let place =
            |purpose| Place { tenant: &self.tenant, owner: Owner::Batch(self.key.id), purpose };
        let digest: [u8; 32] = match self.has_secrets {
            true => Sha256::digest(&base).into(),
            false => [0; 32],
        };
        let items = Purpose::Items { first: self.stored, base: &digest };
        let chunk = self.queue.seal(place(items), chunk, self.has_secrets)?;
        let base = if is_first { base } else { String::new() };
        let base = self.queue.seal(place(Purpose::Base), base, is_first && self.has_secrets)?;
        Ok((chunk, base))
    }

    async fn send(&mut self, chunk: &[u8], base: &[u8], count: u64) -> Result<(), Error> {
        let (first, max_bytes) = (self.stored, self.limits.max_bytes);
        let items = NewItems { first, count, chunk, base, max_bytes };
        let added = self.queue.inner.scripts.add_items(self.key, &items, SILENCE_MS).await;
        match added.map_err(failure)?.as_str() {
            "added" => {
                self.signed = Instant::now();
                Ok(())
            }
            "bytes" => Err(Error::new(
                ErrorCode::TooManyJobs,
                "The items of this tenant's batches that have not begun take as much room as they may \
                 (policy.maxBatchBytes). Try again when some have.",
            )
            .with_retry_after(Duration::from_secs(10))),
            _ => Err(gone()),
        }
    }

    /// Ends the upload: the batch is whole, and its items may begin.
    ///
    /// # Errors
    /// [`ErrorCode::IdempotencyMismatch`] if the key came with another request,
    /// [`ErrorCode::QueueUnavailable`].
    pub async fn seal(mut self, once: Option<&Once>) -> Result<Sealed, Error> {
        if self.chunk.items() > 0 {
            self.store().await?;
        }
        let terms = &self.terms;
        let placement = terms.items.labels.placement();
        let priority = keys::full_priority(terms.items.priority, placement.as_deref());
        let owner = Owner::Batch(self.key.id);
        let webhook = self.queue.webhook(terms.webhook.as_ref(), &self.tenant, owner)?;
        let seal = Seal {
            keep_ms: terms.items.retention_ms,
            terms: &serialize(&terms.items)?,
            priority: priority.as_deref().unwrap_or_default(),
            failure_budget: terms.failure_budget,
            once: once.map(|it| it.key.as_str()).unwrap_or_default(),
            request: once.map(|it| it.request.as_str()).unwrap_or_default(),
            max_active: self.quota.max_active,
            weight: self.quota.weight,
            max_result_bytes: self.limits.max_result_bytes,
            webhook: &webhook,
        };
        let sealed = self.queue.inner.scripts.seal_batch(self.key, &seal).await;
        let (word, other) = sealed.map_err(failure)?;
        self.is_over = true;
        match word.as_str() {
            "sealed" => Ok(Sealed { id: self.key.id, is_repeated: false }),
            "repeated" => {
                other.parse().map(|id| Sealed { id, is_repeated: true }).map_err(|error| {
                    let message = "An idempotency key stands for no batch.";
                    Error::new(ErrorCode::Internal, message).with_source(error)
                })
            }
            "mismatch" => Err(Error::new(
                ErrorCode::IdempotencyMismatch,
                "This Idempotency-Key came before, with another batch. Use a new key for a new batch.",
            )),
            _ => Err(gone()),
        }
    }
}

impl Drop for BatchUpload {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Without a runtime the process ends; a worker notices the silence.
        if let Ok(runtime) = Handle::try_current() {
            let (queue, key) = (self.queue.clone(), self.key);
            // Ends by itself within the command timeout.
            let remove = async move {
                if let Err(error) = queue.inner.scripts.remove_batch(key).await {
                    tracing::debug!(%error, "a broken upload is left to those who keep house");
                }
            };
            self.queue.background().spawn_on(remove, &runtime);
        }
    }
}

fn gone() -> Error {
    Error::new(
        ErrorCode::QueueUnavailable,
        "The upload of the batch was given up: the queue had not heard of it for too long. Nothing of it \
         runs. Submit it again.",
    )
}
