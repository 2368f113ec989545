//! The names of everything the queue keeps in Redis. No other file names a key.
//!
//! All keys of a tenant share the hash tag `{s<n>}`, so that one script may change several of them
//! on a Redis Cluster too.

use std::fmt::Display;

use crate::execution::Priority;
use crate::id::{BatchId, GatewayId, RequestId, SessionId, TenantId, TransferId, WorkerId};

/// Consumer group of every work stream; its consumers are workers, named by their `WorkerId`.
pub(super) const GROUP: &str = "workers";

/// Field of a stream entry that names the job.
pub(super) const ENTRY_JOB: &str = "job";

/// What the whole fleet must agree on.
///
/// Type: hash (`protocol`, `shards`). Owner: whoever connects first. Lifetime: permanent.
pub(super) const FLEET: &str = "v1:fleet";

/// Start of the reply channels' names; scripts append the gateway.
pub(super) const REPLY_PREFIX: &str = "v1:reply:";

/// Where a gateway hears that its jobs ended.
///
/// Type: pub/sub channel. Owner: the gateway. Lifetime: that of its subscription.
pub(super) fn replies(gateway: GatewayId) -> String {
    format!("{REPLY_PREFIX}{gateway}")
}

/// Jobs of a shard and priority that wait or run and require no labels, oldest first; an entry holds the
/// job's identifier alone.
///
/// Type: stream with group [`GROUP`]. Owner: the queue's scripts. Lifetime: permanent; an entry
/// goes when its job ends. Never trimmed by length: that would lose jobs.
pub(super) fn jobs(shard: u16, priority: Priority) -> String {
    line(shard, priority, None)
}

/// The same of jobs that require labels, for each placement.
///
/// Type: stream with group [`GROUP`]. Owner: the queue's scripts. Lifetime: that of the placement in
/// [`placements`].
pub(super) fn line(shard: u16, priority: Priority, placement: Option<&str>) -> String {
    match full_priority(priority, placement) {
        None => format!("v1:{{s{shard}}}:jobs"),
        Some(priority) => format!("v1:{{s{shard}}}:jobs-{priority}"),
    }
}

/// What the record of a job has as its `priority`, and the name of its line too; `None` of a normal job
/// that requires no labels.
pub(super) fn full_priority(priority: Priority, placement: Option<&str>) -> Option<String> {
    match (priority, placement) {
        (Priority::Normal, None) => None,
        (priority, None) => Some(priority.name().to_owned()),
        (priority, Some(placement)) => Some(format!("{}:{placement}", priority.name())),
    }
}

/// The placements there are lines of, by when one was last used, in ms since the epoch.
///
/// Type: sorted set of placements, like `pool=gpu,zone=a`. Owner: the queue's scripts. Lifetime: permanent; a
/// placement goes a minute after the last use, with its lines, if nothing is in them.
pub(super) fn placements(shard: u16) -> String {
    format!("v1:{{s{shard}}}:placements")
}

/// Where workers hear of a new placement.
///
/// Type: pub/sub channel. Owner: whoever makes one. Lifetime: that of the workers' subscriptions.
pub(super) const NEW_PLACEMENTS: &str = "v1:placements";

/// The truth about one job.
///
/// Type: hash (`tenant`, `state`, `payload` until it ends, `reply_to`, `attempt`, `enqueued_us`,
/// `queued_us` (since when it might have begun), `started_us`, `worker`, `theft` (the reclaim that started it), `ended_by`, `result`;
/// `entry` if it is in the stream; `session` and `may_open` of a session's call; where they
/// apply `priority` unless it is normal, and behind a colon its placement, `interactive`, `counted` (it is in `active`), `shown` (output was seen or input given: not
/// to be started again), `cancel` (its worker is to stop it), `unread_by` (workers that could not read it), `input` (the last one given); of a listed
/// job `keep_ms`, `terms`, `due_ms` while it is delayed, `expires_ms`,
/// `batch` and `name` of an item of a batch, `tries` (programs that ended and began anew), `noted` (there are attempts), `first_event` (number of the first event of its last attempt, if there were others), `bytes` of its payload,
/// `backlogged` while it waits for its tenant's other jobs, `dead` (it was given up), `once` (its idempotency key), `webhook` and, when it has ended, `finished_us`,
/// `kept_bytes`, `summary`, `delivery` (how many deliveries to its webhook there were), `delivering` while the last of them
/// is not over, and `deliverer`, the step that handed it to a worker). `reply_to` are the gateways that hear of it, with spaces between. Owner: the queue's
/// scripts. Lifetime: until the job ends, then `redis.resultTtlMs`, or its own `keep_ms`.
pub(super) fn record(shard: u16, job: impl Display) -> String {
    format!("v1:{{s{shard}}}:job:{job}")
}

