//! What a worker does with the jobs it holds: renew, finish, give back, and leave.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::{Commit, GiveBack, Lease, Queue, serialize};
use crate::error::Error;
use crate::execution::Ending;
use crate::id::WorkerId;
use crate::redis::client::failure;
use crate::redis::scripts::Held;

/// Most leases that one script call renews: keeps each call far below a millisecond.
const RENEW_BATCH: usize = 128;

impl Lease {
    pub(super) fn held<'a>(&'a self, worker: &'a str) -> Held<'a> {
        Held {
            shard: self.shard,
            worker,
            entry: &self.entry,
            attempt: self.attempt,
            job: self.job.to_string(),
        }
    }
}

impl Queue {
    /// Renews leases and returns those that `worker` does not hold any more: their jobs should be
    /// stopped, since nothing they end with will count.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached; leases may be renewed or
    /// not then.
    pub async fn renew(&self, worker: WorkerId, leases: &[Lease]) -> Result<Vec<Lease>, Error> {
        let name = worker.to_string();
        let mut shards: BTreeMap<u16, Vec<&Lease>> = BTreeMap::new();
        for lease in leases {
            shards.entry(lease.shard).or_default().push(lease);
        }
        let batches = shards
            .iter()
            .flat_map(|(shard, leases)| leases.chunks(RENEW_BATCH).map(move |it| (*shard, it)));
        let lost =
            try_join_all(batches.map(|(shard, batch)| self.renew_batch(shard, &name, batch)));
        Ok(lost.await?.into_iter().flatten().collect())
    }

    async fn renew_batch(
        &self,
        shard: u16,
        worker: &str,
        batch: &[&Lease],
    ) -> Result<Vec<Lease>, Error> {
        let named: Vec<_> = batch
            .iter()
            .map(|lease| (lease.job.to_string(), lease.entry.as_str(), lease.attempt))
            .collect();
        let lost = self.inner.scripts.renew(shard, worker, &named).await.map_err(failure)?;
        Ok(lost.into_iter().filter_map(|place| batch.get(place).copied().cloned()).collect())
    }

    /// Commits the ending of a job and wakes the gateway that waits for it, if `worker` still
    /// holds this lease. Repeating a call that was committed is [`Commit::Done`] again.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached; try again, the lease
    /// permitting.
    pub async fn finish(
        &self,
        worker: WorkerId,
        lease: &Lease,
        ending: &Ending,
    ) -> Result<Commit, Error> {
        let ending = serialize(ending)?;
        let worker = worker.to_string();
        let done = self.inner.scripts.finish(&lease.held(&worker), &ending).await;
        done.map(commit).map_err(failure)
    }

    /// Puts a job back for another worker, or ends it if it has failed too often; only if `worker`
    /// still holds this lease.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached; the lease runs out in
    /// time and another worker takes the job.
    pub async fn give_back(
        &self,
        worker: WorkerId,
        lease: &Lease,
        why: GiveBack,
    ) -> Result<Commit, Error> {
        let failed = match why {
            GiveBack::Shutdown => None,
            GiveBack::Failed(cause) => Some(serialize(&Ending::Error(cause))?),
        };
        let worker = worker.to_string();
        let done = self.inner.scripts.give_back(&lease.held(&worker), failed.as_deref()).await;
        done.map(commit).map_err(failure)
    }

    /// Removes a worker's consumer from all shards where it holds nothing. One that still holds
    /// jobs stays until they are taken over.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached; other workers clean up
    /// in time.
    pub async fn leave(&self, worker: WorkerId) -> Result<(), Error> {
        let name = worker.to_string();
        for shard in self.shards() {
            self.inner.scripts.leave(shard, &name).await.map_err(failure)?;
        }
        Ok(())
    }
}

fn commit(done: bool) -> Commit {
    if done { Commit::Done } else { Commit::Fenced }
}
