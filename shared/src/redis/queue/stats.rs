//! The fleet in numbers, for people who look at it: one script for each shard, which looks at a bounded
//! number of tenants.

use redis::{Value, from_redis_value_ref};

use super::Queue;
use crate::error::Error;
use crate::id::TenantId;
use crate::redis::client::failure;

/// Tenants of a shard that are looked at.
const MAX_TENANTS: usize = 200;

/// The numbers of the whole fleet. What waits in backlogs is counted of at most 200 tenants of each shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetStats {
    /// Jobs that wait for a worker.
    pub waiting: u64,
    /// Jobs that workers hold.
    pub running: u64,
    /// Jobs that are not to begin yet.
    pub delayed: u64,
    /// Listed jobs that wait for other jobs of their tenants.
    pub backlogged: u64,
    /// How long the oldest of those waits that wait for a worker, in milliseconds.
    pub oldest_wait_ms: Option<u64>,
    /// Sessions.
    pub sessions: u64,
    /// Tenants that have jobs, or had some that are kept.
    pub tenants: u64,
}

/// The numbers of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantStats {
    /// Which.
    pub tenant: TenantId,
    /// Its jobs that stand in line or run, those of them that are counted: listed ones, and all of a tenant
    /// with a limit.
    pub active: u64,
    /// Its listed jobs that wait for these.
    pub backlogged: u64,
    /// Its listed jobs that have not ended.
    pub open: u64,
    /// Bytes of their payloads.
    pub open_bytes: u64,
    /// Its jobs that were given up.
    pub dead_letters: u64,
}

impl Queue {
    /// The whole fleet, and its tenants, those with most open jobs first; at most 400 of a shard.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn stats(&self) -> Result<(FleetStats, Vec<TenantStats>), Error> {
        self.ready().await?;
        let step = |shard| async move { self.stats_of(shard, None).await };
        let (mut all, mut tenants) = (FleetStats::default(), Vec::new());
        for (some, more) in self.each_shard(step).await? {
            all.waiting += some.waiting;
            all.running += some.running;
            all.delayed += some.delayed;
            all.backlogged += some.backlogged;
            all.oldest_wait_ms = all.oldest_wait_ms.max(some.oldest_wait_ms);
            all.sessions += some.sessions;
            all.tenants += some.tenants;
            tenants.extend(more);
        }
        tenants.sort_by(|one, other| {
            let weight = |it: &TenantStats| (it.open.max(it.active), it.dead_letters);
            weight(other).cmp(&weight(one)).then_with(|| one.tenant.cmp(&other.tenant))
        });
        Ok((all, tenants))
    }

    /// One tenant.
    ///
    /// # Errors
    /// As [`stats`](Self::stats).
    pub async fn tenant_stats(&self, tenant: &TenantId) -> Result<TenantStats, Error> {
        self.ready().await?;
        let (_, found) = self.stats_of(self.shard_of(tenant), Some(tenant)).await?;
        found.into_iter().next().ok_or_else(|| failure(unreadable()))
    }

    async fn stats_of(
        &self,
        shard: u16,
        tenant: Option<&TenantId>,
    ) -> Result<(FleetStats, Vec<TenantStats>), Error> {
        let answer = self.inner.scripts.stats(shard, MAX_TENANTS, tenant).await.map_err(failure)?;
        read(&answer).map_err(failure)
    }
}

fn read(answer: &[Value]) -> redis::RedisResult<(FleetStats, Vec<TenantStats>)> {
    let (all, tenants) = answer.split_first().ok_or_else(unreadable)?;
    let (waiting, running, oldest_ms, delayed, backlogged, sessions, count): (
        u64,
        u64,
        i64,
        u64,
        u64,
        u64,
        u64,
    ) = from_redis_value_ref(all)?;
    let all = FleetStats {
        waiting,
        running,
        delayed,
        backlogged,
        oldest_wait_ms: u64::try_from(oldest_ms).ok(),
        sessions,
        tenants: count,
    };
    let tenant = |value: &Value| {
        let (name, numbers): (String, (u64, u64, u64, u64, u64)) = from_redis_value_ref(value)?;
        let (active, backlogged, open, open_bytes, dead_letters) = numbers;
        let tenant = TenantId::new(name);
        Ok(TenantStats { tenant, active, backlogged, open, open_bytes, dead_letters })
    };
    Ok((all, tenants.iter().map(tenant).collect::<redis::RedisResult<Vec<_>>>()?))
}

fn unreadable() -> redis::RedisError {
    (redis::ErrorKind::Parse, "the numbers of a shard cannot be read").into()
}
