//! The queue as gateway and worker use it: connecting, and what both sides need. Submitting,
//! claiming, leases and replies have files of their own.

mod batch;
mod claim;
mod cleanup;
mod consumer;
mod control;
mod dead_letter;
mod durability;
mod groups;
mod job;
mod lanes;
mod lease;
mod output;
mod placement;
mod record;
mod replies;
mod rhythm;
mod schedule;
mod seal;
mod session;
mod stats;
mod submit;
mod webhook;
mod workers;

use std::cmp::Ordering;
use std::sync::Arc;

use chrono::Utc;
use futures_util::future::join_all;
use redis::{RedisResult, cmd, pipe};
use serde::Serialize;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

pub use batch::{
    BatchCache, BatchLimits, BatchPage, BatchProgress, BatchRecord, BatchResult, BatchTerms,
    BatchUpload, Results, RunningBatch, Sealed,
};
pub use cleanup::{Cleaned, CleanupOrder, Removal};
pub use consumer::Consumer;
pub use control::{Orders, WorkerOrder};
pub use job::{
    Cancelled, Claimed, ClaimedCall, Commit, Depth, GiveBack, JobState, Lease, LeaseNews, NextCall,
    OwnedSession, Quota, SessionInfo, SessionNews, Slots, Standing, Unreadable, WaitsFor,
};
pub use output::{Publication, Taking};
pub use placement::Placements;
pub use record::{Due, JobFilter, JobRecord, Page};
pub use replies::{Replies, Reply};
pub use schedule::{
    DueSchedule, Fired, Schedule, ScheduleFacts, ScheduleOrder, SchedulePage, ScheduleRun,
};
pub use stats::{FleetStats, TenantStats};
pub use submit::{Accepted, Listing, Once, Submission, ToSession};
pub use webhook::{ClaimedWebhook, Delivery, DeliveryAttempt, DeliveryLog, DeliveryState};
pub use workers::WorkerFacts;

use groups::Groups;

use super::api_keys::ApiKeys;
use super::client::{Client, failure, is_group_missing};
use super::facts::{Finding, Verdict, examine_over};
use super::keys;
use super::scripts::{Constants, Scripts};
use crate::config;
use crate::error::{Error, ErrorCode};
use crate::execution::{Ending, Failure, Priority};
use crate::id::TenantId;
use crate::{PROTOCOL, VERSION};

/// What the callers of a lost session are told.
const SESSION_LOST: &str = "The session is lost: its worker is gone, and its variables, files and \
                            processes with it. A new session can be opened under the same id.";

/// The queue of the fleet. Clones share one connection.
///
/// Every call ends within some seconds: a Redis that cannot be reached is a
/// [`ErrorCode::QueueUnavailable`], and reconnecting goes on in the background.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    scripts: Arc<Scripts>,
    sealing: seal::Sealing,
    config: config::Redis,
    ready: OnceCell<()>,
    fleet: rhythm::Fleet,
    confirmations: durability::Confirmations,
    /// Of each shard.
    groups: Vec<Groups>,
    /// What goes on in the background: steps of several callers, and what is said about transfers that were
    /// dropped.
    background: TaskTracker,
}