/// The jobs of a tenant that outlive their request, those that have ended too until they are
/// forgotten.
///
/// Type: sorted set of jobs, all with score 0: their names are in the order of time. Owner: the
/// queue's scripts. Lifetime: permanent; a job goes when its record has gone.
pub(super) fn listed(shard: u16, tenant: &TenantId) -> String {
    format!("v1:{{s{shard}}}:listed:{tenant}")
}

/// Jobs that are not to begin yet, by when they are, in ms since the epoch.
///
/// Type: sorted set of jobs. Owner: the queue's scripts. Lifetime: permanent.
pub(super) fn delayed(shard: u16) -> String {
    format!("v1:{{s{shard}}}:delayed")
}

/// Jobs that have never begun, by when they are not to any more, in ms since the epoch.
///
/// Type: sorted set of jobs. Owner: the queue's scripts. Lifetime: permanent.
pub(super) fn expiring(shard: u16) -> String {
    format!("v1:{{s{shard}}}:expiring")
}

/// How the attempts at a job ended that came to nothing, oldest first.
///
/// Type: list of `Attempt` as JSON. Owner: the queue's scripts. Lifetime: until a listed job ends, then
/// its `keep_ms`; 45 days if it is forgotten.
pub(super) fn attempts(shard: u16, job: impl Display) -> String {
    format!("v1:{{s{shard}}}:attempts:{job}")
}

/// Jobs of a tenant that were given up because workers or sandboxes failed under them.
///
/// Type: sorted set of jobs, all with score 0. Owner: the queue's scripts. Lifetime: permanent; a job
/// goes with its record, or when it is driven again.
pub(super) fn dead(shard: u16, tenant: &TenantId) -> String {
    format!("v1:{{s{shard}}}:dead:{tenant}")
}

/// Tenants that have more listed jobs than may stand in line; of jobs that require labels, behind a colon,
/// with their placement.
///
/// Type: set of `<tenant>` and `<tenant>:<placement>`. Owner: the queue's scripts. Lifetime: permanent.
pub(super) fn backlogs(shard: u16) -> String {
    format!("v1:{{s{shard}}}:backlogs")
}

/// Workers that keep house, by until when they are taken to live, in ms since the epoch.
///
/// Type: sorted set of workers. Owner: the queue's scripts. Lifetime: permanent; a worker goes a lease
/// time after its last sign.
pub(super) fn workers(shard: u16) -> String {
    format!("v1:{{s{shard}}}:workers")
}

/// What a worker tells of itself. Workers belong to the fleet; this is in the first shard, which every
/// fleet has.
///
/// Type: string, JSON. Owner: the worker. Lifetime: a lease time after its last sign.
pub(super) fn worker_facts(worker: WorkerId) -> String {
    format!("v1:{{s0}}:worker:{worker}")
}

/// That a worker is to take no more jobs.
///
/// Type: string, empty. Owner: the gateway through which it was asked for; another one takes it back.
/// Lifetime: the worker's, which renews it, and a day.
pub(super) fn drain(worker: WorkerId) -> String {
    format!("v1:{{s0}}:drain:{worker}")
}

/// How many jobs without labels these workers can run at once.
///
/// Type: hash of workers to numbers, and `total`; the same of a placement in `slots:<placement>`, which goes
/// with it. Owner: the queue's scripts. Lifetime: permanent.
pub(super) fn slots(shard: u16) -> String {
    format!("v1:{{s{shard}}}:slots")
}

/// Tenants that have listed jobs, or jobs that are counted.
///
/// Type: sorted set of tenants, all with score 0. Owner: the queue's scripts. Lifetime: permanent; a tenant
/// goes when it has none any more.
pub(super) fn tenants(shard: u16) -> String {
    format!("v1:{{s{shard}}}:tenants")
}

/// How far the look at all jobs of a shard has come.
///
/// Type: hash (`worker` that does it, `until_ms` when it is another's, `tenant` and `cursor`). Owner: the queue's
/// scripts. Lifetime: a day after the last step.
pub(super) fn reconciler(shard: u16) -> String {
    format!("v1:{{s{shard}}}:reconciler")
}

