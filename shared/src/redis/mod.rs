//! The job queue in Redis.
