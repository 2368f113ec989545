//! `/v1/schedules`: programs that are submitted as jobs when their time comes.

use axum::Json;
use axum::extract::{Extension, Request, State as FromState};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::LOCATION;
use serde::{Deserialize, Serialize};
use shared::execution::{Missed, Overlap, Priority};
use shared::id::{JobId, ScheduleId};
use shared::labels::Labels;
use shared::redis::{Schedule, SchedulePage, ScheduleRun};
use shared::timestamp::iso8601;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{NoQuery, Path, Query};
use crate::routes::Done;
use crate::routes::page::Wanted;
use crate::service::schedules::{self, NewSchedule, schedule_id};
use crate::state::State;

/// A schedule as clients see it. What its jobs run is not shown: it may be secret.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScheduleView {
    id: ScheduleId,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    timezone: String,
    missed: Missed,
    overlap: Overlap,
    runtime: String,
    tags: Vec<String>,
    priority: Priority,
    /// What the workers of its jobs must have.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
    created_at: String,
    /// When it runs next; absent if it is paused or over.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_run_at: Option<String>,
    /// The last runs, newest first; in a list, the last one.
    runs: Vec<RunView>,
}

/// A run as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunView {
    /// When it was due; absent if somebody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    /// How many missed runs it stands for, if it is not one.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    at: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    /// Why no job came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl From<ScheduleRun> for RunView {
    fn from(run: ScheduleRun) -> Self {
        let (outcome, reason) = match run.outcome.as_str() {
            "submitted" => ("submitted", None),
            "missed" => ("missed", Some("no worker was there in time")),
            "overlaps" => ("skipped", Some("the job of the run before had not ended")),
            "jobs" => {
                ("refused", Some("as many jobs have not ended as may (policy.maxQueuedJobs)"))
            }
            "bytes" => {
                ("refused", Some("open jobs take as much room as may (policy.maxQueuedBytes)"))
            }
            "kept" => ("refused", Some("as many jobs are kept as may be (policy.maxKeptJobs)")),
            "kept_bytes" => ("refused", Some("as much is kept as may be (policy.maxKeptBytes)")),
            "rate" => ("refused", Some("more requests than may be (policy.maxRequestsPerSecond)")),
            "placements" => {
                ("refused", Some("jobs require as many different sets of labels as may be"))
            }
            "full" => ("refused", Some("the queue was full (redis.maxQueued)")),
            _ => ("refused", None),
        };
        Self {
            due_at: run.due_ms.map(iso8601),
            count: run.count,
            at: iso8601(run.at_ms),
            outcome,
            job_id: run.job,
            reason,
        }
    }
}

impl From<Schedule> for ScheduleView {
    fn from(schedule: Schedule) -> Self {
        let (facts, terms) = (schedule.facts, schedule.terms);
        let at = facts.timetable.at.map(|at| at.timestamp_millis());
        Self {
            id: schedule.id,
            name: facts.name,
            enabled: schedule.is_enabled,
            cron: facts.timetable.cron,
            at: at.map(|ms| iso8601(u64::try_from(ms).unwrap_or_default())),
            timezone: facts.timetable.timezone,
            missed: facts.timetable.missed,
            overlap: facts.timetable.overlap,
            runtime: facts.runtime,
            tags: terms.tags,
            priority: terms.priority,
            labels: terms.labels,
            created_at: iso8601(schedule.created_ms),
            next_run_at: schedule.next_ms.map(iso8601),
            runs: schedule.runs.into_iter().map(RunView::from).collect(),
        }
    }
}

/// `POST /v1/schedules`
pub(crate) async fn create(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    _: NoQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let new: NewSchedule = state.intake.json(&caller.tenant, &head.headers, body).await?;
    let schedule = schedules::create(&state, &caller.tenant, new).await?;
    let location = format!("/v1/schedules/{}", schedule.id);
    let view = ScheduleView::from(schedule);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(view)).into_response())
}

/// Some schedules of a tenant, newest first.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List {
    schedules: Vec<ScheduleView>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<ScheduleId>,
}

impl From<SchedulePage> for List {
    fn from(page: SchedulePage) -> Self {
        let schedules = page.schedules.into_iter().map(ScheduleView::from).collect();
        Self { schedules, next_cursor: page.next }
    }
}

/// `GET /v1/schedules`
pub(crate) async fn list(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<List>, ApiError> {
    let (caller, cursor, limit) = wanted.of(caller)?;
    Ok(Json(state.queue.schedules(&caller.tenant, cursor, limit).await?.into()))
}

/// `GET /v1/schedules/{id}`
pub(crate) async fn show(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<ScheduleView>, ApiError> {
    Ok(Json(state.queue.schedule(&caller.tenant, schedule_id(&id)?).await?.into()))
}

/// What to change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changes {
    enabled: bool,
}

/// `PATCH /v1/schedules/{id}`: pauses or resumes it.
pub(crate) async fn change(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
    request: Request,
) -> Result<Json<ScheduleView>, ApiError> {
    let (head, body) = request.into_parts();
    let changes: Changes = state.intake.json(&caller.tenant, &head.headers, body).await?;
    let id = schedule_id(&id)?;
    Ok(Json(schedules::enable(&state, &caller.tenant, id, changes.enabled).await?.into()))
}

/// That a job was submitted.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Submitted {
    job_id: JobId,
}

/// `POST /v1/schedules/{id}/run`: has it run now, besides its own times.
pub(crate) async fn run(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Response, ApiError> {
    let job_id = schedules::run(&state, &caller.tenant, schedule_id(&id)?).await?;
    let location = format!("/v1/jobs/{job_id}");
    let submitted = Submitted { job_id };
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], Json(submitted)).into_response())
}

/// `DELETE /v1/schedules/{id}`: jobs that it has submitted go on.
pub(crate) async fn remove(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<Done>, ApiError> {
    state.queue.remove_schedule(&caller.tenant, schedule_id(&id)?).await?;
    Ok(Json(Done { ok: true }))
}
