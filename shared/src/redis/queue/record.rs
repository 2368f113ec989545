//! Jobs as their tenants see them: one, or a page of the list; and following one to its end.

use std::time::Duration;

use redis::{Cmd, cmd, pipe};
use serde_json::value::RawValue;

use super::{JobState, Placements, Queue, Slots, Standing, WaitsFor};
use crate::error::{Error, ErrorCode};
use crate::execution::{Attempt, Ending, EndingSummary, Terms};
use crate::id::{GatewayId, JobId, TenantId, WorkerId};
use crate::redis::client::failure;
use crate::redis::keys;

/// Most gateways that hear of one job; there are as many as jobs are followed through.
const MAX_FOLLOWERS: usize = 16;
/// Records read in one go.
const READ_BATCH: usize = 100;
/// Most records that are looked at for one page: a filter that lets little pass must not hold up
/// Redis.
const MAX_LOOKED_AT: usize = 2000;
/// Most jobs in line that are counted to tell one's place.
const MAX_COUNTED: usize = 1000;
/// About how many listed jobs of a shard are looked at in one go for what does not fit together.
const RECONCILED_JOBS: usize = 100;
/// Most of what is due in a shard that is done in one go.
const HOUSEKEEPING_BATCH: usize = 100;

/// The fields of a record that are read for one job.
const FIELDS: [&str; 15] = [
    "tenant",
    "state",
    "enqueued_us",
    "started_us",
    "finished_us",
    "attempt",
    "worker",
    "session",
    "terms",
    "keep_ms",
    "summary",
    "due_ms",
    "tries",
    "noted",
    "dead",
];

/// A job as its record has it.
#[derive(Debug)]
pub struct JobRecord {
    /// Its identifier.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it stands. Of a job in a list, the ending is not read.
    pub state: JobState,
    /// When it was submitted, in milliseconds since the epoch by Redis' clock.
    pub submitted_ms: u64,
    /// When its last attempt began.
    pub started_ms: Option<u64>,
    /// When it ended; only of listed jobs.
    pub finished_ms: Option<u64>,
    /// How often it was begun.
    pub attempts: u32,
    /// Whether some of them came to nothing; see [`Queue::attempts`].
    pub has_attempts: bool,
    /// When it may begin, if it is not to begin yet, in milliseconds since the epoch.
    pub due_ms: Option<u64>,
    /// The worker that has it, or had it last.
    pub worker: Option<String>,
    /// The session it is a call of.
    pub session: Option<String>,
    /// How long it is kept once it has ended, in milliseconds; only of listed jobs.
    pub keep_ms: Option<u64>,
    /// Whether it is a dead letter.
    pub is_dead: bool,
    /// What holds for it; `None` if it does not outlive its request.
    pub terms: Option<Terms>,
    /// How it ended, in a few words.
    pub summary: Option<EndingSummary>,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// `queued`, `running` or `finished`.
    pub state: Option<String>,
    /// One of their tags.
    pub tag: Option<String>,
    /// Submitted then or later, in milliseconds since the epoch.
    pub since_ms: Option<u64>,
    /// Submitted before.
    pub before_ms: Option<u64>,
}

/// Some jobs, newest first.
#[derive(Debug, Default)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<JobRecord>,
    /// Where the next page begins; `None` if there is none. A page may be short, or empty, and have
    /// one all the same.
    pub next: Option<JobId>,
}

/// What is due in the queue and not done by keeping house.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Webhooks are to be told.
    pub webhooks: bool,
    /// Schedules are to run.
    pub schedules: bool,
}

