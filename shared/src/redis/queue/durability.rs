//! How safe a job is: confirmed after it was put into the queue, for those who ask for more than
//! Redis' own promise.
//!
//! `WAIT` holds up its connection until the replicas have caught up, so it has one of its own; and
//! as they catch up with everything at once, one `WAIT` serves all who came before it.

use std::time::Instant;

use redis::{RedisError, RedisResult, pipe};
use tokio::sync::Mutex;

use super::Queue;
use crate::error::{Error, ErrorCode};
use crate::execution::Durability;
use crate::id::{JobId, TenantId};
use crate::redis::client::{Client, failure};
use crate::redis::keys;

/// How long replicas and disks may take, in milliseconds; less than a command may.
const PATIENCE_MS: u64 = 1000;
/// Lifetime of the mark, in milliseconds.
const MARK_TTL_MS: u64 = 60_000;

/// The last confirmations of each kind, of each server that has to be asked.
pub(super) struct Confirmations {
    replicated: Vec<Last>,
    synced: Vec<Last>,
}

/// When the last confirmation began, and how it came out.
type Last = Mutex<Option<(Instant, Round)>>;

impl Confirmations {
    /// Shards are taken to be spread over so many servers in turn.
    pub(super) fn new(servers: u16) -> Self {
        let none = || (0..servers).map(|_| Mutex::default()).collect();
        Self { replicated: none(), synced: none() }
    }
}

/// How a round came out; `None`: Redis could not be asked.
type Round = Option<bool>;

impl Queue {
    /// Waits, about a second for each round it takes part in and two rounds at most, until a job that was put into the queue is as safe as asked. False
    /// if it is not: it is in the queue all the same.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached, or was replaced by one that does
    /// not have the job.
    pub async fn confirm(
        &self,
        tenant: &TenantId,
        job: JobId,
        durability: Durability,
    ) -> Result<bool, Error> {
        self.confirm_key(tenant, |shard| keys::record(shard, job), durability).await
    }

    /// The same of whatever is kept under a key.
    pub(super) async fn confirm_key(
        &self,
        tenant: &TenantId,
        key: impl FnOnce(u16) -> String,
        durability: Durability,
    ) -> Result<bool, Error> {
        let confirmations = &self.inner.confirmations;
        let round = match durability {
            Durability::Fast => return Ok(true),
            Durability::Replicated => &confirmations.replicated,
            Durability::Synced => &confirmations.synced,
        };
        let (arrived, shard) = (Instant::now(), self.shard_of(tenant));
        let mut last = round[usize::from(shard) % round.len()].lock().await;
        let is_met = match *last {
            Some((began, Some(is_met))) if began > arrived => is_met,
            // Or all who wait would find out one after the other that nobody answers.
            Some((began, None)) if began > arrived => return Err(unanswered()),
            _ => {
                let began = Instant::now();
                let is_met = wait(self.client(), shard, durability).await;
                *last = Some((began, is_met.as_ref().ok().copied()));
                is_met.map_err(failure)?
            }
        };
        drop(last);
        // The job may have gone to a primary that is no more, and the answer have come from its
        // successor.
        let mut look = pipe();
        look.cmd("EXISTS").arg(key(shard));
        let (is_there,): (bool,) = self.client().run_aside(&look).await.map_err(failure)?;
        if is_there {
            return Ok(is_met);
        }
        Err(Error::new(
            ErrorCode::QueueUnavailable,
            "The job was lost with the Redis that took it, before it was safe. Submit it again.",
        ))
    }
}

fn unanswered() -> Error {
    let words = "The queue did not say whether the job is safe. It is in the queue all the same.";
    Error::new(ErrorCode::QueueUnavailable, words)
}

/// Waits until everything up to now is safe.
async fn wait(client: &Client, shard: u16, durability: Durability) -> RedisResult<bool> {
    let mut steps = pipe();
    // Redis waits for what the connection itself has written last.
    steps.cmd("SET").arg(keys::mark(shard)).arg("").arg("PX").arg(MARK_TTL_MS).ignore();
    if durability == Durability::Replicated {
        steps.cmd("WAIT").arg(1).arg(PATIENCE_MS);
        let (replicas,): (u64,) = client.run_aside(&steps).await?;
        return Ok(replicas > 0);
    }
    steps.cmd("WAITAOF").arg(1).arg(0).arg(PATIENCE_MS);
    match client.run_aside::<((u64, u64),)>(&steps).await {
        Ok(((local, _),)) => Ok(local > 0),
        Err(error) if is_impossible(&error) => {
            tracing::warn!(%error, "this Redis cannot say what is on its disk: no job is synced");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether the server does not know `WAITAOF` (before 7.2), or has no append-only file.
fn is_impossible(error: &RedisError) -> bool {
    error.to_string().contains("WAITAOF")
}
