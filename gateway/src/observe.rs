//! The outermost layer: request id, how much a head may hold, panics, error bodies, one counter and, if asked for, one
//! log line. No span and no clone of anything large on the way of a request that succeeds.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State as FromState};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::{Method, Uri};
use shared::{Error, ErrorCode};
use tracing::{Level, debug, enabled, warn};

use crate::error::{self, ApiError};
use crate::request_id;
use crate::state::State;

/// Route label of paths that no route matches; the paths themselves are the caller's to choose.
const UNMATCHED: &str = "unmatched";
/// Most headers of a request, and most bytes of its address, their names and their values together. What parses the
/// heads takes more, so that whoever sends a little too much is told so.
const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: usize = 32 << 10;

/// Wraps the handling of one request.
pub(crate) async fn observe(
    FromState(state): FromState<State>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id::accept_or_generate(request.headers().get(request_id::HEADER));
    let route = request.extensions().get::<MatchedPath>().cloned();
    let line = enabled!(Level::DEBUG).then(|| (request.method().clone(), request.uri().clone()));

    let mut response = match check_head(&request) {
        Ok(()) => caught(next.run(request)).await,
        Err(error) => ApiError::from(error).into_response(),
    };

    if let Some(failed) = response.extensions_mut().remove::<ApiError>() {
        let text = id.to_str().unwrap_or_default();
        log_if_ours(failed.error(), text);
        error::render(&mut response, failed.error(), text);
    }
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    state.metrics.count_request(route, response.status());
    if let Some((method, uri)) = line {
        log_request(&method, &uri, &response, started.elapsed(), &id);
    }
    response.headers_mut().insert(request_id::HEADER, id);
    response
}

fn check_head(request: &Request) -> Result<(), Error> {
    let headers = request.headers();
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    let bytes =
        bytes.sum::<usize>() + request.uri().path_and_query().map_or(0, |it| it.as_str().len());
    if headers.len() <= MAX_HEADERS && bytes <= MAX_HEAD_BYTES {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::HeadersTooLarge,
        format!(
            "The request has {} headers, and {bytes} bytes in them and its address; the most is {MAX_HEADERS}, and \
             {MAX_HEAD_BYTES} bytes. Send what is large in the body",
            headers.len()
        ),
    ))
}

/// A panic in a handler is a 500 of that request alone. The panic's own text went to the log through
/// the panic hook; it is not for the caller.
async fn caught(handling: impl Future<Output = Response>) -> Response {
    let crashed = |_| {
        ApiError::from(Error::new(ErrorCode::Internal, "Internal Server Error")).into_response()
    };
    AssertUnwindSafe(handling).catch_unwind().await.unwrap_or_else(crashed)
}

/// Errors that an operator has to look at. A caller's mistakes are not among them.
fn log_if_ours(error: &Error, request_id: &str) {
    if !matches!(error.code(), ErrorCode::Internal | ErrorCode::QueueUnavailable) {
        return;
    }
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    warn!(code = %error.code(), request_id, cause, "{}", error.message());
}

fn log_request(
    method: &Method,
    uri: &Uri,
    response: &Response,
    took: Duration,
    id: &http::HeaderValue,
) {
    debug!(
        %method,
        path = uri.path(),
        status = response.status().as_u16(),
        duration_ms = took.as_secs_f64() * 1000.0,
        request_id = ?id,
        "request"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered_without_its_text() {
        let mut response = caught(async { panic!("private") }).await;
        assert_eq!(response.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
        let error = response.extensions_mut().remove::<ApiError>().unwrap();
        assert_eq!(error.error().code(), ErrorCode::Internal);
        assert!(!error.error().message().contains("private"));
    }
}
