//! The atomic steps of the queue: one Lua file each, and one typed function each to call it.

mod batch;
mod schedule;
mod script;
mod session;
mod submit;
mod webhook;

use redis::{Cmd, FromRedisValue, RedisResult};

use batch::{BATCHES, BatchScripts};
pub(super) use batch::{BatchKey, NewItem, NewItems, Place, Seal, Shown};
pub(super) use schedule::{NewSchedule, Run};
pub(super) use script::{ALLOW_OOM, Constants, Script, Step};
pub(super) use session::{NewCall, SessionKeys};
pub(super) use submit::{Account, NewListing, NewSubmission};
pub(super) use webhook::{ClaimWebhooks, SettledWebhook};

use super::client::Client;
use super::keys;
use super::queue::{Quota, Slots};
use crate::execution::Priority;
use crate::id::TenantId;

/// Functions in front of the scripts; each gets those that it uses.
const COMMON: &str = include_str!("scripts/functions/common.lua");
const LINES: &str = include_str!("scripts/functions/lines.lua");
/// With those about lines, which they use.
const SHARES: &str = concat!(
    include_str!("scripts/functions/lines.lua"),
    include_str!("scripts/functions/shares.lua")
);
/// With those about shares, which they use.
const JOBS: &str = concat!(
    include_str!("scripts/functions/lines.lua"),
    include_str!("scripts/functions/shares.lua"),
    include_str!("scripts/functions/jobs.lua"),
    include_str!("scripts/functions/ending.lua")
);
const SESSIONS: &str = include_str!("scripts/functions/sessions.lua");
const STREAM: &str = include_str!("scripts/functions/stream.lua");
const LISTING: &str = include_str!("scripts/functions/listing.lua");
const PLACING: &str = include_str!("scripts/functions/placing.lua");
const ATTEMPTS: &str = include_str!("scripts/functions/attempts.lua");
const GROUP: &str = include_str!("scripts/functions/group.lua");
const REPAIR: &str = include_str!("scripts/functions/repair.lua");
const SUBMITTING: &str = include_str!("scripts/functions/submitting.lua");
const ADMISSION: &str = include_str!("scripts/functions/admission.lua");

/// All scripts.
pub(super) struct Scripts {
    client: Client,
    enqueue: Script,
    submit: Script,
    pick: Script,
    take: Script,
    finish: Script,
    give_back: Script,
    pass_on: Script,
    retry: Script,
    renew: Script,
    leave: Script,
    restore_lines: Script,
    cancel: Script,
    watch: Script,
    housekeep: Script,
    reconcile: Script,
    look: Script,
    standing: Script,
    stats: Script,
    redrive: Script,
    forget: Script,
    claim_webhooks: Script,
    settle_webhook: Script,
    retry_webhook: Script,
    create_schedule: Script,
    change_schedule: Script,
    fire_schedule: Script,
    publish: Script,
    input: Script,
    take_input: Script,
    enqueue_call: Script,
    take_call: Script,
    finish_call: Script,
    renew_sessions: Script,
    close_session: Script,
    retire_session: Script,
    end_session: Script,
    batches: BatchScripts,
}

/// A job to put into the queue.
pub(super) struct NewJob<'a> {
    pub(super) shard: u16,
    pub(super) id: String,
    pub(super) tenant: &'a TenantId,
    /// As it is stored, sealed or not.
    pub(super) payload: &'a [u8],
    pub(super) reply_to: String,
    pub(super) quota: Quota,
    pub(super) interactive: bool,
    /// The labels that it requires, in one text.
    pub(super) placement: Option<String>,
}

