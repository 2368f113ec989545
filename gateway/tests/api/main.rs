//! The gateway from outside: real HTTP, a real Redis, and a worker that claims and finishes through
//! the queue but runs nothing.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod harness;
mod keeper;
mod redis;
mod socket;
mod sse;
mod streamer;
mod worker;
mod workers;

mod auth;
mod batches;
mod bodies;
mod cleanup;
mod durability;
mod endings;
mod files;
mod guesses;
mod jobs;
mod keys;
mod outages;
mod placement;
mod policy;
mod schedules;
mod sessions;
mod shutdown;
mod slow;
mod socket_faults;
mod sockets;
mod stats;
mod stream_faults;
mod streams;
mod webhooks;
