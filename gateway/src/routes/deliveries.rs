//! `/v1/jobs/{id}/deliveries`: what became of telling a job's webhook.

use axum::Json;
use axum::extract::{Extension, State as FromState};
use http::StatusCode;
use serde::Serialize;
use shared::redis::{Delivery, DeliveryAttempt, DeliveryState};
use shared::timestamp::iso8601;
use shared::webhook::WebhookEvent;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::Path;
use crate::routes::Done;
use crate::routes::jobs::job_id;
use crate::service::jobs;
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
    r#type: Option<&'static str>,
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

impl From<Delivery> for DeliveryView {
    fn from(Delivery { id, place, log }: Delivery) -> Self {
        Self {
            id,
            state: log.state,
            url: place,
            r#type: log.event.map(WebhookEvent::of_job),
            next_attempt_at: log.next_ms.map(iso8601),
            tries: log.tries,
            attempts: log.attempts.into_iter().map(AttemptView::from).collect(),
        }
    }
}

/// The deliveries of a job.
#[derive(Serialize)]
pub(crate) struct List {
    deliveries: Vec<DeliveryView>,
}

/// `GET /v1/jobs/{id}/deliveries`: oldest first.
pub(crate) async fn list(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<List>, ApiError> {
    let deliveries = jobs::deliveries(&state, &caller.tenant, job_id(&id)?).await?;
    Ok(Json(List { deliveries: deliveries.into_iter().map(DeliveryView::from).collect() }))
}

/// `POST /v1/jobs/{id}/deliveries/{delivery}/retry`: made once more, or at once.
pub(crate) async fn retry(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path((id, delivery)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Done>), ApiError> {
    jobs::retry_delivery(&state, &caller.tenant, job_id(&id)?, &delivery).await?;
    Ok((StatusCode::ACCEPTED, Json(Done { ok: true })))
}
