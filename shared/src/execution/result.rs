//! What clients get back, and the typed ending that travels from worker to
//! gateway. A failing program is a result; only platform trouble is a failure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, ErrorCode};
use crate::id::{JobId, SessionId};
use crate::isolation::Isolation;
use crate::runtime::Runtime;

use super::call::FileReply;
use super::egress::NetworkLogEntry;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// By itself, or by a signal of its own making.
    Exited,
    /// By the wall-clock limit.
    TimedOut,
    /// By the kernel, for want of memory.
    OutOfMemory,
    /// By a cancel request.
    Cancelled,
}

impl Outcome {
    /// Its word on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::TimedOut => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Result of an execution; field order is that of the contract, ours come last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionResult {
    /// Standard output; secrets masked, trailing white space removed.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// Exit code; 137 on timeout.
    pub exit_code: i32,
    /// Wall time of the program alone, in milliseconds.
    pub duration_ms: u64,
    /// Whether either stream was cut.
    pub truncated: bool,
    /// Identifier of the job.
    pub execution_id: JobId,
    /// Language.
    pub runtime: Runtime,
    /// When the result was assembled; ISO 8601 with milliseconds on the wire.
    #[serde(serialize_with = "with_milliseconds")]
    pub timestamp: DateTime<Utc>,
    /// The container it ran in.
    pub container_id: String,
    /// What kept that apart from the machine, if it was more than a container.
    #[serde(default, skip_serializing_if = "Isolation::is_container")]
    pub isolation: Isolation,
    /// What it used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_usage: Option<ResourceUsage>,
    /// Requests over the filtered network, if they were to be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_logs: Vec<NetworkLogEntry>,
    /// Requests that are not in `network_logs` because there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub network_logs_dropped: u64,
    /// Requested files as base64; missing ones are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeMap<String, String>>,
    /// The session it ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionState>,
    /// Events published while it ran, for whoever wants to know that none is missing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub events: u64,
    /// How the program ended.
    pub outcome: Outcome,
    /// Where the time went.
    pub timings: Timings,
}

/// Writes a time as ISO 8601 in UTC, with milliseconds: `2026-01-31T12:00:00.000Z`.
pub(crate) fn with_milliseconds<S: Serializer>(
    time: &DateTime<Utc>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.format("%Y-%m-%dT%H:%M:%S%.3fZ"))
}

/// Writes milliseconds with at most three decimals.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn in_microseconds<S: Serializer>(ms: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((ms * 1000.0).round() / 1000.0)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a caller should know about the session its program ran in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionState {
    /// Which.
    pub id: SessionId,
    /// Whether the call opened it.
    pub opened: bool,
    /// The variables of earlier calls were gone when this one began: an earlier one had brought its
    /// interpreter to an end. Files and background processes were not touched.
    pub state_lost: bool,
}

/// What a program used, from the kernel's accounting of its processes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceUsage {
    /// CPU time over wall time, in per cent of one core.
    pub cpu_percent: f64,
    /// Peak memory in MiB, rounded.
    #[serde(rename = "memoryMB")]
    pub memory_mb: u64,
    /// Bytes received over the network.
    pub network_bytes_in: u64,
    /// Bytes sent over the network.
    pub network_bytes_out: u64,
    /// CPU time in milliseconds.
    pub cpu_time_ms: f64,
    /// Largest resident set of any one process, in bytes.
    pub peak_memory_bytes: u64,
}

/// Where the time of a job went, in milliseconds; clients get whole microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// From when it might have begun until a worker took it, by the queue's clock.
    #[serde(serialize_with = "in_microseconds")]
    pub queue_ms: f64,
    /// Fetching the program from its address.
    #[serde(default, serialize_with = "in_microseconds")]
    pub fetch_ms: f64,
    /// Getting a sandbox.
    #[serde(serialize_with = "in_microseconds")]
    pub sandbox_ms: f64,
    /// Whether it had to be created for this job.
    pub cold: bool,
    /// Having its packages installed, or waiting for that.
    #[serde(default, serialize_with = "in_microseconds")]
    pub install_ms: f64,
    /// Running the setup scripts.
    #[serde(serialize_with = "in_microseconds")]
    pub setup_ms: f64,
    /// From the start order to the program's last output, as the worker saw it.
    #[serde(serialize_with = "in_microseconds")]
    pub run_ms: f64,
    /// Fetching output files.
    #[serde(serialize_with = "in_microseconds")]
    pub collect_ms: f64,
}

/// A job that could not be run: not the program's fault, or not a program at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Stable code.
    pub code: ErrorCode,
    /// For the caller.
    pub message: String,
    /// A setup script that failed: its exit code; 137 if its time was up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_exit_code: Option<i32>,
    /// Events published before it failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub events: u64,
}

impl Failure {
    /// A failure in plain words.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), setup_exit_code: None, events: 0 }
    }

    /// How a job ended that ended so.
    #[must_use]
    pub const fn outcome(&self) -> &'static str {
        match self.code {
            ErrorCode::Cancelled => Outcome::Cancelled.name(),
            ErrorCode::Expired => "expired",
            _ => "failed",
        }
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self::new(error.code(), error.message())
    }
}

/// The one committed ending of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::large_enum_variant, reason = "one per job, moved twice, never stored in bulk")]
pub enum Ending {
    /// The program ran.
    Result(ExecutionResult),
    /// A session's file was read, written, listed or removed.
    File(FileReply),
    /// It could not be run.
    Error(Failure),
}

/// An ending in a few words, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndingSummary {
    /// How the program ended, or `failed` if it could not be run.
    pub outcome: String,
    /// Exit code of a program that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it could not be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
}

impl Ending {
    /// The ending in a few words.
    #[must_use]
    pub fn summary(&self) -> EndingSummary {
        match self {
            Self::Result(result) => EndingSummary {
                outcome: result.outcome.name().to_owned(),
                exit_code: Some(result.exit_code),
                code: None,
            },
            Self::File(_) => EndingSummary {
                outcome: Outcome::Exited.name().into(),
                exit_code: None,
                code: None,
            },
            Self::Error(failure) => EndingSummary {
                outcome: failure.outcome().to_owned(),
                exit_code: None,
                code: Some(failure.code),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_told_in_whole_microseconds() {
        let timings = Timings {
            queue_ms: std::time::Duration::from_micros(198).as_secs_f64() * 1000.0,
            run_ms: 0.1 + 0.2,
            collect_ms: 234.567_891,
            ..Timings::default()
        };
        assert_eq!(
            serde_json::to_string(&timings).unwrap(),
            r#"{"queueMs":0.198,"fetchMs":0.0,"sandboxMs":0.0,"cold":false,"installMs":0.0,"setupMs":0.0,"runMs":0.3,"collectMs":234.568}"#
        );
    }
}
