//! Sandboxes on a Docker engine, and jobs inside them. Nothing in here knows of Redis or HTTP:
//! `isol8 run` uses the engine directly, and so can any Rust program.

pub mod docker;
mod environment;
pub mod images;
mod link;
mod mask;
mod output;
mod pool;
mod run;
mod sandbox;
mod volume;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use shared::execution::{ExecutionResult, Job, Outcome, PoolStrategy, ResourceUsage, Timings};
use shared::id::{JobId, TenantId, WorkerId};
use shared::{Error, ErrorCode};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use docker::{Docker, DockerError};
pub use link::LinkError;
use pool::Pool;
pub use run::JobError;
use sandbox::{LABEL_MANAGED, LABEL_OWNER, LABEL_WORKER, Origin, Profile};

/// Which part of a job a piece of output belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The setup script.
    Setup,
    /// The program.
    Code,
}

/// An output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Watches a job's output as it comes; secrets are masked already.
pub trait Live: Send {
    /// Takes the next piece of a stream. Must not block.
    fn output(&mut self, phase: Phase, stream: Stream, data: &[u8]);
}

/// How an engine is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name under which containers are labelled; what a dead engine of this name left is removed.
    pub owner: String,
    /// What happens to a sandbox after a job.
    pub strategy: PoolStrategy,
    /// Fresh sandboxes kept ready for each of `prewarm`.
    pub clean: usize,
    /// Jobs that may run at once; bounds how far the pool grows with demand.
    pub max_concurrent: usize,
    /// Most containers alive at once.
    pub max_containers: usize,
    /// How long a sandbox may wait unused.
    pub idle: Duration,
    /// Jobs whose kind of sandbox is kept ready from the start.
    pub prewarm: Vec<Job>,
    /// Whether the system-call filter is applied.
    pub seccomp: bool,
}

/// Why a job could not be run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Docker failed.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The link to a sandbox failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The runner in a container speaks another protocol.
    #[error("the runner speaks protocol {protocol}, this worker another; run `isol8 setup` again")]
    Incompatible {
        /// What it speaks.
        protocol: u32,
    },
    /// A reset left something behind.
    #[error("the sandbox could not be cleaned: {detail}")]
    Unclean {
        /// What is left.
        detail: String,
    },
    /// The job itself is at fault.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::Docker(DockerError::NoSuchImage { .. }) => ErrorCode::ImageNotFound,
            EngineError::Job(job) => match job {
                JobError::SetupFailed { .. } | JobError::SetupTimedOut { .. } => {
                    ErrorCode::SetupFailed
                }
                JobError::FileWrite { .. } => ErrorCode::FileWriteFailed,
                JobError::Workdir { .. } | JobError::Exec { .. } | JobError::Limits { .. } => {
                    ErrorCode::StartFailed
                }
                JobError::Cancelled => ErrorCode::Cancelled,
            },
            _ => ErrorCode::SandboxFailed,
        };
        Self::new(code, error.to_string()).with_source(error)
    }
}

/// A sandbox whose job is done. Dropped, it is cleaned for the next job, or destroyed.
pub struct Spent {
    _lent: pool::Lent,
}

/// An engine with its pool of sandboxes; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    docker: Docker,
    pool: Pool,
    origin: Origin,
}

impl Engine {
    /// Starts an engine: removes what a dead predecessor left, makes the runner available, and
    /// begins to warm sandboxes in the background. Cancelling `token` stops the warming;
    /// [`Engine::shutdown`] also waits and cleans up.
    ///
    /// # Errors
    /// If Docker fails, or no isol8 image is there to begin with.
    pub async fn start(
        options: Options,
        docker: Docker,
        worker: WorkerId,
        image: &str,
        metrics: Arc<Metrics>,
        token: CancellationToken,
    ) -> Result<Self, EngineError> {
        let (leftovers, info, volume) = tokio::join!(
            remove_leftovers(&docker, &options.owner, worker),
            docker.info(),
            volume::ensure(&docker, image),
        );
        leftovers?;
        let info = info?;
        let seccomp =
            (options.seccomp && info.has_seccomp).then(|| images::SECCOMP_STRICT.to_owned());
        if seccomp.is_none() {
            tracing::warn!(
                engine_has_seccomp = info.has_seccomp,
                "sandboxes run WITHOUT a system-call filter"
            );
        }
        let origin = Origin { owner: options.owner, worker, volume: volume?, seccomp };
        let settings = pool::Settings {
            strategy: options.strategy,
            clean: options.clean,
            max_fresh: options.max_concurrent.max(options.clean),
            max_containers: options.max_containers.max(options.max_concurrent).max(1),
            idle: options.idle,
        };
        let prewarm = options.prewarm.iter().map(Profile::of_job).collect();
        let pool = Pool::start(docker.clone(), origin.clone(), settings, prewarm, metrics, token);
        Ok(Self { docker, pool, origin })
    }

