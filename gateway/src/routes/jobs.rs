//! `/v1/jobs`: jobs that outlive their request.

use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Request, State as FromState};
use axum::response::{IntoResponse as _, Response};
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use shared::id::JobId;
use shared::job_view::{JobView, WaitingView};
use shared::labels::Labels;
use shared::redis::{JobFilter, JobRecord, JobState, Once, Page, Standing, WaitsFor};
use shared::timestamp::from_iso8601;
use shared::{Error, ErrorCode};

use crate::auth::Caller;
use crate::body;
use crate::error::ApiError;
use crate::extract::{NoQuery, Path, Query};
use crate::routes::page;
use crate::routes::stream::respond;
use crate::service::fleet::nobody_has;
use crate::service::output::Line;
use crate::service::{jobs, output};
use crate::state::State;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Longest idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 256;
/// Longest that a request waits for a job to end.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// That a job was taken.
#[derive(Serialize)]
pub(crate) struct Submitted {
    id: JobId,
    state: &'static str,
}

/// `POST /v1/jobs`
pub(crate) async fn submit(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    _: NoQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let (bytes, _room) = state.intake.read(&caller.tenant, &head.headers, body).await?;
    let once = once(&head.headers, &bytes)?;
    let envelope = body::parse(&bytes)?;
    drop(bytes);
    let (accepted, confirmed) =
        jobs::submit(&state, &caller.tenant, envelope, once.as_ref()).await?;
    let job_state = match accepted.is_repeated {
        false => "queued",
        true => jobs::find(&state, &caller.tenant, accepted.id, Duration::ZERO).await?.state.name(),
    };
    let submitted = Submitted { id: accepted.id, state: job_state };
    let location = format!("/v1/jobs/{}", accepted.id);
    let mut response =
        (StatusCode::ACCEPTED, [(LOCATION, location)], Json(submitted)).into_response();
    if accepted.is_repeated {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    confirmed.tell(response.headers_mut());
    Ok(response)
}

/// The idempotency key of a request. Its body, byte for byte, is what it stands for.
fn once(headers: &HeaderMap, body: &[u8]) -> Result<Option<Once>, Error> {
    Ok(idempotency_key(headers)?.map(|key| Once::new(key, body)))
}

/// The idempotency key of a request.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Error> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let message = format!("Idempotency-Key must be 1 to {MAX_KEY_BYTES} bytes long");
        return Err(Error::invalid(message));
    }
    Ok(Some(key.as_bytes()))
}

/// How long to wait for a job.
#[derive(Deserialize)]
pub(crate) struct Patience {
    #[serde(default)]
    wait: u64,
}

impl Patience {
    /// As long as asked, within reason.
    pub(super) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait).min(MAX_WAIT)
    }
}

/// `GET /v1/jobs/{id}`
pub(crate) async fn show(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(patience): Query<Patience>,
) -> Result<Json<JobView>, ApiError> {
    let record = jobs::find(&state, &caller.tenant, job_id(&id)?, patience.wait()).await?;
    view(&state, record).await
}

/// `DELETE /v1/jobs/{id}`: answered once nothing of the job runs any more.
pub(crate) async fn cancel(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<JobView>, ApiError> {
    let record = jobs::cancel(&state, &caller.tenant, job_id(&id)?).await?;
    view(&state, record).await
}

/// A job with all there is to say of it.
pub(super) async fn view(state: &State, record: JobRecord) -> Result<Json<JobView>, ApiError> {
    // Nearly no job has any, and then its record says so.
    let attempts = if record.has_attempts {
        state.queue.attempts(&record.tenant, record.id).await?
    } else {
        Vec::new()
    };
    let standing = match record.state {
        JobState::Queued => state.queue.standing(&record.tenant, record.id).await?,
        _ => None,
    };
    let labels = record.terms.as_ref().map(|terms| terms.labels.clone()).unwrap_or_default();
    let waiting = match standing {
        Some(standing) => Some(reason(state, standing, &labels).await?),
        None => None,
    };
    Ok(Json(JobView::whole(record, attempts, waiting)?))
}

/// Why a job with these labels waits.
async fn reason(
    state: &State,
    standing: Standing,
    labels: &Labels,
) -> Result<WaitingView, ApiError> {
    let has_worker = standing.slots > 0 || standing.waits_for == WaitsFor::Time;
    let view = WaitingView::from(standing);
    if labels.is_empty() || has_worker {
        return Ok(view);
    }
    // Its workers count only once they have heard of such jobs.
    match state.fleet.can_run(&state.queue, labels, false).await? {
        true => Ok(view.with_worker()),
        false => Ok(view.without_worker(nobody_has(labels))),
    }
}

/// Which jobs to list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Wanted {
    state: Option<String>,
    tag: Option<String>,
    since: Option<String>,
    before: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
    /// For the master alone.
    tenant_id: Option<String>,
}

/// Some jobs of a tenant, newest first.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List {
    jobs: Vec<JobView>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<JobId>,
}

/// `GET /v1/jobs`
pub(crate) async fn list(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<List>, ApiError> {
    let Wanted { state: in_state, tag, since, before, cursor, limit, tenant_id } = wanted;
    let (caller, cursor, limit) = page::Wanted { cursor, limit, tenant_id }.of(caller)?;
    let time = |name: &str, text: Option<String>| {
        let unclear = || Error::invalid(format!("{name} must be a time like 2026-01-31T12:00:00Z"));
        text.map(|text| from_iso8601(&text).ok_or_else(unclear)).transpose()
    };
    if let Some(state) = in_state.as_deref()
        && !["queued", "running", "finished"].contains(&state)
    {
        return Err(Error::invalid("state must be queued, running or finished").into());
    }
    let filter = JobFilter {
        state: in_state,
        tag,
        since_ms: time("since", since)?,
        before_ms: time("before", before)?,
    };
    let page = state.queue.jobs(&caller.tenant, &filter, cursor, limit).await?;
    Ok(Json(page.into()))
}

impl std::convert::From<Page> for List {
    fn from(page: Page) -> Self {
        let jobs = page.jobs.into_iter().map(JobView::brief).collect();
        Self { jobs, next_cursor: page.next }
    }
}

/// Where a reader wants to begin.
#[derive(Deserialize)]
pub(crate) struct From {
    from: Option<u64>,
    /// Whether to go on until the job ends; so it is unless told otherwise.
    follow: Option<bool>,
}

/// `GET /v1/jobs/{id}/output`: what the program wrote and writes, as server-sent events.
pub(crate) async fn output(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<From>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = last.map(|last| last.saturating_add(1)).or(query.from).unwrap_or_default();
    let slot = state.streaming.slots.take(&caller.tenant).await?;
    let lines = if query.follow.unwrap_or(true) {
        output::start(&state, &caller.tenant, id, from).await?
    } else {
        output::so_far(&state, &caller.tenant, id, from).await?
    };
    Ok(respond(lines, write, state.streaming.heartbeat, slot))
}

fn write(line: &Line) -> String {
    match line.number {
        Some(number) => format!("id: {number}\ndata: {}\n\n", line.json),
        None => format!("data: {}\n\n", line.json),
    }
}

/// A name that no job can have names none.
pub(super) fn job_id(text: &str) -> Result<JobId, Error> {
    text.parse().map_err(|_| Error::new(ErrorCode::NotFound, "Job not found"))
}
