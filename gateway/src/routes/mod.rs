//! One file per resource: parse the request, call the service, shape the reply.

pub(crate) mod batches;
pub(crate) mod cleanup;
pub(crate) mod dead_letters;
pub(crate) mod deliveries;
pub(crate) mod execute;
pub(crate) mod fallback;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod metrics;
mod page;
pub(crate) mod schedules;
pub(crate) mod sessions;
pub(crate) mod stats;
pub(crate) mod stream;
pub(crate) mod workers;
pub(crate) mod ws;

use serde::Serialize;

/// That it is done.
#[derive(Serialize)]
pub(crate) struct Done {
    pub(crate) ok: bool,
}
