//! The job queue against a real Redis: each test starts one of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod claiming;
mod harness;
mod leases;
mod lifecycle;
mod outages;
