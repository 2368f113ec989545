//! One file per command.

pub(crate) mod batch;
pub(crate) mod build;
pub(crate) mod cleanup;
pub(crate) mod completions;
pub(crate) mod config;
mod deliveries;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod gateway;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod list_custom;
pub(crate) mod login;
pub(crate) mod man;
pub(crate) mod run;
pub(crate) mod sbom;
pub(crate) mod schedules;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod setup;
pub(crate) mod top;
pub(crate) mod worker;
pub(crate) mod workers;
