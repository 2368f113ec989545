//! From items to jobs, a few at a time: as many as the queue has room for. Any worker does it, and it does
//! no harm if several do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use redis::cmd;
use sha2::{Digest as _, Sha256};

use super::{RunningBatch, chunk};
use crate::error::{Error, ErrorCode};
use crate::execution::BaseJob;
use crate::id::{BatchId, JobId, TenantId};
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::queue::Queue;
use crate::redis::scripts::{BatchKey, NewItem, Place};
use crate::sealing::{self, Owner, Purpose};

/// Most batches of a shard that are looked at in one go.
const TEND_BATCH: usize = 100;
/// How long a running batch is one worker's to advance without being asked to, in milliseconds.
const HOLD_MS: u64 = 2000;
/// Most items, and about as many bytes of them, that become jobs in one step: Redis does nothing else
/// meanwhile.
const STEP_ITEMS: usize = 32;
const STEP_BYTES: usize = 1 << 20;
/// Jobs of a batch that are looked at in one go for what does not fit together.
const CHECKED_JOBS: usize = 100;
/// Batches whose items a worker remembers.
const MAX_CACHED: usize = 8;

/// Chunks of the batches that a worker advances, as it would else read each again and again.
#[derive(Default)]
pub struct BatchCache(HashMap<BatchId, Loaded>);

struct Loaded {
    base: Arc<Base>,
    /// Whether its items, or what they are told from, have secrets.
    has_secrets: bool,
    /// Number of the chunk's first item.
    first: u64,
    lines: Vec<String>,
    used: Instant,
}

/// What the items of a batch are told from.
struct Base {
    tenant: TenantId,
    job: BaseJob,
    digest: [u8; 32],
    has_secrets: bool,
}

impl BatchCache {
    fn insert(&mut self, id: BatchId, loaded: Loaded) {
        if self.0.len() >= MAX_CACHED && !self.0.contains_key(&id) {
            let oldest = self.0.iter().min_by_key(|(_, loaded)| loaded.used).map(|(id, _)| *id);
            oldest.map(|id| self.0.remove(&id));
        }
        self.0.insert(id, loaded);
    }
}

impl Queue {
    /// Does what is due with batches: removes what is to go, and returns those that are the caller's to
    /// [advance](Self::advance_batch) and to [check](Self::check_batch).
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn tend_batches(&self) -> Result<Vec<RunningBatch>, Error> {
        self.ready().await?;
        let step = |shard| async move {
            let mut batches = Vec::new();
            loop {
                let some = self.inner.scripts.tend_batches(shard, TEND_BATCH, HOLD_MS).await;
                let (running, looked_at) = some.map_err(failure)?;
                let ids = running.iter().filter_map(|id| id.parse().ok());
                batches.extend(ids.map(|id| RunningBatch { shard, id }));
                if looked_at < TEND_BATCH {
                    return Ok(batches);
                }
            }
        };
        Ok(self.shards_in_reach(step).await?.concat())
    }

    /// Turns items of a batch into jobs, as many as the queue has room for. A batch whose items got lost is
    /// stopped.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached, [`ErrorCode::SecretsUnreadable`] if the key
    /// of its secrets is not here; what has become a job stays one.
    pub async fn advance_batch(
        &self,
        batch: RunningBatch,
        cache: &mut BatchCache,
    ) -> Result<(), Error> {
        let mut place = self.step(batch.key(), (0, 0), &[]).await?;
        loop {
            let (state, next, items, first, room) = &place;
            if state != "running" {
                cache.0.remove(&batch.id);
                return Ok(());
            }
            if *room == 0 || next >= items {
                return Ok(());
            }
            let (next, first, room) = (*next, *first, usize::try_from(*room).unwrap_or(usize::MAX));
            let loaded = match self.load(batch, first, cache).await {
                Ok(Some(loaded)) => loaded,
                // Those that have the key go on with it.
                Err(error)
                    if matches!(
                        error.code(),
                        ErrorCode::QueueUnavailable | ErrorCode::SecretsUnreadable
                    ) =>
                {
                    return Err(error);
                }
                lost => {
                    // Another worker may have gone on meanwhile.
                    let now = self.step(batch.key(), (0, 0), &[]).await?;
                    if now.3 == first && now.0 == "running" {
                        let error = lost.err().map(|error| error.to_string());
                        tracing::error!(batch = %batch.id, ?error, "items of a batch are lost");
                        return self.give_up_batch(batch).await;
                    }
                    place = now;
                    continue;
                }
            };
            let end = first + loaded.lines.len() as u64;
            let items = match self.items_of(loaded, next, room.min(STEP_ITEMS)) {
                Ok(items) if !items.is_empty() => items,
                unreadable => {
                    let error = unreadable.err().map(|error| error.to_string());
                    tracing::error!(batch = %batch.id, ?error, "items of a batch cannot be read");
                    return self.give_up_batch(batch).await;
                }
            };
            place = self.step(batch.key(), (next, end), &items).await?;
        }
    }

    async fn step(
        &self,
        batch: BatchKey,
        range: (u64, u64),
        items: &[NewItem],
    ) -> Result<Place, Error> {
        self.inner.scripts.advance_batch(batch, range, items).await.map_err(failure)
    }

