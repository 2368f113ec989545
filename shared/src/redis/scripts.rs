//! The atomic steps of the queue: one Lua file each, and one typed function each to call it.

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, cmd};

use super::client::Client;
use super::keys;

/// Flags of every script but `enqueue`: a Redis that is out of memory must still let jobs end,
/// since that is what frees memory.
const ALLOW_OOM: &str = "#!lua flags=allow-oom\n";
const FUNCTIONS: &str = include_str!("scripts/functions.lua");

/// Largest ending that travels inside its pub/sub message, in bytes. Redis drops subscribers whose
/// buffer grows too large; larger endings are read from the record instead.
pub(super) const PUBLISH_LIMIT_BYTES: usize = 64 << 10;

struct Script {
    code: String,
    hash: String,
}

impl Script {
    fn new(flags: &str, body: &str) -> Self {
        let code = format!("{flags}{FUNCTIONS}{body}");
        let hash = redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    fn load(&self) -> Cmd {
        let mut command = cmd("SCRIPT");
        command.arg("LOAD").arg(&self.code);
        command
    }

    fn call(&self, keys: &[String]) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&self.hash).arg(keys.len()).arg(keys);
        command
    }

    /// Runs a call; loads the script first if Redis has forgotten it (restart, `SCRIPT FLUSH`).
    async fn run<T: FromRedisValue>(&self, client: &Client, call: &Cmd) -> RedisResult<T> {
        match client.run(call).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                client.run::<String>(&self.load()).await?;
                client.run(call).await
            }
            outcome => outcome,
        }
    }
}

/// All scripts, and what never changes between their calls.
pub(super) struct Scripts {
    client: Client,
    result_ttl_ms: u64,
    max_deliveries: u32,
    enqueue: Script,
    take: Script,
    finish: Script,
    give_back: Script,
    renew: Script,
    leave: Script,
}

/// A job to put into the queue.
pub(super) struct NewJob<'a> {
    pub(super) shard: u16,
    pub(super) id: String,
    pub(super) tenant: &'a str,
    pub(super) payload: &'a str,
    pub(super) reply_to: String,
}

/// A stream entry and the job it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) entry: String,
    pub(super) job: String,
}

/// Entries of one shard to start.
pub(super) struct Take<'a> {
    pub(super) shard: u16,
    pub(super) worker: &'a str,
    pub(super) entries: &'a [Entry],
    /// Most jobs to start; the rest goes back.
    pub(super) room: usize,
    /// Whether the entries were taken from a silent worker.
    pub(super) stolen: bool,
    /// Ending of jobs that were delivered too often.
    pub(super) lost_ending: &'a str,
}

/// What became of one entry: outcome, attempt, microseconds waited, tenant, payload.
pub(super) type Taken = (String, u32, u64, String, Vec<u8>);

/// One delivery of one job, as the scripts name it.
pub(super) struct Held<'a> {
    pub(super) shard: u16,
    pub(super) worker: &'a str,
    pub(super) entry: &'a str,
    pub(super) attempt: u32,
    pub(super) job: String,
}

impl Held<'_> {
    fn keys(&self) -> [String; 2] {
        [keys::jobs(self.shard), keys::record(self.shard, &self.job)]
    }
}

impl Scripts {
    pub(super) fn new(client: Client, result_ttl_ms: u64, max_deliveries: u32) -> Self {
        Self {
            client,
            result_ttl_ms,
            max_deliveries,
            enqueue: Script::new("", include_str!("scripts/enqueue.lua")),
            take: Script::new(ALLOW_OOM, include_str!("scripts/take.lua")),
            finish: Script::new(ALLOW_OOM, include_str!("scripts/finish.lua")),
            give_back: Script::new(ALLOW_OOM, include_str!("scripts/give_back.lua")),
            renew: Script::new(ALLOW_OOM, include_str!("scripts/renew.lua")),
            leave: Script::new(ALLOW_OOM, include_str!("scripts/leave.lua")),
        }
    }

