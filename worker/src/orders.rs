//! The worker's ear: one task reads what gateways tell this worker and passes it on to whom it
//! concerns. What it misses, renewals and feeders find out a little later.

use std::sync::Arc;
use std::time::Duration;

use shared::redis::{CleanupOrder, Orders, WorkerOrder};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Context;

/// Pause between attempts to subscribe for the first time.
const PAUSE: Duration = Duration::from_millis(500);
/// Clean-ups at once.
const MAX_CLEANUPS: usize = 8;

/// Passes orders on until `token` is cancelled.
pub(crate) async fn follow(context: Arc<Context>, token: CancellationToken) {
    let Some(mut orders) = subscribe(&context, &token).await else { return };
    // Dropped at the end: what is left of them, the shutdown removes.
    let mut cleanups = JoinSet::new();
    while let Some(order) = token.run_until_cancelled(orders.next()).await {
        match order {
            WorkerOrder::Cancel(job) => {
                context.leases.cancel(job);
                context.sessions.cancel(job);
            }
            WorkerOrder::CleanUp(order) => {
                while cleanups.try_join_next().is_some() {}
                // One more that is not heard in time is told of as a worker that does not answer.
                if cleanups.len() < MAX_CLEANUPS {
                    cleanups.spawn(clean_up(Arc::clone(&context), order));
                }
            }
            WorkerOrder::Drain => context.claiming.set_draining(true),
            WorkerOrder::Undrain => context.claiming.set_draining(false),
            WorkerOrder::Input(job) => context.inputs.wake(job),
            WorkerOrder::Session(tenant, id) => context.sessions.wake(&tenant, &id),
            WorkerOrder::Placement(required) => context.served.tell(&required),
            WorkerOrder::Resubscribed => {
                context.served.look();
                context.inputs.wake_all();
                context.sessions.wake_all();
            }
        }
    }
}

async fn clean_up(context: Arc<Context>, order: CleanupOrder) {
    let cleaned = context.executor.clean_up(order.tenant.as_ref(), order.images).await;
    if let Err(error) = context.queue.cleaned_up(order.request, &cleaned).await {
        tracing::warn!(%error, "cannot say what was cleaned up");
    }
}

async fn subscribe(context: &Context, token: &CancellationToken) -> Option<Orders> {
    loop {
        match token.run_until_cancelled(context.queue.orders(context.worker)).await? {
            Ok(orders) => return Some(orders),
            Err(error) => tracing::warn!(%error, "cannot listen for orders; trying again"),
        }
        token.run_until_cancelled(tokio::time::sleep(PAUSE)).await?;
    }
}
