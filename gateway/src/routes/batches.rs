//! `/v1/batches`: many jobs of one shape, uploaded in one go.

use std::convert::Infallible;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State as FromState};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::unfold;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use shared::execution::Priority;
use shared::id::BatchId;
use shared::labels::Labels;
use shared::redis::BatchRecord;
use shared::{Error, ErrorCode};

use super::jobs::{IDEMPOTENCY_REPLAYED, Patience, idempotency_key};
use super::page::Wanted;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Path, Query};
use crate::service::batches::results::Reader;
use crate::service::batches::{self, Form};
use crate::service::fleet::nobody_has;
use crate::state::State;
use shared::timestamp::iso8601;

/// What lines of JSON are called.
const LINES: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
const LINES_HEADERS: [(HeaderName, HeaderValue); 2] = [
    (CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];

/// Why a batch waits that nobody can run.
const NO_WORKER: &str = "no_worker";

/// A batch as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BatchView {
    id: BatchId,
    state: String,
    tenant_id: String,
    /// How it ended, or why it is being stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    tags: Vec<String>,
    priority: Priority,
    /// What the workers of its items must have.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_budget: Option<u64>,
    created_at: String,
    /// When it was whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_until: Option<String>,
    progress: ProgressView,
    failures: FailuresView,
    result_bytes: u64,
    /// Why its items wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<WaitingView>,
}

/// Its items, by where they are.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProgressView {
    items: u64,
    queued: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    not_begun: u64,
    results: u64,
}

/// Those that failed, by how.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FailuresView {
    nonzero_exit: u64,
    timed_out: u64,
    out_of_memory: u64,
    errors: u64,
}

#[derive(Serialize)]
struct WaitingView {
    reason: &'static str,
    /// The same in more words, where there is more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl From<BatchRecord> for BatchView {
    fn from(record: BatchRecord) -> Self {
        let progress = record.progress;
        let waiting = match record.state.as_str() {
            "running" if record.waits_for_readers => Some("results_full"),
            "running" if record.slots == 0 && progress.running == 0 => Some(NO_WORKER),
            _ => None,
        };
        let kept = |ended: u64| ended.saturating_add(record.keep_ms.unwrap_or_default());
        Self {
            id: record.id,
            state: record.state,
            tenant_id: record.tenant.to_string(),
            outcome: record.outcome,
            tags: record.terms.tags,
            priority: record.terms.priority,
            labels: record.terms.labels,
            failure_budget: record.failure_budget,
            created_at: iso8601(record.created_ms),
            started_at: record.started_ms.map(iso8601),
            finished_at: record.finished_ms.map(iso8601),
            kept_until: record.finished_ms.map(kept).map(iso8601),
            progress: ProgressView {
                items: progress.items,
                queued: progress.queued,
                running: progress.running,
                succeeded: progress.succeeded,
                failed: progress.failed,
                cancelled: progress.cancelled,
                not_begun: progress.not_begun,
                results: progress.results,
            },
            failures: FailuresView {
                nonzero_exit: progress.nonzero_exit,
                timed_out: progress.timed_out,
                out_of_memory: progress.out_of_memory,
                errors: progress.errors,
            },
            result_bytes: record.result_bytes,
            waiting: waiting.map(|reason| WaitingView { reason, message: None }),
        }
    }
}

/// That a batch was taken.
#[derive(Serialize)]
struct Submitted {
    id: BatchId,
    state: String,
    items: u64,
}

