//! Health in three degrees: isol8's own route, alive, and ready to take work.

use axum::Json;
use axum::extract::State as FromState;
use serde::Serialize;
use shared::{Error, ErrorCode, VERSION};

use crate::error::ApiError;
use crate::state::State;

/// Body of `/health`, exactly as isol8's clients know it.
#[derive(Serialize)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
}

/// Body of `/healthz` and `/readyz`.
#[derive(Serialize)]
pub(crate) struct Status {
    status: &'static str,
}

/// `GET /health`
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: VERSION })
}

/// `GET /healthz`: the process answers, so there is no reason to restart it.
pub(crate) async fn healthz() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// `GET /readyz`: jobs can be queued and their answers will arrive.
pub(crate) async fn readyz(FromState(state): FromState<State>) -> Result<Json<Status>, ApiError> {
    if state.stopping.is_cancelled() {
        return Err(not_ready("this gateway is shutting down").into());
    }
    if let Err(error) = state.queue.ping().await {
        return Err(not_ready("redis cannot be reached").with_source(error).into());
    }
    if !state.registry.is_subscribed() {
        return Err(not_ready("redis: the reply channel is not subscribed yet").into());
    }
    Ok(Json(Status { status: "ready" }))
}

fn not_ready(what: &str) -> Error {
    Error::new(ErrorCode::QueueUnavailable, format!("Not ready: {what}"))
}
