//! Claiming: a free slot first, then at most as many jobs as there are free slots. So a flood waits in
//! Redis, not in memory. The slots are not held meanwhile, or sessions could not use them; a job whose
//! slot a session took in that moment waits for the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::redis::{Claimed, Consumer, Placements, Unreadable};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{Context, Options, job, pass_on};

/// How long a claim waits for work. Bounds how long a shutdown waits for the claim under way:
/// a claim is never dropped, as a job delivered into the void would wait for its lease to end.
const CLAIM_BLOCK: Duration = Duration::from_millis(500);
/// How long a worker of a large fleet lets others wait for work.
const REST: Duration = Duration::from_millis(500);
/// Most jobs taken in one go.
const CLAIM_BATCH: usize = 64;
/// How often what dead workers have left is looked for, at the least.
const LONGEST_RECLAIM: Duration = Duration::from_millis(1500);
/// Pauses between attempts while the queue cannot be reached.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often the fleet looks for what dead workers have left.
pub(crate) fn reclaim_period(options: &Options) -> Duration {
    LONGEST_RECLAIM.min(Duration::from_millis(options.redis.lease_ms / 3))
}

/// Claims and starts jobs until the worker stops; none while it drains.
pub(crate) async fn consume(context: &Arc<Context>, options: &Options, jobs: &TaskTracker) {
    let stopping = &context.stopping;
    let reclaim_period = reclaim_period(options);
    let mut consumer: Option<Consumer> = None;
    let mut placements = context.served.changes();
    let slot = || Arc::clone(&context.slots).try_acquire_owned().ok();
    let start = |claimed: Vec<Claimed>, unreadable: Vec<Unreadable>| {
        for claimed in claimed {
            jobs.spawn(job::run(Arc::clone(context), claimed, slot()));
        }
        for unreadable in unreadable {
            jobs.spawn(pass_on::run(Arc::clone(context), unreadable, slot()));
        }
    };
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
        let Some(under_way) = context.claiming.begin() else {
            continue;
        };
        let is_reclaim_due = reclaimed_at.elapsed() >= context.queue.rhythm(reclaim_period);
        let turn = Turn { max: free, is_reclaim_due };
        let outcome = claim(context, &mut consumer, &mut placements, turn, start).await;
        drop(under_way);
        match outcome {
            Ok(found) => {
                pause = FIRST_PAUSE;
                if is_reclaim_due {
                    reclaimed_at = Instant::now();
                }
                // Of those that a placement's jobs may go to there may be few.
                let may_rest = !found && placements.borrow().is_empty();
                if may_rest && context.queue.is_to_rest() {
                    rest(context, &mut placements).await;
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

/// Rests, unless something happens that is about this worker.
async fn rest(context: &Context, placements: &mut watch::Receiver<Placements>) {
    tokio::select! {
        () = context.stopping.cancelled() => {}
        // Not taken note of here: the next claim has to read them.
        _ = placements.changed() => placements.mark_changed(),
        () = tokio::time::sleep(REST) => {}
    }
}

/// Waits for a free slot; how many there are.
async fn free_slots(context: &Context) -> usize {
    let first = context.slots.acquire().await;
    let free = context.slots.available_permits() + 1;
    drop(first);
    free.min(CLAIM_BATCH)
}

/// One round of claiming.
struct Turn {
    /// Most jobs to take.
    max: usize,
    is_reclaim_due: bool,
}

/// Takes jobs, and hands them to `start` as they come; whether there were any.
async fn claim(
    context: &Context,
    consumer: &mut Option<Consumer>,
    placements: &mut watch::Receiver<Placements>,
    turn: Turn,
    start: impl Fn(Vec<Claimed>, Vec<Unreadable>),
) -> shared::Result<bool> {
    let Turn { mut max, is_reclaim_due } = turn;
    let consumer = match consumer {
        Some(consumer) => consumer,
        None => {
            let only_labelled = context.served.only_labelled();
            let opened = context.queue.consumer_of(context.worker, only_labelled).await?;
            let opened = consumer.insert(opened);
            opened.read_placements(&context.queue, placements.borrow_and_update().clone());
            opened
        }
    };
    if is_reclaim_due {
        let reclaimed = context.queue.reclaim(consumer, max).await?;
        context.metrics.jobs_reclaimed(reclaimed.len());
        let unreadable = consumer.take_unreadable();
        if !reclaimed.is_empty() || !unreadable.is_empty() {
            tracing::warn!(jobs = reclaimed.len(), "took over jobs of a worker that went silent");
            start(reclaimed, unreadable);
            return Ok(true);
        }
    }
    loop {
        tokio::select! {
            Ok(()) = placements.changed() => {
                let changed = placements.borrow_and_update().clone();
                let claimed = context.queue.claim_placed(consumer, changed, max).await?;
                // The read that is under way is not left open: it may bring one more.
                max = max.saturating_sub(claimed.len()).max(1);
                start(claimed, consumer.take_unreadable());
            }
            claimed = context.queue.claim(consumer, max, CLAIM_BLOCK) => {
                let (claimed, unreadable) = (claimed?, consumer.take_unreadable());
                let found = !claimed.is_empty() || !unreadable.is_empty();
                start(claimed, unreadable);
                return Ok(found);
            }
        }
    }
}
