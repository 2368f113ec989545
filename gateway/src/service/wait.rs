//! Waiting for a job's ending. Normally a message wakes the waiter; messages can be lost, so every
//! waiter also looks at the stored state now and then. It never hangs: whatever fails, there is an
//! answer that names the job.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use shared::execution::Event;
use shared::id::{JobId, TenantId};
use shared::redis::JobState;
use shared::{Error, ErrorCode};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::mailbox::Mailbox;
use crate::state::Gateway;

/// How long a message alone is waited for before the first look.
const FIRST_LOOK: Duration = Duration::from_millis(1000);
/// Between later looks, at least; up to as much again is added, so waiters do not march in step.
const LOOK_EVERY: Duration = Duration::from_millis(1000);
/// After a new subscription all waiters look; spread over this time.
const RESUBSCRIBED_SPREAD: Duration = Duration::from_millis(200);
/// How long an unreachable queue is put up with, beyond the time in which the job must have ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// What wakes a waiter: the ending itself, or (`None`) word that it is too big for a message.
type Wake = Option<Box<RawValue>>;

/// Everyone who waits for a job, by job. Mostly one; a listed job may have several.
pub(crate) struct Registry {
    waiters: Mutex<HashMap<JobId, Vec<Seat>>>,
    /// Numbers seats.
    seats: AtomicU64,
    /// Counts subscriptions; each one may have missed messages before it.
    subscriptions: watch::Sender<u64>,
    jitter: RandomState,
}

/// One who waits, as the registry knows it.
struct Seat {
    number: u64,
    wake: oneshot::Sender<Wake>,
    /// Where events go, if they are wanted.
    mailbox: Option<Arc<Mailbox>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            waiters: Mutex::default(),
            seats: AtomicU64::default(),
            subscriptions: watch::Sender::new(0),
            jitter: RandomState::new(),
        }
    }
}

impl Registry {
    /// Starts waiting for a job, and for its events if there is a mailbox for them. Dropping the
    /// waiter ends it.
    pub(crate) fn register(self: &Arc<Self>, job: JobId, mailbox: Option<Arc<Mailbox>>) -> Waiter {
        let (sender, wake) = oneshot::channel();
        let subscriptions = self.subscriptions.subscribe();
        let number = self.seats.fetch_add(1, Ordering::Relaxed);
        self.lock().entry(job).or_default().push(Seat { number, wake: sender, mailbox });
        Waiter { registry: Arc::clone(self), job, number, wake, subscriptions }
    }

    /// Wakes whoever waits for `job`. Nobody does if the client left, or if it was answered by a
    /// look at the stored state.
    pub(crate) fn finished(&self, job: JobId, ending: Wake) {
        let mut seats = self.lock().remove(&job).unwrap_or_default();
        let last = seats.pop();
        // A waiter that is being dropped right now needs no answer.
        for seat in seats {
            let _ = seat.wake.send(ending.clone());
        }
        if let Some(seat) = last {
            let _ = seat.wake.send(ending);
        }
    }

    /// Passes an event on to whoever streams `job`.
    pub(crate) fn output(&self, job: JobId, event: Event) {
        for seat in self.lock().get(&job).into_iter().flatten() {
            if let Some(mailbox) = &seat.mailbox {
                mailbox.put(event.clone());
            }
        }
    }

    /// Makes everyone look: messages may have been missed.
    pub(crate) fn resubscribed(&self) {
        self.subscriptions.send_modify(|count| *count += 1);
    }

    /// Tells of new subscriptions.
    pub(crate) fn subscriptions(&self) -> watch::Receiver<u64> {
        self.subscriptions.subscribe()
    }

    /// Some time to wait after a new subscription, so that not all look at once.
    pub(crate) fn resubscribed_pause(&self, job: JobId, turn: u32) -> Duration {
        self.jitter(job, turn, RESUBSCRIBED_SPREAD)
    }