impl Queue {
    /// The queue of a configuration, without touching the network: a gateway can answer requests
    /// before its Redis is there. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] if the address is missing or malformed, or a key of secrets is.
    pub fn open(config: &config::Redis) -> Result<Self, Error> {
        let client = Client::open(config)?;
        let shards = config.shard_count();
        let ending = |code, words: &str| serialize(&Ending::Error(Failure::new(code, words)));
        let constants = Constants {
            result_ttl_ms: config.result_ttl_ms,
            dead_letter_ttl_ms: config.dead_letter_ttl_ms,
            max_deliveries: config.max_deliveries,
            lease_ms: config.lease_ms,
            worker_lost: ending(
                ErrorCode::WorkerLost,
                "The job was given up: no worker that took it lived to end it, and it may not be \
                 started once more.",
            )?,
            session_lost: ending(ErrorCode::SessionLost, SESSION_LOST)?,
            cancelled: ending(ErrorCode::Cancelled, "The job was cancelled")?,
            expired: ending(
                ErrorCode::Expired,
                "The job did not begin within queue.expiresMs of its submission",
            )?,
            may_migrate: client.cluster().is_some(),
        };
        let scripts = Arc::new(Scripts::new(client.clone(), &constants));
        let background = TaskTracker::new();
        let groups = (0..shards)
            .map(|shard| Groups::new(&scripts, &background, shard, config.max_queued))
            .collect();
        let servers = if client.cluster().is_some() { shards } else { 1 };
        let inner = Inner {
            client,
            scripts,
            sealing: seal::Sealing::new(config)?,
            config: config::Redis { shards, ..config.clone() },
            ready: OnceCell::new(),
            fleet: rhythm::Fleet::default(),
            confirmations: durability::Confirmations::new(servers),
            groups,
            background,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens the queue and makes it [`ready`](Self::ready).
    ///
    /// # Errors
    /// As `open` and `ready`.
    pub async fn connect(config: &config::Redis) -> Result<Self, Error> {
        let queue = Self::open(config)?;
        queue.ready().await?;
        Ok(queue)
    }

    /// Checks that the server can hold a queue, loads the scripts, creates the consumer groups, and
    /// checks that the fleet speaks as we do and `redis.shards` is what it uses; the first to come decides. Done once; until it has succeeded, every call that
    /// puts jobs in or takes them out tries it first.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] if the number of shards or the protocol is wrong, or the server too old or set
    /// to throw jobs away when it is full; [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn ready(&self) -> Result<(), Error> {
        let set_up = || async {
            self.check_server().await?;
            self.inner.scripts.load().await.map_err(failure)?;
            self.prepare().await?;
            Ok(())
        };
        self.inner.ready.get_or_try_init(set_up).await.copied()
    }

    /// Asks Redis for an answer.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if there is none.
    pub async fn ping(&self) -> Result<(), Error> {
        self.inner.client.ping().await.map_err(failure)
    }

    /// The API keys, over the same connections.
    #[must_use]
    pub fn api_keys(&self) -> ApiKeys {
        ApiKeys::new(self.inner.client.clone())
    }

    /// Waits, some seconds at most, until what goes on in the background has ended, such as telling the other
    /// sides of dropped transfers: for the end of a process.
    pub async fn quiesce(&self) {
        self.inner.background.close();
        self.inner.background.wait().await;
    }

    /// How many jobs wait and run, over all shards.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn depth(&self) -> Result<Depth, Error> {
        match self.measure().await {
            Err(error) if is_group_missing(&error) => {
                self.prepare().await?;
                self.measure().await.map_err(failure)
            }
            outcome => outcome.map_err(failure),
        }
    }

    async fn measure(&self) -> RedisResult<Depth> {
        let mut pipeline = pipe();
        for stream in self.streams().await? {
            pipeline.cmd("XLEN").arg(&stream);
            pipeline.cmd("XPENDING").arg(&stream).arg(keys::GROUP);
        }
        // XPENDING's summary: count, first, last, count per consumer.
        type Pending = (u64, Option<String>, Option<String>, Option<Vec<(String, String)>>);
        let answers: Vec<redis::Value> = self.inner.client.run_all(&pipeline).await?;
        let mut depth = Depth::default();
        for pair in answers.chunks_exact(2) {
            let length: u64 = redis::from_redis_value_ref(&pair[0])?;
            let (running, ..): Pending = redis::from_redis_value_ref(&pair[1])?;
            depth.running += running;
            depth.queued += length.saturating_sub(running);
        }
        Ok(depth)
    }

    /// Writes down what the fleet must agree on and creates the consumer groups, where they are missing.
    async fn prepare(&self) -> Result<(), Error> {
        let ours = self.inner.config.shards;
        let mut agree = pipe();
        agree.cmd("HSETNX").arg(keys::FLEET).arg("protocol").arg(PROTOCOL).ignore();
        agree.cmd("HGET").arg(keys::FLEET).arg("protocol");
        let (protocol,): (u32,) = self.inner.client.run_all(&agree).await.map_err(failure)?;
        check_protocol(protocol)?;
        let mut agree = pipe();
        agree.cmd("HSETNX").arg(keys::FLEET).arg("shards").arg(ours).ignore();
        agree.cmd("HGET").arg(keys::FLEET).arg("shards");
        let (theirs,): (u16,) = self.inner.client.run_all(&agree).await.map_err(failure)?;
        if theirs != ours {
            return Err(Error::invalid(format!(
                "redis.shards is {ours} here, but this Redis was set up with {theirs}. Tenants' \
                 jobs would be looked for in the wrong place. Set redis.shards to {theirs}, or use \
                 an empty Redis."
            )));
        }
        let step = |shard| async move {
            for priority in Priority::ALL {
                self.create_group(shard, priority).await.map_err(failure)?;
            }
            Ok(())
        };
        self.each_shard(step).await.map(drop)
    }

