//! What a worker does with the jobs it holds: renew, finish, give back, and leave.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::{Commit, GiveBack, Lease, LeaseNews, Queue, serialize};
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
    /// Renews leases and returns those of which something is to be known.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached; leases may be renewed or
    /// not then.
    pub async fn renew(
        &self,
        worker: WorkerId,
        leases: &[Lease],
    ) -> Result<Vec<(Lease, LeaseNews)>, Error> {
        let name = worker.to_string();
        let mut shards: BTreeMap<u16, Vec<&Lease>> = BTreeMap::new();
        for lease in leases {
            shards.entry(lease.shard).or_default().push(lease);
        }
        let batches = shards
            .iter()
            .flat_map(|(shard, leases)| leases.chunks(RENEW_BATCH).map(move |it| (*shard, it)));
        let news =
            try_join_all(batches.map(|(shard, batch)| self.renew_batch(shard, &name, batch)));
        Ok(news.await?.into_iter().flatten().collect())
    }

    async fn renew_batch(
        &self,
        shard: u16,
        worker: &str,
        batch: &[&Lease],
    ) -> Result<Vec<(Lease, LeaseNews)>, Error> {
        let named: Vec<_> = batch
            .iter()
            .map(|lease| (lease.job.to_string(), lease.entry.as_str(), lease.attempt))
            .collect();
        let answers = self.inner.scripts.renew(shard, worker, &named).await.map_err(failure)?;
        let news = answers.into_iter().filter_map(|place| {
            let lease = batch.get(usize::try_from(place.unsigned_abs()).ok()?.checked_sub(1)?)?;
            let news = if place > 0 { LeaseNews::Lost } else { LeaseNews::Cancelled };
            Some(((*lease).clone(), news))
        });
        Ok(news.collect())
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
        let (text, summary) = (serialize(ending)?, serialize(&ending.summary())?);
        let worker = worker.to_string();
        let done = self.inner.scripts.finish(&lease.held(&worker), &text, &summary).await;
        done.map(commit).map_err(failure)
    }

    /// Puts a job back for another worker, or ends it if it has failed too often or its caller has
    /// seen output of it; only if `worker` still holds this lease.
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
        let (ending, counts) = match why {
            GiveBack::Shutdown | GiveBack::NoRoom => (None, false),
            GiveBack::Failed(cause) => (Some(serialize(&Ending::Error(cause))?), true),
        };
        let worker = worker.to_string();
        let held = lease.held(&worker);
        let done = self.inner.scripts.give_back(&held, ending.as_deref(), counts).await;
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