    /// Runs a job for `tenant`. A program that fails is a result.
    ///
    /// The sandbox comes back with the result: dropping it starts its cleaning, which is better
    /// done once the result is on its way.
    ///
    /// # Errors
    /// If the job cannot be run; [`ErrorCode::is_retryable`] tells whether it may work elsewhere.
    pub async fn execute(
        &self,
        id: JobId,
        tenant: &TenantId,
        job: &Job,
        live: Option<&mut (dyn Live + '_)>,
        cancel: &CancellationToken,
    ) -> Result<(ExecutionResult, Spent), Error> {
        let asked = Instant::now();
        let mut lent = self.pool.acquire(tenant, &Profile::of_job(job)).await?;
        let sandbox_time = asked.elapsed();
        let container_id = lent.sandbox().id.clone();
        let outcome = run::run(lent.sandbox(), job, live, cancel).await;
        lent.is_healthy = matches!(outcome, Ok(_) | Err(EngineError::Job(_)));
        let mut result = result(id, job, container_id, outcome?);
        result.timings.sandbox_ms = milliseconds(sandbox_time);
        result.timings.cold = lent.cold;
        Ok((result, Spent { _lent: lent }))
    }

    /// Asks Docker whether it is alive.
    ///
    /// # Errors
    /// A retryable error if it is not.
    pub async fn ping(&self) -> Result<(), Error> {
        self.docker.ping().await.map_err(|error| EngineError::from(error).into())
    }

    /// Removes every container of this engine. Call when no job runs any more.
    ///
    /// # Errors
    /// If Docker does not let us look whether anything is left.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.pool.shutdown().await;
        let label = format!("{LABEL_WORKER}={}", self.origin.worker);
        remove_labelled(&self.docker, &[label], |_| true).await.map_err(EngineError::from)?;
        Ok(())
    }
}

/// Removes containers of earlier lives of this owner.
async fn remove_leftovers(
    docker: &Docker,
    owner: &str,
    worker: WorkerId,
) -> Result<(), DockerError> {
    let labels = [format!("{LABEL_MANAGED}=true"), format!("{LABEL_OWNER}={owner}")];
    let current = worker.to_string();
    let removed = remove_labelled(docker, &labels, |of_worker| of_worker != Some(&current)).await?;
    if removed > 0 {
        tracing::info!(removed, owner, "removed sandboxes that an earlier life left behind");
    }
    Ok(())
}

async fn remove_labelled(
    docker: &Docker,
    labels: &[String],
    is_ours: impl Fn(Option<&String>) -> bool,
) -> Result<usize, DockerError> {
    let mut removed = 0;
    for (id, found) in docker.list_containers(labels).await? {
        if is_ours(found.get(LABEL_WORKER)) {
            docker.remove_container(&id).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn result(id: JobId, job: &Job, container_id: String, ran: run::Ran) -> ExecutionResult {
    let exited = &ran.exited;
    let outcome = if exited.timed_out {
        Outcome::TimedOut
    } else if exited.killed {
        Outcome::Cancelled
    } else if exited.out_of_memory && exited.exit_code != 0 {
        Outcome::OutOfMemory
    } else {
        Outcome::Exited
    };
    let cpu_us = exited.cpu_user_us + exited.cpu_system_us;
    #[expect(clippy::cast_precision_loss, reason = "durations far below 2^53 microseconds")]
    let (cpu_time_ms, cpu_percent) = (
        cpu_us as f64 / 1000.0,
        (cpu_us as f64 / exited.wall_us.max(1) as f64 * 10_000.0).round() / 100.0,
    );
    ExecutionResult {
        stdout: ran.stdout,
        stderr: ran.stderr,
        exit_code: exited.exit_code,
        duration_ms: exited.wall_us.div_ceil(1000),
        truncated: ran.truncated,
        execution_id: id,
        runtime: job.runtime,
        timestamp: Utc::now(),
        container_id,
        resource_usage: Some(ResourceUsage {
            cpu_percent,
            memory_mb: exited.peak_memory_bytes.div_ceil(1 << 20),
            cpu_time_ms,
            peak_memory_bytes: exited.peak_memory_bytes,
            ..ResourceUsage::default()
        }),
        files: ran.files,
        outcome,
        timings: Timings {
            setup_ms: milliseconds(ran.setup),
            run_ms: milliseconds(ran.run),
            collect_ms: milliseconds(ran.collect),
            ..Timings::default()
        },
    }
}

/// A duration in milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
