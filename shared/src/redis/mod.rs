//! The job queue in Redis: streams carry job identifiers, one record per job holds the truth, and
//! every change of more than one key is one script. Delivery is at least once; exactly one ending
//! of a job is committed.

mod client;
mod keys;
mod queue;
mod scripts;

pub use queue::{
    Claimed, Commit, Consumer, Depth, GiveBack, JobState, Lease, Queue, Replies, Reply,
};
