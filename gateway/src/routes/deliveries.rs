//! `/v1/jobs/{id}/deliveries`, and the same of `/v1/batches`: what became of telling a webhook.

use axum::Json;
use axum::extract::{Extension, State as FromState};
use http::StatusCode;
use serde::Serialize;
use shared::redis::{Delivery, DeliveryAttempt, DeliveryState};
use shared::timestamp::iso8601;
use shared::webhook::Subject;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{NoQuery, Path};
use crate::routes::Done;
use crate::routes::batches::batch_id;
use crate::routes::jobs::job_id;
use crate::service::deliveries;
use crate::state::State;

/// A delivery as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryView {
    id: String,
    /// `pending`, `delivered`, `failed`, `skipped` or `superseded`.
    state: DeliveryState,
    /// Where to, without its query, which may hold a token.
    url: String,
    /// The `type` that the receiver is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    /// When it is tried next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    /// How often it was tried.
    tries: u32,
    attempts: Vec<AttemptView>,
}

/// One attempt.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AttemptView {
    at: String,
    took_ms: u64,
    worker: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<DeliveryAttempt> for AttemptView {
    fn from(attempt: DeliveryAttempt) -> Self {
        let DeliveryAttempt { at_ms, took_ms, worker, status, error } = attempt;
        Self { at: iso8601(at_ms), took_ms, worker, status, error }
    }
}

impl DeliveryView {
    fn of(subject: Subject, Delivery { id, place, log }: Delivery) -> Self {
        Self {
            id,
            state: log.state,
            url: place,
            r#type: log.event.map(|event| subject.kind().type_of(event)),
            next_attempt_at: log.next_ms.map(iso8601),
            tries: log.tries,
            attempts: log.attempts.into_iter().map(AttemptView::from).collect(),
        }
    }
}

/// The deliveries about a job or a batch.
#[derive(Serialize)]
pub(crate) struct List {
    deliveries: Vec<DeliveryView>,
}

/// `GET /v1/jobs/{id}/deliveries`: oldest first.
pub(crate) async fn of_job(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<List>, ApiError> {
    list(&state, &caller, Subject::Job(job_id(&id)?)).await
}

/// `GET /v1/batches/{id}/deliveries`
pub(crate) async fn of_batch(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<List>, ApiError> {
    list(&state, &caller, Subject::Batch(batch_id(&id)?)).await
}

async fn list(state: &State, caller: &Caller, subject: Subject) -> Result<Json<List>, ApiError> {
    let deliveries = deliveries::list(state, &caller.tenant, subject).await?;
    let deliveries = deliveries.into_iter().map(|it| DeliveryView::of(subject, it));
    Ok(Json(List { deliveries: deliveries.collect() }))
}

/// `POST /v1/jobs/{id}/deliveries/{delivery}/retry`: made once more, or at once.
pub(crate) async fn retry_of_job(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path((id, delivery)): Path<(String, String)>,
    _: NoQuery,
) -> Result<(StatusCode, Json<Done>), ApiError> {
    retry(&state, &caller, Subject::Job(job_id(&id)?), &delivery).await
}

/// `POST /v1/batches/{id}/deliveries/{delivery}/retry`
pub(crate) async fn retry_of_batch(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path((id, delivery)): Path<(String, String)>,
    _: NoQuery,
) -> Result<(StatusCode, Json<Done>), ApiError> {
    retry(&state, &caller, Subject::Batch(batch_id(&id)?), &delivery).await
}

async fn retry(
    state: &State,
    caller: &Caller,
    subject: Subject,
    delivery: &str,
) -> Result<(StatusCode, Json<Done>), ApiError> {
    deliveries::retry(state, &caller.tenant, subject, delivery).await?;
    Ok((StatusCode::ACCEPTED, Json(Done { ok: true })))
}
