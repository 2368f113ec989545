//! The job queue against a real Redis: each test starts one of its own.

mod claiming;
mod harness;
mod leases;
mod lifecycle;
mod outages;
