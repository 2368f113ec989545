//! Batches: many jobs of one shape, uploaded in one go. Their items wait in compressed chunks and become
//! jobs a few at a time, as others end; how each ended goes to the results of its batch.

mod advance;
mod chunk;
mod record;
mod results;
mod upload;

pub use advance::BatchCache;
pub use record::{BatchPage, BatchProgress, BatchRecord};
pub use results::{BatchResult, Results};
pub use upload::{BatchUpload, Sealed};

use super::Queue;
use crate::error::{Error, ErrorCode};
use crate::execution::Terms;
use crate::id::{BatchId, TenantId};
use crate::redis::scripts::BatchKey;
use crate::webhook::Webhook;

/// What a tenant's batches may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Batches, those included that have ended and are kept.
    pub max_batches: u64,
    /// Items of one of them.
    pub max_items: u64,
    /// Bytes of the items of all of them that have not begun, compressed.
    pub max_bytes: u64,
    /// Bytes of the results of all of them that are kept.
    pub max_result_bytes: u64,
}

impl Default for BatchLimits {
    /// No limits.
    fn default() -> Self {
        let any = u64::MAX / 2;
        Self { max_batches: any, max_items: any, max_bytes: any, max_result_bytes: any }
    }
}

/// What holds for a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchTerms {
    /// What holds for each of its items, and how long the batch is kept once it has ended.
    pub items: Terms,
    /// So many items may fail; one more, and no further one begins.
    pub failure_budget: Option<u64>,
    /// Who is told how it ended: the batch, not each item.
    pub webhook: Option<Webhook>,
}

/// A batch whose items are to become jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RunningBatch {
    pub(super) shard: u16,
    /// The batch.
    pub id: BatchId,
}

impl RunningBatch {
    fn key(self) -> BatchKey {
        BatchKey { shard: self.shard, id: self.id }
    }
}

impl Queue {
    fn batch_key(&self, tenant: &TenantId, id: BatchId) -> BatchKey {
        BatchKey { shard: self.shard_of(tenant), id }
    }
}

/// What callers know as the answer to a batch that is not there.
fn not_found(id: BatchId) -> Error {
    Error::new(
        ErrorCode::NotFound,
        format!("Batch {id} not found: there was none, or it is not kept any more"),
    )
}
