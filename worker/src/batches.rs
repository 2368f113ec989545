//! Keeps batches going: their items become jobs as others end. A worker that ends an item after which few are
//! left in the queue sees to it at once; what is missed, any worker finds by the clock.

use std::sync::Arc;
use std::time::Duration;

use shared::redis::{BatchCache, RunningBatch};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::Context;

/// How often the fleet looks for batches that nobody has seen to.
const PERIOD: Duration = Duration::from_millis(500);
/// Batches that may wait to be seen to; one too many is found by the clock.
const MAX_WAITING: usize = 64;

/// Where those who commit say that a batch runs low.
#[derive(Clone)]
pub(crate) struct Pokes(mpsc::Sender<RunningBatch>);

impl Pokes {
    /// The two ends.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<RunningBatch>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self(sender), receiver)
    }

    /// Has a batch be seen to soon.
    pub(crate) fn poke(&self, batch: RunningBatch) {
        // Full, or at its end: the next look finds it.
        let _ = self.0.try_send(batch);
    }
}

/// Sees to batches until `token` is cancelled.
pub(crate) async fn keep(
    context: Arc<Context>,
    mut pokes: mpsc::Receiver<RunningBatch>,
    token: CancellationToken,
) {
    let mut cache = BatchCache::default();
    let mut tend_at = Instant::now();
    loop {
        let poked = tokio::select! {
            () = token.cancelled() => return,
            poked = pokes.recv() => poked,
            () = sleep_until(tend_at) => {
                tend_at = Instant::now() + context.queue.rhythm(PERIOD);
                None
            }
        };
        let done = match poked {
            Some(batch) => context.queue.advance_batch(batch, &mut cache).await,
            None => tend(&context, &mut cache).await,
        };
        if let Err(error) = done {
            tracing::warn!(%error, "cannot see to a batch; trying again");
        }
    }
}

async fn tend(context: &Context, cache: &mut BatchCache) -> shared::Result<()> {
    for batch in context.queue.tend_batches().await? {
        if let Err(error) = see_to(context, batch, cache).await {
            // The others are not to wait for it.
            tracing::warn!(%error, batch = %batch.id, "cannot see to a batch; trying again");
        }
    }
    Ok(())
}

async fn see_to(
    context: &Context,
    batch: RunningBatch,
    cache: &mut BatchCache,
) -> shared::Result<()> {
    context.queue.advance_batch(batch, cache).await?;
    for (what, whose) in context.queue.check_batch(batch).await? {
        tracing::warn!(what, whose, batch = %batch.id, "an item did not fit together; put right");
    }
    Ok(())
}
