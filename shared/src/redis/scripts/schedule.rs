//! The scripts about schedules.

use redis::RedisResult;

use super::{NewListing, NewSubmission, Scripts};
use crate::id::TenantId;
use crate::redis::keys;

/// A schedule to write down.
pub(in crate::redis) struct NewSchedule<'a> {
    pub(in crate::redis) shard: u16,
    pub(in crate::redis) id: &'a str,
    pub(in crate::redis) tenant: &'a TenantId,
    pub(in crate::redis) max: u64,
    pub(in crate::redis) facts: &'a str,
    pub(in crate::redis) payload: &'a [u8],
    pub(in crate::redis) listing: &'a NewListing,
    pub(in crate::redis) next_ms: Option<u64>,
    pub(in crate::redis) is_enabled: bool,
}

/// A run of a schedule.
pub(in crate::redis) struct Run<'a> {
    pub(in crate::redis) shard: u16,
    pub(in crate::redis) schedule: &'a str,
    /// `None` if it is not one of its own time.
    pub(in crate::redis) due_ms: Option<u64>,
    pub(in crate::redis) next_ms: Option<u64>,
    /// The runs that were missed, as JSON; `None` if a job is to be submitted.
    pub(in crate::redis) missed: Option<String>,
    pub(in crate::redis) overlap: &'static str,
    /// The job to submit, but for its payload and its webhook, which the schedule has.
    pub(in crate::redis) new: NewSubmission,
    pub(in crate::redis) max_queued: u64,
}

fn text(number: Option<u64>) -> String {
    number.map(|it| it.to_string()).unwrap_or_default()
}

impl Scripts {
    /// Writes a schedule down; false if its tenant has as many as it may.
    pub(in crate::redis) async fn create_schedule(
        &self,
        new: &NewSchedule<'_>,
    ) -> RedisResult<bool> {
        let mut call = self.create_schedule.call(&[
            keys::schedule(new.shard, new.id),
            keys::schedules(new.shard, new.tenant),
            keys::scheduled(new.shard),
            keys::tenants(new.shard),
        ]);
        call.arg(new.id)
            .arg(new.tenant.as_str())
            .arg(new.max)
            .arg(new.facts)
            .arg(new.payload)
            .arg(&new.listing.terms)
            .arg(&new.listing.webhook)
            .arg(text(new.next_ms))
            .arg(u8::from(new.is_enabled));
        let word: String = self.create_schedule.run(&self.client, &call).await?;
        Ok(word == "made")
    }

    /// Pauses (`pause`), resumes (`resume`) or removes (`remove`) a schedule; false if the tenant has no such
    /// schedule.
    pub(in crate::redis) async fn change_schedule(
        &self,
        shard: u16,
        tenant: &TenantId,
        id: &str,
        how: &str,
        next_ms: Option<u64>,
    ) -> RedisResult<bool> {
        let mut call = self.change_schedule.call(&[
            keys::schedule(shard, id),
            keys::schedules(shard, tenant),
            keys::scheduled(shard),
            keys::schedule_runs(shard, id),
        ]);
        call.arg(id).arg(tenant.as_str()).arg(how).arg(text(next_ms));
        self.change_schedule.run(&self.client, &call).await
    }

    /// Makes a run; a word, and the job or how long to wait.
    pub(in crate::redis) async fn fire_schedule(&self, run: &Run<'_>) -> RedisResult<Vec<String>> {
        let mut call = self.fire_schedule.call(&[
            keys::schedule(run.shard, run.schedule),
            keys::schedule_runs(run.shard, run.schedule),
            keys::scheduled(run.shard),
            keys::record(run.shard, &run.new.id),
        ]);
        call.arg(run.schedule)
            .arg(text(run.due_ms))
            .arg(text(run.next_ms))
            .arg(run.missed.as_deref().unwrap_or_default())
            .arg(run.overlap)
            .arg(run.max_queued);
        run.new.account.add_to(&mut call);
        run.new.add_to(&mut call, 1);
        self.fire_schedule.run(&self.client, &call).await
    }
}
