//! Why code cannot be fetched, in the words of isol8's contract. Always the caller's affair:
//! an address that does not answer is not tried again on other workers.

use shared::ErrorCode;

/// Why a program text cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The worker does not fetch code.
    #[error("Remote code fetching is disabled on this worker (remoteCode.enabled)")]
    Disabled,
    /// An address on the way is not allowed.
    #[error("{message}")]
    Refused {
        /// What is told about that.
        code: ErrorCode,
        /// In words.
        message: String,
    },
    /// A host has no address.
    #[error("Failed to resolve code URL host: {0}")]
    NotResolved(String),
    /// It took too long.
    #[error("Remote code fetch timed out after {timeout_ms}ms")]
    TimedOut {
        /// The limit.
        timeout_ms: u128,
    },
    /// The server cannot be reached, or does not give the text.
    #[error("Failed to fetch remote code: {0}")]
    Failed(String),
    /// There is too much of it.
    #[error("Remote code exceeds maxCodeSize ({max_bytes} bytes)")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// There is none of it.
    #[error("Remote code response body is empty")]
    Empty,
    /// It is no text.
    #[error("Fetched code appears to be binary content")]
    Binary,
    /// It is another text.
    #[error("Remote code hash mismatch: it has the SHA-256 {found}")]
    HashMismatch {
        /// What it has.
        found: String,
    },
}

impl FetchError {
    /// The code it is told with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Disabled => ErrorCode::PolicyViolation,
            Self::Refused { code, .. } => *code,
            Self::HashMismatch { .. } => ErrorCode::CodeHashMismatch,
            Self::NotResolved(_)
            | Self::TimedOut { .. }
            | Self::Failed(_)
            | Self::TooLarge { .. }
            | Self::Empty
            | Self::Binary => ErrorCode::CodeFetchFailed,
        }
    }
}

impl From<shared::Error> for FetchError {
    fn from(error: shared::Error) -> Self {
        Self::Refused { code: error.code(), message: error.message().to_owned() }
    }
}