impl Queue {
    /// One job of this tenant, with its ending.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>, Error> {
        let mut read = read_fields(keys::record(self.shard_of(tenant), id));
        read.arg("result");
        let mut fields: Vec<Option<String>> =
            self.inner.client.run(&read).await.map_err(failure)?;
        let result = fields.pop().flatten();
        let Some(mut record) = record(id, tenant, fields)? else { return Ok(None) };
        if let (JobState::Finished(ending), Some(result)) = (&mut record.state, result) {
            *ending =
                RawValue::from_string(result).map_err(|error| unreadable(id).with_source(error))?;
            // The queue's own endings are short, and have no summary beside them.
            record.summary = record.summary.take().or_else(|| summary_of(ending.get()));
        }
        Ok(Some(record))
    }

    /// The attempts at a job of this tenant that came to nothing, oldest first; the last twenty of them.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn attempts(&self, tenant: &TenantId, id: JobId) -> Result<Vec<Attempt>, Error> {
        let shard = self.shard_of(tenant);
        let mut read = pipe();
        read.cmd("HGET").arg(keys::record(shard, id)).arg("tenant");
        read.cmd("LRANGE").arg(keys::attempts(shard, id)).arg(0).arg(-1);
        let (owner, attempts): (Option<String>, Vec<String>) =
            self.inner.client.run_all(&read).await.map_err(failure)?;
        if owner.as_deref() != Some(tenant.as_str()) {
            return Ok(Vec::new());
        }
        let mut attempts: Vec<Attempt> =
            attempts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        for attempt in attempts.iter_mut().filter(|it| it.end_event > it.first_event) {
            self.add_output(shard, id, attempt).await?;
        }
        Ok(attempts)
    }

    /// A page of this tenant's listed jobs, at most `limit`, from behind `cursor` on.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn jobs(
        &self,
        tenant: &TenantId,
        filter: &JobFilter,
        cursor: Option<JobId>,
        limit: usize,
    ) -> Result<Page, Error> {
        let list = keys::listed(self.shard_of(tenant), tenant);
        self.page(list, tenant, filter, cursor, limit).await
    }

    /// The same of any list of jobs.
    pub(super) async fn page(
        &self,
        list: String,
        tenant: &TenantId,
        filter: &JobFilter,
        cursor: Option<JobId>,
        limit: usize,
    ) -> Result<Page, Error> {
        let mut page = Page { jobs: Vec::new(), next: cursor };
        let mut looked_at = 0;
        while looked_at < MAX_LOOKED_AT {
            let ids = self.names(&list, filter, page.next).await?;
            looked_at += ids.len();
            let is_last = ids.len() < READ_BATCH;
            for record in self.records(tenant, &ids).await? {
                if page.jobs.len() == limit {
                    return Ok(page);
                }
                page.next = Some(record.id);
                if filter.lets_pass(&record) {
                    page.jobs.push(record);
                }
            }
            if is_last {
                page.next = None;
                break;
            }
            page.next = ids.last().copied();
        }
        Ok(page)
    }

    /// The next names of the list.
    async fn names(
        &self,
        list: &str,
        filter: &JobFilter,
        behind: Option<JobId>,
    ) -> Result<Vec<JobId>, Error> {
        let oldest =
            filter.since_ms.map_or_else(|| "-".into(), |ms| format!("[{}", JobId::first_of_ms(ms)));
        let newest = filter.before_ms.map(JobId::first_of_ms).into_iter().chain(behind).min();
        let newest = newest.map_or_else(|| "+".into(), |id| format!("({id}"));
        let mut read = cmd("ZREVRANGEBYLEX");
        read.arg(list).arg(newest).arg(oldest).arg("LIMIT").arg(0).arg(READ_BATCH);
        let names: Vec<String> = self.inner.client.run(&read).await.map_err(failure)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The records of some jobs, without their endings; those that have gone are left out.
    async fn records(&self, tenant: &TenantId, ids: &[JobId]) -> Result<Vec<JobRecord>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let shard = self.shard_of(tenant);
        let mut read = pipe();
        for id in ids {
            read.add_command(read_fields(keys::record(shard, id)));
        }
        let found: Vec<Vec<Option<String>>> =
            self.inner.client.run_all(&read).await.map_err(failure)?;
        let mut records = Vec::with_capacity(ids.len());
        for (id, fields) in ids.iter().zip(found) {
            records.extend(record(*id, tenant, fields)?);
        }
        self.complete(shard, &mut records).await?;
        Ok(records)
    }

    /// Reads the endings of jobs that no worker has summed up: the queue's own, and short.
    async fn complete(&self, shard: u16, records: &mut [JobRecord]) -> Result<(), Error> {
        let mut open: Vec<&mut JobRecord> = records
            .iter_mut()
            .filter(|it| it.summary.is_none() && matches!(it.state, JobState::Finished(_)))
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let mut read = pipe();
        for record in &open {
            read.cmd("HGET").arg(keys::record(shard, record.id)).arg("result");
        }
        let endings: Vec<Option<String>> =
            self.inner.client.run_all(&read).await.map_err(failure)?;
        for (record, ending) in open.iter_mut().zip(endings) {
            record.summary = ending.and_then(|text| summary_of(&text));
        }
        Ok(())
    }

    /// Lets a gateway hear of a job of this tenant from now on; where it stands. Nothing is heard of
    /// one that is finished or unknown.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn follow(
        &self,
        tenant: &TenantId,
        id: JobId,
        gateway: GatewayId,
    ) -> Result<JobState, Error> {
        let (shard, id, gateway) = (self.shard_of(tenant), id.to_string(), gateway.to_string());
        self.ready().await?;
        let state = self.inner.scripts.watch(shard, &id, tenant, &gateway, MAX_FOLLOWERS).await;
        Ok(match state.map_err(failure)?.as_str() {
            "queued" => JobState::Queued,
            "running" => JobState::Running,
            "finished" => JobState::Finished(RawValue::NULL.to_owned()),
            _ => JobState::Unknown,
        })
    }

    /// Does what is due by now, some at a time, wherever Redis can be reached. A worker that does it says how many jobs it can run at
    /// once, and counts as one of the fleet for a lease time. Returns what is due besides, and takes a
    /// worker of its own.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn housekeep(&self, worker: Option<(WorkerId, usize)>) -> Result<Due, Error> {
        let (worker, slots) = worker.unzip();
        self.housekeep_as(worker, slots.unwrap_or_default().into(), &Placements::default()).await
    }

    /// The same by a worker that has labels, and runs the jobs of these placements.
    ///
    /// # Errors
    /// As [`housekeep`](Self::housekeep).
    pub async fn housekeep_as(
        &self,
        worker: Option<WorkerId>,
        slots: Slots,
        placements: &Placements,
    ) -> Result<Due, Error> {
        self.ready().await?;
        let worker = &worker.map(|it| it.to_string()).unwrap_or_default();
        let step = |shard| async move {
            let placements = placements.of(shard);
            loop {
                let done = self.inner.scripts.housekeep(
                    shard,
                    HOUSEKEEPING_BATCH,
                    worker,
                    slots,
                    &placements,
                );
                let (done, webhooks, schedules, workers) = done.await.map_err(failure)?;
                if done < HOUSEKEEPING_BATCH {
                    return Ok((Due { webhooks, schedules }, workers));
                }
            }
        };
        let due = self.shards_in_reach(step).await?;
        // Every worker tells all shards of itself.
        self.inner.fleet.count(due.iter().map(|(_, workers)| *workers).max().unwrap_or_default());
        Ok(Due {
            webhooks: due.iter().any(|(due, _)| due.webhooks),
            schedules: due.iter().any(|(due, _)| due.schedules),
        })
    }

    /// Looks at some listed jobs, and puts right what does not fit together: jobs that are not where
    /// their records say, and counters that drifted. One worker at a time does it; returns what it
    /// put right and whose it was.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn reconcile(&self, worker: WorkerId) -> Result<Vec<(String, String)>, Error> {
        self.ready().await?;
        let worker = &worker.to_string();
        let step = |shard| async move {
            let some = self.inner.scripts.reconcile(shard, worker, RECONCILED_JOBS).await;
            some.map_err(failure)
        };
        Ok(self.shards_in_reach(step).await?.concat())
    }

    /// How a job of this tenant stands; `None` if it does not wait.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn standing(&self, tenant: &TenantId, id: JobId) -> Result<Option<Standing>, Error> {
        let (shard, id) = (self.shard_of(tenant), id.to_string());
        let found = self.inner.scripts.standing(shard, tenant, &id, MAX_COUNTED).await;
        let Some((why, position, slots, mean_us)) = found.map_err(failure)? else {
            return Ok(None);
        };
        let waits_for = match why.as_str() {
            "time" => WaitsFor::Time,
            "tenant" => WaitsFor::Tenant,
            _ => WaitsFor::Worker,
        };
        let can_be_told = waits_for != WaitsFor::Time && slots > 0 && mean_us > 0;
        let estimate = can_be_told
            .then(|| Duration::from_micros(position.saturating_mul(mean_us) / slots.max(1)));
        Ok(Some(Standing { waits_for, position, slots, estimate }))
    }
}