impl NewJob<'_> {
    /// The stream it stands in.
    pub(super) fn line(&self, priority: Priority) -> String {
        keys::line(self.shard, priority, self.placement.as_deref())
    }

    /// As `enqueue.lua` takes it.
    pub(super) fn step(&self) -> Step {
        let priority = self.placement.as_deref();
        let priority = priority.and_then(|it| keys::full_priority(Priority::Normal, Some(it)));
        Step::new([self.line(Priority::Normal), keys::record(self.shard, &self.id)])
            .arg(&self.id)
            .arg(self.tenant.as_str())
            .arg(self.payload)
            .arg(&self.reply_to)
            .arg(u8::from(self.interactive))
            .arg(self.quota.max_active)
            .arg(self.quota.per_second)
            .arg(priority.unwrap_or_default())
    }

    fn add_to(&self, call: &mut Cmd) {
        call.arg(&self.id)
            .arg(self.tenant.as_str())
            .arg(self.payload)
            .arg(&self.reply_to)
            .arg(u8::from(self.interactive))
            .arg(self.quota.max_active)
            .arg(self.quota.per_second);
    }
}

/// Why a job was not queued: a word, and how many ms to wait or a detail.
pub(super) type Refusal = (String, String);

/// A stream entry and the job it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) entry: String,
    pub(super) job: String,
}

/// Entries of one stream to start.
pub(super) struct Take<'a> {
    pub(super) shard: u16,
    pub(super) stream: &'a str,
    pub(super) worker: &'a str,
    pub(super) entries: &'a [Entry],
    /// Most jobs to start; the rest goes back.
    pub(super) room: usize,
    /// If the entries were taken from a silent worker: a name for this step, so that a repeated
    /// call is told from another theft.
    pub(super) theft: Option<String>,
}

/// What became of one entry: outcome, attempt, microseconds waited and since it was submitted, tenant,
/// payload, session, terms, earlier tries, number of its first event.
pub(super) type Taken = (String, u32, u64, u64, String, Vec<u8>, String, String, u32, u64);

/// One delivery of one job, as the scripts name it.
pub(super) struct Held<'a> {
    pub(super) shard: u16,
    pub(super) stream: &'a str,
    pub(super) worker: &'a str,
    pub(super) entry: &'a str,
    pub(super) attempt: u32,
    pub(super) job: String,
}

impl Held<'_> {
    /// As `finish.lua` takes it.
    pub(super) fn finish_step(&self, ending: &str, summary: &str) -> Step {
        Step::new([self.stream.to_owned(), keys::record(self.shard, &self.job)])
            .arg(self.worker)
            .arg(self.entry)
            .arg(self.attempt)
            .arg(&self.job)
            .arg(ending)
            .arg(summary)
    }

    fn call(&self, script: &Script) -> Cmd {
        let stream = self.stream.to_owned();
        let mut call = script.call(&[stream, keys::record(self.shard, &self.job)]);
        call.arg(self.worker).arg(self.entry).arg(self.attempt).arg(&self.job);
        call
    }
}

/// Events of one run of a job.
pub(super) struct Output<'a> {
    pub(super) shard: u16,
    pub(super) worker: &'a str,
    pub(super) attempt: u32,
    pub(super) job: String,
    /// Number of the first event.
    pub(super) first: u64,
    pub(super) events: Vec<Vec<u8>>,
    /// How long to keep them, and about how many of the job's.
    pub(super) ttl_ms: u64,
    pub(super) max_kept: usize,
}

/// Something for a job's standard input.
pub(super) struct NewInput<'a> {
    pub(super) shard: u16,
    pub(super) tenant: &'a TenantId,
    pub(super) job: String,
    pub(super) input: Vec<u8>,
    /// Tells a repeated call from another input.
    pub(super) name: String,
    pub(super) max_waiting: usize,
    pub(super) ttl_ms: u64,
}