/// Listed jobs that have ended, by when their records go, in ms since the epoch.
///
/// Type: sorted set of `<tenant>:<job>:<bytes kept>`. Owner: the queue's scripts. Lifetime: permanent.
pub(super) fn retained(shard: u16) -> String {
    format!("v1:{{s{shard}}}:retained")
}

/// Webhooks that are to be told what became of a record, by when that is to be tried; while a worker is at
/// it, by when that must have ended.
///
/// Type: sorted set of records, named behind their shard: `job:<id>`, `batch:<id>`. Owner: the queue's
/// scripts. Lifetime: permanent; a name goes when its webhook was told, or it was given up.
pub(super) fn webhooks(shard: u16) -> String {
    format!("v1:{{s{shard}}}:webhooks")
}

/// A record whose webhook is told, by its name in [`webhooks`].
pub(super) fn notifier(shard: u16, name: &str) -> String {
    format!("v1:{{s{shard}}}:{name}")
}

/// What became of the deliveries to the webhook of a job or a batch.
///
/// Type: hash of the delivery's number to a `DeliveryLog` as JSON. Owner: the queue's scripts. Lifetime: that
/// of the record.
pub(super) fn deliveries(shard: u16, of: impl Display) -> String {
    format!("v1:{{s{shard}}}:deliveries:{of}")
}

/// The truth about one schedule.
///
/// Type: hash (`tenant`, `facts` as JSON, `payload`, `terms` and `webhook` of its jobs, `enabled` unless it is
/// paused, `next_ms` when its next run is due or '', `created_us`, `last_job`). Owner: the queue's scripts.
/// Lifetime: until it is removed, or, once it is over, makes way for another.
pub(super) fn schedule(shard: u16, schedule: impl Display) -> String {
    format!("v1:{{s{shard}}}:schedule:{schedule}")
}

/// What became of the last runs of a schedule, newest first.
///
/// Type: list of `ScheduleRun` as JSON. Owner: the queue's scripts. Lifetime: the schedule's.
pub(super) fn schedule_runs(shard: u16, schedule: impl Display) -> String {
    format!("v1:{{s{shard}}}:runs:{schedule}")
}

/// The schedules of a tenant.
///
/// Type: sorted set of schedules, all with score 0: their names are in the order of time. Owner: the queue's
/// scripts. Lifetime: permanent; a schedule goes with its record.
pub(super) fn schedules(shard: u16, tenant: &TenantId) -> String {
    format!("v1:{{s{shard}}}:schedules:{tenant}")
}

/// Schedules that are to run, by when they are next, in ms since the epoch.
///
/// Type: sorted set of schedules. Owner: the queue's scripts. Lifetime: permanent.
pub(super) fn scheduled(shard: u16) -> String {
    format!("v1:{{s{shard}}}:scheduled")
}

/// The truth about one batch.
///
/// Type: hash (`tenant`, `state`: `uploading`, `running`, `stopping` or `finished`; `items`, `bytes` of those
/// that wait, `base` (the job they are told from) until the last has begun; once it is sealed `terms` and
/// `priority` of its items, `keep_ms`, `budget` of failures, `max_results` (bytes), `once`,
/// `next` item to begin and the `chunk` that has it, `low` (so few open items are to be told of), `checked` (how
/// far they were looked at); of those that ended `ended`, `succeeded`, `failed` and each outcome, `not_begun`,
/// bytes of `results`; `outcome`; `created_us`, `sealed_us`, `finished_us`; `webhook`, and once that is to be told
/// `delivery`, `delivering` and `deliverer` as of a job). Owner: the queue's scripts.
/// Lifetime: until it has ended, then its `keep_ms`; a minute if its upload falls silent.
pub(super) fn batch(shard: u16, batch: BatchId) -> String {
    format!("v1:{{s{shard}}}:batch:{batch}")
}

/// Items of a batch that have not begun.
///
/// Type: hash of the number of the first item of a chunk to the chunk: deflated lines of JSON. Owner: the
/// queue's scripts. Lifetime: until its items have begun, or the batch ends.
pub(super) fn batch_items(shard: u16, batch: BatchId) -> String {
    format!("v1:{{s{shard}}}:batch-items:{batch}")
}