    /// Whether there was a subscription at all.
    pub(crate) fn is_subscribed(&self) -> bool {
        *self.subscriptions.borrow() > 0
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Vec<Seat>>> {
        // Map operations do not panic half-way, so a poisoned map is still a good one.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some time up to `limit`, different for each job and turn.
    fn jitter(&self, job: JobId, turn: u32, limit: Duration) -> Duration {
        let hash = self.jitter.hash_one((job, turn));
        limit.mul_f64(f64::from((hash >> 48) as u16) / f64::from(u16::MAX))
    }
}

/// One who waits.
pub(crate) struct Waiter {
    registry: Arc<Registry>,
    job: JobId,
    number: u64,
    wake: oneshot::Receiver<Wake>,
    subscriptions: watch::Receiver<u64>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiters = self.registry.lock();
        let Some(seats) = waiters.get_mut(&self.job) else { return };
        seats.retain(|seat| seat.number != self.number);
        if seats.is_empty() {
            waiters.remove(&self.job);
        }
    }
}

/// Why a waiter stopped sleeping.
enum Woken {
    Ending(Box<RawValue>),
    Look,
    Closing,
}

/// Waits for the ending of a queued job.
///
/// # Errors
/// `QUEUE_UNAVAILABLE` if the queue is out of reach longer than the job may take, or the gateway
/// closes; `JOB_UNKNOWN` if the queue has lost the job.
pub(crate) async fn wait(
    gateway: &Gateway,
    tenant: &TenantId,
    mut waiter: Waiter,
    timeout_ms: u64,
) -> Result<Box<RawValue>, Error> {
    let job = waiter.job;
    // A call may wait long behind others of its session: only silence counts.
    let mut last_reached = Instant::now();
    let patience = patience(timeout_ms);
    let mut next_look = last_reached + FIRST_LOOK;
    let mut unknown_in_a_row = 0_u32;
    for turn in 0_u32.. {
        match waiter.sleep(gateway, next_look, turn).await {
            Woken::Ending(ending) => return Ok(ending),
            Woken::Closing => return Err(closing(job)),
            Woken::Look => {}
        }
        gateway.metrics.looked();
        let state = gateway.queue.state(tenant, job).await;
        if state.is_ok() {
            last_reached = Instant::now();
        }
        match state {
            Ok(JobState::Finished(ending)) => {
                gateway.metrics.found_by_looking();
                return Ok(ending);
            }
            Ok(JobState::Queued | JobState::Running) => unknown_in_a_row = 0,
            Ok(JobState::Unknown) if unknown_in_a_row > 0 => return Err(lost(job)),
            Ok(JobState::Unknown) => unknown_in_a_row += 1,
            Err(error) if error.code() != ErrorCode::QueueUnavailable => return Err(error),
            Err(error) if last_reached.elapsed() >= patience => {
                return Err(unreachable(job, error));
            }
            Err(_) => {}
        }
        next_look = Instant::now() + LOOK_EVERY + waiter.registry.jitter(job, turn, LOOK_EVERY);
    }
    Err(lost(job))
}

/// How long a job with this time limit is waited for while the queue is out of reach.
pub(crate) fn patience(timeout_ms: u64) -> Duration {
    Duration::from_millis(timeout_ms).saturating_add(PATIENCE)
}

impl Waiter {
    /// Has it look at once: the job may have ended before anybody was told to tell.
    pub(crate) fn look_now(&self) {
        let mut waiters = self.registry.lock();
        let Some(seats) = waiters.get_mut(&self.job) else { return };
        if let Some(index) = seats.iter().position(|seat| seat.number == self.number) {
            let _ = seats.swap_remove(index).wake.send(None);
        }
    }

    /// The job waited for.
    pub(crate) fn job(&self) -> JobId {
        self.job
    }

    /// Sleeps until there is a reason not to.
    async fn sleep(&mut self, gateway: &Gateway, next_look: Instant, turn: u32) -> Woken {
        if self.wake.is_terminated() {
            // The message said "look", and the look did not help: only looking is left.
            return tokio::select! {
                () = gateway.closing.cancelled() => Woken::Closing,
                () = sleep_until(next_look) => Woken::Look,
            };
        }
        tokio::select! {
            biased;
            wake = &mut self.wake => match wake {
                Ok(Some(ending)) => Woken::Ending(ending),
                Ok(None) | Err(_) => Woken::Look,
            },
            () = gateway.closing.cancelled() => Woken::Closing,
            Ok(()) = self.subscriptions.changed() => {
                tokio::time::sleep(self.registry.resubscribed_pause(self.job, turn)).await;
                Woken::Look
            }
            () = sleep_until(next_look) => Woken::Look,
        }
    }
}

fn closing(job: JobId) -> Error {
    Error::new(
        ErrorCode::QueueUnavailable,
        format!(
            "This gateway is shutting down before job {job} ended; the job itself goes on. Send \
             the request again only if running it twice does no harm"
        ),
    )
}

pub(super) fn unreachable(job: JobId, error: Error) -> Error {
    Error::new(
        ErrorCode::QueueUnavailable,
        format!(
            "The queue cannot be reached, so the result of job {job} is not known. The job may \
             have run: send the request again only if running it twice does no harm"
        ),
    )
    .with_source(error)
}

fn lost(job: JobId) -> Error {
    Error::new(
        ErrorCode::JobUnknown,
        format!(
            "Job {job} is no longer known to the queue: its data was lost, or its result has \
             expired. The job may have run: send the request again only if running it twice does \
             no harm"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_message_reaches_the_one_who_waits() {
        let registry = Arc::new(Registry::default());
        let (mut mine, other) = (
            registry.register(JobId::generate(), None),
            registry.register(JobId::generate(), None),
        );
        let mut second = registry.register(mine.job, None);
        registry.finished(mine.job, Some(RawValue::from_string("1".into()).unwrap()));
        assert_eq!((&mut mine.wake).await.unwrap().unwrap().get(), "1");
        assert_eq!((&mut second.wake).await.unwrap().unwrap().get(), "1");
        assert_eq!(registry.waiting(), 1);
        drop((mine, other));
        assert_eq!(registry.waiting(), 0);
    }

    #[test]
    fn messages_for_nobody_are_dropped() {
        let registry = Arc::new(Registry::default());
        registry.finished(JobId::generate(), None);
        let waiter = registry.register(JobId::generate(), None);
        let job = waiter.job;
        drop(waiter);
        registry.finished(job, None);
        assert_eq!(registry.waiting(), 0);
    }

    #[test]
    fn jitter_stays_in_bounds_and_differs() {
        let (registry, job) = (Registry::default(), JobId::generate());
        let limit = Duration::from_secs(1);
        let all: Vec<_> = (0..100).map(|turn| registry.jitter(job, turn, limit)).collect();
        assert!(all.iter().all(|jitter| *jitter <= limit));
        assert!(all.iter().any(|jitter| *jitter != all[0]));
    }
}
