//! What a worker does with a job: run it in a sandbox, or, for measuring the queue, answer at once.

use chrono::Utc;
use shared::Error;
use shared::audit::SecurityEvent;
use shared::execution::{ExecutionResult, Job, Outcome, Timings};
use shared::id::{JobId, SessionId, TenantId};
use shared::redis::{Cleaned, Removal};
use tokio_util::sync::CancellationToken;

use crate::engine::{Console, Engine, EngineError, Session, Spent};

/// Runs jobs.
#[expect(clippy::large_enum_variant, reason = "one per process")]
pub enum Executor {
    /// In sandboxes.
    Sandbox(Engine),
    /// Not at all: every job succeeds with empty output. For load tests of everything else.
    NoOp,
}

impl Executor {
    pub(crate) async fn execute(
        &self,
        id: JobId,
        tenant: &TenantId,
        job: &Job,
        console: &mut Console<'_>,
        cancel: &CancellationToken,
    ) -> Result<(ExecutionResult, Option<Spent>), EngineError> {
        match self {
            Self::Sandbox(engine) => {
                let (result, spent) = engine.execute(id, tenant, job, console, cancel).await?;
                Ok((result, Some(spent)))
            }
            Self::NoOp => Ok((nothing(id, job), None)),
        }
    }

    /// Opens a session, and tells what was blocked on the way; `None` if there are no sandboxes to open one in.
    pub(crate) async fn open_session(
        &self,
        tenant: &TenantId,
        id: &SessionId,
        job: &Job,
        heard: &mut Vec<SecurityEvent>,
        cancel: &CancellationToken,
    ) -> Option<Result<Session, EngineError>> {
        match self {
            Self::Sandbox(engine) => {
                Some(engine.open_session(tenant, id, job, heard, cancel).await)
            }
            Self::NoOp => None,
        }
    }

    /// Removes idle sandboxes of a tenant, or of all; on request also images that nothing uses.
    pub(crate) async fn clean_up(&self, tenant: Option<&TenantId>, images: bool) -> Cleaned {
        match self {
            Self::Sandbox(engine) => Cleaned {
                containers: engine.clean_up(tenant).await,
                images: if images { engine.clean_up_images().await } else { Removal::default() },
            },
            Self::NoOp => Cleaned::default(),
        }
    }

    /// Containers that there are.
    pub(crate) fn containers(&self) -> usize {
        match self {
            Self::Sandbox(engine) => engine.containers(),
            Self::NoOp => 0,
        }
    }

    pub(crate) async fn ping(&self) -> Result<(), Error> {
        match self {
            Self::Sandbox(engine) => engine.ping().await,
            Self::NoOp => Ok(()),
        }
    }

    pub(crate) async fn shutdown(&self) -> Result<(), Error> {
        match self {
            Self::Sandbox(engine) => engine.shutdown().await,
            Self::NoOp => Ok(()),
        }
    }
}

fn nothing(id: JobId, job: &Job) -> ExecutionResult {
    ExecutionResult {
        stdout: String::new(),
        stderr: String::new(),
        exit_code: 0,
        duration_ms: 0,
        truncated: false,
        execution_id: id,
        runtime: job.runtime,
        timestamp: Utc::now(),
        container_id: String::new(),
        isolation: job.isolation,
        resource_usage: None,
        network_logs: Vec::new(),
        network_logs_dropped: 0,
        files: None,
        session: None,
        events: 0,
        outcome: Outcome::Exited,
        timings: Timings::default(),
    }
}
