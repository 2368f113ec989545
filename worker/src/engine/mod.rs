//! Sandboxes on a Docker engine, and jobs inside them. Nothing in here knows of Redis or HTTP:
//! `isol8 run` uses the engine directly, and so can any Rust program.

mod agent;
mod archive;
mod demand;
pub mod docker;
mod environment;
mod error;
mod fault;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod images;
mod isolation;
mod link;
mod mask;
mod output;
mod packages;
mod pieces;
mod pool;
mod program;
mod run;
mod sandbox;
mod seccomp;
mod session;
mod setup;
mod shown;
mod spellings;
mod volume;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use shared::audit::SecurityEvent;
use shared::config::Runtimes;
use shared::execution::{
    EgressPhases, ExecutionResult, Input, Job, Outcome, Phase, PoolStrategy, ResourceUsage, Stream,
    Timings,
};
use shared::id::{JobId, TenantId, WorkerId};
use shared::isolation::Isolation;
use shared::net::Resolver;
use shared::redis::Removal;
use shared::{Error, ErrorCode};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::egress::{MAX_PATH_CHARACTERS, Outside, Report};
use crate::metrics::Metrics;
use docker::{Docker, DockerError};
pub use error::EngineError;
pub use fault::JobError;
use images::LABEL_RUNTIME;
pub use isolation::Kinds;
pub use link::LinkError;
use mask::Masker;
pub(crate) use output::complete_characters;
use packages::{Packages, Provided};
pub use packages::{Settings as PackageSettings, is_package_volume};
use pool::Pool;
use sandbox::{LABEL_MANAGED, LABEL_OWNER, LABEL_WORKER, Origin, Profile, Sandbox};
use seccomp::Filters;
pub use seccomp::{SeccompProfiles, strict_profile};
pub use session::{Aftermath, Session};
pub use volume::{is_runner_volume, runner_hash, runner_volume};

/// Watches a job's output as it comes; secrets are masked already, and what is over the output limit
/// is cut off with a marker.
pub trait Live: Send {
    /// Takes the next piece of a stream; it never ends within a character. Must not block.
    fn output(&mut self, phase: Phase, stream: Stream, data: &[u8]);
    /// The setup script has ended well.
    fn setup_ended(&mut self) {}
}

