//! Batches as their tenants see them, and stopping one.

use redis::cmd;

use super::not_found;
use crate::error::{Error, ErrorCode};
use crate::execution::{Durability, Terms};
use crate::id::{BatchId, TenantId};
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::queue::Queue;
use crate::redis::scripts::Shown;

/// Jobs that one call stops.
const STOPPED_AT_ONCE: usize = 200;

const FIELDS: [&str; 19] = [
    "state",
    "items",
    "next",
    "ended",
    "succeeded",
    "failed",
    "nonzero_exit",
    "timed_out",
    "out_of_memory",
    "error",
    "cancelled",
    "not_begun",
    "budget",
    "keep_ms",
    "created_us",
    "sealed_us",
    "finished_us",
    "max_results",
    "results",
];
const TEXTS: [&str; 2] = ["outcome", "terms"];

/// A batch as its record has it.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRecord {
    /// Its identifier.
    pub id: BatchId,
    /// Whose it is.
    pub tenant: TenantId,
    /// `uploading`, `running`, `stopping` or `finished`.
    pub state: String,
    /// How it ended, or why it is being stopped: `completed`, `cancelled`, `failure_budget` or `items_lost`.
    pub outcome: Option<String>,
    /// How far it is.
    pub progress: BatchProgress,
    /// So many items may fail.
    pub failure_budget: Option<u64>,
    /// Whether it waits until results are acknowledged: as much is kept as may be.
    pub waits_for_readers: bool,
    /// Jobs that the workers can run at once that read where its items stand.
    pub slots: u64,
    /// Bytes of its results that are kept.
    pub result_bytes: u64,
    /// What holds for its items.
    pub terms: Terms,
    /// When its upload began, in milliseconds since the epoch by Redis' clock.
    pub created_ms: u64,
    /// When it was whole.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub finished_ms: Option<u64>,
    /// How long it is kept once it has ended, in milliseconds.
    pub keep_ms: Option<u64>,
}

/// The items of a batch, by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchProgress {
    /// All of them; of a batch that is being uploaded, those that have come.
    pub items: u64,
    /// Those that wait.
    pub queued: u64,
    /// Those that run.
    pub running: u64,
    /// Those whose program ended with exit code 0.
    pub succeeded: u64,
    /// Those that ended in any other way, but for cancelled ones.
    pub failed: u64,
    /// Those of them that ended with another exit code,
    pub nonzero_exit: u64,
    /// whose time was up,
    pub timed_out: u64,
    /// that ran out of memory,
    pub out_of_memory: u64,
    /// and that could not be run.
    pub errors: u64,
    /// Those that were cancelled, begun or not.
    pub cancelled: u64,
    /// Those of them that never were in the queue, and have no result.
    pub not_begun: u64,
    /// Results there have been.
    pub results: u64,
}

/// Some batches, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchPage {
    /// The batches.
    pub batches: Vec<BatchRecord>,
    /// Where the next page begins; `None` if there is none.
    pub next: Option<BatchId>,
}

impl Queue {
    /// A batch of this tenant.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::QueueUnavailable`].
    pub async fn batch(&self, tenant: &TenantId, id: BatchId) -> Result<BatchRecord, Error> {
        self.find_batch(tenant, id).await?.ok_or_else(|| not_found(id))
    }

    async fn find_batch(
        &self,
        tenant: &TenantId,
        id: BatchId,
    ) -> Result<Option<BatchRecord>, Error> {
        self.ready().await?;
        let fields: Vec<&str> = FIELDS.into_iter().chain(TEXTS).collect();
        let key = self.batch_key(tenant, id);
        let shown = self.inner.scripts.show_batch(key, tenant, &fields).await.map_err(failure)?;
        shown.map(|shown| record(id, tenant, shown)).transpose()
    }

