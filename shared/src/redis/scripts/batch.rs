//! The scripts about batches.

use redis::{FromRedisValue, RedisResult};

use super::{
    ADMISSION, ALLOW_OOM, COMMON, GROUP, JOBS, LISTING, PLACING, REPAIR, SESSIONS, STREAM, Script,
    Scripts,
};
use crate::id::{BatchId, TenantId};
use crate::redis::keys;

/// Functions about batches.
pub(super) const BATCHES: &str = include_str!("functions/batches.lua");

/// Those scripts.
pub(super) struct BatchScripts {
    open: Script,
    add: Script,
    seal: Script,
    remove: Script,
    tend: Script,
    advance: Script,
    check: Script,
    cancel: Script,
    show: Script,
    read_results: Script,
    forget_results: Script,
}

/// A batch, as the scripts name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::redis) struct BatchKey {
    pub(in crate::redis) shard: u16,
    pub(in crate::redis) id: BatchId,
}

/// Items of a batch to keep.
pub(in crate::redis) struct NewItems<'a> {
    /// Number of the first.
    pub(in crate::redis) first: u64,
    pub(in crate::redis) count: u64,
    pub(in crate::redis) chunk: &'a [u8],
    /// What they are told from; '' if it is there already.
    pub(in crate::redis) base: &'a [u8],
    /// Bytes that the tenant's items may take.
    pub(in crate::redis) max_bytes: u64,
}

/// What holds for a batch that is whole.
pub(in crate::redis) struct Seal<'a> {
    pub(in crate::redis) keep_ms: u64,
    /// As JSON.
    pub(in crate::redis) terms: &'a str,
    /// As the records of its items have it; '' if it is normal, without labels.
    pub(in crate::redis) priority: &'a str,
    pub(in crate::redis) failure_budget: Option<u64>,
    /// Its idempotency key and what tells its request from others; '' if there is none.
    pub(in crate::redis) once: &'a str,
    pub(in crate::redis) request: &'a str,
    pub(in crate::redis) max_active: u32,
    pub(in crate::redis) weight: f64,
    pub(in crate::redis) max_result_bytes: u64,
    /// As it is stored, sealed or not; '' if there is none.
    pub(in crate::redis) webhook: &'a [u8],
}

/// An item that becomes a job.
pub(in crate::redis) struct NewItem {
    pub(in crate::redis) job: String,
    /// As it is stored, sealed or not.
    pub(in crate::redis) payload: Vec<u8>,
    /// '' if it has none.
    pub(in crate::redis) name: String,
}

/// Where a batch is: state, next item, items, chunk that has it, how many more may be in the queue.
pub(in crate::redis) type Place = (String, u64, u64, u64, u64);

/// A batch as `show` answers: the fields asked for, items in the queue, those that run, the slots of the
/// workers that read where they stand, bytes of its tenant's results.
pub(in crate::redis) type Shown = (Vec<Option<String>>, u64, u64, u64, u64);

/// Results as `read_results` answers.
pub(in crate::redis) type ResultsRead = (bool, Vec<(u64, u64, String, String)>);

impl BatchScripts {
    pub(super) fn new(constants: &str) -> Self {
        let plain = [constants, COMMON, JOBS, BATCHES];
        let opening = [constants, COMMON, JOBS, BATCHES, ADMISSION];
        let sealing = [constants, COMMON, JOBS, BATCHES, LISTING];
        let advancing = [constants, COMMON, JOBS, BATCHES, ADMISSION, PLACING];
        let checking = [constants, COMMON, JOBS, BATCHES, SESSIONS, STREAM, PLACING, GROUP, REPAIR];
        let adding = |parts: &[&str], body| Script::behind("", parts, body);
        let script = |parts: &[&str], body| Script::behind(ALLOW_OOM, parts, body);
        Self {
            open: adding(&opening, include_str!("open_batch.lua")),
            add: adding(&plain, include_str!("add_items.lua")),
            seal: adding(&sealing, include_str!("seal_batch.lua")),
            remove: script(&plain, include_str!("remove_batch.lua")),
            tend: script(&plain, include_str!("tend_batches.lua")),
            advance: adding(&advancing, include_str!("advance_batch.lua")),
            check: script(&checking, include_str!("check_batch.lua")),
            cancel: script(&plain, include_str!("cancel_batch.lua")),
            show: script(&plain, include_str!("show_batch.lua")),
            read_results: script(&plain, include_str!("read_results.lua")),
            forget_results: script(&plain, include_str!("forget_results.lua")),
        }
    }

