//! A program on this machine: the engine without queue or server.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use client::Execution;
use serde_json::Value;
use shared::config::{Config, NetworkFilter};
use shared::execution::{
    Admission, ExecuteEnvelope, ExecutionRequest, Job, NetworkLogEntry, Outcome, Phase,
    PoolStrategy, Stream,
};
use shared::id::{JobId, SessionId, TenantId, WorkerId};
use shared::net::Resolver;
use tokio_util::sync::CancellationToken;
use worker::engine::docker::Docker;
use worker::engine::{Console, Engine, EngineError, JobError, Live, Options};
use worker::fetch::Fetcher;

use super::output::{Finished, Output, to_exit_code, unwritable};
use crate::host::seccomp;
use crate::request::Session;
use crate::{printer, roles};

/// How long taking an installation away that was broken off may take.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A program that is ready to run in a sandbox of this machine's Docker engine.
pub(super) struct Local {
    engine: Engine,
    job: Job,
    /// What was asked for, to be compared with the files that come back.
    sent: ExecutionRequest,
    tenant: TenantId,
}

impl Local {
    /// Has the request admitted, its program fetched, and the engine started.
    pub(super) async fn prepare(
        execution: Execution,
        config: &Config,
        persist: bool,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Self> {
        if persist {
            bail!("This machine's engine does not offer keeping a container (--persist)");
        }
        let Execution { request, options, .. } = execution;
        let sent = request.clone();
        let envelope = ExecuteEnvelope { request, options, ..ExecuteEnvelope::default() };
        let tenant = TenantId::master();
        // The rules for hosts are in the request already, where flags may have taken their place.
        let server = Config { network: NetworkFilter::default(), ..config.clone() };
        let mut job = Admission::new(&server)?.admit(&tenant, envelope)?;
        let fetched = Fetcher::new(config)?.fetch(&tenant, &mut job, cancel).await;
        fetched.map_err(EngineError::from)?;
        tracing::debug!(runtime = %job.runtime, image = job.image, "running on this machine");
        let docker = Docker::connect().await?;
        let options = Options {
            owner: format!("run-{}", std::process::id()),
            strategy: PoolStrategy::Secure,
            clean: 0,
            max_concurrent: 1,
            max_containers: 1,
            idle: Duration::ZERO,
            prewarm: Vec::new(),
            runtimes: config.worker.runtimes.clone(),
            seccomp: seccomp::profiles(config)?,
            packages: roles::package_settings(config)?,
            resolver: Resolver::of_servers(&config.worker.resolvers)?,
        };
        let (worker, metrics) = (WorkerId::generate(), Arc::default());
        let engine =
            Engine::start(options, docker, worker, &job.image, metrics, cancel.clone()).await?;
        Ok(Self { engine, job, sent, tenant })
    }

    /// Runs it.
    pub(super) async fn run(
        &self,
        session: &Session,
        output: &Output,
        cancel: &CancellationToken,
    ) -> anyhow::Result<ExitCode> {
        let Self { engine, job, sent, tenant } = self;
        let mut terminal = Terminal { broken: None, cancel: cancel.clone() };
        let mut console = Console::default();
        if output.is_streamed {
            console.live = Some(&mut terminal);
        }
        let id = JobId::generate();
        // Removal of the container goes on by itself: its link is closed, and the engine removes it
        // when it ends. Waiting for that would double the time of a short program.
        let executed = match session.id() {
            None => {
                let executed = engine.execute(id, tenant, job, &mut console, cancel).await;
                executed.map(|(result, _spent)| result)
            }
            Some(name) => {
                let name = SessionId::new(name)?;
                let heard = &mut console.security_events;
                match engine.open_session(tenant, &name, job, heard, cancel).await {
                    Ok(mut session) => session.execute(id, job, &mut console, cancel).await,
                    Err(error) => Err(error),
                }
            }
        };
        if let Some(error) = terminal.broken {
            return unwritable(error);
        }
        let result = match executed {
            Ok(result) => result,
            Err(error) => return failed(error, output),
        };
        let network_logs = json_values(&result.network_logs)?;
        if !output.is_streamed {
            let code = output.show(&Finished {
                stdout: &result.stdout,
                stderr: &result.stderr,
                is_truncated: result.truncated,
                network_logs: &network_logs,
                exit_code: result.exit_code.into(),
            })?;
            output.take_out(&result.files.unwrap_or_default(), sent)?;
            return Ok(code);
        }
        if result.outcome == Outcome::TimedOut {
            printer::error("EXECUTION TIMED OUT");
        }
        if result.truncated {
            printer::warning("Output was truncated");
        }
        Ok(to_exit_code(result.exit_code.into()))
    }

    /// Breaks off an installation that the run did not wait for: with this process it would end anyway, and
    /// leave behind what it has made.
    pub(super) async fn end(self) {
        let problem = match tokio::time::timeout(END_LIMIT, self.engine.end_installing()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "Docker did not answer in time".into(),
        };
        printer::warning(format!(
            "What was being installed may still be on this machine: {problem}. `isol8 cleanup` removes it."
        ));
    }
}

fn json_values(entries: &[NetworkLogEntry]) -> serde_json::Result<Vec<Value>> {
    entries.iter().map(serde_json::to_value).collect()
}

/// A setup script that failed is told as a stream tells it, if it was one: its own words were shown already,
/// and its exit code is the run's.
fn failed(error: EngineError, output: &Output) -> anyhow::Result<ExitCode> {
    match error {
        // Unlike a server's, an installation of ours does not go on when its job has given up.
        EngineError::Job(JobError::InstallTimedOut { timeout_ms }) => bail!(
            "Package install failed (exit code 137): PACKAGE INSTALL TIMED OUT after {timeout_ms} ms. It \
             was broken off, and the next run begins it anew: give that one more time with --timeout."
        ),
        error if !output.is_streamed => Err(error.into()),
        EngineError::Job(JobError::SetupFailed { exit_code, .. }) => {
            printer::error(format!("Setup script failed (exit code {exit_code})"));
            Ok(to_exit_code(exit_code.into()))
        }
        EngineError::Job(JobError::SetupTimedOut { .. }) => {
            printer::error("SETUP SCRIPT TIMED OUT");
            Ok(to_exit_code(137))
        }
        error => Err(error.into()),
    }
}

/// Shows output as it comes; once that fails, the program is ended.
struct Terminal {
    broken: Option<std::io::Error>,
    cancel: CancellationToken,
}

impl Live for Terminal {
    fn output(&mut self, _: Phase, stream: Stream, data: &[u8]) {
        let written = match stream {
            Stream::Stdout => printer::raw_stdout(data),
            Stream::Stderr => printer::raw_stderr(data),
        };
        if let Err(error) = written {
            self.broken.get_or_insert(error);
            self.cancel.cancel();
        }
    }
}