/// How the items of a batch ended, in that order.
///
/// Type: stream; entry `<n+1>-0` holds result n: `i` the item's number, `e` its ending, `n` its name if it has
/// one. Owner: the queue's scripts. Lifetime: that of the batch, or until the result is acknowledged.
pub(super) fn batch_results(shard: u16, batch: BatchId) -> String {
    format!("v1:{{s{shard}}}:batch-results:{batch}")
}

/// The batches of a tenant.
///
/// Type: sorted set of batches, all with score 0. Owner: the queue's scripts. Lifetime: permanent; a batch
/// goes with its record.
pub(super) fn batches(shard: u16, tenant: &TenantId) -> String {
    format!("v1:{{s{shard}}}:batches:{tenant}")
}

/// All batches, by when somebody is to look at them, in ms since the epoch.
///
/// Type: sorted set of `<tenant>:<batch>`. Owner: the queue's scripts. Lifetime: permanent.
pub(super) fn tending(shard: u16) -> String {
    format!("v1:{{s{shard}}}:tending")
}

/// Start of the worker channels' names; scripts append the worker.
pub(super) const WORKER_PREFIX: &str = "v1:worker:";

/// Where a worker hears what concerns it alone.
///
/// Type: pub/sub channel. Owner: the worker. Lifetime: that of its subscription.
pub(super) fn worker(worker: WorkerId) -> String {
    format!("{WORKER_PREFIX}{worker}")
}

/// Where every worker hears what concerns all.
///
/// Type: pub/sub channel. Owner: all workers. Lifetime: that of their subscriptions.
pub(super) const ALL_WORKERS: &str = "v1:workers";

/// Where every worker hears from others which jobs are to stop; the one that runs it stops it. A worker may not
/// speak to another one alone, lest one that was taken over has all others take no more jobs.
///
/// Type: pub/sub channel. Owner: all workers. Lifetime: that of their subscriptions.
pub(super) const STOPS: &str = "v1:stops";

/// Output of a streamed job, for readers that missed a message.
///
/// Type: stream; entry `<n+1>-0` holds event n as `e`. Owner: the job's worker. Lifetime: until the job
/// ends, then `redis.resultTtlMs`; if it is forgotten, its time limit more after the last event.
pub(super) fn output(shard: u16, job: impl Display) -> String {
    format!("v1:{{s{shard}}}:out:{job}")
}

/// Input of an interactive job that its worker has not taken yet.
///
/// Type: stream, field `i`. Owner: the gateway it came through. Lifetime: until the job ends.
pub(super) fn input(shard: u16, job: impl Display) -> String {
    format!("v1:{{s{shard}}}:in:{job}")
}

/// A session's name within its shard. Tenants' names have no colon, so it can be taken apart.
pub(super) fn session_name(tenant: &TenantId, session: &SessionId) -> String {
    format!("{tenant}:{session}")
}

/// The truth about one session.
///
/// Type: hash (`worker` that owns it, '' until one does; `opening`, the call that opened it and
/// tells it from others of the same name; `runtime`; `running` call or ''; `created_us`, `used_us`;
/// `closing`). Of a lost one: `lost` alone, and `told`, the caller who was told. Owner: the queue's
/// scripts. Lifetime: until it is closed or lost; `lost` an hour more, until a caller was told.
pub(super) fn session(shard: u16, name: &str) -> String {
    format!("v1:{{s{shard}}}:session:{name}")
}

/// Calls of a session that wait, first come first served.
///
/// Type: list of jobs. Owner: the queue's scripts. Lifetime: that of the session.
pub(super) fn calls(shard: u16, name: &str) -> String {
    format!("v1:{{s{shard}}}:calls:{name}")
}

/// All sessions, and until when their owners have renewed them, in ms since the epoch; infinite for
/// those that nobody owns yet.
///
/// Type: sorted set of session names. Owner: the queue's scripts. Lifetime: permanent.
pub(super) fn session_leases(shard: u16) -> String {
    format!("v1:{{s{shard}}}:session-leases")
}

/// The sessions of a tenant, by when they were opened.
///
/// Type: sorted set of session ids. Owner: the queue's scripts. Lifetime: permanent.
pub(super) fn sessions(shard: u16, tenant: &TenantId) -> String {
    format!("v1:{{s{shard}}}:sessions:{tenant}")
}

/// Written by gateways that wait until replicas or disks have caught up with it.
///
/// Type: string, empty. Owner: the gateways. Lifetime: a minute after the last use.
pub(super) fn mark(shard: u16) -> String {
    format!("v1:{{s{shard}}}:mark")
}

