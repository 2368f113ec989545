//! Schedules: written down, looked at, paused and resumed, and run: each run by one worker, once.

use redis::{cmd, pipe};
use serde::{Deserialize, Serialize};

use super::submit::{Listing, refused};
use super::{Queue, Quota, now_ms, serialize};
use crate::error::{Error, ErrorCode};
use crate::execution::{Job, Overlap, Terms, Timetable};
use crate::id::{JobId, ScheduleId, TenantId};
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::scripts::{Account, NewSchedule, NewSubmission, Run};
use crate::sealing::{Owner, Place, Purpose};

/// Largest payload of a schedule's jobs, in bytes: it is kept for good, and copied for each run.
const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// Due schedules read in one go.
const BATCH: usize = 50;

/// What a schedule says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleFacts {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Language of its jobs, for lists.
    pub runtime: String,
    /// When it runs.
    #[serde(flatten)]
    pub timetable: Timetable,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleRun {
    /// When it was due, in milliseconds since the epoch; nothing if somebody asked for it.
    #[serde(default)]
    pub due_ms: Option<u64>,
    /// How many missed runs this stands for, the first of which was due then; nothing if it is one.
    #[serde(default)]
    pub count: Option<u64>,
    /// When it was dealt with.
    pub at_ms: u64,
    /// `submitted`, `missed`, `overlaps`, or why the queue refused it: `jobs`, `bytes`, `kept`, `kept_bytes`,
    /// `full`, `placements` or `rate`.
    pub outcome: String,
    /// The job that was submitted.
    #[serde(default)]
    pub job: Option<JobId>,
}

/// A schedule as its tenant sees it.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Its identifier.
    pub id: ScheduleId,
    /// What it says of itself.
    pub facts: ScheduleFacts,
    /// What holds for its jobs.
    pub terms: Terms,
    /// Whether it runs; else it is paused.
    pub is_enabled: bool,
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
    /// When it runs next, if it does.
    pub next_ms: Option<u64>,
    /// Its last runs, newest first.
    pub runs: Vec<ScheduleRun>,
}

/// Some schedules, newest first.
#[derive(Debug, Default)]
pub struct SchedulePage {
    /// The schedules, each with its last run.
    pub schedules: Vec<Schedule>,
    /// Where the next page begins, if there is one.
    pub next: Option<ScheduleId>,
}

/// A schedule to be made.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleOrder<'a> {
    /// Its identifier.
    pub id: ScheduleId,
    /// Whose it is.
    pub tenant: &'a TenantId,
    /// Most schedules of the tenant.
    pub max: u64,
    /// What it says of itself.
    pub facts: &'a ScheduleFacts,
    /// What its jobs run.
    pub job: &'a Job,
    /// What holds for them.
    pub terms: &'a Terms,
    /// Whether it is to run.
    pub is_enabled: bool,
}

/// A schedule whose run is due.
#[derive(Clone, Debug)]
pub struct DueSchedule {
    /// Its identifier.
    pub id: ScheduleId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it says of itself.
    pub facts: ScheduleFacts,
    /// What holds for its jobs.
    pub terms: Terms,
    /// When it was due, in milliseconds since the epoch.
    pub due_ms: u64,
}

/// What became of a run just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fired {
    /// This job was submitted.
    Submitted(JobId),
    /// No job was; the schedule says why.
    Noted(String),
    /// Somebody else was faster, or it was paused or removed.
    Moved,
}