    /// Loads all scripts in one round trip.
    pub(super) async fn load(&self) -> RedisResult<()> {
        let scripts =
            [&self.enqueue, &self.take, &self.finish, &self.give_back, &self.renew, &self.leave];
        let mut pipeline = redis::pipe();
        for script in scripts {
            pipeline.add_command(script.load()).ignore();
        }
        self.client.run_all(&pipeline).await
    }

    /// Queues a job; false if the queue is full.
    pub(super) async fn enqueue(&self, job: &NewJob<'_>, max_queued: u64) -> RedisResult<bool> {
        let mut call =
            self.enqueue.call(&[keys::jobs(job.shard), keys::record(job.shard, &job.id)]);
        call.arg(keys::GROUP)
            .arg(&job.id)
            .arg(job.tenant)
            .arg(job.payload)
            .arg(&job.reply_to)
            .arg(max_queued);
        self.enqueue.run(&self.client, &call).await
    }

    /// Starts the jobs of entries just read; one answer per entry, in order.
    pub(super) async fn take(&self, take: &Take<'_>) -> RedisResult<Vec<Taken>> {
        let mut keys = vec![keys::jobs(take.shard)];
        keys.extend(take.entries.iter().map(|entry| keys::record(take.shard, &entry.job)));
        let mut call = self.take.call(&keys);
        call.arg(keys::GROUP)
            .arg(take.worker)
            .arg(take.room)
            .arg(self.max_deliveries)
            .arg(take.lost_ending)
            .arg(self.result_ttl_ms)
            .arg(keys::REPLY_PREFIX)
            .arg(PUBLISH_LIMIT_BYTES)
            .arg(u8::from(take.stolen));
        for entry in take.entries {
            call.arg(&entry.entry).arg(&entry.job);
        }
        self.take.run(&self.client, &call).await
    }

    /// Commits an ending; false if fenced.
    pub(super) async fn finish(&self, held: &Held<'_>, ending: &str) -> RedisResult<bool> {
        let mut call = self.finish.call(&held.keys());
        call.arg(keys::GROUP)
            .arg(held.worker)
            .arg(held.entry)
            .arg(held.attempt)
            .arg(&held.job)
            .arg(ending)
            .arg(self.result_ttl_ms)
            .arg(keys::REPLY_PREFIX)
            .arg(PUBLISH_LIMIT_BYTES);
        self.finish.run(&self.client, &call).await
    }

    /// Puts a job back; with a failure the delivery counts. False if fenced.
    pub(super) async fn give_back(
        &self,
        held: &Held<'_>,
        failure: Option<&str>,
    ) -> RedisResult<bool> {
        let mut call = self.give_back.call(&held.keys());
        call.arg(keys::GROUP)
            .arg(held.worker)
            .arg(held.entry)
            .arg(held.attempt)
            .arg(&held.job)
            .arg(u8::from(failure.is_some()))
            .arg(self.max_deliveries)
            .arg(failure.unwrap_or_default())
            .arg(self.result_ttl_ms)
            .arg(keys::REPLY_PREFIX)
            .arg(PUBLISH_LIMIT_BYTES);
        let outcome: u8 = self.give_back.run(&self.client, &call).await?;
        Ok(outcome != 0)
    }

    /// Renews leases of one shard; returns the places, from 0, of those not held any more.
    pub(super) async fn renew(
        &self,
        shard: u16,
        worker: &str,
        leases: &[(String, &str, u32)],
    ) -> RedisResult<Vec<usize>> {
        let mut keys = vec![keys::jobs(shard)];
        keys.extend(leases.iter().map(|(job, ..)| keys::record(shard, job)));
        let mut call = self.renew.call(&keys);
        call.arg(keys::GROUP).arg(worker);
        for (_, entry, attempt) in leases {
            call.arg(entry).arg(attempt);
        }
        let lost: Vec<usize> = self.renew.run(&self.client, &call).await?;
        Ok(lost.into_iter().map(|place| place - 1).collect())
    }

    /// Removes a consumer; false if it still holds jobs.
    pub(super) async fn leave(&self, shard: u16, consumer: &str) -> RedisResult<bool> {
        let mut call = self.leave.call(&[keys::jobs(shard)]);
        call.arg(keys::GROUP).arg(consumer);
        self.leave.run(&self.client, &call).await
    }
}
