//! What the queue hands out and takes in about jobs.

use serde_json::value::RawValue;

use crate::execution::{Failure, Job};
use crate::id::{JobId, TenantId};

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
    /// How long it waited in the queue, in milliseconds by Redis' clock.
    pub queued_ms: f64,
}

/// The right of one worker to end one delivery of one job. A job that is delivered again, even to
/// the same worker, comes with another lease, and the former one is fenced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// Shard whose stream holds the entry.
    pub(super) shard: u16,
    /// The stream entry.
    pub(super) entry: String,
    /// Which delivery of it.
    pub(super) attempt: u32,
}

/// Whether an ending or hand-back counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a fenced worker's result was dropped"]
pub enum Commit {
    /// It is committed.
    Done,
    /// The lease was not held any more, or the job is gone: nothing was changed.
    Fenced,
}

/// Why a job is put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GiveBack {
    /// The worker shuts down; the delivery does not count.
    Shutdown,
    /// The platform failed under the job. The delivery counts; if it was the last one allowed, the
    /// job ends with this failure.
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

/// How much there is to do, over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Jobs that wait.
    pub queued: u64,
    /// Jobs that workers hold.
    pub running: u64,
}