/// All API keys. Keys belong to the fleet rather than to a tenant's shard, and have a hash tag of
/// their own.
///
/// Type: hash of key id to key hash. Owner: the keys' scripts. Lifetime: permanent; a key goes
/// when it is revoked or expired, at the next clean-up.
pub(super) const API_KEYS: &str = "v1:{keys}:all";

/// What is known of an API key, by its SHA-256 in hex.
///
/// Type: hash (`facts` as JSON, `used_ms`, `revoked`). Owner: the keys' scripts. Lifetime: that of
/// its entry in [`API_KEYS`].
pub(super) fn api_key(hash: impl Display) -> String {
    format!("v1:{{keys}}:key:{hash}")
}

/// What workers have cleaned up.
///
/// Type: list of JSON. Owner: the workers. Lifetime: a minute after the last answer.
pub(super) fn cleanup_answers(request: RequestId) -> String {
    format!("v1:cleanup:{request}")
}

/// Bytes of a file on its way.
///
/// Type: list of chunks. Owner: the sender. Lifetime: that of the transfer; a minute without use.
pub(super) fn transfer_data(shard: u16, transfer: TransferId) -> String {
    format!("v1:{{s{shard}}}:transfer:{transfer}:data")
}

/// What a transfer's receiver has to say to its sender.
///
/// Type: list. Owner: the receiver. Lifetime: that of the transfer; a minute without use.
pub(super) fn transfer_signs(shard: u16, transfer: TransferId) -> String {
    format!("v1:{{s{shard}}}:transfer:{transfer}:signs")
}

// Named by scripts alone (`scripts/functions`), as they depend on what a record says:
// `active:<tenant>`, set of the tenant's jobs that stand in line or run, if they are counted;
// `placed:<tenant>` and `placed:<tenant>:<placement>`, sets of those of them that are listed and require
// labels; `backlog:<tenant>`, `backlog-high:<tenant>`, `backlog-low:<tenant>` and, for each placement apart,
// the same with `:<placement>`, sorted sets of its listed jobs that may not yet, by when they came, in us;
// `usage:<tenant>` and `usage`, hashes (`jobs`, `bytes`) of listed jobs that have not ended, of a tenant
// with its `cap`, `weight`, number of running `batches` and whose `turn` of its backlogs it is (of a placement
// `turn:<placement>`), of the shard with `mean_us`, how long a job takes;
// `batch-open:<batch>`, hash of the jobs of a batch's items that are in the queue to their items' numbers;
// `batched:<tenant>`, hash of what the tenant's batches take up: `bytes` of items, `results`;
// `kept:<tenant>`, string, bytes that are kept of its listed jobs that have ended;
// `once:<tenant>:<key>`, hash (`job`, `request`), what an idempotency key stands for, with the lifetime
// of its job's record; `rate:<tenant>`, string, when the tenant will have used up its rate, in us since the epoch.

/// The shard of a tenant: the same on every machine and in every version, so FNV-1a rather than
/// the standard library's seeded hash.
pub(super) fn shard_of(tenant: &TenantId, shards: u16) -> u16 {
    let hash = tenant.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // FNV's low bits are its weakest; fold the upper half in before taking the remainder.
    let folded = hash ^ (hash >> 32);
    u16::try_from(folded % u64::from(shards.max(1))).expect("a remainder is below its u16 divisor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_a_tenant_never_changes() {
        // Written down once: another value would send queued jobs' owners to other keys.
        assert_eq!(shard_of(&TenantId::new(""), 1000), 945);
        assert_eq!(shard_of(&TenantId::new("acme"), 1000), 196);
    }

    #[test]
    fn tenants_spread_evenly() {
        let mut counts = [0_u32; 8];
        for number in 0..8000 {
            counts[usize::from(shard_of(&TenantId::new(format!("tenant-{number}")), 8))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn keys_of_a_shard_share_its_hash_tag() {
        assert_eq!(jobs(3, Priority::Normal), "v1:{s3}:jobs");
        assert_eq!(jobs(3, Priority::Low), "v1:{s3}:jobs-low");
        assert_eq!(line(3, Priority::Normal, Some("pool=gpu")), "v1:{s3}:jobs-normal:pool=gpu");
        assert_eq!(record(3, "x"), "v1:{s3}:job:x");
    }
}
