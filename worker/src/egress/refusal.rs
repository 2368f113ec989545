//! Requests that do not get through, and what the program is told.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::proxy::{Body, MAX_HEAD_BYTES, MAX_HEADERS};

const PLAIN_TEXT: &str = "text/plain";

/// Why a request does not get through.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is no request that a proxy could carry out.
    Bad(String),
    /// Its head is larger than one may be.
    HeadTooLarge,
    /// The rules do not allow it.
    Blocked {
        /// `CONNECT to example.com`, or `request to example.com`.
        what: String,
        /// The rule, if it was not the filter.
        rule: Option<String>,
    },
    /// The job has moved as many bytes as it may.
    Exhausted { limit: u64 },
    /// Nobody answers there.
    Unreachable { host: String, port: u16 },
    /// The worker speaks TLS there on behalf of the program, and the host does not, or is not trusted.
    NoTls { host: String, port: u16, why: String },
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Blocked { .. } | Self::Exhausted { .. } => StatusCode::FORBIDDEN,
            Self::Unreachable { .. } | Self::NoTls { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Bad(words) => format!("isol8: {words}"),
            Self::HeadTooLarge => format!(
                "isol8: the head of a request has at most {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers"
            ),
            Self::Blocked { what, rule: None } => {
                format!("isol8: {what} blocked by network filter")
            }
            Self::Blocked { what, rule: Some(reason) } => {
                format!("isol8: {what} blocked by network filter: {reason}")
            }
            Self::Exhausted { limit } => {
                format!("isol8: the job has moved its {limit} bytes over the network")
            }
            Self::Unreachable { host, port } => {
                format!("isol8: proxy error: connection to {host}:{port} failed")
            }
            Self::NoTls { host, port, why } => format!(
                "isol8: proxy error: connection to {host}:{port} failed: no TLS, which the worker speaks to \
                 the hosts of a secret ({why}). If this one is spoken to without TLS, bind the secret with \
                 \"tls\": false"
            ),
        }
    }

    /// As an answer.
    pub(super) fn response(&self) -> Response<Body> {
        let body = Full::new(Bytes::from(self.words())).map_err(|never| match never {}).boxed();
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PLAIN_TEXT));
        // What follows may not be a request at all.
        if matches!(self, Self::Bad(_)) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The same as it stands on a connection, of which it is the end.
    pub(super) fn written(&self) -> String {
        let (status, words) = (self.status(), self.words());
        format!(
            "HTTP/1.1 {status}\r\n{CONTENT_TYPE}: {PLAIN_TEXT}\r\n{CONTENT_LENGTH}: {}\r\n{CONNECTION}: close\r\n\r\n{words}",
            words.len()
        )
    }
}