/// What a running program is connected to besides its result.
#[derive(Default)]
pub struct Console<'a> {
    /// Who watches its output.
    pub live: Option<&'a mut (dyn Live + 'a)>,
    /// What comes for it while it runs, if its job is interactive. Closed: no more.
    pub input: Option<&'a mut mpsc::Receiver<Input>>,
    /// What it tried and must not, told when it has ended, however that was: for the audit log.
    pub security_events: Vec<SecurityEvent>,
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
    /// Which runtimes of the Docker engine to use.
    pub runtimes: Runtimes,
    /// Filters of the operator's own.
    pub seccomp: SeccompProfiles,
    /// How packages are installed and kept.
    pub packages: PackageSettings,
    /// Who is asked for hosts of the filtered network.
    pub resolver: Resolver,
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
    packages: Packages,
    origin: Origin,
    outside: Outside,
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
        let seccomp = Filters::new(info.has_seccomp, options.seccomp);
        if !info.has_limits {
            tracing::warn!(
                "this Docker cannot limit memory or processes: sandboxes run WITHOUT these limits"
            );
        }
        let kinds = Kinds::new(&info, &options.runtimes)?;
        let origin = Origin { owner: options.owner, worker, volume: volume?, seccomp, kinds };
        let settings = pool::Settings {
            strategy: options.strategy,
            clean: options.clean,
            max_fresh: options.max_concurrent.max(options.clean),
            max_containers: options.max_containers.max(options.max_concurrent).max(1),
            idle: options.idle,
        };
        let prewarm = profiles_to_keep(&options.prewarm, &origin.kinds);
        let outside = Outside::new(options.resolver);
        let stop = token.child_token();
        let pool = Pool::start(docker.clone(), origin.clone(), settings, prewarm, metrics, token);
        let packages = Packages::new(
            docker.clone(),
            origin.clone(),
            outside.clone(),
            pool.clone(),
            options.packages,
            stop,
        );
        Ok(Self { docker, pool, packages, origin, outside })
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
        console: &mut Console<'_>,
        cancel: &CancellationToken,
    ) -> Result<(ExecutionResult, Spent), EngineError> {
        environment::check(job)?;
        let heard = &mut console.security_events;
        let Acquired { mut lent, install, sandbox } =
            self.acquire(tenant, job, heard, cancel).await?;
        let container_id = lent.sandbox().id.clone();
        let masker = Masker::of_values(values_of_secrets(job));
        let way_out = self.open_way_out(lent.sandbox(), job)?;
        let outcome = run::run(lent.sandbox(), job, &masker, None, way_out, console, cancel).await;
        let report = lent.sandbox().take_down_gate().await;
        let report = report.map(|report| tell_blocked(report, &masker, console));
        lent.is_healthy =
            matches!(outcome, Ok(_) | Err(EngineError::Job(_))) && !lent.sandbox().is_lost;
        let mut result = result(id, job, container_id, outcome?);
        result.timings.install_ms = milliseconds(install);
        result.timings.sandbox_ms = milliseconds(sandbox);
        result.timings.cold = lent.cold;
        tell_network(&mut result, report);
        Ok((result, Spent { _lent: lent }))
    }

    /// Puts up the gate that a job on the filtered network needs; which parts of it may go through.
    fn open_way_out(&self, sandbox: &mut Sandbox, job: &Job) -> Result<EgressPhases, EngineError> {
        let Some(egress) = &job.egress else {
            return Ok(EgressPhases { setup: false, run: false });
        };
        let gate = self.outside.gate(egress).map_err(|error| match error.code() {
            ErrorCode::InvalidRequest => JobError::Network(error.to_string()).into(),
            _ => EngineError::NoWayOut { detail: error.to_string() },
        })?;
        gate.keep_secrets(&egress.secrets);
        sandbox.put_up_gate(gate);
        Ok(egress.phases)
    }

    async fn acquire(
        &self,
        tenant: &TenantId,
        job: &Job,
        heard: &mut Vec<SecurityEvent>,
        cancel: &CancellationToken,
    ) -> Result<Acquired, EngineError> {
        let acquiring = async {
            if job.packages.is_empty() {
                return self.lend(tenant, &Profile::of_job(job), Duration::ZERO).await;
            }
            // Boxed, so that a plain job's task is no larger for it.
            Box::pin(self.acquire_with_packages(tenant, job, heard)).await
        };
        let acquired = cancel.run_until_cancelled(acquiring).await;
        acquired.unwrap_or(Err(JobError::Cancelled.into()))
    }

    async fn acquire_with_packages(
        &self,
        tenant: &TenantId,
        job: &Job,
        heard: &mut Vec<SecurityEvent>,
    ) -> Result<Acquired, EngineError> {
        let asked = Instant::now();
        // Kept until there is a sandbox, which then keeps the volume.
        let mut provided = self.packages.provide(job, heard).await?;
        let lent = self.lend(tenant, &with_packages(job, &provided), asked.elapsed()).await;
        if !matches!(lent, Err(EngineError::PackagesGone)) {
            return lent;
        }
        self.packages.forget(&provided).await;
        provided = self.packages.provide(job, heard).await?;
        self.lend(tenant, &with_packages(job, &provided), asked.elapsed()).await
    }

    async fn lend(
        &self,
        tenant: &TenantId,
        profile: &Profile,
        install: Duration,
    ) -> Result<Acquired, EngineError> {
        let asked = Instant::now();
        let lent = self.pool.acquire(tenant, profile).await?;
        Ok(Acquired { lent, install, sandbox: asked.elapsed() })
    }

    /// The kinds of isolation that its sandboxes can have.
    pub fn isolation(&self) -> impl Iterator<Item = Isolation> {
        self.origin.kinds.iter().map(|(kind, _)| kind)
    }

    /// Asks Docker whether it is alive.
    ///
    /// # Errors
    /// A retryable error if it is not.
    pub async fn ping(&self) -> Result<(), Error> {
        self.docker.ping().await.map_err(|error| EngineError::from(error).into())
    }

    /// Containers that there are, or are being made.
    #[must_use]
    pub fn containers(&self) -> usize {
        self.pool.containers()
    }

    /// Removes idle sandboxes of a tenant, or of all.
    pub async fn clean_up(&self, tenant: Option<&TenantId>) -> Removal {
        self.pool.clean_up(tenant).await
    }

    /// Removes images of ours that later builds have taken the tag from; one that a container still
    /// uses stays.
    pub async fn clean_up_images(&self) -> Removal {
        let mut removal = Removal::default();
        let images = match self.docker.list_images(&[LABEL_RUNTIME]).await {
            Ok(images) => images,
            Err(error) => {
                removal.count(Err(format!("images: {error}")));
                return removal;
            }
        };
        for image in images.iter().filter(|image| image.tags.is_empty()) {
            match self.docker.remove_image(&image.id).await {
                Ok(true) => removal.count(Ok(())),
                Ok(false) => {}
                Err(error) => removal.count(Err(format!("{}: {error}", image.id))),
            }
        }
        removal
    }

    /// Learns which sets of packages there are, and removes what an earlier life of this name has left
    /// unfinished: for whoever goes on, at its start.
    ///
    /// # Errors
    /// If Docker fails.
    pub async fn take_stock(&self) -> Result<(), EngineError> {
        self.packages.take_stock().await
    }

    /// For whoever does not go on after a job: breaks off what is still being installed, and removes all that
    /// has come of it. Returns at once if nothing is.
    ///
    /// # Errors
    /// If Docker does not let us look whether anything is left.
    pub async fn end_installing(&self) -> Result<(), Error> {
        if self.packages.is_installing() { self.shutdown().await } else { Ok(()) }
    }

    /// Removes every container of this engine. Call when no job runs any more.
    ///
    /// # Errors
    /// If Docker does not let us look whether anything is left.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let was_installing = self.packages.is_installing();
        self.packages.shutdown().await;
        self.outside.shutdown().await;
        self.pool.shutdown().await;
        let label = format!("{LABEL_WORKER}={}", self.origin.worker);
        remove_labelled(&self.docker, &[label], |_| true).await.map_err(EngineError::from)?;
        self.packages.clear(was_installing).await.map_err(EngineError::from)?;
        Ok(())
    }
}

