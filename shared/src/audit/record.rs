//! What is recorded of one execution, and its form as a line.

use std::collections::BTreeMap;
use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::config;
use crate::error::{Error, ErrorCode};
use crate::execution::{
    self, ExecutionRequest, ExecutionResult, Failure, Job, NetworkLogEntry, ResourceUsage, Source,
    with_milliseconds,
};
use crate::id::{JobId, SessionId, TenantId};
use crate::runtime::Runtime;

/// How an execution ended, or why there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The program ended by itself.
    Exited,
    /// Its time was up.
    TimedOut,
    /// The kernel ended it, for want of memory.
    OutOfMemory,
    /// Its caller ended it.
    Cancelled,
    /// It could not be run.
    Failed,
    /// It was not let in.
    Refused,
    /// It had ended before; what it left running in its session came to its end with that.
    SessionEnded,
}

impl From<execution::Outcome> for Outcome {
    fn from(outcome: execution::Outcome) -> Self {
        match outcome {
            execution::Outcome::Exited => Self::Exited,
            execution::Outcome::TimedOut => Self::TimedOut,
            execution::Outcome::OutOfMemory => Self::OutOfMemory,
            execution::Outcome::Cancelled => Self::Cancelled,
        }
    }
}

/// Something an execution did, or asked for, that it must not.
#[derive(Clone, Debug, Serialize)]
pub struct SecurityEvent {
    /// What kind, like `policy_violation`.
    #[serde(rename = "type")]
    pub kind: String,
    /// In words.
    pub message: String,
    /// More of it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, serde_json::Value>,
    /// When.
    #[serde(serialize_with = "with_milliseconds")]
    pub timestamp: DateTime<Utc>,
}

