//! The results of a batch, in the order in which its items ended.

use super::not_found;
use crate::error::{Error, ErrorCode};
use crate::execution::ItemEnding;
use crate::id::{BatchId, TenantId};
use crate::redis::client::failure;
use crate::redis::queue::Queue;

/// Results that are read in one step, and bytes of them after which no further one is.
const MAX_READ: usize = 256;
const MAX_READ_BYTES: usize = 512 << 10;
/// Results that are forgotten in one step.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// How an item ended.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchResult {
    /// Its place among the results, from 0.
    pub number: u64,
    /// The item's place in the batch, from 0.
    pub item: u64,
    /// The client's own name of it.
    pub name: Option<String>,
    /// How it ended.
    pub ending: ItemEnding,
}

/// Some results of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// The results; those before the first of them that were asked for were acknowledged.
    pub results: Vec<BatchResult>,
    /// Whether there will be none any more but those.
    pub is_last: bool,
}

impl Queue {
    /// Results of a batch of this tenant from number `from` on, some of them; at least one, if there is any.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], also while it is being uploaded; [`ErrorCode::QueueUnavailable`].
    pub async fn batch_results(
        &self,
        tenant: &TenantId,
        id: BatchId,
        from: u64,
    ) -> Result<Results, Error> {
        self.ready().await?;
        let key = self.batch_key(tenant, id);
        let read = self.inner.scripts.read_results(key, tenant, from, MAX_READ, MAX_READ_BYTES);
        let (is_last, found) = read.await.map_err(failure)?.ok_or_else(|| not_found(id))?;
        let results = found.into_iter().map(|(number, item, ending, name)| {
            let ending = serde_json::from_str(&ending).map_err(|error| {
                let message = format!("Result {number} of batch {id} cannot be read.");
                Error::new(ErrorCode::Internal, message).with_source(error)
            })?;
            Ok(BatchResult { number, item, name: Some(name).filter(|it| !it.is_empty()), ending })
        });
        Ok(Results { results: results.collect::<Result<_, Error>>()?, is_last })
    }

    /// Forgets the results of a batch before number `keep_from`: they were read. Makes room for others.
    /// Returns how many.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], also while it is being uploaded; [`ErrorCode::QueueUnavailable`].
    pub async fn forget_results(
        &self,
        tenant: &TenantId,
        id: BatchId,
        keep_from: u64,
    ) -> Result<u64, Error> {
        self.ready().await?;
        let (key, mut forgotten) = (self.batch_key(tenant, id), 0);
        loop {
            let some = self.inner.scripts.forget_results(key, tenant, keep_from, FORGOTTEN_AT_ONCE);
            match u64::try_from(some.await.map_err(failure)?) {
                Err(_) => return Err(not_found(id)),
                Ok(0) => return Ok(forgotten),
                Ok(some) => forgotten += some,
            }
        }
    }
}
