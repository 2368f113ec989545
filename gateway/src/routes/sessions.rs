//! Sessions: isol8's own `/sessions` and `/session/:id`, and the same under `/v1/sessions`.

use axum::Json;
use axum::extract::{Extension, Request, State as FromState};
use serde::{Deserialize, Serialize};
use shared::execution::NetworkChange;
use shared::redis::SessionInfo;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{NoQuery, Path, Query};
use crate::routes::Done;
use crate::service::files::{Place, session_not_found};
use crate::service::sessions;
use crate::state::State;
use shared::timestamp::iso8601;

/// Whose sessions to list; for the master alone.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Whose {
    tenant_id: Option<String>,
}

/// The sessions of a tenant.
#[derive(Serialize)]
pub(crate) struct List {
    sessions: Vec<Session>,
}

/// One session; isol8's fields come first.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Session {
    id: String,
    is_active: bool,
    last_accessed_at: String,
    created_at: String,
    runtime: String,
}

impl From<SessionInfo> for Session {
    fn from(session: SessionInfo) -> Self {
        Self {
            id: session.id.to_string(),
            is_active: session.is_active,
            last_accessed_at: iso8601(session.used_ms),
            created_at: iso8601(session.created_ms),
            runtime: session.runtime,
        }
    }
}

/// `GET /sessions`: oldest first.
pub(crate) async fn list(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Query(whose): Query<Whose>,
) -> Result<Json<List>, ApiError> {
    let caller = match whose.tenant_id.filter(|tenant| !tenant.is_empty()) {
        Some(tenant) => caller.acting_for(tenant.parse()?)?,
        None => caller,
    };
    let sessions = state.queue.sessions(&caller.tenant).await?;
    Ok(Json(List { sessions: sessions.into_iter().map(Session::from).collect() }))
}

/// `GET /v1/sessions/{id}`
pub(crate) async fn show(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<Session>, ApiError> {
    let session = sessions::find(&state, &caller.tenant, &id).await?;
    session.map(|session| Json(session.into())).ok_or_else(|| session_not_found().into())
}

/// `PATCH /v1/sessions/{id}/network`: in turn with the session's other calls.
pub(crate) async fn set_network(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
    request: Request,
) -> Result<Json<NetworkChange>, ApiError> {
    let (head, body) = request.into_parts();
    let change = state.intake.json(&caller.tenant, &head.headers, body).await?;
    let place = Place::new(&state, &caller.tenant, &id)?;
    Ok(Json(place.set_network(change).await?))
}

/// `DELETE /session/:id`: well done, too, if there was none.
pub(crate) async fn close(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<Done>, ApiError> {
    sessions::close(&state, &caller.tenant, &id).await?;
    Ok(Json(Done { ok: true }))
}