/// One execution. Borrows what it is made of; nothing is copied unless it is written.
///
/// Secrets must be masked in `stdout` and `stderr` already, as they are in every result.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record<'a> {
    /// The job.
    pub execution_id: JobId,
    /// Whose it was.
    pub tenant_id: &'a TenantId,
    /// Who of them, by `metadata.userId`; else empty.
    pub user_id: &'a str,
    /// When it began.
    #[serde(serialize_with = "with_milliseconds")]
    pub timestamp: DateTime<Utc>,
    /// Language; of a refused request whatever it said.
    pub runtime: &'a str,
    /// Program text or command, as SHA-256 in hex; empty if there was neither.
    #[serde(rename = "codeHash", serialize_with = "hashed")]
    pub program: &'a str,
    /// The container it ran in.
    pub container_id: Option<&'a str>,
    /// Its exit code, if it ran.
    pub exit_code: Option<i32>,
    /// Wall time of the program; if it did not run, of the attempt.
    pub duration_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<ErrorCode>,
    /// Likewise, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<&'a str>,
    /// What it used; with `audit.trackResources`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_usage: Option<&'a ResourceUsage>,
    /// What it must not have done.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub security_events: Vec<SecurityEvent>,
    /// What it asked of the network.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub network_logs: &'a [NetworkLogEntry],
    /// What its caller had to say about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: &'a BTreeMap<String, String>,
    /// The session it ran in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a str>,
    /// The program; with `audit.includeCode`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
    /// Its output; with `audit.includeOutput`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<&'a str>,
    /// Likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// A program that ran, whatever its exit code. Buffered and streamed ones are recorded alike.
    #[must_use]
    pub fn of_result(
        job: &'a Job,
        tenant: &'a TenantId,
        session: Option<&'a SessionId>,
        result: &'a ExecutionResult,
    ) -> Self {
        let timings = &result.timings;
        let took = timings.sandbox_ms
            + timings.install_ms
            + timings.setup_ms
            + timings.run_ms
            + timings.collect_ms;
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds of one job")]
        let started = result.timestamp - TimeDelta::milliseconds(took.round() as i64);
        let code = program(&job.source);
        Self {
            container_id: Some(&result.container_id),
            exit_code: Some(result.exit_code),
            duration_ms: result.duration_ms,
            outcome: result.outcome.into(),
            resource_usage: result.resource_usage.as_ref(),
            network_logs: &result.network_logs,
            stdout: Some(&result.stdout),
            stderr: Some(&result.stderr),
            ..Self::of_attempt(
                result.execution_id,
                tenant,
                session.map(SessionId::as_str),
                job.runtime.name(),
                code,
                &job.metadata,
                started,
            )
        }
    }

    /// A job that could not be run, or was cancelled; `started` is when the worker took it.
    #[must_use]
    pub fn of_failure(
        id: JobId,
        job: &'a Job,
        tenant: &'a TenantId,
        session: Option<&'a SessionId>,
        started: DateTime<Utc>,
        failure: &'a Failure,
    ) -> Self {
        let was_cancelled = failure.code == ErrorCode::Cancelled;
        Self {
            outcome: if was_cancelled { Outcome::Cancelled } else { Outcome::Failed },
            error_code: Some(failure.code),
            error_message: Some(&failure.message),
            ..Self::of_attempt(
                id,
                tenant,
                session.map(SessionId::as_str),
                job.runtime.name(),
                program(&job.source),
                &job.metadata,
                started,
            )
        }
    }

    /// A request that was not let in: by admission, by a quota, or because its session or the
    /// queue did not take it. `id` is new if no job came of it.
    #[must_use]
    pub fn of_refusal(
        id: JobId,
        request: &'a ExecutionRequest,
        tenant: &'a TenantId,
        session: Option<&'a str>,
        started: DateTime<Utc>,
        error: &'a Error,
    ) -> Self {
        let code = [&request.code, &request.cmd].into_iter().flatten().next();
        let violation = (error.code() == ErrorCode::PolicyViolation).then(|| SecurityEvent {
            kind: "policy_violation".into(),
            message: error.message().to_owned(),
            details: BTreeMap::new(),
            timestamp: started,
        });
        Self {
            outcome: Outcome::Refused,
            error_code: Some(error.code()),
            error_message: Some(error.message()),
            security_events: violation.into_iter().collect(),
            ..Self::of_attempt(
                id,
                tenant,
                session.filter(|session| !session.is_empty()),
                &request.runtime,
                code.map_or("", String::as_str),
                &request.metadata,
                started,
            )
        }
    }

    /// Keys that are none, many of them from one address. Nobody's, and no execution; `metadata` is empty.
    #[must_use]
    pub fn of_guesses(
        id: JobId,
        nobody: &'a TenantId,
        address: IpAddr,
        wrong: u32,
        error: &'a Error,
        metadata: &'a BTreeMap<String, String>,
    ) -> Self {
        let timestamp = Utc::now();
        let event = SecurityEvent {
            kind: "auth_failures".into(),
            message: format!("{wrong} API keys from {address} that are not valid, within a minute"),
            details: [
                ("address".to_owned(), address.to_string().into()),
                ("failures".to_owned(), wrong.into()),
            ]
            .into(),
            timestamp,
        };
        Self {
            outcome: Outcome::Refused,
            error_code: Some(error.code()),
            error_message: Some(error.message()),
            security_events: vec![event],
            ..Self::of_attempt(id, nobody, None, "", "", metadata, timestamp)
        }
    }

    /// What the programs of a session did after its last call; `id` is the program that ran last. It began
    /// with the first of the events, and there should be one.
    #[must_use]
    pub fn of_aftermath(
        id: JobId,
        tenant: &'a TenantId,
        session: &'a SessionId,
        runtime: Runtime,
        metadata: &'a BTreeMap<String, String>,
        security_events: Vec<SecurityEvent>,
    ) -> Self {
        let started = security_events.first().map_or_else(Utc::now, |event| event.timestamp);
        let session = Some(session.as_str());
        Self {
            outcome: Outcome::SessionEnded,
            security_events,
            ..Self::of_attempt(id, tenant, session, runtime.name(), "", metadata, started)
        }
    }

    /// What is known of an execution before it is known how it ended.
    fn of_attempt(
        id: JobId,
        tenant: &'a TenantId,
        session: Option<&'a str>,
        runtime: &'a str,
        program: &'a str,
        metadata: &'a BTreeMap<String, String>,
        started: DateTime<Utc>,
    ) -> Self {
        Self {
            execution_id: id,
            tenant_id: tenant,
            user_id: metadata.get("userId").map_or("", String::as_str),
            timestamp: started,
            runtime,
            program,
            container_id: None,
            exit_code: None,
            duration_ms: u64::try_from((Utc::now() - started).num_milliseconds()).unwrap_or(0),
            outcome: Outcome::Failed,
            error_code: None,
            error_message: None,
            resource_usage: None,
            security_events: Vec::new(),
            network_logs: &[],
            metadata,
            session_id: session,
            code: Some(program),
            stdout: None,
            stderr: None,
        }
    }

    /// As a line of JSON with its line end, without what `config` leaves out.
    pub(super) fn line(&self, config: &config::Audit) -> serde_json::Result<Vec<u8>> {
        let record = Record {
            resource_usage: self.resource_usage.filter(|_| config.track_resources),
            code: self.code.filter(|code| config.include_code && !code.is_empty()),
            stdout: self.stdout.filter(|_| config.include_output),
            stderr: self.stderr.filter(|_| config.include_output),
            ..self.clone()
        };
        // JSON escapes line ends in texts, so that nobody's output can pass for a record.
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        Ok(line)
    }
}

fn program(source: &Source) -> &str {
    match source {
        Source::Code { text, .. } => text,
        Source::Command { command } => command,
        // Never fetched: there was no text to speak of.
        Source::Url { .. } => "",
    }
}

fn hashed<S: Serializer>(program: &&str, serializer: S) -> Result<S::Ok, S::Error> {
    if program.is_empty() {
        return serializer.serialize_str("");
    }
    let hash = Sha256::digest(program.as_bytes());
    serializer.collect_str(&hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}
