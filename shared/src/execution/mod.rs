//! One execution, in its three forms: the request as clients write it, the job as gateway and
//! worker agree on it, and the result as clients read it.

mod batch;
mod call;
mod content;
mod credential_files;
mod egress;
mod forms;
mod job;
mod output;
mod packages;
mod queue;
mod request;
mod result;
mod retry;
mod schedule;
mod validate;

pub use batch::{BaseJob, ItemEnding, ItemResult, JobDelta};
pub use call::{Call, Content, FileEntry, FileReply, NetworkChange};
pub use content::FileContent;
pub use credential_files::credential_files_below;
pub use egress::{BoundSecret, Egress, EgressLimits, EgressPhases, NetworkAction, NetworkLogEntry};
pub use job::{InputFile, Job, Limits, Source};
pub use output::{Event, EventKind, Input, Phase, Stream};
pub use packages::PackageSet;
pub use queue::{Durability, Priority, QueueOptions, Terms, Wish};
pub use request::{
    ExecuteEnvelope, ExecutionOptions, ExecutionRequest, FilterOptions, Network, NetworkChoice,
    PoolStrategy, SecretOption,
};
pub(crate) use result::with_milliseconds;
pub use result::{
    Ending, EndingSummary, ExecutionResult, Failure, Outcome, ResourceUsage, SessionState, Timings,
};
pub use retry::{Attempt, RetryOn, RetryPolicy, backoff};
pub(crate) use retry::{MAX_TAIL_BYTES, tail};
pub use schedule::{Missed, MissedRuns, Overlap, Step, Timetable};
pub use validate::{Admission, MAX_SECRET_BYTES, matches_pattern};
pub(crate) use validate::{
    MIN_CORES, MIN_DISK_BYTES, MIN_MEMORY_BYTES, MIN_PIDS, is_image_reference,
};