impl Scripts {
    pub(super) fn new(client: Client, constants: &Constants) -> Self {
        let constants = constants.to_lua();
        let constants = constants.as_str();
        let alone = [constants, COMMON];
        let plain = [constants, COMMON, JOBS];
        let ending = [constants, COMMON, JOBS, BATCHES];
        let lines = [constants, COMMON, LINES];
        let counting = [constants, COMMON, SHARES];
        let about_sessions = [constants, COMMON, JOBS, SESSIONS];
        let cancelling = [constants, COMMON, JOBS, BATCHES, SESSIONS];
        let from_stream = [constants, COMMON, JOBS, BATCHES, SESSIONS, STREAM, ATTEMPTS];
        let placing = [constants, COMMON, JOBS, BATCHES, PLACING, ATTEMPTS];
        let dead_letter = [constants, COMMON, JOBS, LISTING, PLACING, ATTEMPTS];
        let repairing =
            [constants, COMMON, JOBS, BATCHES, SESSIONS, STREAM, PLACING, GROUP, REPAIR];
        let looking = [constants, COMMON, JOBS, GROUP];
        let new_job = [constants, COMMON, LINES, ADMISSION];
        let listed_job = [constants, COMMON, SHARES, ADMISSION, LISTING, PLACING, SUBMITTING];
        let scheduled_job = [constants, COMMON, JOBS, ADMISSION, LISTING, PLACING, SUBMITTING];
        let new_call = [constants, COMMON, JOBS, SESSIONS, ADMISSION, LISTING];
        let adding = |parts: &[&str], body| Script::behind("", parts, body);
        let script = |parts: &[&str], body| Script::behind(ALLOW_OOM, parts, body);
        Self {
            client,
            enqueue: adding(&new_job, include_str!("scripts/enqueue.lua")),
            submit: adding(&listed_job, include_str!("scripts/submit.lua")),
            pick: script(&[constants], include_str!("scripts/pick.lua")),
            take: script(&from_stream, include_str!("scripts/take.lua")),
            finish: script(&ending, include_str!("scripts/finish.lua")),
            give_back: script(&from_stream, include_str!("scripts/give_back.lua")),
            pass_on: script(&from_stream, include_str!("scripts/pass_on.lua")),
            retry: script(&placing, include_str!("scripts/retry.lua")),
            renew: script(&plain, include_str!("scripts/renew.lua")),
            leave: script(&plain, include_str!("scripts/leave.lua")),
            restore_lines: script(&lines, include_str!("scripts/restore_lines.lua")),
            cancel: script(&cancelling, include_str!("scripts/cancel.lua")),
            watch: script(&plain, include_str!("scripts/watch.lua")),
            housekeep: script(&placing, include_str!("scripts/housekeep.lua")),
            reconcile: script(&repairing, include_str!("scripts/reconcile.lua")),
            look: script(&repairing, include_str!("scripts/look.lua")),
            standing: script(&looking, include_str!("scripts/standing.lua")),
            stats: script(&counting, include_str!("scripts/stats.lua")),
            redrive: adding(&dead_letter, include_str!("scripts/redrive.lua")),
            forget: script(&dead_letter, include_str!("scripts/forget.lua")),
            claim_webhooks: script(&alone, include_str!("scripts/claim_webhooks.lua")),
            settle_webhook: script(&alone, include_str!("scripts/settle_webhook.lua")),
            retry_webhook: script(&alone, include_str!("scripts/retry_webhook.lua")),
            create_schedule: adding(&alone, include_str!("scripts/create_schedule.lua")),
            change_schedule: script(&alone, include_str!("scripts/change_schedule.lua")),
            fire_schedule: adding(&scheduled_job, include_str!("scripts/fire_schedule.lua")),
            publish: script(&plain, include_str!("scripts/publish.lua")),
            input: adding(&plain, include_str!("scripts/input.lua")),
            take_input: script(&plain, include_str!("scripts/take_input.lua")),
            enqueue_call: adding(&new_call, include_str!("scripts/enqueue_call.lua")),
            take_call: script(&about_sessions, include_str!("scripts/take_call.lua")),
            finish_call: script(&about_sessions, include_str!("scripts/finish_call.lua")),
            renew_sessions: script(&about_sessions, include_str!("scripts/renew_sessions.lua")),
            close_session: script(&about_sessions, include_str!("scripts/close_session.lua")),
            retire_session: script(&about_sessions, include_str!("scripts/retire_session.lua")),
            end_session: script(&about_sessions, include_str!("scripts/end_session.lua")),
            batches: BatchScripts::new(constants),
        }
    }

