//! The job queue against a real Redis: each test starts one of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod batch_webhooks;
mod batches;
mod claiming;
mod cluster;
mod cluster_due;
mod control;
mod dead_letters;
mod failover;
mod fairness;
mod fitness;
mod harness;
mod leases;
mod lifecycle;
mod listing;
mod lost_answers;
mod lost_sessions;
mod model;
mod nodes;
mod opening;
mod outages;
mod output;
mod placed_series;
mod placement;
mod proxy;
mod quotas;
mod reconciling;
mod roles;
mod schedules;
mod sealed;
mod secured;
mod sessions;
mod transfers;
mod versions;
mod waiting;
mod webhooks;
