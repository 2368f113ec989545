//! What a worker does by the clock rather than by an event: it tells of itself, and does what is due in
//! the queue; any worker does that, and it does no harm if several do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::Utc;
use shared::redis::WorkerFacts;
use tokio_util::sync::CancellationToken;

use crate::{Context, Options, schedules};

/// How often the fleet looks. What is due is late by this much at most, while a worker lives.
const PERIOD: Duration = Duration::from_millis(500);

/// What a worker is, before it has done anything.
pub(crate) fn introduce(options: &Options) -> WorkerFacts {
    WorkerFacts {
        started_ms: u64::try_from(Utc::now().timestamp_millis()).unwrap_or_default(),
        labels: options.labels.clone(),
        only_labelled: options.only_labelled,
        ..WorkerFacts::new(options.worker, options.name.clone(), options.max_concurrent)
    }
}

/// Does what is due and tells of this worker until `token` is cancelled.
pub(crate) async fn keep(context: Arc<Context>, mut facts: WorkerFacts, token: CancellationToken) {
    facts.secrets_keys = context.queue.secrets_keys();
    loop {
        if let Err(error) = tick(&context, &mut facts).await {
            tracing::warn!(%error, "cannot look for what is due in the queue; trying again");
        }
        let pause = tokio::time::sleep(context.queue.rhythm(PERIOD));
        if token.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

async fn tick(context: &Context, facts: &mut WorkerFacts) -> shared::Result<()> {
    // What takes no more jobs is no part of what the fleet can run.
    let slots = if context.claiming.order().is_draining { 0 } else { facts.slots };
    let (slots, placements) = (context.served.share(slots), context.served.current());
    let due = context.queue.housekeep_as(Some(context.worker), slots, &placements).await?;
    if due.webhooks {
        context.webhooks.wake();
    }
    if due.schedules {
        schedules::run_due(context).await?;
    }
    for (what, whose) in context.queue.reconcile(context.worker).await? {
        tracing::warn!(what, whose, "something in the queue did not fit together; put right");
    }
    let order = context.claiming.order();
    // Before the rest: once it says so, no more can come.
    facts.is_draining = context.claiming.is_over();
    facts.running = facts.slots.saturating_sub(context.slots.available_permits());
    facts.unread = context.unread.load(Ordering::Relaxed);
    facts.sessions = context.sessions.current().len();
    facts.sandboxes = context.executor.containers();
    (facts.ended, facts.failed) = context.metrics.programs();
    let is_draining = context.queue.announce(facts).await?;
    context.claiming.heed(is_draining, order);
    Ok(())
}
