//! Schedules: admitting what their jobs run, and asking the queue to keep them.

use serde::Deserialize;
use shared::execution::{
    ExecuteEnvelope, ExecutionOptions, ExecutionRequest, Missed, Overlap, QueueOptions, Timetable,
};
use shared::id::{JobId, ScheduleId, TenantId};
use shared::redis::{Schedule, ScheduleFacts, ScheduleOrder};
use shared::{Error, ErrorCode};

use super::admit::Refusals;
use super::jobs::admit;
use crate::state::State;

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Body of a schedule to be made. A field nobody knows is refused: a misspelt one would be a wish that
/// nobody hears.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NewSchedule {
    request: ExecutionRequest,
    #[serde(default)]
    options: Option<ExecutionOptions>,
    #[serde(default)]
    queue: Option<QueueOptions>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    cron: Option<String>,
    #[serde(default, deserialize_with = "shared::timestamp::optional")]
    at: Option<chrono::DateTime<chrono::Utc>>,
    #[serde(default = "Timetable::default_timezone")]
    timezone: String,
    #[serde(default)]
    missed: Missed,
    #[serde(default)]
    overlap: Overlap,
    #[serde(default = "enabled")]
    enabled: bool,
}

fn enabled() -> bool {
    true
}

/// Admits what its jobs run, and makes a schedule.
///
/// # Errors
/// Admission errors, `TOO_MANY_JOBS` if the tenant has as many as it may, and queue errors.
pub(crate) async fn create(
    state: &State,
    tenant: &TenantId,
    new: NewSchedule,
) -> Result<Schedule, Error> {
    let NewSchedule { cron, at, timezone, missed, overlap, name, enabled, .. } = new;
    if name.as_ref().is_some_and(|it| it.len() > MAX_NAME_BYTES || it.contains(char::is_control)) {
        return Err(Error::invalid(format!(
            "name: at most {MAX_NAME_BYTES} bytes, without control characters"
        )));
    }
    let timetable = Timetable { cron, at, timezone, missed, overlap };
    timetable.check()?;
    let queue = new.queue.unwrap_or_default();
    if queue.delay_ms.is_some() || queue.run_at.is_some() || queue.durability.is_some() {
        return Err(Error::invalid(
            "queue: delayMs, runAt and durability are not for the jobs of a schedule, which are \
             submitted when they are due",
        ));
    }
    let refusals = Refusals::new(state, tenant, None, &new.request);
    let envelope = ExecuteEnvelope {
        request: new.request,
        options: new.options.unwrap_or_default(),
        ..ExecuteEnvelope::default()
    };
    let admitted = admit(state, tenant, envelope, queue);
    let (terms, job) = admitted.inspect_err(|error| refusals.record(error))?;
    let id = ScheduleId::generate();
    let facts = ScheduleFacts { name, runtime: job.runtime.to_string(), timetable };
    let order = ScheduleOrder {
        id,
        tenant,
        max: state.admission.policy(tenant).max_schedules,
        facts: &facts,
        job: &job,
        terms: &terms,
        is_enabled: enabled,
    };
    state.queue.create_schedule(order).await?;
    state.queue.schedule(tenant, id).await
}

/// Pauses or resumes a schedule.
///
/// # Errors
/// `NOT_FOUND`, `QUEUE_UNAVAILABLE`.
pub(crate) async fn enable(
    state: &State,
    tenant: &TenantId,
    id: ScheduleId,
    is_enabled: bool,
) -> Result<Schedule, Error> {
    state.queue.enable_schedule(tenant, id, is_enabled).await?;
    state.queue.schedule(tenant, id).await
}

/// Has a schedule run now, besides its own times.
///
/// # Errors
/// `NOT_FOUND`, and those of submitting a job.
pub(crate) async fn run(state: &State, tenant: &TenantId, id: ScheduleId) -> Result<JobId, Error> {
    state.queue.run_schedule(tenant, id, state.quota(tenant)).await
}

/// A name that no schedule can have names none.
///
/// # Errors
/// `NOT_FOUND`.
pub(crate) fn schedule_id(text: &str) -> Result<ScheduleId, Error> {
    text.parse().map_err(|_| Error::new(ErrorCode::NotFound, "Schedule not found"))
}