    /// Loads all scripts, in one round trip to each server.
    pub(super) async fn load(&self) -> RedisResult<()> {
        let scripts = [
            &self.enqueue,
            &self.submit,
            &self.pick,
            &self.take,
            &self.finish,
            &self.give_back,
            &self.pass_on,
            &self.retry,
            &self.renew,
            &self.leave,
            &self.restore_lines,
            &self.cancel,
            &self.watch,
            &self.housekeep,
            &self.reconcile,
            &self.look,
            &self.standing,
            &self.stats,
            &self.redrive,
            &self.forget,
            &self.claim_webhooks,
            &self.settle_webhook,
            &self.retry_webhook,
            &self.create_schedule,
            &self.change_schedule,
            &self.fire_schedule,
            &self.publish,
            &self.input,
            &self.take_input,
            &self.enqueue_call,
            &self.take_call,
            &self.finish_call,
            &self.renew_sessions,
            &self.close_session,
            &self.retire_session,
            &self.end_session,
        ];
        let mut pipeline = redis::pipe();
        for script in scripts.into_iter().chain(self.batches.all()) {
            pipeline.add_command(script.load()).ignore();
        }
        self.client.run_everywhere::<()>(&pipeline).await.map(drop)
    }

    /// Queues jobs of one shard, or says of each why not.
    pub(super) async fn enqueue(
        &self,
        jobs: Vec<Step>,
        max_queued: u64,
    ) -> RedisResult<Vec<Refusal>> {
        let call = self.enqueue.call_for(&[max_queued], &jobs);
        self.enqueue.run(&self.client, &call).await
    }

    /// Reads entries of three streams, that of the most urgent priority first, by the shares of their
    /// priorities; as XREADGROUP does. `read` is how many were read before.
    pub(super) async fn pick<T: FromRedisValue>(
        &self,
        streams: &[String],
        worker: &str,
        max: usize,
        read: u64,
    ) -> RedisResult<T> {
        let mut call = self.pick.call(streams);
        call.arg(worker).arg(max).arg(read);
        self.pick.run(&self.client, &call).await
    }

    /// Starts the jobs of entries just read; one answer per entry, in order.
    pub(super) async fn take(&self, take: &Take<'_>) -> RedisResult<Vec<Taken>> {
        let mut keys = vec![take.stream.to_owned()];
        keys.extend(take.entries.iter().map(|entry| keys::record(take.shard, &entry.job)));
        let mut call = self.take.call(&keys);
        call.arg(take.worker).arg(take.room).arg(take.theft.as_deref().unwrap_or_default());
        for entry in take.entries {
            call.arg(&entry.entry).arg(&entry.job);
        }
        self.take.run(&self.client, &call).await
    }

    /// Commits endings of jobs of one shard; 0 for each that is fenced, 2 if its batch runs low.
    pub(super) async fn finish(&self, endings: Vec<Step>) -> RedisResult<Vec<u8>> {
        let call = self.finish.call_for::<u64>(&[], &endings);
        self.finish.run(&self.client, &call).await
    }

    /// Puts a job back, or ends it if it may not come again: with `ending`, or as lost. The delivery
    /// counts if there is an attempt to be told of. False if fenced.
    pub(super) async fn give_back(
        &self,
        held: &Held<'_>,
        ending: Option<&str>,
        attempt: Option<&str>,
    ) -> RedisResult<bool> {
        let mut call = held.call(&self.give_back);
        call.arg(ending.unwrap_or_default())
            .arg(u8::from(attempt.is_some()))
            .arg(attempt.unwrap_or_default());
        let outcome: u8 = self.give_back.run(&self.client, &call).await?;
        Ok(outcome != 0)
    }

    /// Passes a job on to other workers, or ends it if none is left; false if fenced.
    pub(super) async fn pass_on(
        &self,
        held: &Held<'_>,
        ending: &str,
        attempt: &str,
    ) -> RedisResult<bool> {
        let mut call = held.call(&self.pass_on);
        call.arg(ending).arg(attempt);
        let outcome: u8 = self.pass_on.run(&self.client, &call).await?;
        Ok(outcome != 0)
    }

    /// Has a job begin anew after a pause; false if fenced.
    pub(super) async fn retry(
        &self,
        held: &Held<'_>,
        pause_ms: u64,
        attempt: &str,
    ) -> RedisResult<bool> {
        let mut call = held.call(&self.retry);
        call.arg(pause_ms).arg(attempt);
        let outcome: u8 = self.retry.run(&self.client, &call).await?;
        Ok(outcome != 0)
    }

