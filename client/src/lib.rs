//! HTTP client for any isol8-compatible server: what isol8 calls its remote engine. Error texts are
//! those of isol8's own client, so scripts that match on them keep working.

mod batches;
mod client;
mod deliveries;
mod error;
mod execute;
mod files;
mod jobs;
mod keys;
mod schedules;
mod sessions;
mod stats;
mod stream;
mod workers;

pub use batches::{Batch, BatchPage, BatchProgress, BatchQuery, BatchResults};
pub use client::{Client, Health};
pub use deliveries::{Delivery, DeliveryAttempt};
pub use error::ClientError;
pub use execute::{Execution, ExecutionResult};
pub use files::{Directory, Download, FileEntry};
pub use jobs::{Job, JobEvent, JobEventType, JobOutput, JobPage, JobQuery};
pub use keys::{Cleanup, CreatedKey, Key, Login, NewKey, Removed};
pub use schedules::{Schedule, ScheduleOptions, SchedulePage, ScheduleQuery, ScheduleRun};
pub use sessions::{Session, SessionNetwork};
pub use stats::{FleetStats, Stats, TenantStats};
pub use stream::{EventStream, EventType, Input, StreamEvent};
pub use workers::Worker;
