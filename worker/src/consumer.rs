//! Claiming: a free slot first, then at most as many jobs as there are free slots. So a flood waits in
//! Redis, not in memory. The slots are not held meanwhile, or sessions could not use them; a job whose
//! slot a session took in that moment waits for the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::redis::{Claimed, Consumer};
use tokio_util::task::TaskTracker;

use crate::{Context, Options, job};

/// How long a claim waits for work. Bounds how long a shutdown waits for the claim under way:
/// a claim is never dropped, as a job delivered into the void would wait for its lease to end.
const CLAIM_BLOCK: Duration = Duration::from_millis(500);
/// Most jobs taken in one go.
const CLAIM_BATCH: usize = 64;
/// How often what dead workers have left is looked for, at the least.
const LONGEST_RECLAIM: Duration = Duration::from_millis(1500);
/// Pauses between attempts while the queue cannot be reached.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often to look for what dead workers have left.
pub(crate) fn reclaim_period(options: &Options) -> Duration {
    LONGEST_RECLAIM.min(Duration::from_millis(options.redis.lease_ms / 3))
}

/// Claims and starts jobs until the worker stops; none while it drains.
pub(crate) async fn consume(context: &Arc<Context>, options: &Options, jobs: &TaskTracker) {
    let stopping = &context.stopping;
    let reclaim_period = reclaim_period(options);
    let mut consumer: Option<Consumer> = None;
    let mut reclaimed_at = Instant::now();
    let mut pause = FIRST_PAUSE;
    while !stopping.is_cancelled() {
        let ready = async {
            context.claiming.until(false).await;
            free_slots(context).await
        };
        let Some(free) = stopping.run_until_cancelled(ready).await else {
            return;
        };
        // It may have been told to drain while it waited for the slot.
        let Some(_under_way) = context.claiming.begin() else {
            continue;
        };
        let is_reclaim_due = reclaimed_at.elapsed() >= reclaim_period;
        match claim(context, &mut consumer, free, is_reclaim_due).await {
            Ok(claimed) => {
                pause = FIRST_PAUSE;
                if is_reclaim_due {
                    reclaimed_at = Instant::now();
                }
                for claimed in claimed {
                    let slot = Arc::clone(&context.slots).try_acquire_owned().ok();
                    jobs.spawn(job::run(Arc::clone(context), claimed, slot));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot claim jobs; trying again");
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Waits for a free slot; how many there are.
async fn free_slots(context: &Context) -> usize {
    let first = context.slots.acquire().await;
    let free = context.slots.available_permits() + 1;
    drop(first);
    free.min(CLAIM_BATCH)
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
