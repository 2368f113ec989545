//! What gateway, worker and command line agree on: identifiers, errors, the execution types of the
//! wire, limits, configuration, and the job queue in Redis.

pub mod audit;
pub mod config;
pub mod error;
pub mod execution;
pub mod id;
pub mod job_view;
pub mod net;
pub mod redis;
pub mod remote_code;
pub mod runtime;
pub mod size;
pub mod timestamp;
pub mod webhook;

pub use error::{Error, ErrorCode, Result};

/// Version reported by `/health`, `--version` and image labels.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