    /// The chunk that begins with an item; `None` if it is not there.
    async fn load<'a>(
        &self,
        batch: RunningBatch,
        first: u64,
        cache: &'a mut BatchCache,
    ) -> Result<Option<&'a Loaded>, Error> {
        if cache.0.get(&batch.id).is_none_or(|loaded| loaded.first != first) {
            let mut read = cmd("HGET");
            read.arg(keys::batch_items(batch.shard, batch.id)).arg(first);
            let lines: Option<Vec<u8>> = self.inner.client.run(&read).await.map_err(failure)?;
            let base = match cache.0.remove(&batch.id) {
                Some(known) => Some(known.base),
                None => self.base(batch).await?.map(Arc::new),
            };
            let (Some(mut lines), Some(base)) = (lines, base) else { return Ok(None) };
            let is_sealed = sealing::is_sealed(&lines);
            if base.has_secrets && !is_sealed {
                // Whoever had it so could have the secrets given to a program of theirs.
                tracing::error!(batch = %batch.id, "items are in the clear whose secrets are not");
                return Ok(None);
            }
            let purpose = Purpose::Items { first, base: &base.digest };
            let place =
                sealing::Place { tenant: &base.tenant, owner: Owner::Batch(batch.id), purpose };
            let lines = match self.unseal(place, &mut lines) {
                Ok(lines) => chunk::read(lines)?,
                Err(error) => return self.unopened(batch, &lines, error).await.map(|()| None),
            };
            let has_secrets = is_sealed;
            let used = Instant::now();
            cache.insert(batch.id, Loaded { base, has_secrets, first, lines, used });
        }
        let loaded = cache.0.get_mut(&batch.id).map(|loaded| {
            loaded.used = Instant::now();
            &*loaded
        });
        Ok(loaded)
    }

    async fn base(&self, batch: RunningBatch) -> Result<Option<Base>, Error> {
        let mut read = cmd("HMGET");
        read.arg(keys::batch(batch.shard, batch.id)).arg("tenant").arg("base");
        let (tenant, text): (Option<String>, Option<Vec<u8>>) =
            self.inner.client.run(&read).await.map_err(failure)?;
        let (Some(tenant), Some(mut text)) = (tenant.map(TenantId::new), text) else {
            return Ok(None);
        };
        let has_secrets = sealing::is_sealed(&text);
        let (owner, purpose) = (Owner::Batch(batch.id), Purpose::Base);
        let place = sealing::Place { tenant: &tenant, owner, purpose };
        let text = match self.unseal(place, &mut text) {
            Ok(text) => text,
            Err(error) => return self.unopened(batch, &text, error).await.map(|()| None),
        };
        let (job, digest) = (BaseJob::from_text(text)?, Sha256::digest(text).into());
        Ok(Some(Base { tenant, job, digest, has_secrets }))
    }

    /// What could not be opened here is an error if a worker that lives has the key; else it is lost.
    async fn unopened(
        &self,
        batch: RunningBatch,
        sealed: &[u8],
        error: Error,
    ) -> Result<(), Error> {
        let key = sealing::key_of(sealed);
        let is_ours = self.secrets_keys().contains(&key);
        if !is_ours && self.workers().await?.iter().any(|it| it.secrets_keys.contains(&key)) {
            return Err(error);
        }
        tracing::error!(batch = %batch.id, %error, "no worker can decrypt the items of a batch");
        Ok(())
    }

    /// Items from a number on, at most `max`, as they are to be stored.
    fn items_of(&self, loaded: &Loaded, next: u64, max: usize) -> Result<Vec<NewItem>, Error> {
        let skip = usize::try_from(next.saturating_sub(loaded.first)).unwrap_or(usize::MAX);
        let (mut items, mut bytes) = (Vec::new(), 0);
        for line in loaded.lines.iter().skip(skip).take(max) {
            let line = chunk::parse(line)?;
            let job = JobId::generate();
            let (tenant, owner) = (&loaded.base.tenant, Owner::Job(job));
            let place = sealing::Place { tenant, owner, purpose: Purpose::Payload };
            let payload = loaded.base.job.apply(line.delta)?;
            let payload = self.seal(place, payload, loaded.has_secrets)?;
            bytes += payload.len();
            items.push(NewItem { job: job.to_string(), payload, name: line.name });
            if bytes >= STEP_BYTES {
                break;
            }
        }
        Ok(items)
    }

    async fn give_up_batch(&self, batch: RunningBatch) -> Result<(), Error> {
        let stopped = self.inner.scripts.cancel_batch(batch.key(), None, "items_lost", 1).await;
        stopped.map(drop).map_err(failure)
    }

    /// Looks at some jobs of a batch, and puts right those that are not where their records say; of a batch that
    /// is to stop, stops them. Returns what was put right and whose it was.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn check_batch(&self, batch: RunningBatch) -> Result<Vec<(String, String)>, Error> {
        self.inner.scripts.check_batch(batch.key(), CHECKED_JOBS).await.map_err(failure)
    }
}
