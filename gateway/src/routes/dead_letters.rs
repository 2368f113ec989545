//! `/v1/dead-letters`: jobs that were given up because workers or sandboxes failed under them.

use axum::Json;
use axum::extract::{Extension, Request, State as FromState};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::Error;
use shared::execution::ExecutionOptions;
use shared::job_view::JobView;

use crate::auth::Caller;
use crate::body;
use crate::error::ApiError;
use crate::extract::{NoQuery, Path, Query};
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
    _: NoQuery,
) -> Result<Json<JobView>, ApiError> {
    let record = jobs::find_dead(&state, &caller.tenant, job_id(&id)?).await?;
    view(&state, record).await
}

/// The options that can be changed before it is driven again: its limits. With others it would be another job than
/// the one that was given up.
const CHANGEABLE: [&str; 8] = [
    "memoryLimit",
    "cpuLimit",
    "pidsLimit",
    "sandboxSize",
    "tmpSize",
    "readonlyRootFs",
    "maxOutputSize",
    "timeoutMs",
];

/// What to change before it is driven again.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Changes {
    options: Option<ExecutionOptions>,
}

impl Changes {
    /// What a body asks for.
    ///
    /// # Errors
    /// It asks for more than can be changed, or for what cannot be read.
    fn read(body: Map<String, Value>) -> Result<Self, Error> {
        let is_named = |(name, value): (&String, &Value)| (!value.is_null()).then(|| name.clone());
        let other = body.iter().filter_map(is_named).find(|name| name != "options");
        let options = body.get("options").and_then(Value::as_object);
        let other_option = options.into_iter().flatten().filter_map(is_named);
        let other_option = other_option.filter(|name| !CHANGEABLE.contains(&name.as_str()));
        match other.or_else(|| other_option.map(|name| format!("options.{name}")).next()) {
            Some(name) => Err(Error::invalid(format!(
                "{}: cannot be changed when a job is driven again; of its options {} can. For anything else submit a \
                 new job",
                name.escape_debug(),
                CHANGEABLE.join(", ")
            ))),
            None => body::of_value(Value::Object(body)),
        }
    }
}

/// `POST /v1/dead-letters/{id}/redrive`: the same job waits again.
pub(crate) async fn redrive(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
    request: Request,
) -> Result<(StatusCode, Json<JobView>), ApiError> {
    let (head, body) = request.into_parts();
    let changes = state.intake.optional_json(&caller.tenant, &head.headers, body).await?;
    let options = Changes::read(changes)?.options.unwrap_or_default();
    let record = jobs::redrive(&state, &caller.tenant, job_id(&id)?, &options).await?;
    Ok((StatusCode::ACCEPTED, view(&state, record).await?))
}

/// `DELETE /v1/dead-letters/{id}`: forgotten, with its payload.
pub(crate) async fn forget(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<Done>, ApiError> {
    state.queue.forget(&caller.tenant, job_id(&id)?).await?;
    Ok(Json(Done { ok: true }))
}
