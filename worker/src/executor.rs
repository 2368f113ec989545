//! What a worker does with a job: run it in a sandbox, or, for measuring the queue, answer at once.

use chrono::Utc;
use shared::Error;
use shared::execution::{ExecutionResult, Job, Outcome, Timings};
use shared::id::{JobId, TenantId};
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Spent};

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
        cancel: &CancellationToken,
    ) -> Result<(ExecutionResult, Option<Spent>), Error> {
        match self {
            Self::Sandbox(engine) => {
                let (result, spent) = engine.execute(id, tenant, job, None, cancel).await?;
                Ok((result, Some(spent)))
            }
            Self::NoOp => Ok((nothing(id, job), None)),
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
        resource_usage: None,
        files: None,
        outcome: Outcome::Exited,
        timings: Timings::default(),
    }
}
