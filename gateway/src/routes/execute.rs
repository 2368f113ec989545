//! `POST /execute`: run and wait for the result.

use axum::extract::{Extension, Request, State as FromState};
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;

use crate::auth::Caller;
use crate::body;
use crate::error::{ApiError, JSON};
use crate::service::execute::{Following, submit};
use crate::state::State;

/// `POST /execute`. A program that fails is a success here: 200, with its exit code.
pub(crate) async fn execute(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let (bytes, room) = state.intake.read(&caller.tenant, &head.headers, body).await?;
    let envelope = body::parse(&bytes)?;
    drop(bytes);
    let queued = submit(&state, &caller.tenant, envelope, Following::Result).await?;
    // The job may take minutes; its request is in the queue's memory now, not in ours.
    drop(room);
    let confirmed = queued.confirmed();
    let result = queued.answer().await?;
    let mut response = ([(CONTENT_TYPE, JSON)], result).into_response();
    confirmed.tell(response.headers_mut());
    Ok(response)
}
