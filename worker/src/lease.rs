//! Leases on the jobs a worker is running, renewed together by one task, well within their time.
//! A lease that turns out to be lost cancels its job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::id::JobId;
use shared::redis::{Lease, LeaseNews};
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
    lease: Lease,
    cancel: CancellationToken,
    lost: CancellationToken,
}

impl Leases {
    /// Starts to renew a lease. The job is cancelled when it is lost, or when `abort` is.
    pub(crate) fn hold(&self, lease: &Lease, abort: &CancellationToken) -> Held {
        let (cancel, lost) = (abort.child_token(), CancellationToken::new());
        let entry = Entry { lease: lease.clone(), cancel: cancel.clone(), lost: lost.clone() };
        let former = self.lock().insert(lease.job, entry);
        if let Some(former) = former {
            // Given up while this worker was slow, and taken again by it before its task has noticed.
            former.lose();
        }
        Held { leases: self.clone(), lease: lease.clone(), cancel, lost }
    }

    fn current(&self) -> Vec<Lease> {
        self.lock().values().map(|entry| entry.lease.clone()).collect()
    }

    /// Stops a job whose caller has cancelled it. It still ends like any other.
    pub(crate) fn cancel(&self, job: JobId) {
        if let Some(entry) = self.lock().get(&job) {
            entry.cancel.cancel();
        }
    }

    fn lose(&self, lease: &Lease) {
        if let Some(entry) = self.lock().get(&lease.job).filter(|entry| entry.lease == *lease) {
            entry.lose();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn lose(&self) {
        self.lost.cancel();
        self.cancel.cancel();
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
        let mut held = self.leases.lock();
        // A later delivery of the job to this worker stays.
        if held.get(&self.lease.job).is_some_and(|entry| entry.lease == self.lease) {
            held.remove(&self.lease.job);
        }
    }
}

/// Renews all leases and sessions every `period` until `token` is cancelled.
pub(crate) async fn renew(context: Arc<Context>, period: Duration, token: CancellationToken) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while token.run_until_cancelled(ticks.tick()).await.is_some() {
        let renewed = tokio::join!(renew_leases(&context), renew_sessions(&context));
        for outcome in [renewed.0, renewed.1] {
            if let Err(error) = outcome {
                tracing::warn!(%error, "cannot renew leases; trying again");
            }
        }
    }
}

/// Gives up the sessions of silent workers until `token` is cancelled; the fleet looks for some every `period`.
/// Apart from claiming: a worker without a free slot must still tell their callers.
pub(crate) async fn reap(context: Arc<Context>, period: Duration, token: CancellationToken) {
    loop {
        let pause = tokio::time::sleep(context.queue.rhythm(period));
        if token.run_until_cancelled(pause).await.is_none() {
            return;
        }
        match context.queue.reap_sessions().await {
            Ok(0) => {}
            Ok(sessions) => {
                tracing::warn!(sessions, "gave up sessions of a worker that went silent");
            }
            Err(error) => tracing::warn!(%error, "cannot look for lost sessions; trying again"),
        }
    }
}

async fn renew_leases(context: &Context) -> shared::Result<()> {
    let leases = context.leases.current();
    if leases.is_empty() {
        return Ok(());
    }
    for (lease, news) in context.queue.renew(context.worker, &leases).await? {
        // A job that was committed between the snapshot and the answer is not held any more, and
        // both are no-ops.
        match news {
            LeaseNews::Lost => context.leases.lose(&lease),
            LeaseNews::Cancelled => context.leases.cancel(lease.job),
        }
    }
    Ok(())
}

async fn renew_sessions(context: &Context) -> shared::Result<()> {
    let handles = context.sessions.current();
    if handles.is_empty() {
        return Ok(());
    }
    let owned: Vec<_> = handles.iter().map(|handle| handle.owned.clone()).collect();
    for (session, news) in context.queue.renew_sessions(context.worker, &owned).await? {
        if let Some(handle) = handles.iter().find(|handle| handle.owned == session) {
            handle.tell(news);
        }
    }
    Ok(())
}
