//! What can go wrong between a caller and a server, in the words of isol8's client where it has
//! words for it.

use reqwest::StatusCode;
use serde::Deserialize;
use thiserror::Error;

/// Why a call failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The host is not an HTTP URL.
    #[error("\"{host}\" is not a server address ({why}). Give one like http://localhost:3000")]
    InvalidHost {
        /// As given.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The key cannot be put into a header.
    #[error("The API key has characters that an HTTP header cannot hold")]
    InvalidKey,
    /// The HTTP client could not be built.
    #[error("The HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
    /// No answer: the server is not there, or the connection broke.
    #[error("No answer from {host}: {reason}. Check that the server runs and can be reached")]
    Unreachable {
        /// The server.
        host: String,
        /// The innermost cause.
        reason: String,
        /// The whole story.
        #[source]
        source: reqwest::Error,
    },
    /// The health check was answered with a bad status.
    #[error("Remote server health check failed: {status}")]
    Unhealthy {
        /// HTTP status.
        status: u16,
    },
    /// The server refused the execution, or could not run it.
    #[error("Execution failed: {message}")]
    Execution {
        /// HTTP status.
        status: u16,
        /// The server's stable code; isol8's own server sends none.
        code: Option<String>,
        /// The server's words, or the status' own.
        message: String,
    },
    /// The request cannot be written as JSON.
    #[error("The request cannot be sent")]
    Request(#[source] serde_json::Error),
    /// The answer is not what it should be.
    #[error("The server's answer is not an execution result: {0}. Is it an isol8 server?")]
    Response(#[source] serde_json::Error),
}

/// The part of an error body that is read.
#[derive(Default, Deserialize)]
struct ErrorBody {
    error: Option<String>,
    code: Option<String>,
}

impl ClientError {
    pub(crate) fn invalid_host(host: &str, why: String) -> Self {
        Self::InvalidHost { host: host.to_owned(), why }
    }

    pub(crate) fn unreachable(host: &str, source: reqwest::Error) -> Self {
        let mut cause: &dyn std::error::Error = &source;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Self::Unreachable { host: host.to_owned(), reason: cause.to_string(), source }
    }

    /// From a bad answer to an execution. A body that is not ours (a proxy's page) is not shown.
    pub(crate) fn execution(status: StatusCode, body: &[u8]) -> Self {
        let ErrorBody { error, code } = serde_json::from_slice(body).unwrap_or_default();
        let message = error.unwrap_or_else(|| {
            status.canonical_reason().map_or_else(|| status.as_u16().to_string(), Into::into)
        });
        Self::Execution { status: status.as_u16(), code, message }
    }

    /// The server's stable code, if it sent one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Execution { code, .. } => code.as_deref(),
            _ => None,
        }
    }
}
