//! What gateway, worker and command line agree on: identifiers, errors, the execution types of the
//! wire, limits, configuration, and the job queue in Redis.

pub mod audit;
pub mod batch_view;
pub mod config;
pub mod error;
pub mod execution;
pub mod id;
pub mod job_view;
pub mod labels;
pub mod net;
pub mod redis;
pub mod remote_code;
pub mod runtime;
pub mod sealing;
pub mod size;
pub mod timestamp;
pub mod webhook;

pub use error::{Error, ErrorCode, Result};

/// Version reported by `/health`, `--version` and image labels.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Version of what members of a fleet say to each other through Redis. Another one means that they cannot
/// work together; what is only added leaves it as it is.
pub const PROTOCOL: u32 = 1;
