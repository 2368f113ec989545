//! The gateway from outside: real HTTP, a real Redis, and a worker that claims and finishes through
//! the queue but runs nothing.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod harness;
mod redis;
mod worker;

mod auth;
mod bodies;
mod endings;
mod outages;
mod shutdown;
