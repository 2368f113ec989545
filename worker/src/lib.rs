//! The worker: claims jobs from the queue, runs them in sandboxes, commits their results.
//!
//! `run` is the whole life of one worker. `engine` is usable without it, and without Redis.

mod consumer;
pub mod engine;
mod executor;
mod job;
mod lease;
pub mod metrics;
pub mod name;
mod observe;

use std::sync::Arc;
use std::time::Duration;

use shared::config;
use shared::id::WorkerId;
use shared::redis::Queue;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use executor::Executor;
use metrics::Metrics;

/// How often recorded samples are folded away.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// What all tasks of one worker share.
struct Context {
    worker: WorkerId,
    queue: Queue,
    executor: Executor,
    leases: lease::Leases,
    metrics: Arc<Metrics>,
    /// Cancelled when the grace period of a shutdown is over: jobs are handed back.
    abort: CancellationToken,
}

/// How a worker behaves.
pub struct Options {
    /// Identifier of this life.
    pub worker: WorkerId,
    /// Jobs run at once.
    pub max_concurrent: usize,
    /// Lease times.
    pub redis: config::Redis,
    /// How long running jobs may take to end after `token` is cancelled.
    pub shutdown_grace: Duration,
    /// Where it counts; the same that its engine counts into.
    pub metrics: Arc<Metrics>,
    /// Where to serve `/healthz`, `/readyz` and `/metrics`, if at all.
    pub listener: Option<TcpListener>,
}

/// Runs a worker until `token` is cancelled, then lets running jobs finish, hands back those that
/// do not finish in time, and removes every container.
///
/// # Errors
/// If Docker does not let us see whether every container is gone.
pub async fn run(
    mut options: Options,
    queue: Queue,
    executor: Executor,
    token: CancellationToken,
) -> shared::Result<()> {
    let context = Arc::new(Context {
        worker: options.worker,
        queue,
        executor,
        leases: lease::Leases::default(),
        metrics: options.metrics.clone(),
        abort: CancellationToken::new(),
    });
    // Renewal outlives claiming: jobs in their grace period still need their leases.
    let renewal = CancellationToken::new();
    let background = TaskTracker::new();
    background.spawn(lease::renew(
        Arc::clone(&context),
        Duration::from_millis(options.redis.renew_ms),
        renewal.clone(),
    ));
    background.spawn(upkeep(Arc::clone(&context.metrics), renewal.clone()));
    if let Some(listener) = options.listener.take() {
        background.spawn(observe::serve(Arc::clone(&context), listener, renewal.clone()));
    }

    let jobs = TaskTracker::new();
    consumer::consume(&context, &options, &jobs, &token).await;

    jobs.close();
    if tokio::time::timeout(options.shutdown_grace, jobs.wait()).await.is_err() {
        tracing::warn!(jobs = jobs.len(), "grace period over: handing running jobs back");
        context.abort.cancel();
        jobs.wait().await;
    }
    renewal.cancel();
    background.close();
    background.wait().await;
    let shut_down = context.executor.shutdown().await;
    if let Err(error) = context.queue.leave(context.worker).await {
        tracing::warn!(%error, "could not sign off from the queue");
    }
    shut_down
}

async fn upkeep(metrics: Arc<Metrics>, token: CancellationToken) {
    let mut due = tokio::time::interval(UPKEEP_PERIOD);
    while token.run_until_cancelled(due.tick()).await.is_some() {
        metrics.upkeep();
    }
}
