//! The one error type that crosses crate borders: a stable code, a message that may leave the
//! process, and a cause that may not. HTTP statuses are the gateway's business.

use std::{error::Error as StdError, fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a stable word that clients may match on (`docs/errors.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// A field is missing, malformed or contradicts another.
    InvalidRequest,
    /// The body is not JSON.
    InvalidJson,
    /// No `Authorization` header.
    Unauthenticated,
    /// The key is unknown, or lacks the right.
    Forbidden,
    /// The server's policy forbids what the request asks for.
    PolicyViolation,
    /// A feature this server does not offer.
    NotSupported,
    /// No such route or resource.
    NotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// The body is over the server's limit.
    PayloadTooLarge,
    /// The address and the headers are.
    HeadersTooLarge,
    /// The queue is at its limit; try again later.
    QueueFull,
    /// The queue cannot be reached; try again later.
    QueueUnavailable,
    /// The image asked for is not on the worker's engine.
    ImageNotFound,
    /// The container engine failed; the job may be tried again.
    SandboxFailed,
    /// A file could not be put into the sandbox.
    FileWriteFailed,
    /// The program could not be started.
    StartFailed,
    /// A setup script ended with another code than 0.
    SetupFailed,
    /// The program could not be fetched from where it is.
    CodeFetchFailed,
    /// The program fetched is not the one whose hash was given.
    CodeHashMismatch,
    /// The packages could not be installed.
    InstallFailed,
    /// Every worker that took the job died.
    WorkerLost,
    /// No worker that lives may run the job, or can.
    NoWorker,
    /// What is encrypted of a job cannot be opened: its key is missing, or it was tampered with.
    SecretsUnreadable,
    /// The job was cancelled.
    Cancelled,
    /// The job did not begin in the time it was given.
    Expired,
    /// The job is unknown, or its result has expired.
    JobUnknown,
    /// The session's worker is gone, and all that was in the session with it.
    SessionLost,
    /// There is no such session.
    SessionNotFound,
    /// The tenant, or the worker, has as many sessions as it may.
    SessionLimit,
    /// A session's file could not be read or written.
    FileFailed,
    /// The tenant asks too often; try again later.
    RateLimited,
    /// The tenant has as many jobs as it may; try again later.
    TooManyJobs,
    /// The idempotency key came before, with another request.
    IdempotencyMismatch,
    /// A bug in isol8.
    Internal,
}

impl ErrorCode {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::InvalidJson => "INVALID_JSON",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::PolicyViolation => "POLICY_VIOLATION",
            Self::NotSupported => "NOT_SUPPORTED",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::HeadersTooLarge => "HEADERS_TOO_LARGE",
            Self::QueueFull => "QUEUE_FULL",
            Self::QueueUnavailable => "QUEUE_UNAVAILABLE",
            Self::ImageNotFound => "IMAGE_NOT_FOUND",
            Self::SandboxFailed => "SANDBOX_FAILED",
            Self::FileWriteFailed => "FILE_WRITE_FAILED",
            Self::StartFailed => "START_FAILED",
            Self::SetupFailed => "SETUP_FAILED",
            Self::CodeFetchFailed => "CODE_FETCH_FAILED",
            Self::CodeHashMismatch => "CODE_HASH_MISMATCH",
            Self::InstallFailed => "INSTALL_FAILED",
            Self::WorkerLost => "WORKER_LOST",
            Self::NoWorker => "NO_WORKER",
            Self::SecretsUnreadable => "SECRETS_UNREADABLE",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
            Self::JobUnknown => "JOB_UNKNOWN",
            Self::SessionLost => "SESSION_LOST",
            Self::SessionNotFound => "SESSION_NOT_FOUND",
            Self::SessionLimit => "SESSION_LIMIT",
            Self::FileFailed => "FILE_FAILED",
            Self::RateLimited => "RATE_LIMITED",
            Self::TooManyJobs => "TOO_MANY_JOBS",
            Self::IdempotencyMismatch => "IDEMPOTENCY_MISMATCH",
            Self::Internal => "INTERNAL",
        }
    }

    /// Whether running the same job again may succeed: infrastructure trouble, not the job's own.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::SandboxFailed | Self::QueueUnavailable | Self::WorkerLost)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure with a code.
#[derive(Debug)]
pub struct Error {
    code: ErrorCode,
    message: String,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure whose message may be shown to the caller.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, source: None }
    }

    /// The caller's request is at fault.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    /// Adds a cause, for the log only.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says when to come back.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// When to come back, if that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The message for the caller.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_word_and_serde_agree() {
        for code in [ErrorCode::InvalidJson, ErrorCode::QueueFull, ErrorCode::Internal] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
