//! Putting a role of the fleet together from its parts. `serve` joins all of them in one process;
//! `gateway` and `worker` run one each.

mod redis_server;
mod secrets_key;
mod signals;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use shared::VERSION;
use shared::audit::Audit;
use shared::config::Config;
use shared::execution::{Admission, ExecuteEnvelope, ExecutionRequest, Job, PoolStrategy};
use shared::id::{TenantId, WorkerId};
use shared::net::Resolver;
use shared::redis::Queue;
use shared::runtime::Runtime;
use shared::size::parse_bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use worker::Executor;
use worker::engine::docker::Docker;
use worker::engine::images::RegistrySource;
use worker::engine::{Engine, Options, PackageSettings};
use worker::fetch::Fetcher;
use worker::metrics::Metrics;
use worker::name::Name;
use worker::webhooks::Webhooks;

use crate::host::registries;
use crate::{printer, settings};
pub(crate) use redis_server::RedisServer;
pub(crate) use secrets_key::own_secrets_key;
pub(crate) use signals::interrupted;

/// How often a queue that cannot be reached is tried again.
const CONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Waits until the queue can be used, or `token` is cancelled.
///
/// # Errors
/// If waiting will not help: the queue is there, but not for this configuration.
pub(crate) async fn await_queue(queue: &Queue, token: &CancellationToken) -> anyhow::Result<()> {
    loop {
        match token.run_until_cancelled(queue.ready()).await {
            None | Some(Ok(())) => return Ok(()),
            Some(Err(error)) if error.code().is_retryable() => {
                tracing::warn!(%error, "the queue is not there yet; trying again");
            }
            Some(Err(error)) => return Err(error).context("cannot use the queue"),
        }
        if token.run_until_cancelled(tokio::time::sleep(CONNECT_PAUSE)).await.is_none() {
            return Ok(());
        }
    }
}

/// Runs a role to its end, which a signal brings about. A second one drops it where it is.
pub(crate) async fn run_until_signalled(
    role: impl Future<Output = anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let ended = CancellationToken::new();
    let running = async {
        let outcome = role.await;
        stop.cancel();
        ended.cancel();
        outcome
    };
    tokio::try_join!(running, signals::obey(stop, &ended)).map(|_| ())
}

/// Binds the configured address. Whoever sends requests to a fleet knows it by this one.
pub(crate) async fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    let (host, port) = (config.gateway.host.as_str(), config.gateway.port);
    TcpListener::bind((host, port)).await.with_context(|| format!("cannot listen on {host}:{port}"))
}

/// Binds the configured address, or a free port where that one is taken: after a question if there
/// is somebody to ask, with a warning if not.
pub(crate) async fn bind_or_free(
    config: &Config,
    stop: &CancellationToken,
) -> anyhow::Result<TcpListener> {
    let error = match bind(config).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let is_busy = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|cause| cause.kind() == std::io::ErrorKind::AddrInUse);
    if !is_busy {
        return Err(error);
    }
    let (host, port) = (config.gateway.host.as_str(), config.gateway.port);
    if printer::is_interactive() {
        let question = format!("Port {port} is in use. Take a free one instead?");
        // On a thread of its own, so that a signal is heard while nobody answers.
        let asking = tokio::task::spawn_blocking(move || printer::confirm(&question));
        let answer = stop.run_until_cancelled(asking).await;
        let is_fine = answer.transpose()?.transpose()?.unwrap_or(false);
        anyhow::ensure!(is_fine, "port {port} is in use");
    } else {
        printer::warning(format!("Port {port} is in use; taking a free one instead"));
    }
    TcpListener::bind((host, 0)).await.with_context(|| format!("cannot listen on {host}"))
}

/// Tells the user, and whoever started us, that requests are taken.
pub(crate) fn announce(listener: &TcpListener) -> anyhow::Result<()> {
    let port = listener.local_addr().context("cannot read our own address")?.port();
    printer::line(format!("[INFO] isol8 server v{VERSION} listening on http://localhost:{port}"));
    Ok(())
}

/// A worker ready to run, with the name it holds on this machine.
pub(crate) struct Worker {
    options: worker::Options,
    executor: Executor,
    _name: Name,
}

