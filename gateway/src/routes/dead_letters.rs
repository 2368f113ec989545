//! `/v1/dead-letters`: jobs that were given up because workers or sandboxes failed under them.

use axum::Json;
use axum::extract::{Extension, Request, State as FromState};
use http::StatusCode;
use serde::Deserialize;
use shared::execution::ExecutionOptions;
use shared::job_view::JobView;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Path, Query};
use crate::routes::Done;
use crate::routes::jobs::{List, job_id, view};
use crate::routes::page::Wanted;
use crate::service::jobs;
use crate::state::State;

/// `GET /v1/dead-letters`: newest first.
pub(crate) async fn list(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<List>, ApiError> {
    let (caller, cursor, limit) = wanted.of(caller)?;
    Ok(Json(state.queue.dead_letters(&caller.tenant, cursor, limit).await?.into()))
}

/// `GET /v1/dead-letters/{id}`: with the evidence.
pub(crate) async fn show(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<JobView>, ApiError> {
    let record = jobs::find_dead(&state, &caller.tenant, job_id(&id)?).await?;
    view(&state, record).await
}

/// What to change before it is driven again.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Changes {
    options: Option<ExecutionOptions>,
}

/// `POST /v1/dead-letters/{id}/redrive`: the same job waits again.
pub(crate) async fn redrive(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<JobView>), ApiError> {
    let (head, body) = request.into_parts();
    let changes: Changes = state.intake.optional_json(&caller.tenant, &head.headers, body).await?;
    let options = changes.options.unwrap_or_default();
    let record = jobs::redrive(&state, &caller.tenant, job_id(&id)?, &options).await?;
    Ok((StatusCode::ACCEPTED, view(&state, record).await?))
}

/// `DELETE /v1/dead-letters/{id}`: forgotten, with its payload.
pub(crate) async fn forget(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Done>, ApiError> {
    state.queue.forget(&caller.tenant, job_id(&id)?).await?;
    Ok(Json(Done { ok: true }))
}
