//! Shares of what a gateway has little of: turns for large files, streams, memory for bodies. No
//! tenant may take more than half: its slow clients must not keep everybody else waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::id::TenantId;
use shared::{Error, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;
use tokio::time::timeout;

/// All of one kind that a gateway has.
pub(crate) struct Slots {
    all: Arc<Semaphore>,
    count: usize,
    /// How many a tenant may have.
    share: usize,
    /// How long they are waited for; if no time at all, they are there or refused.
    patience: Duration,
    /// What is said when there are none in time.
    refusal: &'static str,
    /// Of the tenants that have some, or wait for one.
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

/// Some of them, until dropped.
pub(crate) struct Slot {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Slots {
    /// So many; at least one.
    pub(crate) fn new(count: usize, patience: Duration, refusal: &'static str) -> Self {
        let count = count.clamp(1, Semaphore::MAX_PERMITS);
        let all = Arc::new(Semaphore::new(count));
        let tenants = Mutex::default();
        Self { all, count, share: count.div_ceil(2), patience, refusal, tenants }
    }

    /// The next one.
    ///
    /// # Errors
    /// `QUEUE_FULL` if there is none in time.
    pub(crate) async fn take(&self, tenant: &TenantId) -> Result<Slot, Error> {
        self.take_many(tenant, 1).await
    }

    /// So many at once; not more than a tenant's share.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub(crate) async fn take_many(&self, tenant: &TenantId, count: u32) -> Result<Slot, Error> {
        let own = self.of(tenant);
        let taking = async {
            let of_tenant = own.acquire_many_owned(count).await;
            let of_all = Arc::clone(&self.all).acquire_many_owned(count).await;
            Slot {
                _of_tenant: of_tenant.expect("the semaphore is never closed"),
                _of_all: of_all.expect("the semaphore is never closed"),
            }
        };
        // Else a task that has used up its turn would be refused what is there.
        timeout(self.patience, unconstrained(taking)).await.map_err(|_| {
            Error::new(ErrorCode::QueueFull, self.refusal).with_retry_after(Duration::from_secs(1))
        })
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.count - self.all.available_permits()
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        // Each permit, and each who waits, holds on to its semaphore.
        tenants.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let fresh = || Arc::new(Semaphore::new(self.share));
        Arc::clone(tenants.entry(tenant.clone()).or_insert_with(fresh))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(count: usize) -> Slots {
        Slots::new(count, Duration::from_millis(10), "all taken")
    }

    #[tokio::test]
    async fn no_tenant_takes_all_turns() {
        let slots = slots(4);
        let (greedy, modest) = (TenantId::new("greedy"), TenantId::new("modest"));
        let held = [slots.take(&greedy).await.unwrap(), slots.take(&greedy).await.unwrap()];
        let refused = slots.take(&greedy).await.err().unwrap();
        assert_eq!(refused.code(), ErrorCode::QueueFull);
        let others = [slots.take(&modest).await.unwrap(), slots.take(&modest).await.unwrap()];
        assert!(slots.take(&TenantId::new("late")).await.is_err(), "there are only four");
        drop(held);
        assert!(slots.take(&TenantId::new("late")).await.is_ok());
        drop(others);
        assert!(slots.take(&greedy).await.is_ok());
        assert_eq!(slots.taken(), 0);
        assert_eq!(slots.tenants.lock().unwrap().len(), 1, "the others are forgotten");
    }

    #[tokio::test]
    async fn what_is_not_waited_for_is_there_at_once_or_refused() {
        let slots = Slots::new(4, Duration::ZERO, "all taken");
        let tenant = TenantId::new("one");
        let both = slots.take_many(&tenant, 2).await.unwrap();
        assert_eq!(slots.take(&tenant).await.err().unwrap().message(), "all taken");
        assert_eq!(slots.taken(), 2);
        drop(both);
        assert!(slots.take_many(&tenant, 2).await.is_ok());
    }

    #[tokio::test]
    async fn a_single_turn_is_a_turn_for_everybody() {
        let slots = slots(0);
        drop(slots.take(&TenantId::new("one")).await.unwrap());
        assert!(slots.take(&TenantId::new("two")).await.is_ok());
    }
}
