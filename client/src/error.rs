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
    /// The server refused the call, or could not do it.
    #[error("{what}: {message}")]
    Refused {
        /// What failed, like `Execution failed`.
        what: &'static str,
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
    #[error("The server's answer is not what was asked for: {0}. Is it an isol8 server?")]
    Response(#[source] serde_json::Error),
    /// The WebSocket connection could not be opened, or broke.
    #[error("WebSocket connection failed: {reason}")]
    WebSocket {
        /// How.
        reason: String,
    },
    /// The stream ended without telling how the program did.
    #[error(
        "The stream ended before the program did ({reason}). The program may have run, or still \
         run; nothing is known of its end"
    )]
    StreamEnded {
        /// How the stream ended.
        reason: String,
    },
    /// A file was to be moved into or out of no session.
    #[error("File operations require a sessionId (persistent mode)")]
    NoSession,
    /// A file's bytes could not be read while they were sent, or do not decode.
    #[error("{0}")]
    Content(String),
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
        Self::Unreachable { host: host.to_owned(), reason: innermost(&source), source }
    }

    /// From a bad answer. A body that is not ours (a proxy's page) is not shown.
    pub(crate) fn refused(what: &'static str, status: StatusCode, body: &[u8]) -> Self {
        let ErrorBody { error, code } = serde_json::from_slice(body).unwrap_or_default();
        let message = error.unwrap_or_else(|| {
            status.canonical_reason().map_or_else(|| status.as_u16().to_string(), Into::into)
        });
        Self::Refused { what, status: status.as_u16(), code, message }
    }

    /// The server's stable code, if it sent one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => code.as_deref(),
            _ => None,
        }
    }

    /// The HTTP status of a refusal.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } | Self::Unhealthy { status } => Some(*status),
            _ => None,
        }
    }
}

/// The cause at the bottom, which says most.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