    pub(super) fn all(&self) -> [&Script; 11] {
        [
            &self.open,
            &self.add,
            &self.seal,
            &self.remove,
            &self.tend,
            &self.advance,
            &self.check,
            &self.cancel,
            &self.show,
            &self.read_results,
            &self.forget_results,
        ]
    }
}

impl BatchKey {
    fn record(self) -> String {
        keys::batch(self.shard, self.id)
    }
}

impl Scripts {
    /// Begins an upload, or says why not.
    pub(in crate::redis) async fn open_batch(
        &self,
        batch: BatchKey,
        tenant: &TenantId,
        max_batches: u64,
        per_second: u32,
        silence_ms: u64,
        terms: &str,
    ) -> RedisResult<super::Refusal> {
        let keys = [batch.record(), keys::batches(batch.shard, tenant), keys::tending(batch.shard)];
        let mut call = self.batches.open.call(&keys);
        call.arg(batch.id.to_string()).arg(tenant.as_str());
        call.arg(max_batches).arg(per_second).arg(silence_ms).arg(terms);
        self.batches.open.run(&self.client, &call).await
    }

    /// Adds items to an upload, or none as a sign of life: 'added', 'bytes' or 'gone'.
    pub(in crate::redis) async fn add_items(
        &self,
        batch: BatchKey,
        items: &NewItems<'_>,
        silence_ms: u64,
    ) -> RedisResult<String> {
        let keys = [batch.record(), keys::batch_items(batch.shard, batch.id)];
        let mut call = self.batches.add.call(&keys);
        call.arg(batch.id.to_string()).arg(items.first).arg(items.count);
        call.arg(items.chunk).arg(items.base).arg(items.max_bytes).arg(silence_ms);
        self.batches.add.run(&self.client, &call).await
    }

    /// Ends an upload: 'sealed', 'repeated' and which batch, 'mismatch' or 'gone'.
    pub(in crate::redis) async fn seal_batch(
        &self,
        batch: BatchKey,
        seal: &Seal<'_>,
    ) -> RedisResult<super::Refusal> {
        let mut call = self.batches.seal.call(&[batch.record()]);
        let budget = seal.failure_budget.map(|it| it.to_string()).unwrap_or_default();
        call.arg(batch.id.to_string()).arg(seal.keep_ms).arg(seal.terms).arg(seal.priority);
        call.arg(budget).arg(seal.once).arg(seal.request).arg(seal.max_active).arg(seal.weight);
        call.arg(seal.max_result_bytes).arg(seal.webhook);
        self.batches.seal.run(&self.client, &call).await
    }

    /// Removes a batch that is being uploaded; false if it is not.
    pub(in crate::redis) async fn remove_batch(&self, batch: BatchKey) -> RedisResult<bool> {
        let mut call = self.batches.remove.call(&[batch.record()]);
        call.arg(batch.id.to_string());
        self.batches.remove.run(&self.client, &call).await
    }

    /// The batches of a shard that are the caller's to advance for so long, and how many were looked at.
    pub(in crate::redis) async fn tend_batches(
        &self,
        shard: u16,
        max: usize,
        hold_ms: u64,
    ) -> RedisResult<(Vec<String>, usize)> {
        let mut call = self.batches.tend.call(&[keys::tending(shard)]);
        call.arg(max).arg(hold_ms);
        self.batches.tend.run(&self.client, &call).await
    }

