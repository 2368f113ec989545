//! The sessions that this worker owns. Each is run by a task of its own ([`actor`]); what others have
//! to tell a session goes through the registry here.

mod actor;
mod end;
mod files;
mod opening;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::id::{JobId, SessionId, TenantId};
use shared::redis::{OwnedSession, SessionNews};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use actor::run;

type Key = (TenantId, SessionId);

/// The registry.
pub(crate) struct Sessions {
    held: Arc<Mutex<HashMap<Key, Arc<Handle>>>>,
    max: usize,
}

/// How a session is reached.
pub(crate) struct Handle {
    pub(crate) owned: OwnedSession,
    /// A call may wait, or the end.
    wake: Notify,
    /// The session is not this worker's any more.
    lost: CancellationToken,
    running: Mutex<Option<(JobId, CancellationToken)>>,
}

/// A session's place in the registry, for as long as this value lives.
struct Seat {
    held: Arc<Mutex<HashMap<Key, Arc<Handle>>>>,
    handle: Arc<Handle>,
}

/// Marks a call as running, for as long as this value lives.
struct Running<'a>(&'a Handle);

impl Sessions {
    /// A registry for at most `max` sessions.
    pub(crate) fn new(max: usize) -> Self {
        Self { held: Arc::default(), max }
    }

    /// A place for a session; `None` if all are taken.
    fn seat(&self, owned: &OwnedSession) -> Option<Seat> {
        let mut held = self.lock();
        let key = key_of(owned);
        let former = held.get(&key);
        if former.is_none() && held.len() >= self.max {
            return None;
        }
        if let Some(former) = former {
            // It was given up and opened anew before its task here has noticed.
            former.lost.cancel();
        }
        let handle = Arc::new(Handle {
            owned: owned.clone(),
            wake: Notify::new(),
            lost: CancellationToken::new(),
            running: Mutex::new(None),
        });
        held.insert(key, Arc::clone(&handle));
        Some(Seat { held: Arc::clone(&self.held), handle })
    }

    /// All that are owned now.
    pub(crate) fn current(&self) -> Vec<Arc<Handle>> {
        self.lock().values().cloned().collect()
    }

    /// Calls may wait in a session.
    pub(crate) fn wake(&self, tenant: &TenantId, id: &SessionId) {
        if let Some(handle) = self.lock().get(&(tenant.clone(), id.clone())) {
            handle.wake.notify_one();
        }
    }

    /// Calls may wait in any session.
    pub(crate) fn wake_all(&self) {
        self.lock().values().for_each(|handle| handle.wake.notify_one());
    }

    /// Stops a call, if it runs.
    pub(crate) fn cancel(&self, job: JobId) {
        for handle in self.lock().values() {
            handle.cancel(Some(job));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Handle>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// Passes on what a renewal said.
    pub(crate) fn tell(&self, news: SessionNews) {
        match news {
            SessionNews::Kept => {}
            SessionNews::CallsWait => self.wake.notify_one(),
            SessionNews::CancelRunning => self.cancel(None),
            SessionNews::Close => {
                self.cancel(None);
                self.wake.notify_one();
            }
            SessionNews::Lost => {
                self.lost.cancel();
                self.cancel(None);
            }
        }
    }

    /// The same while a call runs: calls that wait need no wake-up then.
    fn tell_running(&self, news: SessionNews) {
        match news {
            SessionNews::Kept | SessionNews::CallsWait => {}
            SessionNews::CancelRunning | SessionNews::Close => self.cancel(None),
            SessionNews::Lost => self.tell(news),
        }
    }

    /// Stops the running call, if it is this one.
    fn cancel(&self, job: Option<JobId>) {
        if let Some((running, cancel)) = &*self.running()
            && job.is_none_or(|job| job == *running)
        {
            cancel.cancel();
        }
    }

    /// Begins a call that `cancel` stops.
    fn begin(&self, job: JobId, cancel: &CancellationToken) -> Running<'_> {
        *self.running() = Some((job, cancel.clone()));
        Running(self)
    }

    fn running(&self) -> MutexGuard<'_, Option<(JobId, CancellationToken)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.running() = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key_of(&self.handle.owned);
        // Its successor of the same name stays.
        if held.get(&key).is_some_and(|handle| Arc::ptr_eq(handle, &self.handle)) {
            held.remove(&key);
        }
    }
}

fn key_of(owned: &OwnedSession) -> Key {
    (owned.tenant.clone(), owned.id.clone())
}