    /// Creates the group from the start of the stream: what was queued before it counts too.
    async fn create_group(&self, shard: u16, priority: Priority) -> RedisResult<()> {
        let mut create = cmd("XGROUP");
        let stream = keys::jobs(shard, priority);
        create.arg("CREATE").arg(stream).arg(keys::GROUP).arg("0").arg("MKSTREAM");
        match self.inner.client.run::<()>(&create).await {
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
            outcome => outcome,
        }
    }

    /// Refuses a Redis that cannot hold a queue, and says what might lose jobs in one that can.
    async fn check_server(&self) -> Result<(), Error> {
        for Finding { topic, found, verdict } in examine_over(&self.inner.client).await? {
            match verdict {
                Verdict::Fine => {}
                Verdict::Warning(remedy) | Verdict::Ailing(remedy) => {
                    tracing::warn!(found, remedy, "{topic}");
                }
                Verdict::Unfit(remedy) => {
                    return Err(Error::invalid(format!(
                        "This Redis cannot hold the queue ({topic}: {found}). To mend it, {remedy}."
                    )));
                }
            }
        }
        Ok(())
    }

    pub(super) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(super) fn background(&self) -> &TaskTracker {
        &self.inner.background
    }

    pub(super) fn shard_of(&self, tenant: &TenantId) -> u16 {
        keys::shard_of(tenant, self.inner.config.shards)
    }

    fn groups(&self, shard: u16) -> &Groups {
        &self.inner.groups[usize::from(shard)]
    }

    fn shards(&self) -> std::ops::Range<u16> {
        0..self.inner.config.shards
    }

    /// Takes a step for every shard, side by side. A shard that cannot be reached stops none of the
    /// others; the first error is returned when all are through.
    async fn each_shard<T, F>(&self, step: impl Fn(u16) -> F) -> Result<Vec<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let outcomes = join_all(self.shards().map(step)).await;
        outcomes.into_iter().collect()
    }

    /// The same for what is due: what came of it wherever it could be taken, as one part of a cluster that
    /// is away is to hold up its own tenants alone. An error if there is no shard where it could.
    async fn shards_in_reach<T, F>(&self, step: impl Fn(u16) -> F) -> Result<Vec<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (mut reached, mut failed) = (Vec::new(), None);
        for outcome in join_all(self.shards().map(step)).await {
            match outcome {
                Ok(came) => reached.push(came),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) if reached.is_empty() => return Err(error),
            Some(error) => {
                tracing::warn!(%error, "a part of the queue is away; going on with the others");
            }
            None => {}
        }
        Ok(reached)
    }
}

/// Refuses the queue of a fleet that does not speak as we do.
fn check_protocol(theirs: u32) -> Result<(), Error> {
    let remedy = match theirs.cmp(&PROTOCOL) {
        Ordering::Equal => return Ok(()),
        Ordering::Greater => "Upgrade this member to the version of the others.",
        Ordering::Less => {
            "Let its jobs end and stop its members, then start the new ones on an empty Redis; or use the \
             fleet's own version here."
        }
    };
    Err(Error::invalid(format!(
        "The fleet of this Redis speaks protocol {theirs}, this isol8 ({VERSION}) protocol {PROTOCOL}. {remedy}"
    )))
}

/// Now by this machine's clock, in milliseconds since the epoch.
fn now_ms() -> u64 {
    u64::try_from(Utc::now().timestamp_millis()).unwrap_or_default()
}

/// An ending, or its summary, as it is stored and published.
fn serialize(ending: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(ending).map_err(|error| {
        Error::new(ErrorCode::Internal, "The ending of a job could not be written as JSON.")
            .with_source(error)
    })
}
