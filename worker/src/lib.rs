//! The worker: claims jobs from the queue, runs them in sandboxes, commits their results.
//!
//! `run` is the whole life of one worker. `engine` is usable without it, and without Redis.

mod attend;
mod batches;
mod checked_http;
mod claiming;
mod commit;
mod consumer;
mod egress;
pub mod engine;
mod executor;
pub mod fetch;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod housekeeping;
mod input;
mod job;
mod lease;
pub mod metrics;
pub mod name;
mod observe;
mod orders;
mod pass_on;
mod placement;
mod publish;
#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;
mod schedules;
mod session;
pub mod webhooks;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::audit::{Audit, Record, SecurityEvent};
use shared::config;
use shared::execution::{Ending, Job};
use shared::id::{JobId, SessionId, TenantId, WorkerId};
use shared::labels::Labels;
use shared::redis::Queue;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use executor::Executor;
use fetch::Fetcher;
use metrics::Metrics;
use webhooks::Webhooks;

/// How often recorded samples are folded away.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// How long a worker that shuts down tries to tell the queue what becomes of its jobs.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What all tasks of one worker share.
struct Context {
    worker: WorkerId,
    queue: Queue,
    executor: Executor,
    fetcher: Fetcher,
    webhooks: Webhooks,
    /// What tenants may have, for the jobs of their schedules.
    policy: config::Policy,
    /// One for each program that runs, be it a job or a session's call.
    slots: Arc<Semaphore>,
    leases: lease::Leases,
    sessions: session::Sessions,
    inputs: input::Inputs,
    batches: batches::Pokes,
    metrics: Arc<Metrics>,
    audit: Audit,
    /// How long a session may be idle; `None`: for ever.
    session_idle: Option<Duration>,
    /// How often a job may be delivered.
    max_deliveries: u32,
    /// Jobs that it could not read.
    unread: AtomicU64,
    /// Which placements it runs the jobs of.
    served: placement::Served,
    /// Whether jobs are taken, unless a shutdown begins.
    claiming: claiming::Claiming,
    /// Cancelled when a shutdown begins.
    stopping: CancellationToken,
    /// Cancelled when the grace period of a shutdown is over: jobs are handed back.
    abort: CancellationToken,
    /// Cancelled some seconds after that: what the queue was not told by then, it is not told.
    hush: CancellationToken,
}

/// What the audit log hears of a program beside its ending.
struct Attempt {
    /// When the worker took it.
    started: DateTime<Utc>,
    /// What it tried and must not.
    security_events: Vec<SecurityEvent>,
}

impl Attempt {
    fn now() -> Self {
        Self { started: Utc::now(), security_events: Vec::new() }
    }
}

impl Context {
    /// The slot given, or the next one that is free.
    async fn slot(&self, slot: Option<OwnedSemaphorePermit>) -> OwnedSemaphorePermit {
        match slot {
            Some(slot) => slot,
            None => {
                let next = Arc::clone(&self.slots).acquire_owned().await;
                next.expect("the semaphore is never closed")
            }
        }
    }

    /// Whether a job that was delivered so often is not delivered again.
    fn is_last(&self, attempt: u32) -> bool {
        attempt >= self.max_deliveries
    }

    /// Puts the ending of a program into the audit log.
    fn record(
        &self,
        id: JobId,
        job: &Job,
        tenant: &TenantId,
        session: Option<&SessionId>,
        attempt: Attempt,
        ending: &Ending,
    ) {
        let Attempt { started, security_events } = attempt;
        let record = match ending {
            Ending::Result(result) => Record::of_result(job, tenant, session, result),
            Ending::Error(failure) => {
                Record::of_failure(id, job, tenant, session, started, failure)
            }
            Ending::File(_) => return,
        };
        self.audit.record(&Record { security_events, ..record });
    }
}

/// How a worker behaves.
pub struct Options {
    /// Identifier of this life.
    pub worker: WorkerId,
    /// Its name on its machine, for people.
    pub name: String,
    /// What it says of itself: it runs jobs that require some of these.
    pub labels: Labels,
    /// Whether it runs no others.
    pub only_labelled: bool,
    /// Jobs and calls of sessions run at once.
    pub max_concurrent: usize,
    /// Sessions owned at once. Each keeps a container, so there should be `max_concurrent` fewer than
    /// the engine may have containers, or sessions could starve jobs.
    pub max_sessions: usize,
    /// How long a session may be idle before it is closed; `None`: for ever.
    pub session_idle: Option<Duration>,
    /// Fetches programs that are elsewhere.
    pub fetcher: Fetcher,
    /// Tells webhooks how jobs ended.
    pub webhooks: Webhooks,
    /// What tenants may have.
    pub policy: config::Policy,
    /// Where executions are recorded.
    pub audit: Audit,
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
    let (batches, pokes) = batches::Pokes::channel();
    let context = Arc::new(Context {
        worker: options.worker,
        queue,
        executor,
        fetcher: options.fetcher.clone(),
        webhooks: options.webhooks.clone(),
        policy: options.policy.clone(),
        slots: Arc::new(Semaphore::new(options.max_concurrent)),
        leases: lease::Leases::default(),
        sessions: session::Sessions::new(options.max_sessions),
        inputs: input::Inputs::default(),
        batches,
        metrics: options.metrics.clone(),
        audit: options.audit.clone(),
        session_idle: options.session_idle,
        max_deliveries: options.redis.max_deliveries,
        unread: AtomicU64::new(0),
        served: placement::Served::new(options.labels.clone(), options.only_labelled),
        claiming: claiming::Claiming::default(),
        stopping: token.clone(),
        abort: CancellationToken::new(),
        hush: CancellationToken::new(),
    });
    // Renewal outlives claiming: jobs in their grace period still need their leases.
    let renewal = CancellationToken::new();
    let background = TaskTracker::new();
    background.spawn(lease::renew(
        Arc::clone(&context),
        Duration::from_millis(options.redis.renew_ms),
        renewal.clone(),
    ));
    background.spawn(lease::reap(
        Arc::clone(&context),
        consumer::reclaim_period(&options),
        renewal.clone(),
    ));
    background.spawn(housekeeping::keep(
        Arc::clone(&context),
        housekeeping::introduce(&options),
        renewal.clone(),
    ));
    background.spawn(webhooks::deliver(Arc::clone(&context), renewal.clone()));
    background.spawn(batches::keep(Arc::clone(&context), pokes, renewal.clone()));
    background.spawn(orders::follow(Arc::clone(&context), renewal.clone()));
    background.spawn(placement::follow(Arc::clone(&context), renewal.clone()));
    background.spawn(upkeep(Arc::clone(&context.metrics), renewal.clone()));
    if let Some(listener) = options.listener.take() {
        background.spawn(observe::serve(Arc::clone(&context), listener, renewal.clone()));
    }

    let jobs = TaskTracker::new();
    consumer::consume(&context, &options, &jobs).await;

    jobs.close();
    if tokio::time::timeout(options.shutdown_grace, jobs.wait()).await.is_err() {
        tracing::warn!(jobs = jobs.len(), "grace period over: handing running jobs back");
        context.abort.cancel();
        if tokio::time::timeout(LAST_WORDS, jobs.wait()).await.is_err() {
            context.hush.cancel();
            jobs.wait().await;
        }
    }
    renewal.cancel();
    background.close();
    background.wait().await;
    let shut_down = context.executor.shutdown().await;
    context.queue.quiesce().await;
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
