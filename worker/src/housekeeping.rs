//! What is due in the queue by the clock rather than by an event: any worker does it, and it does no
//! harm if several do.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Context;

/// How often to look. What is due is late by this much at most, while a worker lives.
const PERIOD: Duration = Duration::from_millis(500);

/// Does what is due, as a worker that can run so many jobs at once, until `token` is cancelled.
pub(crate) async fn keep(context: Arc<Context>, slots: usize, token: CancellationToken) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while token.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = context.queue.housekeep(Some((context.worker, slots))).await {
            tracing::warn!(%error, "cannot look for what is due in the queue; trying again");
        }
    }
}