    /// Renews leases of one stream; returns the places, from 1, of those not held any more, and,
    /// negative, of those whose jobs are to be cancelled.
    pub(super) async fn renew(
        &self,
        (shard, stream): (u16, &str),
        worker: &str,
        leases: &[(String, &str, u32)],
    ) -> RedisResult<Vec<i64>> {
        let mut keys = vec![stream.to_owned()];
        keys.extend(leases.iter().map(|(job, ..)| keys::record(shard, job)));
        let mut call = self.renew.call(&keys);
        call.arg(worker);
        for (_, entry, attempt) in leases {
            call.arg(entry).arg(attempt);
        }
        self.renew.run(&self.client, &call).await
    }

    /// Removes a consumer; false if it still holds jobs.
    pub(super) async fn leave(&self, stream: String, consumer: &str) -> RedisResult<bool> {
        let mut call = self.leave.call(&[stream]);
        call.arg(consumer);
        self.leave.run(&self.client, &call).await
    }

    /// Creates what is missing of a placement's lines; false if it is not known any more.
    pub(super) async fn restore_lines(&self, shard: u16, placement: &str) -> RedisResult<bool> {
        let mut call = self.restore_lines.call(&[keys::placements(shard)]);
        call.arg(placement);
        self.restore_lines.run(&self.client, &call).await
    }

    /// Cancels a job: 'cancelled', 'asked', 'finished' or 'unknown'.
    pub(super) async fn cancel(
        &self,
        shard: u16,
        job: &str,
        tenant: &TenantId,
    ) -> RedisResult<String> {
        let mut call =
            self.cancel.call(&[keys::jobs(shard, Priority::Normal), keys::record(shard, job)]);
        call.arg(job).arg(tenant.as_str());
        self.cancel.run(&self.client, &call).await
    }

    /// Adds a gateway to those that hear of a job; its state, or 'unknown'.
    pub(super) async fn watch(
        &self,
        shard: u16,
        job: &str,
        tenant: &TenantId,
        gateway: &str,
        max_gateways: usize,
    ) -> RedisResult<String> {
        let mut call = self.watch.call(&[keys::record(shard, job)]);
        call.arg(tenant.as_str()).arg(gateway).arg(max_gateways);
        self.watch.run(&self.client, &call).await
    }

    /// Does what is due in a shard; the most that was done of one kind, and whether a webhook is to be
    /// told, and a schedule to run.
    pub(super) async fn housekeep(
        &self,
        shard: u16,
        max: usize,
        worker: &str,
        slots: Slots,
        placements: &[&str],
    ) -> RedisResult<(usize, bool, bool, usize)> {
        let mut call = self.housekeep.call(&[
            keys::delayed(shard),
            keys::expiring(shard),
            keys::retained(shard),
            keys::backlogs(shard),
            keys::workers(shard),
            keys::slots(shard),
            keys::webhooks(shard),
            keys::scheduled(shard),
        ]);
        call.arg(max).arg(worker).arg(slots.plain).arg(slots.placed).arg(placements);
        self.housekeep.run(&self.client, &call).await
    }

    /// Looks at about so many jobs of a shard, and returns what was put right there and whose it is.
    pub(super) async fn reconcile(
        &self,
        shard: u16,
        worker: &str,
        jobs: usize,
    ) -> RedisResult<Vec<(String, String)>> {
        let mut call = self.reconcile.call(&[keys::reconciler(shard), keys::tenants(shard)]);
        call.arg(worker).arg(jobs);
        self.reconcile.run(&self.client, &call).await
    }

    /// State and result of a job, each '' if there is none, and whether it was put right.
    pub(super) async fn look(
        &self,
        shard: u16,
        tenant: &TenantId,
        job: &str,
    ) -> RedisResult<(String, String, bool)> {
        let mut call = self.look.call(&[keys::record(shard, job)]);
        call.arg(job).arg(tenant.as_str());
        self.look.run(&self.client, &call).await
    }