    /// Turns items, from `first` of a chunk that ends before `end` on, into jobs; where the batch is then.
    pub(in crate::redis) async fn advance_batch(
        &self,
        batch: BatchKey,
        (first, end): (u64, u64),
        items: &[NewItem],
    ) -> RedisResult<Place> {
        let keys = [batch.record(), keys::batch_items(batch.shard, batch.id)];
        let mut call = self.batches.advance.call(&keys);
        call.arg(batch.id.to_string()).arg(first).arg(end);
        for item in items {
            call.arg(&item.job).arg(&item.payload).arg(&item.name);
        }
        self.batches.advance.run(&self.client, &call).await
    }

    /// Looks at some jobs of a batch, and returns what was put right and whose it is.
    pub(in crate::redis) async fn check_batch(
        &self,
        batch: BatchKey,
        jobs: usize,
    ) -> RedisResult<Vec<(String, String)>> {
        let mut call = self.batches.check.call(&[batch.record()]);
        call.arg(batch.id.to_string()).arg(jobs);
        self.batches.check.run(&self.client, &call).await
    }

    /// Stops a batch, for its tenant or, without one, for a worker: 'finished', 'stopping', 'uploading' or
    /// 'unknown'.
    pub(in crate::redis) async fn cancel_batch(
        &self,
        batch: BatchKey,
        tenant: Option<&TenantId>,
        why: &str,
        max: usize,
    ) -> RedisResult<String> {
        let mut call = self.batches.cancel.call(&[batch.record()]);
        call.arg(batch.id.to_string()).arg(tenant.map(TenantId::as_str).unwrap_or_default());
        call.arg(why).arg(max);
        self.batches.cancel.run(&self.client, &call).await
    }

    /// These fields of a batch, and how many of its items are in the queue.
    pub(in crate::redis) async fn show_batch(
        &self,
        batch: BatchKey,
        tenant: &TenantId,
        fields: &[&str],
    ) -> RedisResult<Option<Shown>> {
        let mut call = self.batches.show.call(&[batch.record()]);
        call.arg(batch.id.to_string()).arg(tenant.as_str()).arg(fields);
        let shown: redis::Value = self.batches.show.run(&self.client, &call).await?;
        match &shown {
            redis::Value::Array(parts) if parts.is_empty() => Ok(None),
            _ => Ok(Some(Shown::from_redis_value(shown)?)),
        }
    }

    /// Whether there will be no further results, and some from `from` on: number, item, ending, name.
    pub(in crate::redis) async fn read_results(
        &self,
        batch: BatchKey,
        tenant: &TenantId,
        from: u64,
        max: usize,
        max_bytes: usize,
    ) -> RedisResult<Option<ResultsRead>> {
        let keys = [batch.record(), keys::batch_results(batch.shard, batch.id)];
        let mut call = self.batches.read_results.call(&keys);
        call.arg(tenant.as_str()).arg(from).arg(max).arg(max_bytes);
        let read: redis::Value = self.batches.read_results.run(&self.client, &call).await?;
        match &read {
            redis::Value::Array(parts) if parts.is_empty() => Ok(None),
            _ => Ok(Some(ResultsRead::from_redis_value(read)?)),
        }
    }

    /// Forgets results before `keep_from`; how many, -1 if there is no such batch.
    pub(in crate::redis) async fn forget_results(
        &self,
        batch: BatchKey,
        tenant: &TenantId,
        keep_from: u64,
        max: usize,
    ) -> RedisResult<i64> {
        let keys = [batch.record(), keys::batch_results(batch.shard, batch.id)];
        let mut call = self.batches.forget_results.call(&keys);
        call.arg(batch.id.to_string()).arg(tenant.as_str()).arg(keep_from).arg(max);
        self.batches.forget_results.run(&self.client, &call).await
    }
}