    /// A page of this tenant's batches, at most `limit`, from behind `cursor` on.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn batches(
        &self,
        tenant: &TenantId,
        cursor: Option<BatchId>,
        limit: usize,
    ) -> Result<BatchPage, Error> {
        let newest = cursor.map_or_else(|| "+".to_owned(), |id| format!("({id}"));
        let mut read = cmd("ZREVRANGEBYLEX");
        read.arg(keys::batches(self.shard_of(tenant), tenant)).arg(newest).arg("-");
        read.arg("LIMIT").arg(0).arg(limit + 1);
        let names: Vec<String> = self.inner.client.run(&read).await.map_err(failure)?;
        let mut page = BatchPage::default();
        for (place, name) in names.iter().enumerate() {
            let Ok(id) = name.parse() else { continue };
            if place == limit {
                page.next = names[limit - 1].parse().ok();
                break;
            }
            page.batches.extend(self.find_batch(tenant, id).await?);
        }
        Ok(page)
    }

    /// Stops a batch of this tenant: no item begins any more, those that wait end at once, those that run are
    /// stopped by their workers. True once nothing of it runs; until then, ask again.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], also while it is being uploaded; [`ErrorCode::QueueUnavailable`].
    pub async fn cancel_batch(&self, tenant: &TenantId, id: BatchId) -> Result<bool, Error> {
        self.ready().await?;
        let key = self.batch_key(tenant, id);
        let stopped =
            self.inner.scripts.cancel_batch(key, Some(tenant), "cancelled", STOPPED_AT_ONCE).await;
        match stopped.map_err(failure)?.as_str() {
            "finished" => Ok(true),
            "stopping" => Ok(false),
            _ => Err(not_found(id)),
        }
    }

    /// As [`confirm`](Self::confirm), for a batch.
    ///
    /// # Errors
    /// As there.
    pub async fn confirm_batch(
        &self,
        tenant: &TenantId,
        id: BatchId,
        durability: Durability,
    ) -> Result<bool, Error> {
        self.confirm_key(tenant, |shard| keys::batch(shard, id), durability).await
    }
}

fn record(id: BatchId, tenant: &TenantId, shown: Shown) -> Result<BatchRecord, Error> {
    let (mut fields, open, running, slots, results_of_tenant) = shown;
    let unreadable =
        || Error::new(ErrorCode::Internal, format!("The record of batch {id} cannot be read."));
    let texts = fields.split_off(FIELDS.len().min(fields.len()));
    let state = fields.first_mut().and_then(Option::take).ok_or_else(unreadable)?;
    let terms = texts.get(1).and_then(Option::as_deref);
    let number = |name: &str| {
        let place = FIELDS.iter().position(|field| *field == name)?;
        fields.get(place)?.as_ref()?.parse::<u64>().ok()
    };
    let count = |name| number(name).unwrap_or_default();
    let ms = |name| number(name).map(|us| us / 1000);
    let (items, not_begun) = (count("items"), count("not_begun"));
    let has_begun = count("ended") + not_begun + running;
    let progress = BatchProgress {
        items,
        queued: items.saturating_sub(has_begun),
        running,
        succeeded: count("succeeded"),
        failed: count("failed"),
        nonzero_exit: count("nonzero_exit"),
        timed_out: count("timed_out"),
        out_of_memory: count("out_of_memory"),
        errors: count("error"),
        cancelled: count("cancelled") + not_begun,
        not_begun,
        results: count("ended"),
    };
    let is_full = number("max_results").is_some_and(|most| results_of_tenant >= most);
    let has_more = count("next") < items;
    Ok(BatchRecord {
        id,
        tenant: tenant.clone(),
        waits_for_readers: state == "running" && is_full && has_more && open == 0,
        state,
        outcome: texts.first().cloned().flatten(),
        progress,
        failure_budget: number("budget"),
        slots,
        result_bytes: count("results"),
        terms: terms.and_then(|terms| serde_json::from_str(terms).ok()).unwrap_or_default(),
        created_ms: ms("created_us").unwrap_or_default(),
        started_ms: ms("sealed_us"),
        finished_ms: ms("finished_us"),
        keep_ms: number("keep_ms"),
    })
}
