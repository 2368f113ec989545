//! Cleaning up: sessions are closed, idle sandboxes removed, and for the master also images that
//! nothing needs. Jobs outside sessions are left alone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{StreamExt as _, iter};
use moka::future::Cache;
use serde::Serialize;
use shared::Error;
use shared::id::{RequestId, TenantId};
use shared::redis::{CleanupOrder, Removal, SessionInfo};

use crate::state::State;

/// Sessions closed at once.
const CLOSED_AT_ONCE: usize = 16;
/// Clean-ups remembered while they run. The time is a safety net: each is forgotten at its end.
const MAX_RUNS: u64 = 1000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1);

/// What was removed. Field order and names are isol8's.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    sessions: Removal,
    containers: Removal,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<Removal>,
}

/// The clean-ups that run now, by whose things they remove (`None`: everybody's) and whether images go
/// too.
pub(crate) struct Cleanups(Cache<(Option<TenantId>, bool), Arc<Report>>);

impl Default for Cleanups {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_RUNS).time_to_live(FORGOTTEN_AFTER).build())
    }
}

/// Cleans up for `tenant`, or for all. Whoever asks while it runs gets the same report.
///
/// # Errors
/// `QUEUE_UNAVAILABLE`.
pub(crate) async fn clean_up(
    state: &State,
    tenant: Option<TenantId>,
    images: bool,
) -> Result<Arc<Report>, Arc<Error>> {
    let run = run(State::clone(state), tenant.clone(), images);
    let asked = (tenant, images);
    let report = state.cleanups.0.try_get_with(asked.clone(), run).await;
    state.cleanups.0.invalidate(&asked).await;
    report
}

async fn run(state: State, tenant: Option<TenantId>, images: bool) -> Result<Arc<Report>, Error> {
    let open = match &tenant {
        Some(tenant) => state.queue.sessions(tenant).await?,
        None => state.queue.all_sessions().await?,
    };
    let mut sessions = Removal::default();
    let closing = open.into_iter().map(|session| close(State::clone(&state), session));
    let mut closed = iter(closing).buffer_unordered(CLOSED_AT_ONCE);
    while let Some(outcome) = closed.next().await {
        sessions.count(outcome);
    }
    let request = RequestId::generate();
    // Images are nobody's in particular.
    let unused_images = images && tenant.is_none();
    let order = CleanupOrder { request, tenant, images: unused_images };
    let cleaned = state.queue.clean_up(&order).await?;
    let images = images.then_some(cleaned.images);
    Ok(Arc::new(Report { sessions, containers: cleaned.containers, images }))
}

async fn close(state: State, session: SessionInfo) -> Result<(), String> {
    let SessionInfo { tenant, id, .. } = session;
    let closed = state.queue.close_session(&tenant, &id).await;
    closed.map(drop).map_err(|error| format!("{id}: {}", error.message()))
}