/// Puts a worker together: its name, its engine, its warm sandboxes.
pub(crate) async fn build_worker(
    config: &Config,
    token: &CancellationToken,
) -> anyhow::Result<Worker> {
    let directory = Name::default_directory(settings::home().as_deref());
    let name = Name::take(&directory, &config.worker.name)?;
    let id = WorkerId::generate();
    let metrics = Arc::<Metrics>::default();
    let listener = match &config.worker.listen {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))?,
        ),
        None => None,
    };
    let executor = if config.worker.no_op {
        printer::warning("--no-op: jobs are answered, not run");
        Executor::NoOp
    } else {
        let docker = Docker::connect().await?;
        let options = engine_options(config, name.as_str().to_owned())?;
        let image = Runtime::ALL[0].image();
        let metrics = Arc::clone(&metrics);
        let engine = Engine::start(options, docker, id, image, metrics, token.clone()).await?;
        engine.take_stock().await?;
        Executor::Sandbox(engine)
    };
    tracing::info!(worker = %id, name = name.as_str(), "worker ready");
    Ok(Worker {
        options: worker::Options {
            worker: id,
            name: name.as_str().to_owned(),
            labels: config.worker.labels.clone(),
            only_labelled: config.worker.only_labelled,
            max_concurrent: config.max_concurrent,
            redis: config.redis.clone(),
            shutdown_grace: Duration::from_millis(config.worker.shutdown_grace_ms),
            metrics,
            listener,
            max_sessions: max_sessions(config),
            session_idle: config
                .cleanup
                .auto_prune
                .then(|| Duration::from_millis(config.cleanup.max_container_age_ms)),
            fetcher: Fetcher::new(config)?,
            webhooks: Webhooks::new(config)?,
            policy: config.policy.clone(),
            audit: Audit::start(&config.audit)?,
        },
        executor,
        _name: name,
    })
}

impl Worker {
    /// Its numbers.
    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.options.metrics)
    }

    /// Its audit log; closed at the end of `run`.
    pub(crate) fn audit(&self) -> Audit {
        self.options.audit.clone()
    }

    /// Runs it until `token` is cancelled.
    pub(crate) async fn run(self, queue: Queue, token: CancellationToken) -> anyhow::Result<()> {
        let usable = await_queue(&queue, &token).await;
        if usable.is_err() {
            token.cancel();
        }
        let audit = self.audit();
        // Also then: only a worker that has run removes its containers.
        let ran = worker::run(self.options, queue, self.executor, token).await;
        audit.shutdown().await;
        ran?;
        usable
    }
}

fn engine_options(config: &Config, owner: String) -> anyhow::Result<Options> {
    let admission = Admission::new(config)?;
    let anybody = TenantId::master();
    let admit = |runtime: &Runtime| admission.admit(&anybody, nothing(*runtime));
    let prewarm: Result<Vec<Job>, _> = config.worker.prewarm.iter().map(admit).collect();
    Ok(Options {
        owner,
        strategy: match config.pool_size.dirty {
            0 => PoolStrategy::Secure,
            _ => config.pool_strategy,
        },
        clean: config.pool_size.clean,
        max_concurrent: config.max_concurrent,
        max_containers: max_containers(config),
        idle: Duration::from_millis(config.worker.idle_ms),
        prewarm: prewarm?,
        custom_seccomp: settings::custom_seccomp(config)?,
        packages: package_settings(config)?,
        resolver: Resolver::of_servers(&config.worker.resolvers)?,
    })
}

/// How this machine installs packages that jobs ask for.
pub(crate) fn package_settings(config: &Config) -> anyhow::Result<PackageSettings> {
    let worker = &config.worker;
    Ok(PackageSettings {
        registries: RegistrySource::new(registries::settings_for),
        more_hosts: worker.registry_hosts.clone(),
        max_bytes: parse_bytes("worker.packageCacheSize", &worker.package_cache_size)?,
        max_set_bytes: parse_bytes("worker.packageSetSize", &worker.package_set_size)?,
        limit: Duration::from_millis(worker.install_timeout_ms),
    })
}

fn max_containers(config: &Config) -> usize {
    match config.worker.max_containers {
        0 => config.max_concurrent * 4,
        given => given,
    }
    .max(config.worker.prewarm.len() * config.pool_size.clean)
}

/// A session keeps its container; what is left must do for as many plain jobs as may run.
fn max_sessions(config: &Config) -> usize {
    let to_spare = max_containers(config).saturating_sub(config.max_concurrent);
    config.worker.max_sessions.min(to_spare)
}

/// A request that asks for nothing but a runtime with all its defaults.
fn nothing(runtime: Runtime) -> ExecuteEnvelope {
    ExecuteEnvelope {
        request: ExecutionRequest {
            runtime: runtime.name().to_owned(),
            cmd: Some("true".into()),
            ..ExecutionRequest::default()
        },
        ..ExecuteEnvelope::default()
    }
}

/// Where a server keeps its data unless told otherwise.
pub(crate) fn default_data_directory() -> anyhow::Result<PathBuf> {
    let home = settings::home().context("cannot find the home directory; give --data-dir")?;
    Ok(home.join(".isol8/data"))
}
