//! `/v1/workers`: for the master alone.

use axum::Json;
use axum::extract::{Extension, State as FromState};
use http::StatusCode;
use serde::Serialize;
use shared::id::WorkerId;
use shared::labels::Labels;
use shared::redis::WorkerFacts;
use shared::{Error, ErrorCode};

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{NoQuery, Path};
use crate::routes::Done;
use crate::state::State;
use shared::timestamp::iso8601;

/// The workers that live.
#[derive(Serialize)]
pub(crate) struct List {
    workers: Vec<View>,
}

/// A worker as people see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    id: WorkerId,
    name: String,
    state: &'static str,
    version: String,
    protocol: u32,
    unread: u64,
    started_at: String,
    slots: usize,
    running: usize,
    sessions: usize,
    sandboxes: usize,
    ended: u64,
    failed: u64,
    /// What it says of itself.
    labels: Labels,
    /// Whether it takes only jobs that require labels.
    only_labelled: bool,
    /// Names of the keys that it decrypts secrets with; the first encrypts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets_keys: Vec<String>,
}

impl std::convert::From<WorkerFacts> for View {
    fn from(facts: WorkerFacts) -> Self {
        let state = match (facts.is_draining, facts.is_drained()) {
            (_, true) => "drained",
            (true, false) => "draining",
            (false, false) => "active",
        };
        Self {
            id: facts.id,
            name: facts.name,
            state,
            version: facts.version,
            protocol: facts.protocol,
            unread: facts.unread,
            started_at: iso8601(facts.started_ms),
            slots: facts.slots,
            running: facts.running,
            sessions: facts.sessions,
            sandboxes: facts.sandboxes,
            ended: facts.ended,
            failed: facts.failed,
            labels: facts.labels,
            only_labelled: facts.only_labelled,
            secrets_keys: facts.secrets_keys,
        }
    }
}

/// `GET /v1/workers`
pub(crate) async fn list(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    _: NoQuery,
) -> Result<Json<List>, ApiError> {
    caller.require_master()?;
    let workers = state.queue.workers().await?;
    Ok(Json(List { workers: workers.into_iter().map(View::from).collect() }))
}

/// `POST /v1/workers/{id}/drain`: it takes no more jobs; what it runs goes on.
pub(crate) async fn drain(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<(StatusCode, Json<Done>), ApiError> {
    caller.require_master()?;
    state.queue.drain(worker_id(&id)?).await?;
    Ok((StatusCode::ACCEPTED, Json(Done { ok: true })))
}

/// `DELETE /v1/workers/{id}/drain`: it takes jobs again.
pub(crate) async fn undrain(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<(StatusCode, Json<Done>), ApiError> {
    caller.require_master()?;
    state.queue.undrain(worker_id(&id)?).await?;
    Ok((StatusCode::ACCEPTED, Json(Done { ok: true })))
}

fn worker_id(id: &str) -> Result<WorkerId, Error> {
    let unknown = |_| Error::new(ErrorCode::NotFound, format!("There is no worker \"{id}\""));
    id.parse().map_err(unknown)
}