    /// Why a job waits, its place, the slots of the workers that read its line, and how long a job takes in microseconds; nothing if
    /// it does not wait.
    pub(super) async fn standing(
        &self,
        shard: u16,
        tenant: &TenantId,
        job: &str,
        max_counted: usize,
    ) -> RedisResult<Option<(String, u64, u64, u64)>> {
        let mut call = self.standing.call(&[keys::record(shard, job)]);
        call.arg(tenant.as_str()).arg(max_counted);
        let standing: redis::Value = self.standing.run(&self.client, &call).await?;
        match &standing {
            redis::Value::Array(fields) if fields.is_empty() => Ok(None),
            _ => Ok(Some(redis::from_redis_value(standing)?)),
        }
    }

    /// How a shard stands, or one tenant of it: the numbers, then for each tenant its name and numbers.
    pub(super) async fn stats(
        &self,
        shard: u16,
        max_tenants: usize,
        tenant: Option<&TenantId>,
    ) -> RedisResult<Vec<redis::Value>> {
        let mut keys: Vec<String> =
            Priority::ALL.iter().map(|priority| keys::jobs(shard, *priority)).collect();
        keys.extend([
            keys::delayed(shard),
            keys::backlogs(shard),
            keys::tenants(shard),
            keys::session_leases(shard),
        ]);
        let mut call = self.stats.call(&keys);
        call.arg(max_tenants).arg(tenant.map_or("", TenantId::as_str));
        self.stats.run(&self.client, &call).await
    }

    /// Puts a dead letter back into the queue; 'alive', 'unknown', or why not, as for a new job.
    pub(super) async fn redrive(
        &self,
        job: &NewJob<'_>,
        keep_ms: u64,
        max_queued: u64,
    ) -> RedisResult<Refusal> {
        let mut call = self.redrive.call(&[keys::record(job.shard, &job.id)]);
        call.arg(job.tenant.as_str()).arg(&job.id).arg(job.payload).arg(keep_ms);
        let quota = &job.quota;
        call.arg(quota.max_active).arg(quota.weight).arg(quota.max_open);
        call.arg(quota.max_open_bytes).arg(max_queued);
        self.redrive.run(&self.client, &call).await
    }

    /// Forgets a dead letter: 'forgotten', 'alive' or 'unknown'.
    pub(super) async fn forget(
        &self,
        shard: u16,
        tenant: &TenantId,
        job: &str,
    ) -> RedisResult<String> {
        let mut call = self.forget.call(&[keys::record(shard, job)]);
        call.arg(tenant.as_str()).arg(job);
        self.forget.run(&self.client, &call).await
    }

    /// Publishes events of a running job; false if fenced.
    pub(super) async fn publish(&self, output: &Output<'_>) -> RedisResult<bool> {
        let Output { shard, job, .. } = output;
        let mut call = self.publish.call(&[keys::record(*shard, job), keys::output(*shard, job)]);
        call.arg(output.worker)
            .arg(output.attempt)
            .arg(job)
            .arg(output.ttl_ms)
            .arg(output.max_kept)
            .arg(output.first)
            .arg(&output.events);
        self.publish.run(&self.client, &call).await
    }

    /// Hands input to a job: 'taken', 'full' or 'over'.
    pub(super) async fn input(&self, new: &NewInput<'_>) -> RedisResult<String> {
        let NewInput { shard, job, .. } = new;
        let mut call = self.input.call(&[keys::record(*shard, job), keys::input(*shard, job)]);
        call.arg(new.tenant.as_str())
            .arg(job)
            .arg(&new.input)
            .arg(&new.name)
            .arg(new.max_waiting)
            .arg(new.ttl_ms);
        self.input.run(&self.client, &call).await
    }

    /// Reads the input that waits for a job, as stream entries.
    pub(super) async fn take_input<T: FromRedisValue>(
        &self,
        shard: u16,
        tenant: &TenantId,
        job: &str,
    ) -> RedisResult<T> {
        let mut call = self.take_input.call(&[keys::record(shard, job), keys::input(shard, job)]);
        call.arg(tenant.as_str());
        self.take_input.run(&self.client, &call).await
    }
}