impl Queue {
    /// Writes a schedule down.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyJobs`] if the tenant has as many as it may, [`ErrorCode::PayloadTooLarge`],
    /// [`ErrorCode::InvalidRequest`] if it would never run, [`ErrorCode::QueueUnavailable`].
    pub async fn create_schedule(&self, order: ScheduleOrder<'_>) -> Result<(), Error> {
        let payload = serialize(order.job)?;
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Error::new(
                ErrorCode::PayloadTooLarge,
                format!(
                    "The request of a schedule takes {} bytes in the queue; the most is \
                     {MAX_PAYLOAD_BYTES}. Have it fetch what it needs",
                    payload.len()
                ),
            ));
        }
        let next_ms = order.facts.timetable.next_after(now_ms())?;
        if next_ms.is_none() {
            return Err(Error::invalid(
                "The schedule would never run: its time has passed, or the pattern fits no day",
            ));
        }
        self.ready().await?;
        let (id, facts) = (order.id.to_string(), serialize(order.facts)?);
        let (tenant, owner) = (order.tenant, Owner::Schedule(order.id));
        let place = Place { tenant, owner, purpose: Purpose::Payload };
        let payload = self.seal(place, payload, order.job.has_secrets())?;
        let new = NewSchedule {
            shard: self.shard_of(order.tenant),
            id: &id,
            tenant: order.tenant,
            max: order.max,
            facts: &facts,
            payload: &payload,
            listing: &self.new_listing(of_runs(order.terms), tenant, owner)?,
            next_ms,
            is_enabled: order.is_enabled,
        };
        if self.inner.scripts.create_schedule(&new).await.map_err(failure)? {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::TooManyJobs,
            format!(
                "This tenant has {} schedules, as many as it may (policy.maxSchedules). Delete one",
                order.max
            ),
        ))
    }

    /// A schedule of this tenant.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::QueueUnavailable`].
    pub async fn schedule(&self, tenant: &TenantId, id: ScheduleId) -> Result<Schedule, Error> {
        let found = self.read_schedules(tenant, &[id], -1).await?;
        found.into_iter().next().ok_or_else(|| not_found(id))
    }

    /// A page of this tenant's schedules, at most `limit`, from behind `cursor` on.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn schedules(
        &self,
        tenant: &TenantId,
        cursor: Option<ScheduleId>,
        limit: usize,
    ) -> Result<SchedulePage, Error> {
        let mut read = cmd("ZREVRANGEBYLEX");
        read.arg(keys::schedules(self.shard_of(tenant), tenant));
        read.arg(cursor.map_or_else(|| "+".into(), |id| format!("({id}"))).arg("-");
        read.arg("LIMIT").arg(0).arg(limit + 1);
        let names: Vec<String> = self.inner.client.run(&read).await.map_err(failure)?;
        let ids: Vec<ScheduleId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let page = &ids[..limit.min(ids.len())];
        let next = (ids.len() > limit).then(|| page.last().copied()).flatten();
        Ok(SchedulePage { schedules: self.read_schedules(tenant, page, 0).await?, next })
    }

    /// Reads some schedules, each with its runs up to number `last_run`; -1: all.
    async fn read_schedules(
        &self,
        tenant: &TenantId,
        ids: &[ScheduleId],
        last_run: i64,
    ) -> Result<Vec<Schedule>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let shard = self.shard_of(tenant);
        let mut read = pipe();
        for id in ids {
            let fields = ["tenant", "facts", "terms", "enabled", "created_us", "next_ms"];
            read.cmd("HMGET").arg(keys::schedule(shard, id)).arg(&fields);
            read.cmd("LRANGE").arg(keys::schedule_runs(shard, id)).arg(0).arg(last_run);
        }
        let answers: Vec<Vec<Option<String>>> =
            self.inner.client.run_all(&read).await.map_err(failure)?;
        let mut schedules = Vec::new();
        for (id, pair) in ids.iter().zip(answers.chunks_exact(2)) {
            let [owner, Some(facts), Some(terms), enabled, created, next] = &pair[0][..] else {
                continue;
            };
            if owner.as_deref() != Some(tenant.as_str()) {
                continue;
            }
            let created_us: u64 =
                created.as_ref().and_then(|us| us.parse().ok()).unwrap_or_default();
            schedules.push(Schedule {
                id: *id,
                facts: serde_json::from_str(facts).map_err(|error| unreadable(*id, error))?,
                terms: serde_json::from_str(terms).map_err(|error| unreadable(*id, error))?,
                is_enabled: enabled.is_some(),
                created_ms: created_us / 1000,
                next_ms: next.as_ref().and_then(|ms| ms.parse().ok()).filter(|_| enabled.is_some()),
                runs: pair[1]
                    .iter()
                    .flatten()
                    .filter_map(|text| serde_json::from_str(text).ok())
                    .collect(),
            });
        }
        Ok(schedules)
    }

    /// Has a schedule of this tenant run from now on, or not; runs that were due while it was paused are not
    /// made up for.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::QueueUnavailable`].
    pub async fn enable_schedule(
        &self,
        tenant: &TenantId,
        id: ScheduleId,
        is_enabled: bool,
    ) -> Result<(), Error> {
        let next_ms = match is_enabled {
            true => self.schedule(tenant, id).await?.facts.timetable.next_after(now_ms())?,
            false => None,
        };
        let how = if is_enabled { "resume" } else { "pause" };
        self.change_schedule(tenant, id, how, next_ms).await
    }

    /// Removes a schedule of this tenant. Jobs that it has submitted go on.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::QueueUnavailable`].
    pub async fn remove_schedule(&self, tenant: &TenantId, id: ScheduleId) -> Result<(), Error> {
        self.change_schedule(tenant, id, "remove", None).await
    }

    async fn change_schedule(
        &self,
        tenant: &TenantId,
        id: ScheduleId,
        how: &str,
        next_ms: Option<u64>,
    ) -> Result<(), Error> {
        self.ready().await?;
        let (shard, name) = (self.shard_of(tenant), id.to_string());
        let done = self.inner.scripts.change_schedule(shard, tenant, &name, how, next_ms).await;
        if done.map_err(failure)? { Ok(()) } else { Err(not_found(id)) }
    }

    /// Schedules whose runs are due by now, some of them. Other workers may see the same.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn due_schedules(&self) -> Result<Vec<DueSchedule>, Error> {
        self.ready().await?;
        Ok(self.shards_in_reach(|shard| self.due_schedules_of(shard)).await?.concat())
    }

    async fn due_schedules_of(&self, shard: u16) -> Result<Vec<DueSchedule>, Error> {
        let mut read = cmd("ZRANGEBYSCORE");
        read.arg(keys::scheduled(shard)).arg("-inf").arg(now_ms());
        read.arg("LIMIT").arg(0).arg(BATCH);
        let names: Vec<String> = self.inner.client.run(&read).await.map_err(failure)?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = pipe();
        for name in &names {
            let fields = ["tenant", "facts", "terms", "next_ms"];
            read.cmd("HMGET").arg(keys::schedule(shard, name)).arg(&fields);
        }
        let found: Vec<[Option<String>; 4]> =
            self.inner.client.run_all(&read).await.map_err(failure)?;
        let mut due = Vec::new();
        for (name, fields) in names.iter().zip(found) {
            let [Some(tenant), Some(facts), Some(terms), Some(due_ms)] = fields else {
                continue;
            };
            let parsed = (
                name.parse(),
                serde_json::from_str(&facts),
                serde_json::from_str(&terms),
                due_ms.parse(),
            );
            let (Ok(id), Ok(facts), Ok(terms), Ok(due_ms)) = parsed else {
                tracing::warn!(name, "a schedule cannot be read by this version of isol8");
                continue;
            };
            due.push(DueSchedule { id, tenant: TenantId::new(tenant), facts, terms, due_ms });
        }
        Ok(due)
    }

    /// Makes the run of a schedule that is due, within what its tenant may have. Of all that try, one does.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn fire_schedule(&self, due: &DueSchedule, quota: Quota) -> Result<Fired, Error> {
        let (timetable, now_ms) = (&due.facts.timetable, now_ms());
        let step = timetable.step(due.due_ms, now_ms)?;
        let missed = match step.is_to_run {
            true => None,
            false => Some(serialize(&timetable.left_out(due.due_ms, step.next_ms, now_ms)?)?),
        };
        let job = JobId::generate();
        let run = Run {
            shard: self.shard_of(&due.tenant),
            schedule: &due.id.to_string(),
            due_ms: Some(due.due_ms),
            next_ms: step.next_ms,
            missed,
            overlap: timetable.overlap.name(),
            new: self.new_run(&due.tenant, due.id, quota, job, &due.terms)?,
            max_queued: self.inner.config.max_queued,
        };
        let answer = self.inner.scripts.fire_schedule(&run).await.map_err(failure)?;
        Ok(match answer.into_iter().next().unwrap_or_default().as_str() {
            "queued" => Fired::Submitted(job),
            "moved" => Fired::Moved,
            word => Fired::Noted(word.to_owned()),
        })
    }

    /// Has a schedule of this tenant run now, besides its own times, and paused too.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], those of [`submit`](Self::submit).
    pub async fn run_schedule(
        &self,
        tenant: &TenantId,
        id: ScheduleId,
        quota: Quota,
    ) -> Result<JobId, Error> {
        let terms = self.schedule(tenant, id).await?.terms;
        let job = JobId::generate();
        let run = Run {
            shard: self.shard_of(tenant),
            schedule: &id.to_string(),
            due_ms: None,
            next_ms: None,
            missed: None,
            // Whoever asks for it now wants it now.
            overlap: Overlap::Allow.name(),
            new: self.new_run(tenant, id, quota, job, &terms)?,
            max_queued: self.inner.config.max_queued,
        };
        let answer = self.inner.scripts.fire_schedule(&run).await.map_err(failure)?;
        let mut words = answer.into_iter();
        match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
            (word, _) if word == "moved" => Err(not_found(id)),
            refusal => refused(refusal).map(|()| job),
        }
    }

    /// The job of a run. Nobody waits for it, and nobody talks to it.
    fn new_run(
        &self,
        tenant: &TenantId,
        id: ScheduleId,
        quota: Quota,
        job: JobId,
        terms: &Terms,
    ) -> Result<NewSubmission, Error> {
        Ok(NewSubmission {
            account: Account { tenant: tenant.clone(), quota },
            id: job.to_string(),
            payload: Vec::new(),
            reply_to: String::new(),
            interactive: false,
            listing: self.new_listing(of_runs(terms), tenant, Owner::Schedule(id))?,
        })
    }
}

/// What is the same for each job of a schedule.
const fn of_runs(terms: &Terms) -> Listing<'_> {
    Listing { terms, once: None }
}

fn not_found(id: ScheduleId) -> Error {
    Error::new(ErrorCode::NotFound, format!("There is no schedule {id}"))
}

fn unreadable(id: ScheduleId, error: serde_json::Error) -> Error {
    let message = format!("Schedule {id} cannot be read by this version of isol8");
    Error::new(ErrorCode::Internal, message).with_source(error)
}