impl JobFilter {
    fn lets_pass(&self, record: &JobRecord) -> bool {
        let is_state = self.state.as_deref().is_none_or(|state| state == record.state.name());
        let has_tag =
            |tag: &String| record.terms.as_ref().is_some_and(|terms| terms.tags.contains(tag));
        is_state && self.tag.as_ref().is_none_or(has_tag)
    }
}

fn read_fields(record: String) -> Cmd {
    let mut read = cmd("HMGET");
    read.arg(record).arg(&FIELDS);
    read
}

/// Reads a record; `None` if it has gone or is another tenant's.
fn record(
    id: JobId,
    tenant: &TenantId,
    fields: Vec<Option<String>>,
) -> Result<Option<JobRecord>, Error> {
    let fields: [Option<String>; FIELDS.len()] = fields.try_into().map_err(|_| unreadable(id))?;
    let [
        owner,
        state,
        submitted,
        started,
        finished,
        attempt,
        worker,
        session,
        terms,
        keep,
        summary,
        due,
        tries,
        noted,
        dead,
    ] = fields;
    if owner.as_deref() != Some(tenant.as_str()) {
        return Ok(None);
    }
    let state = match state.as_deref() {
        Some("queued") => JobState::Queued,
        Some("running") => JobState::Running,
        Some("finished") => JobState::Finished(RawValue::NULL.to_owned()),
        _ => return Err(unreadable(id)),
    };
    // One that was cancelled before its time waits for it no more.
    let is_queued = matches!(state, JobState::Queued);
    let due_ms = due.filter(|_| is_queued).and_then(|ms| ms.parse().ok());
    let number = |text: Option<String>| text.and_then(|it| it.parse().ok()).unwrap_or(0_u32);
    let ms = |us: Option<String>| Some(us?.parse::<u64>().ok()? / 1000);
    let terms = terms.and_then(|terms| serde_json::from_str(&terms).ok()).unwrap_or_default();
    Ok(Some(JobRecord {
        id,
        tenant: tenant.clone(),
        state,
        submitted_ms: ms(submitted).unwrap_or_default(),
        started_ms: ms(started),
        finished_ms: ms(finished),
        attempts: number(attempt).saturating_add(number(tries)),
        has_attempts: noted.is_some(),
        due_ms,
        worker: worker.filter(|worker| !worker.is_empty()),
        session: session.and_then(|name| Some(name.split_once(':')?.1.to_owned())),
        keep_ms: keep.as_ref().and_then(|keep| keep.parse().ok()),
        is_dead: dead.is_some(),
        terms: keep.map(|_| terms),
        summary: summary.and_then(|summary| serde_json::from_str(&summary).ok()),
    }))
}

fn summary_of(ending: &str) -> Option<EndingSummary> {
    Some(serde_json::from_str::<Ending>(ending).ok()?.summary())
}

fn unreadable(id: JobId) -> Error {
    Error::new(ErrorCode::Internal, format!("The record of job {id} cannot be read."))
}
