//! What the queue hands out and takes in about jobs.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::batch::RunningBatch;
use crate::config::Policy;
use crate::execution::{Call, Failure, Job, Terms};
use crate::id::{JobId, SessionId, TenantId};

/// A job that this worker runs now.
#[derive(Debug)]
pub struct Claimed {
    /// The right to end it, to be renewed well inside `redis.leaseMs`.
    pub lease: Lease,
    /// Whose it is.
    pub tenant: TenantId,
    /// What to run.
    pub job: Job,
    /// Deliveries so far, this one included; 1 is the first.
    pub attempt: u32,
    /// How long it waited since it might have begun, in milliseconds by Redis' clock.
    pub queued_ms: f64,
    /// How long ago it was submitted, however often it was put back since.
    pub age: Duration,
    /// What holds for it, if it outlives its request.
    pub terms: Option<Terms>,
    /// How often its program ended before and began anew.
    pub tries: u32,
    /// Number of its first event: those before were an earlier attempt's.
    pub first_event: u64,
    /// The session that it opens: this worker owns it now.
    pub opens: Option<OwnedSession>,
}

/// A job that this worker holds and cannot read: it is of another version, or the key of its secrets is not
/// here. To be [passed on](super::Queue::pass_on).
#[derive(Debug)]
pub struct Unreadable {
    /// The right to pass it on.
    pub lease: Lease,
    /// What could not be read.
    pub reason: String,
    /// How it ends if nobody can read it.
    pub(super) failure: Box<Failure>,
}

/// A session of which this worker is the owner, as long as it renews it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnedSession {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub id: SessionId,
    pub(super) shard: u16,
    /// The call that opened it, which tells it from a later session of the same name.
    pub(super) opening: JobId,
}

/// A session's call that this worker runs now.
#[derive(Debug)]
pub struct ClaimedCall {
    /// The call, as a job.
    pub id: JobId,
    /// What to do.
    pub call: Call,
    /// How long it waited in the queue, in milliseconds by Redis' clock.
    pub queued_ms: f64,
}

/// What a session's owner is to do next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per call, moved once")]
pub enum NextCall {
    /// Run this.
    Run(ClaimedCall),
    /// Wait to be told.
    Idle,
    /// Remove the sandbox, then [`Queue::end_session`](super::Queue::end_session).
    Close,
    /// Remove the sandbox: the session is somebody else's, or nobody's.
    Lost,
}

/// What a renewal says about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionNews {
    /// Nothing new.
    Kept,
    /// Calls wait and none runs.
    CallsWait,
    /// Its running call is to be stopped.
    CancelRunning,
    /// It is to be closed.
    Close,
    /// It is not this worker's any more.
    Lost,
}

/// A session as its tenant sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its name.
    pub id: SessionId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its runtime's name.
    pub runtime: String,
    /// Whether a call runs or waits.
    pub is_active: bool,
    /// When it was opened, in milliseconds since the epoch by Redis' clock.
    pub created_ms: u64,
    /// When it was last used, likewise.
    pub used_ms: u64,
}

/// What a tenant may have at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// Jobs that wait or run; 0: any number. Listed jobs beyond it wait in the tenant's backlog; 0: beyond
    /// what the fleet can run.
    pub max_active: u32,
    /// Jobs per second, one second's worth at once; 0: any number.
    pub per_second: u32,
    /// Its share of the fleet, where `max_active` does not say it: 1 is everybody's.
    pub weight: f64,
    /// Listed jobs that have not ended.
    pub max_open: u64,
    /// Bytes of their payloads.
    pub max_open_bytes: u64,
    /// Listed jobs, those included that have ended and are kept.
    pub max_kept: u64,
    /// Bytes of what is kept of those.
    pub max_kept_bytes: u64,
}

