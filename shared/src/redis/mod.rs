//! The job queue in Redis: streams carry job identifiers, one record per job holds the truth, and
//! every change of more than one key is one script. Delivery is at least once; exactly one ending
//! of a job is committed.

mod address;
mod api_keys;
mod client;
mod cluster;
mod connection;
mod facts;
mod group_commit;
mod keys;
mod queue;
mod scripts;
mod sentinel;
mod subscription;
mod transfer;

pub use api_keys::{ApiKeys, KeyFacts, KeyHash, KeyId, KeyRecord, PlainKey, Scope};
pub use facts::{Finding, Verdict, examine};
pub use queue::{
    Accepted, BatchCache, BatchLimits, BatchPage, BatchProgress, BatchRecord, BatchResult,
    BatchTerms, BatchUpload, Cancelled, Claimed, ClaimedCall, ClaimedWebhook, Cleaned,
    CleanupOrder, Commit, Consumer, Delivery, DeliveryAttempt, DeliveryLog, DeliveryState, Depth,
    Due, DueSchedule, Fired, FleetStats, GiveBack, JobFilter, JobRecord, JobState, Lease,
    LeaseNews, Listing, NextCall, Once, Orders, OwnedSession, Page, Placements, Publication, Queue,
    Quota, Removal, Replies, Reply, Results, RunningBatch, Schedule, ScheduleFacts, ScheduleOrder,
    SchedulePage, ScheduleRun, Sealed, SessionInfo, SessionNews, Slots, Standing, Submission,
    Taking, TenantStats, ToSession, Unreadable, WaitsFor, WorkerFacts, WorkerOrder,
};
pub use transfer::{Transfer, TransferReceiver, TransferSender};
