//! A job that this worker cannot read, as it was written by another version or sealed with a key that is not
//! here: others may, so it is handed on without being counted against it, and said so.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shared::redis::Unreadable;
use tokio::sync::OwnedSemaphorePermit;

use crate::Context;
use crate::commit::{Told, insist};

/// How long it is held first, in a slot: workers of one version must not hand it to each other without
/// end, and each tells of itself within this time.
const PAUSE: Duration = Duration::from_millis(600);

/// Hands it on.
pub(crate) async fn run(
    context: Arc<Context>,
    unreadable: Unreadable,
    slot: Option<OwnedSemaphorePermit>,
) {
    let started = Instant::now();
    let lease = &unreadable.lease;
    let reason = &unreadable.reason;
    tracing::warn!(job = %lease.job, reason, "cannot read a job; handing it to other workers");
    context.unread.fetch_add(1, Ordering::Relaxed);
    let held = context.leases.hold(lease, &context.abort);
    let waiting = async {
        let slot = context.slot(slot).await;
        tokio::time::sleep(PAUSE).await;
        slot
    };
    // A shutdown ends the pause early.
    let slot = context.stopping.run_until_cancelled(waiting).await;
    let told = if held.is_lost() {
        Told::Fenced
    } else {
        insist(&context, lease.job, || context.queue.pass_on(context.worker, &unreadable)).await
    };
    let ending = if told == Told::Done { "unread" } else { "fenced" };
    context.metrics.job_ended(ending, started.elapsed());
    drop((held, slot));
}
