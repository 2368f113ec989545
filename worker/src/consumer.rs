//! Claiming: a free slot first, then at most as many jobs as there are free slots. So a worker
//! never holds a job that it cannot start at once, and a flood waits in Redis, not in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::redis::{Claimed, Consumer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Context, Options, job};

/// How long a claim waits for work. Bounds how long a shutdown waits for the claim under way:
/// a claim is never dropped, as a job delivered into the void would wait for its lease to end.
const CLAIM_BLOCK: Duration = Duration::from_millis(500);
/// Most jobs taken in one go.
const CLAIM_BATCH: usize = 64;
/// How often the jobs of dead workers are looked for, at the least.
const LONGEST_RECLAIM: Duration = Duration::from_millis(1500);
/// Pauses between attempts while the queue cannot be reached.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Claims and starts jobs until `token` is cancelled.
pub(crate) async fn consume(
    context: &Arc<Context>,
    options: &Options,
    jobs: &TaskTracker,
    token: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(options.max_concurrent));
    let reclaim_period = LONGEST_RECLAIM.min(Duration::from_millis(options.redis.lease_ms / 3));
    let mut consumer: Option<Consumer> = None;
    let mut reclaimed_at = Instant::now();
    let mut pause = FIRST_PAUSE;
    while !token.is_cancelled() {
        let Some(mut free) = free_slots(&slots, token).await else {
            return;
        };
        let is_reclaim_due = reclaimed_at.elapsed() >= reclaim_period;
        match claim(context, &mut consumer, free.len(), is_reclaim_due).await {
            Ok(claimed) => {
                pause = FIRST_PAUSE;
                if is_reclaim_due {
                    reclaimed_at = Instant::now();
                }
                // `free` is at least as long: the queue returns at most what was asked for.
                for (claimed, slot) in claimed.into_iter().zip(free.drain(..)) {
                    jobs.spawn(job::run(Arc::clone(context), claimed, slot));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot claim jobs; trying again");
                drop(free);
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// All slots that are free, at least one. `None` at shutdown.
async fn free_slots(
    slots: &Arc<Semaphore>,
    token: &CancellationToken,
) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = tokio::select! {
        () = token.cancelled() => return None,
        permit = Arc::clone(slots).acquire_owned() => permit.ok()?,
    };
    let mut free = vec![first];
    while free.len() < CLAIM_BATCH {
        let Ok(permit) = Arc::clone(slots).try_acquire_owned() else {
            break;
        };
        free.push(permit);
    }
    Some(free)
}

async fn claim(
    context: &Context,
    consumer: &mut Option<Consumer>,
    max: usize,
    is_reclaim_due: bool,
) -> shared::Result<Vec<Claimed>> {
    let consumer = match consumer {
        Some(consumer) => consumer,
        None => consumer.insert(context.queue.consumer(context.worker).await?),
    };
    if is_reclaim_due {
        let reclaimed = context.queue.reclaim(consumer, max).await?;
        context.metrics.jobs_reclaimed(reclaimed.len());
        if !reclaimed.is_empty() {
            tracing::warn!(jobs = reclaimed.len(), "took over jobs of a worker that went silent");
            return Ok(reclaimed);
        }
    }
    context.queue.claim(consumer, max, CLAIM_BLOCK).await
}
