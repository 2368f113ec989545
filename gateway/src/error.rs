//! The one place where errors become HTTP: code to status, and the body's shape. A handler's error
//! travels in the response's extensions until `observe` writes it out with the request's id.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use shared::{Error, ErrorCode};

/// Content type of every body that is JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An error on its way to the client.
#[derive(Clone, Debug)]
pub(crate) struct ApiError(Arc<Error>);

impl ApiError {
    /// The error itself.
    pub(crate) fn error(&self) -> &Error {
        &self.0
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self(Arc::new(error))
    }
}

impl From<Arc<Error>> for ApiError {
    fn from(error: Arc<Error>) -> Self {
        Self(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = status(self.0.code()).into_response();
        if let Some(seconds) = retry_after_s(&self.0) {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Body of every error response. isol8's clients read `error` alone.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    error: &'a str,
    code: ErrorCode,
    request_id: &'a str,
}

/// Writes the error's body into its response.
pub(crate) fn render(response: &mut Response, error: &Error, request_id: &str) {
    let body = Body { error: error.message(), code: error.code(), request_id };
    let json = serde_json::to_vec(&body).expect("two strings and a word are always JSON");
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(CONTENT_LENGTH, json.len().into());
    *response.body_mut() = Bytes::from(json).into();
}

/// The status of a code.
///
/// What the fleet has already retried (a sandbox that failed, workers that died) is a plain 500: a
/// 503 would invite proxies to run a job again that may be what kills its workers.
const fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidJson
        | ErrorCode::PolicyViolation
        | ErrorCode::NotSupported
        | ErrorCode::ImageNotFound => StatusCode::BAD_REQUEST,
        ErrorCode::SessionLost => StatusCode::GONE,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound | ErrorCode::SessionNotFound => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::Cancelled | ErrorCode::Expired => StatusCode::CONFLICT,
        ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ErrorCode::FileWriteFailed
        | ErrorCode::FileFailed
        | ErrorCode::SetupFailed
        | ErrorCode::CodeFetchFailed
        | ErrorCode::CodeHashMismatch
        | ErrorCode::InstallFailed
        | ErrorCode::StartFailed
        | ErrorCode::IdempotencyMismatch => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::QueueFull
        | ErrorCode::RateLimited
        | ErrorCode::TooManyJobs
        | ErrorCode::SessionLimit => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::QueueUnavailable | ErrorCode::NoWorker => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::SandboxFailed
        | ErrorCode::WorkerLost
        | ErrorCode::JobUnknown
        | ErrorCode::SecretsUnreadable
        | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// When to come back, in whole seconds, for what passes by itself.
fn retry_after_s(error: &Error) -> Option<u64> {
    match (error.retry_after(), error.code()) {
        (Some(wait), _) => Some(u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(1).max(1)),
        (
            None,
            ErrorCode::QueueFull
            | ErrorCode::RateLimited
            | ErrorCode::TooManyJobs
            | ErrorCode::SessionLimit,
        ) => Some(1),
        (None, ErrorCode::QueueUnavailable) => Some(2),
        (None, ErrorCode::NoWorker) => Some(5),
        (None, _) => None,
    }
}
