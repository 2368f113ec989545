//! Jobs as clients see them: what `GET /v1/jobs/{id}` answers, and what webhooks bring.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorCode};
use crate::execution::{Attempt, Failure, Priority};
use crate::id::JobId;
use crate::labels::Labels;
use crate::redis::{JobRecord, JobState, Standing, WaitsFor};
use crate::timestamp::iso8601;

/// Why a job waits, in the words that several places use.
const NO_WORKER: &str = "no_worker";
const IN_LINE: &str = "in_line";

/// An ending whose result is passed on as it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Ending {
    Result(Box<RawValue>),
    Error(Failure),
}

/// A job as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    id: JobId,
    state: &'static str,
    tenant_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    tags: Vec<String>,
    attempts: u32,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    priority: Priority,
    /// What its worker must have.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<WaitingView>,
    /// Whether it was given up and can be driven again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dead_letter: bool,
    /// Before when it does not begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_until: Option<String>,
    /// Attempts that came to nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    earlier_attempts: Vec<AttemptView>,
    /// When it is forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Trouble>,
}

/// Why a job waits.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingView {
    reason: &'static str,
    /// The same in more words, where there is more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_ms: Option<u64>,
}

impl From<Standing> for WaitingView {
    fn from(standing: Standing) -> Self {
        let reason = match standing.waits_for {
            WaitsFor::Time => "time",
            WaitsFor::Tenant => "tenant_limit",
            WaitsFor::Worker if standing.slots == 0 => NO_WORKER,
            WaitsFor::Worker => IN_LINE,
        };
        let estimated_ms = standing.estimate.and_then(|wait| u64::try_from(wait.as_millis()).ok());
        let position = Some(standing.position).filter(|it| *it > 0);
        Self { reason, message: None, position, estimated_ms }
    }
}

impl WaitingView {
    /// The same, if there is no worker for it, and why.
    #[must_use]
    pub fn without_worker(self, message: String) -> Self {
        Self { reason: NO_WORKER, message: Some(message), ..self }
    }

    /// The same, if there is a worker for it that has not told of itself where the job stands.
    #[must_use]
    pub fn with_worker(self) -> Self {
        let reason = if self.reason == NO_WORKER { IN_LINE } else { self.reason };
        Self { reason, ..self }
    }
}

/// An attempt that came to nothing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AttemptView {
    worker: String,
    started_at: String,
    ended_at: String,
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<ErrorCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// The ends of what it wrote.
    stdout: String,
    stderr: String,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        Self {
            worker: attempt.worker,
            started_at: iso8601(attempt.started_ms),
            ended_at: iso8601(attempt.ended_ms),
            outcome: attempt.outcome,
            exit_code: attempt.exit_code,
            code: attempt.code,
            message: attempt.message,
            stdout: attempt.stdout,
            stderr: attempt.stderr,
        }
    }
}

/// Why a job could not be run.
#[derive(Serialize)]
struct Trouble {
    code: ErrorCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl JobView {
    /// A job with its attempts, its ending, and, while it waits, why.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if its ending cannot be read.
    pub fn whole(
        record: JobRecord,
        attempts: Vec<Attempt>,
        waiting: Option<WaitingView>,
    ) -> Result<Self, Error> {
        let ending = match &record.state {
            JobState::Finished(ending) => Some(ending.get().to_owned()),
            _ => None,
        };
        let mut view = Self::brief(record);
        view.waiting = waiting;
        view.earlier_attempts = attempts.into_iter().map(AttemptView::from).collect();
        let Some(ending) = ending else { return Ok(view) };
        let ending = serde_json::from_str(&ending).map_err(|error| {
            let message = format!("The result of job {} cannot be read", view.id);
            Error::new(ErrorCode::Internal, message).with_source(error)
        })?;
        match ending {
            Ending::Result(result) => view.result = Some(result),
            Ending::Error(failure) => {
                view.outcome = Some(failure.outcome().to_owned());
                view.error = Some(Trouble { code: failure.code, message: Some(failure.message) });
            }
        }
        Ok(view)
    }

    /// A job as lists show it.
    #[must_use]
    pub fn brief(record: JobRecord) -> Self {
        let terms = record.terms.unwrap_or_default();
        let summary = record.summary;
        let kept = |ended: u64| ended.saturating_add(record.keep_ms.unwrap_or_default());
        let kept_until = record.finished_ms.map(kept).map(iso8601);
        let is_running = matches!(record.state, JobState::Running);
        let code = summary.as_ref().and_then(|it| it.code);
        Self {
            id: record.id,
            state: record.state.name(),
            tenant_id: record.tenant.to_string(),
            session_id: record.session,
            tags: terms.tags,
            attempts: record.attempts,
            created_at: iso8601(record.submitted_ms),
            started_at: record
                .started_ms
                .filter(|_| is_running || record.finished_ms.is_some())
                .map(iso8601),
            finished_at: record.finished_ms.map(iso8601),
            kept_until,
            priority: terms.priority,
            labels: terms.labels,
            waiting: None,
            dead_letter: record.is_dead,
            waits_until: record.due_ms.map(iso8601),
            earlier_attempts: Vec::new(),
            exit_code: summary.as_ref().and_then(|it| it.exit_code),
            outcome: summary.map(|it| it.outcome),
            result: None,
            error: code.map(|code| Trouble { code, message: None }),
        }
    }
}
