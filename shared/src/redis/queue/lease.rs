//! What a worker does with the jobs it holds: renew, finish, give back, and leave.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use super::{Commit, GiveBack, Lease, LeaseNews, Queue, Unreadable, now_ms, serialize};
use crate::error::Error;
use crate::execution::{Attempt, Ending, ItemEnding};
use crate::id::WorkerId;
use crate::redis::client::failure;
use crate::redis::scripts::Held;

/// Most leases that one script call renews: keeps each call far below a millisecond.
const RENEW_BATCH: usize = 128;

impl Lease {
    pub(super) fn held<'a>(&'a self, worker: &'a str) -> Held<'a> {
        Held {
            shard: self.shard,
            stream: &self.stream,
            worker,
            entry: &self.entry,
            attempt: self.attempt,
            job: self.job.to_string(),
        }
    }

    /// The attempt that ends now and so.
    fn attempt(&self, worker: &str, ending: &Ending) -> Attempt {
        Attempt::ended(worker.to_owned(), self.taken_ms, now_ms(), ending)
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
        let mut streams: BTreeMap<(u16, &str), Vec<&Lease>> = BTreeMap::new();
        for lease in leases {
            streams.entry((lease.shard, &lease.stream)).or_default().push(lease);
        }
        let batches = streams
            .iter()
            .flat_map(|(stream, leases)| leases.chunks(RENEW_BATCH).map(move |it| (*stream, it)));
        // One that cannot be reached stops none of the others; what is known of them is lost only till
        // the next renewal.
        let news = join_all(batches.map(|(stream, batch)| self.renew_batch(stream, &name, batch)));
        let news: Result<Vec<_>, Error> = news.await.into_iter().collect();
        Ok(news?.into_iter().flatten().collect())
    }

    async fn renew_batch(
        &self,
        stream: (u16, &str),
        worker: &str,
        batch: &[&Lease],
    ) -> Result<Vec<(Lease, LeaseNews)>, Error> {
        let named: Vec<_> = batch
            .iter()
            .map(|lease| (lease.job.to_string(), lease.entry.as_str(), lease.attempt))
            .collect();
        let answers = self.inner.scripts.renew(stream, worker, &named).await.map_err(failure)?;
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
        let text = match lease.batch {
            Some(_) => serialize(&ItemEnding::of(ending))?,
            None => serialize(ending)?,
        };
        let (worker, summary) = (worker.to_string(), serialize(&ending.summary())?);
        let held = lease.held(&worker);
        let step = held.finish_step(&text, &summary);
        let bytes = step.size();
        let done = self.groups(held.shard).finish.take(step, bytes).await;
        Ok(match done.map_err(failure)? {
            0 => Commit::Fenced,
            2 => Commit::DoneLow,
            _ => Commit::Done,
        })
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
        let worker = worker.to_string();
        let (ending, attempt) = match why {
            GiveBack::Shutdown | GiveBack::NoRoom => (None, None),
            GiveBack::Failed(cause) => {
                let ending = Ending::Error(cause);
                (Some(serialize(&ending)?), Some(serialize(&lease.attempt(&worker, &ending))?))
            }
        };
        let held = lease.held(&worker);
        let done = self.inner.scripts.give_back(&held, ending.as_deref(), attempt.as_deref()).await;
        done.map(commit).map_err(failure)
    }

    /// Passes a job that `worker` cannot read on to workers that have not tried, if it still holds its
    /// lease; that counts against none. If nobody is left that might, it ends as
    /// [`crate::ErrorCode::NoWorker`] or, if a key is missing, [`crate::ErrorCode::SecretsUnreadable`]: a
    /// listed one becomes a dead letter.
    ///
    /// # Errors
    /// As [`give_back`](Self::give_back).
    pub async fn pass_on(
        &self,
        worker: WorkerId,
        unreadable: &Unreadable,
    ) -> Result<Commit, Error> {
        let lease = &unreadable.lease;
        let ending = Ending::Error((*unreadable.failure).clone());
        let worker = worker.to_string();
        let attempt = serialize(&lease.attempt(&worker, &ending))?;
        let (held, ending) = (lease.held(&worker), serialize(&ending)?);
        let done = self.inner.scripts.pass_on(&held, &ending, &attempt).await;
        done.map(commit).map_err(failure)
    }

    /// Has a job whose program ended so begin anew after a pause, by its own terms, if `worker` still holds this lease. One
    /// that was cancelled meanwhile ends instead.
    ///
    /// # Errors
    /// As [`give_back`](Self::give_back).
    pub async fn retry(
        &self,
        worker: WorkerId,
        lease: &Lease,
        pause: Duration,
        ending: &Ending,
    ) -> Result<Commit, Error> {
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let worker = worker.to_string();
        let attempt = serialize(&lease.attempt(&worker, ending))?;
        let done = self.inner.scripts.retry(&lease.held(&worker), pause_ms, &attempt).await;
        done.map(commit).map_err(failure)
    }

    /// Removes a worker's consumer from all shards where it holds nothing. One that still holds
    /// jobs stays until they are taken over.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached; other workers clean up
    /// in time.
    pub async fn leave(&self, worker: WorkerId) -> Result<(), Error> {
        let name = &worker.to_string();
        let step = |shard| async move {
            for stream in self.streams_of(shard).await.map_err(failure)? {
                self.inner.scripts.leave(stream, name).await.map_err(failure)?;
            }
            Ok(())
        };
        let left = self.each_shard(step).await.map(drop);
        self.depart(worker).await.and(left)
    }
}

fn commit(done: bool) -> Commit {
    if done { Commit::Done } else { Commit::Fenced }
}
