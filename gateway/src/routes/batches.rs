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
use shared::batch_view::BatchView;
use shared::id::BatchId;
use shared::redis::BatchRecord;
use shared::{Error, ErrorCode};

use super::jobs::{IDEMPOTENCY_REPLAYED, Patience, idempotency_key};
use super::page::Wanted;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{NoQuery, Path, Query};
use crate::service::batches::results::Reader;
use crate::service::batches::{self, Form};
use crate::service::fleet::nobody_has;
use crate::state::State;

/// What lines of JSON are called.
const LINES: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
const LINES_HEADERS: [(HeaderName, HeaderValue); 2] = [
    (CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];

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
    _: NoQuery,
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
    let labels = record.terms.labels.clone();
    let mut view = BatchView::from(record);
    if view.has_no_worker() && !labels.is_empty() {
        // Its workers count only once they have heard of such jobs.
        let can_run = state.fleet.can_run(&state.queue, &labels, false).await?;
        view = if can_run { view.with_worker() } else { view.without_worker(nobody_has(&labels)) };
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
    _: NoQuery,
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
pub(super) fn batch_id(text: &str) -> Result<BatchId, Error> {
    text.parse().map_err(|_| Error::new(ErrorCode::NotFound, "Batch not found"))
}