/// What is kept ready: of kinds that there are. Jobs of others do not come here.
fn profiles_to_keep(jobs: &[Job], kinds: &Kinds) -> Vec<Profile> {
    let (kept, lacking): (Vec<&Job>, Vec<&Job>) =
        jobs.iter().partition(|job| kinds.making(job.isolation).is_ok());
    if let Some(job) = lacking.first() {
        tracing::warn!(
            isolation = job.isolation.name(),
            "the isolation of requests that ask for none is not to be had from this engine: their jobs need \
             another worker, and no sandbox is kept ready for them here"
        );
    }
    kept.into_iter().map(Profile::of_job).collect()
}

/// A sandbox for a job, and what it took to get it.
struct Acquired {
    lent: pool::Lent,
    /// Having its packages installed, or waiting for that.
    install: Duration,
    /// The sandbox itself.
    sandbox: Duration,
}

fn with_packages(job: &Job, provided: &Provided) -> Profile {
    Profile {
        image: provided.image.clone(),
        packages: provided.volume.clone(),
        ..Profile::of_job(job)
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

/// Removes what it can; a container that cannot be removed must not keep a worker from its work.
async fn remove_labelled(
    docker: &Docker,
    labels: &[String],
    is_ours: impl Fn(Option<&String>) -> bool,
) -> Result<usize, DockerError> {
    let mut removed = 0;
    for (id, found) in docker.list_containers(labels).await? {
        if is_ours(found.get(LABEL_WORKER)) {
            match docker.remove_container(&id).await {
                Ok(()) => removed += 1,
                Err(error) => tracing::warn!(
                    %error, container = %id,
                    "a sandbox could not be removed; remove it with `docker rm --force`"
                ),
            }
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
        isolation: job.isolation,
        resource_usage: Some(ResourceUsage {
            cpu_percent,
            memory_mb: exited.peak_memory_bytes.div_ceil(1 << 20),
            cpu_time_ms,
            peak_memory_bytes: exited.peak_memory_bytes,
            ..ResourceUsage::default()
        }),
        network_logs: Vec::new(),
        network_logs_dropped: 0,
        files: ran.files,
        session: None,
        events: 0,
        outcome,
        timings: Timings {
            setup_ms: milliseconds(ran.setup),
            run_ms: milliseconds(ran.run),
            collect_ms: milliseconds(ran.collect),
            ..Timings::default()
        },
    }
}

/// Every value that must not show: those the program gets, and those it does not.
fn values_of_secrets(job: &Job) -> impl Iterator<Item = &str> {
    let held = job.egress.iter().flat_map(|egress| egress.secrets.values());
    job.secrets.values().chain(held.map(|secret| &secret.value)).map(String::as_str)
}

/// Tells what was blocked; the rest of the report.
fn tell_blocked(mut report: Report, masker: &Masker, console: &mut Console<'_>) -> Report {
    mask_report(&mut report, masker);
    console.security_events.append(&mut report.events);
    report
}

/// Puts what a program did on the network into its result.
fn tell_network(result: &mut ExecutionResult, report: Option<Report>) {
    let Some(report) = report else { return };
    result.network_logs = report.entries;
    result.network_logs_dropped = report.dropped;
    if let Some(usage) = &mut result.resource_usage {
        (usage.network_bytes_in, usage.network_bytes_out) = (report.bytes_in, report.bytes_out);
    }
}

/// A program can put a secret into whatever of a request is written down.
fn mask_report(report: &mut Report, masker: &Masker) {
    let mask = |text: &mut String| {
        let masked = masker.mask(std::mem::take(text).into_bytes());
        *text = String::from_utf8_lossy(&masked).into_owned();
    };
    for entry in &mut report.entries {
        mask(&mut entry.method);
        mask(&mut entry.host);
        if let Some(path) = &mut entry.path {
            let is_cut = path.chars().count() >= MAX_PATH_CHARACTERS;
            mask(path);
            if is_cut {
                path.truncate(masker.closed_length(path));
            }
        }
    }
    for event in &mut report.events {
        mask(&mut event.message);
        for detail in event.details.values_mut() {
            if let serde_json::Value::String(text) = detail {
                mask(text);
            }
        }
    }
}

/// A duration in milliseconds, to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use shared::execution::{NetworkAction, NetworkLogEntry};

    use super::*;

    #[test]
    fn no_secret_is_written_down_with_a_request() {
        const SECRET: &str = "s3cr3t-t0ken";
        let entry = |path: String| NetworkLogEntry {
            timestamp: Utc::now(),
            method: SECRET.into(),
            host: format!("{SECRET}.test"),
            path: Some(path),
            action: NetworkAction::Block,
            duration_ms: 0,
        };
        let begun = format!("/{}{}", "x".repeat(MAX_PATH_CHARACTERS - 9), &SECRET[..8]);
        let event = SecurityEvent {
            kind: "network_blocked".into(),
            message: format!("a request to {SECRET}.test was blocked"),
            details: [("host".to_owned(), format!("{SECRET}.test").into())].into(),
            timestamp: Utc::now(),
        };
        let entries = vec![entry(format!("/{SECRET}")), entry(begun)];
        let mut report = Report { entries, events: vec![event], ..Report::default() };
        mask_report(&mut report, &Masker::of_values([SECRET].into_iter()));
        let (entry, event) = (&report.entries[0], &report.events[0]);
        let path = entry.path.as_deref();
        assert_eq!(
            (entry.method.as_str(), entry.host.as_str(), path),
            ("***", "***.test", Some("/***"))
        );
        assert!(report.entries[1].path.as_deref().is_some_and(|path| path.ends_with('x')));
        assert_eq!(event.message, "a request to ***.test was blocked");
        assert_eq!(event.details["host"], "***.test");
    }
}
