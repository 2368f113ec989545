//! `/v1/stats`: the fleet in numbers for the master, and for a key its own tenant.

use axum::Json;
use axum::extract::{Extension, State as FromState};
use serde::Serialize;
use shared::id::TenantId;
use shared::redis::{FleetStats, TenantStats};

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::NoQuery;
use crate::state::State;

/// Tenants that are told of.
const MAX_TENANTS: usize = 100;

/// The numbers of one moment.
#[derive(Serialize)]
pub(crate) struct Stats {
    /// For the master that names no tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<FleetView>,
    tenants: Vec<TenantView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FleetView {
    waiting: u64,
    running: u64,
    delayed: u64,
    backlogged: u64,
    oldest_wait_ms: Option<u64>,
    sessions: u64,
    tenants: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TenantView {
    tenant_id: TenantId,
    active: u64,
    backlogged: u64,
    open: u64,
    open_bytes: u64,
    dead_letters: u64,
}

impl std::convert::From<FleetStats> for FleetView {
    fn from(stats: FleetStats) -> Self {
        let FleetStats { waiting, running, delayed, backlogged, oldest_wait_ms, sessions, tenants } =
            stats;
        Self { waiting, running, delayed, backlogged, oldest_wait_ms, sessions, tenants }
    }
}

impl std::convert::From<TenantStats> for TenantView {
    fn from(stats: TenantStats) -> Self {
        let TenantStats { tenant, active, backlogged, open, open_bytes, dead_letters } = stats;
        Self { tenant_id: tenant, active, backlogged, open, open_bytes, dead_letters }
    }
}

/// `GET /v1/stats`
pub(crate) async fn stats(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    _: NoQuery,
) -> Result<Json<Stats>, ApiError> {
    if let Some(tenant) = caller.confined_to() {
        let tenants = vec![state.queue.tenant_stats(tenant).await?.into()];
        return Ok(Json(Stats { fleet: None, tenants }));
    }
    let (fleet, tenants) = state.queue.stats().await?;
    let tenants = tenants.into_iter().take(MAX_TENANTS).map(TenantView::from).collect();
    Ok(Json(Stats { fleet: Some(fleet.into()), tenants }))
}