impl From<&Policy> for Quota {
    /// What a tenant with this policy may have and ask.
    fn from(policy: &Policy) -> Self {
        Self {
            max_active: policy.max_concurrent_jobs,
            per_second: policy.max_requests_per_second,
            weight: policy.weight,
            max_open: policy.max_queued_jobs,
            max_open_bytes: policy.max_queued_bytes,
            max_kept: policy.max_kept_jobs,
            max_kept_bytes: policy.max_kept_bytes,
        }
    }
}

impl Default for Quota {
    /// No limits.
    fn default() -> Self {
        let any = u64::MAX / 2;
        Self {
            max_active: 0,
            per_second: 0,
            weight: 1.0,
            max_open: any,
            max_open_bytes: any,
            max_kept: any,
            max_kept_bytes: any,
        }
    }
}

/// Why a job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// For its time, or for its next try.
    Time,
    /// For other jobs of its tenant: as many stand in line as may.
    Tenant,
    /// For a worker, as many jobs of its priority do before it.
    Worker,
}

/// How a job that waits stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Why it waits.
    pub waits_for: WaitsFor,
    /// Its place among those that wait for the same, from 1; of many it is the place up to which they were
    /// counted. 0 if there is none.
    pub position: u64,
    /// Jobs that the workers can run at once that read where it stands; 0: there is none.
    pub slots: u64,
    /// How long it will wait, if that can be told.
    pub estimate: Option<Duration>,
}

/// How many jobs a worker can run at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Of those that require no labels.
    pub plain: usize,
    /// Of those that require labels which it has.
    pub placed: usize,
}

impl From<usize> for Slots {
    /// Of any.
    fn from(slots: usize) -> Self {
        Self { plain: slots, placed: slots }
    }
}

/// What became of a cancel request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It had not begun and never will.
    Now,
    /// Its worker was told to stop it; it ends in a moment.
    Asked,
    /// It had ended already.
    TooLate,
    /// There is no such job of this tenant, or its result has expired.
    Unknown,
}

/// The right of one worker to end one delivery of one job. A job that is delivered again, even to
/// the same worker, comes with another lease, and the former one is fenced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// Shard and stream that hold the entry.
    pub(super) shard: u16,
    pub(super) stream: Arc<str>,
    /// The stream entry.
    pub(super) entry: String,
    /// Which delivery of it.
    pub(super) attempt: u32,
    /// When it was taken, in milliseconds since the epoch by the worker's clock.
    pub(super) taken_ms: u64,
    /// The batch that the job is an item of.
    pub batch: Option<RunningBatch>,
}

/// What a renewal says about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseNews {
    /// It is not held any more: its job should be stopped, nothing it ends with will count.
    Lost,
    /// It is held, and its job is to be cancelled.
    Cancelled,
}

/// Whether an ending or hand-back counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a fenced worker's result was dropped"]
pub enum Commit {
    /// It is committed.
    Done,
    /// It is committed, and the queue has few items left of the batch that it was one of: see
    /// [`Queue::advance_batch`](super::Queue::advance_batch).
    DoneLow,
    /// The lease was not held any more, or the job is gone: nothing was changed.
    Fenced,
}

/// Why a job is put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GiveBack {
    /// The worker shuts down; the delivery does not count.
    Shutdown,
    /// The worker has no room for what it asks for, another may; the delivery does not count.
    NoRoom,
    /// The platform failed under the job. The delivery counts; if it was the last one allowed, the
    /// job ends with this failure. It is noted among the job's attempts.
    Failed(Failure),
}

/// Where a job stands, by its record.
#[derive(Debug)]
pub enum JobState {
    /// It waits.
    Queued,
    /// A worker has it.
    Running,
    /// It ended; an `Ending` as JSON.
    Finished(Box<RawValue>),
    /// There is no such job of this tenant, or its result has expired.
    Unknown,
}

impl JobState {
    /// Its word on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished(_) => "finished",
            Self::Unknown => "unknown",
        }
    }
}

/// How much there is to do, over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Jobs that wait.
    pub queued: u64,
    /// Jobs that workers hold.
    pub running: u64,
}