/// `POST /v1/batches`
pub(crate) async fn submit(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let key = idempotency_key(&head.headers)?;
    let taken = batches::submit(&state, &caller.tenant, form(&head.headers), key, body).await?;
    let id = taken.sealed.id;
    let batch_state = match taken.sealed.is_repeated {
        false => "running".to_owned(),
        true => state.queue.batch(&caller.tenant, id).await?.state,
    };
    let submitted = Submitted { id, state: batch_state, items: taken.items };
    let location = [(LOCATION, format!("/v1/batches/{id}"))];
    let mut response = (StatusCode::ACCEPTED, location, Json(submitted)).into_response();
    if taken.sealed.is_repeated {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    taken.confirmed.tell(response.headers_mut());
    Ok(response)
}

fn form(headers: &HeaderMap) -> Form {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if LINES.iter().any(|lines| essence.eq_ignore_ascii_case(lines)) {
        Form::Lines
    } else {
        Form::Object
    }
}

/// A batch with all there is to say of it.
async fn view(state: &State, record: BatchRecord) -> Result<Json<BatchView>, ApiError> {
    let mut view = BatchView::from(record);
    let has_none = view.waiting.as_ref().is_some_and(|it| it.reason == NO_WORKER);
    if has_none && !view.labels.is_empty() {
        // Its workers count only once they have heard of such jobs.
        let can_run = state.fleet.can_run(&state.queue, &view.labels, false).await?;
        let message = || Some(nobody_has(&view.labels));
        view.waiting = (!can_run).then(|| WaitingView { reason: NO_WORKER, message: message() });
    }
    Ok(Json(view))
}

/// `GET /v1/batches/{id}`
pub(crate) async fn show(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(patience): Query<Patience>,
) -> Result<Json<BatchView>, ApiError> {
    let wait = patience.wait();
    let record = batches::find(&state, &caller.tenant, batch_id(&id)?, wait).await?;
    view(&state, record).await
}

/// `DELETE /v1/batches/{id}`: answered once nothing of the batch runs any more.
pub(crate) async fn cancel(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<BatchView>, ApiError> {
    let record = batches::cancel(&state, &caller.tenant, batch_id(&id)?).await?;
    view(&state, record).await
}

/// Some batches of a tenant, newest first.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List {
    batches: Vec<BatchView>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<BatchId>,
}

/// `GET /v1/batches`
pub(crate) async fn list(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<List>, ApiError> {
    let (caller, cursor, limit) = wanted.of(caller)?;
    let page = state.queue.batches(&caller.tenant, cursor, limit).await?;
    let batches = page.batches.into_iter().map(BatchView::from).collect();
    Ok(Json(List { batches, next_cursor: page.next }))
}

/// Which results, and whether to go on until the batch ends.
#[derive(Deserialize)]
pub(crate) struct Reading {
    #[serde(default)]
    from: u64,
    #[serde(default)]
    follow: bool,
}

/// `GET /v1/batches/{id}/results`: a line for each item that has ended, in that order.
pub(crate) async fn results(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(reading): Query<Reading>,
) -> Result<Response, ApiError> {
    let Reading { from, follow } = reading;
    let reader = Reader::open(&state, &caller.tenant, batch_id(&id)?, from, follow).await?;
    let lines = unfold(reader, |mut reader| async {
        reader.next().await.map(|bytes| (Ok::<_, Infallible>(bytes), reader))
    });
    Ok((LINES_HEADERS, Body::from_stream(lines)).into_response())
}

/// Which results were read.
#[derive(Deserialize)]
pub(crate) struct Acknowledged {
    before: u64,
}

/// How many were forgotten.
#[derive(Serialize)]
pub(crate) struct Forgotten {
    forgotten: u64,
}

/// `DELETE /v1/batches/{id}/results`: they were read, and make room for others.
pub(crate) async fn acknowledge(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(read): Query<Acknowledged>,
) -> Result<Json<Forgotten>, ApiError> {
    let id = batch_id(&id)?;
    let forgotten = state.queue.forget_results(&caller.tenant, id, read.before).await?;
    Ok(Json(Forgotten { forgotten }))
}

/// A name that no batch can have names none.
fn batch_id(text: &str) -> Result<BatchId, Error> {
    text.parse().map_err(|_| Error::new(ErrorCode::NotFound, "Batch not found"))
}
