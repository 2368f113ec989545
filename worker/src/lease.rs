//! Leases on the jobs a worker is running, renewed together by one task, well within their time.
//! A lease that turns out to be lost cancels its job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::id::JobId;
use shared::redis::Lease;
use tokio_util::sync::CancellationToken;

use crate::Context;

/// The leases held now.
#[derive(Clone, Default)]
pub(crate) struct Leases {
    held: Arc<Mutex<HashMap<JobId, Entry>>>,
}

struct Entry {
    lease: Lease,
    cancel: CancellationToken,
    lost: CancellationToken,
}

/// A lease for as long as this value lives.
pub(crate) struct Held {
    leases: Leases,
    job: JobId,
    cancel: CancellationToken,
    lost: CancellationToken,
}

impl Leases {
    /// Starts to renew a lease. The job is cancelled when it is lost, or when `abort` is.
    pub(crate) fn hold(&self, lease: &Lease, abort: &CancellationToken) -> Held {
        let (cancel, lost) = (abort.child_token(), CancellationToken::new());
        let entry = Entry { lease: lease.clone(), cancel: cancel.clone(), lost: lost.clone() };
        self.lock().insert(lease.job, entry);
        Held { leases: self.clone(), job: lease.job, cancel, lost }
    }

    fn current(&self) -> Vec<Lease> {
        self.lock().values().map(|entry| entry.lease.clone()).collect()
    }

    fn lose(&self, lease: &Lease) {
        if let Some(entry) = self.lock().get(&lease.job) {
            entry.lost.cancel();
            entry.cancel.cancel();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Cancelled when the job must stop.
    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Whether another worker may have the job by now.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leases.lock().remove(&self.job);
    }
}

/// Renews all leases every `period` until `token` is cancelled.
pub(crate) async fn renew(context: Arc<Context>, period: Duration, token: CancellationToken) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let leases = context.leases.current();
        if leases.is_empty() {
            continue;
        }
        match context.queue.renew(context.worker, &leases).await {
            Ok(lost) => {
                for lease in lost {
                    // A job that was committed between the snapshot and the answer is not held
                    // any more, and this is a no-op.
                    context.leases.lose(&lease);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot renew leases; trying again"),
        }
    }
}
