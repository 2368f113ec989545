//! Streams, live input and sessions through the queue, on real Docker and real Redis.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod bounds;
mod files;
mod harness;
mod pressure;
mod programs;
mod sessions;
mod streams;
