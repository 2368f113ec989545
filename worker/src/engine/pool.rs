//! Warm sandboxes. Fresh ones wait for anybody; once one has run a job it belongs to that tenant
//! and is used again only for it, after a verified reset. Everything here is bounded: containers
//! by a permit each, waiting by the caller's own slot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shared::config::Seccomp;
use shared::execution::PoolStrategy;
use shared::id::TenantId;
use shared::isolation::Isolation;
use shared::redis::Removal;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::EngineError;
use super::demand::Demand;
use super::docker::{Docker, DockerError};
use super::link::LinkError;
use super::sandbox::{Origin, Profile, Sandbox};
use crate::metrics::Metrics;

/// How often idle sandboxes are looked through.
const KEEPER_PERIOD: Duration = Duration::from_secs(1);
/// Sandboxes created at the same time: Docker gets no faster with more, and one that comes back
/// meanwhile serves a waiting job sooner.
const CREATED_AT_ONCE: usize = 2;
/// How long a job waits for a new sandbox before the engine counts as broken: a crowded machine may need
/// many times the usual fraction of a second.
const CREATE_TIMEOUT: Duration = Duration::from_secs(8);
/// The same of sandboxes with a kernel of their own, which usually takes a second or two to start.
const CREATE_KERNEL_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a container's identifier people are shown.
const SHORT_ID: usize = 12;

/// Sizes and habits of a pool.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) strategy: PoolStrategy,
    /// Fresh sandboxes kept ready for each prewarmed profile.
    pub(super) clean: usize,
    /// Most fresh ones kept ready for any profile, however high its demand.
    pub(super) max_fresh: usize,
    /// Most containers alive at once.
    pub(super) max_containers: usize,
    /// How long a sandbox may wait unused.
    pub(super) idle: Duration,
}

/// A sandbox lent to one job. Dropped, it goes back to the pool: to be reset if the job is known to
/// have left it in good order, else to be destroyed.
pub(super) struct Lent {
    sandbox: Option<Sandbox>,
    permit: Option<OwnedSemaphorePermit>,
    /// Whether it was created for this job.
    pub(super) cold: bool,
    /// Whether it is fit to be used again. Not while a job is half-way.
    pub(super) is_healthy: bool,
    pool: Pool,
}

/// The pool; cheap to clone.
#[derive(Clone)]
pub(super) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    docker: Docker,
    origin: Origin,
    settings: Settings,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    containers: Arc<Semaphore>,
    creating: Arc<Semaphore>,
    /// A sandbox came back, or a place became free.
    returned: Notify,
    /// The keeper has something to do.
    wanted: Notify,
    tasks: TaskTracker,
    token: CancellationToken,
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    /// Owner and profile of sandboxes that are being reset and will be idle in a moment.
    recycling: Vec<(TenantId, Profile)>,
    /// Owner and profile of jobs that wait for one of them.
    waiting: Vec<(TenantId, Profile)>,
    demand: HashMap<Profile, Demand>,
}

struct Idle {
    sandbox: Sandbox,
    permit: OwnedSemaphorePermit,
    since: Instant,
}

/// The right to have one more container, and a turn to create it.
struct Place {
    container: OwnedSemaphorePermit,
    creating: OwnedSemaphorePermit,
}

/// What the pool can offer at once.
enum Offer {
    Warm(Idle),
    /// Fresh, but its limits must be changed first.
    Resize(Idle),
    /// One of the tenant's own is being reset: quicker than a new one.
    Wait,
    Create,
}

impl Pool {
    /// A pool that keeps fresh sandboxes of `prewarm` ready.
    pub(super) fn start(
        docker: Docker,
        origin: Origin,
        settings: Settings,
        prewarm: Vec<Profile>,
        metrics: Arc<Metrics>,
        token: CancellationToken,
    ) -> Self {
        let demand =
            prewarm.into_iter().map(|profile| (profile, Demand::new(settings.clean))).collect();
        let pool = Self {
            inner: Arc::new(Inner {
                containers: Arc::new(Semaphore::new(settings.max_containers)),
                creating: Arc::new(Semaphore::new(CREATED_AT_ONCE)),
                docker,
                origin,
                settings,
                metrics,
                state: Mutex::new(State { demand, ..State::default() }),
                returned: Notify::new(),
                wanted: Notify::new(),
                tasks: TaskTracker::new(),
                token,
            }),
        };
        pool.inner.tasks.spawn(pool.clone().keep());
        pool
    }

    /// Lends a sandbox of `profile` to `tenant`: its own, a fresh one, or a new one.
    ///
    /// # Errors
    /// If none is warm and none can be created.
    pub(super) async fn acquire(
        &self,
        tenant: &TenantId,
        profile: &Profile,
    ) -> Result<Lent, EngineError> {
        loop {
            // Listen before looking, or a return in between would go unnoticed.
            let returned = self.inner.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            match self.offer(tenant, profile) {
                Offer::Warm(mut idle) => {
                    if !idle.sandbox.link.is_quiet() {
                        self.inner.metrics.sandbox_died_idle();
                        self.destroy(idle.sandbox, idle.permit);
                        continue;
                    }
                    return Ok(self.lend(idle.sandbox, idle.permit, tenant, false));
                }
                Offer::Resize(Idle { sandbox, permit, .. }) => {
                    let mut held = Held::new(self, sandbox, permit);
                    if held.sandbox().link.is_quiet() && self.resize(held.sandbox(), profile).await
                    {
                        let (sandbox, permit) = held.take();
                        return Ok(self.lend(sandbox, permit, tenant, false));
                    }
                }
                Offer::Wait => {
                    let _waiting = Waiting { pool: self, tenant, profile };
                    returned.await;
                }
                Offer::Create => {
                    let place = tokio::select! {
                        place = self.place() => place,
                        () = returned => continue,
                    };
                    self.state().note_miss(profile, self.inner.settings.max_fresh);
                    let created = self.create(profile.clone(), place).await;
                    self.note_outcome(profile, created.as_ref().err());
                    let (sandbox, permit) = created?;
                    self.inner.metrics.sandbox_created("job");
                    return Ok(self.lend(sandbox, permit, tenant, true));
                }
            }
        }
    }

    /// Creates a sandbox in a task of its own: one that is given up on, because it takes too long
    /// or its job is gone, is still removed when it turns up.
    async fn create(
        &self,
        profile: Profile,
        place: Place,
    ) -> Result<(Sandbox, OwnedSemaphorePermit), EngineError> {
        // The turn ends with the wait, so that an engine that hangs does not hold up its own test.
        let Place { container, creating: _turn } = place;
        let timeout = match profile.isolation {
            Isolation::Container => CREATE_TIMEOUT,
            Isolation::Gvisor | Isolation::Kata => CREATE_KERNEL_TIMEOUT,
        };
        let (sender, receiver) = oneshot::channel();
        let pool = self.clone();
        self.inner.tasks.spawn(async move {
            let Inner { docker, origin, .. } = &*pool.inner;
            let created = Sandbox::create(docker, origin, profile).await;
            let created = created.map(|sandbox| Held::new(&pool, sandbox, container));
            // Nobody may be there to take it, now or when it has arrived: it is removed then.
            drop(sender.send(created));
            pool.inner.returned.notify_waiters();
        });
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(created)) => created.map(Held::take),
            Ok(Err(_)) | Err(_) => Err(LinkError::Silent("being created").into()),
        }
    }

    /// Takes a sandbox back after its job. It is reset and kept, or destroyed, in the background.
    fn release(&self, sandbox: Sandbox, permit: OwnedSemaphorePermit, is_healthy: bool) {
        // A reset proves the memory file systems clean. It can prove nothing of a writable root, nor
        // of what system calls that are usually forbidden leave in the kernel.
        let is_kept = is_healthy
            && sandbox.profile.readonly_root
            && sandbox.profile.seccomp != Seccomp::Unconfined
            && self.inner.settings.strategy == PoolStrategy::Fast
            && !self.inner.token.is_cancelled();
        match sandbox.tenant.clone() {
            Some(tenant) if is_kept => {
                let key = (tenant, sandbox.profile.clone());
                self.state().recycling.push(key.clone());
                let pool = self.clone();
                self.inner.tasks.spawn(async move { pool.recycle(sandbox, permit, key).await });
            }
            _ => self.destroy(sandbox, permit),
        }
    }

    /// Destroys everything that is not lent out and waits for the pool's tasks. Call when no job
    /// runs any more.
    pub(super) async fn shutdown(&self) {
        self.inner.token.cancel();
        self.inner.tasks.close();
        let idle = std::mem::take(&mut self.state().idle);
        for Idle { sandbox, permit, .. } in idle {
            self.destroy(sandbox, permit);
        }
        self.inner.tasks.wait().await;
        // A task that ended meanwhile may have returned one more.
        let late = std::mem::take(&mut self.state().idle);
        for Idle { sandbox, .. } in late {
            self.remove(sandbox).await;
        }
    }

    fn offer(&self, tenant: &TenantId, profile: &Profile) -> Offer {
        let mut state = self.state();
        let own = |idle: &Idle| {
            idle.sandbox.tenant.as_ref() == Some(tenant) && idle.sandbox.profile == *profile
        };
        // The latest returned first: its memory is the warmest, and the oldest may expire.
        if let Some(at) = state.idle.iter().rposition(own) {
            return Offer::Warm(state.idle.remove(at));
        }
        let is_fresh = |idle: &Idle| idle.sandbox.tenant.is_none();
        let exact = |idle: &Idle| is_fresh(idle) && idle.sandbox.profile == *profile;
        let can_be_resized = self.inner.origin.kinds.can_be_resized(profile.isolation);
        let resizable = |idle: &Idle| {
            can_be_resized
                && is_fresh(idle)
                && profile.differs_in_limits_only(&idle.sandbox.profile)
        };
        let key = (tenant.clone(), profile.clone());
        let count = |list: &[(TenantId, Profile)]| list.iter().filter(|item| **item == key).count();
        // A fresh one before the wait: a tenant that is busy gets a second sandbox this way, and
        // need not wait for the cleaning of its first one any more.
        let offer = if let Some(at) = state.idle.iter().rposition(exact) {
            Offer::Warm(state.idle.remove(at))
        } else if count(&state.recycling) > count(&state.waiting) {
            state.waiting.push(key);
            return Offer::Wait;
        } else if let Some(at) = state.idle.iter().rposition(resizable) {
            Offer::Resize(state.idle.remove(at))
        } else {
            Offer::Create
        };
        drop(state);
        self.inner.wanted.notify_one();
        offer
    }

    /// A place for one more container, made by evicting the longest idle one if need be, and a turn
    /// to create it.
    async fn place(&self) -> Place {
        let creating = Arc::clone(&self.inner.creating).acquire_owned();
        let creating = creating.await.expect("the semaphore is never closed");
        let containers = Arc::clone(&self.inner.containers);
        if let Ok(container) = Arc::clone(&containers).try_acquire_owned() {
            return Place { container, creating };
        }
        let oldest = {
            let mut state = self.state();
            (!state.idle.is_empty()).then(|| state.idle.remove(0))
        };
        if let Some(Idle { sandbox, permit, .. }) = oldest {
            self.destroy(sandbox, permit);
        }
        // Free only once the container is gone, so that memory is never over-committed.
        let container = containers.acquire_owned().await.expect("the semaphore is never closed");
        Place { container, creating }
    }

    async fn resize(&self, sandbox: &mut Sandbox, profile: &Profile) -> bool {
        let resized = self
            .inner
            .docker
            .update_limits(&sandbox.id, profile.memory_bytes, profile.cpu_millis, profile.pids)
            .await;
        if let Err(error) = &resized {
            tracing::debug!(%error, "a fresh sandbox could not take other limits");
        }
        sandbox.profile = profile.clone();
        resized.is_ok()
    }

    async fn recycle(
        &self,
        mut sandbox: Sandbox,
        permit: OwnedSemaphorePermit,
        key: (TenantId, Profile),
    ) {
        let outcome = match sandbox.reset().await {
            // One that was created for a job has no interpreter waiting yet.
            Ok(()) if !sandbox.prepared => sandbox.prepare().await,
            outcome => outcome,
        };
        match outcome {
            Ok(()) => {
                self.inner.metrics.sandbox_reset("verified");
                self.put(sandbox, permit, Some(&key));
            }
            Err(error) => {
                self.state().stop_recycling(&key);
                self.inner.metrics.sandbox_reset("failed");
                tracing::warn!(%error, container = %sandbox.id, "destroying a sandbox");
                self.destroy(sandbox, permit);
                self.inner.returned.notify_waiters();
            }
        }
    }

    /// Makes a sandbox available. One that was being reset is so in the same moment: in between, a job
    /// would find neither and have another made.
    fn put(
        &self,
        sandbox: Sandbox,
        permit: OwnedSemaphorePermit,
        recycled: Option<&(TenantId, Profile)>,
    ) {
        let mut state = self.state();
        if let Some(key) = recycled {
            state.stop_recycling(key);
        }
        if self.inner.token.is_cancelled() {
            drop(state);
            self.destroy(sandbox, permit);
        } else {
            state.idle.push(Idle { sandbox, permit, since: Instant::now() });
            drop(state);
        }
        self.inner.returned.notify_waiters();
    }

    fn destroy(&self, sandbox: Sandbox, permit: OwnedSemaphorePermit) {
        let pool = self.clone();
        self.inner.tasks.spawn(async move {
            pool.remove(sandbox).await;
            drop(permit);
            pool.inner.returned.notify_waiters();
        });
    }

    /// Containers that there are, or are being made.
    pub(super) fn containers(&self) -> usize {
        let free = self.inner.containers.available_permits();
        self.inner.settings.max_containers.saturating_sub(free)
    }

    /// Removes idle sandboxes of a tenant, or of all; fresh ones belong to nobody and stay.
    pub(super) async fn clean_up(&self, tenant: Option<&TenantId>) -> Removal {
        self.remove_idle(|sandbox| {
            let owner = sandbox.tenant.as_ref();
            owner.is_some() && (tenant.is_none() || owner == tenant)
        })
        .await
    }

    /// Removes what waits for jobs of some profiles, and keeps nothing ready for them any more.
    pub(super) async fn abandon(&self, is_meant: impl Fn(&Profile) -> bool) -> Removal {
        self.state().demand.retain(|profile, _| !is_meant(profile));
        self.remove_idle(|sandbox| is_meant(&sandbox.profile)).await
    }

    async fn remove_idle(&self, is_meant: impl Fn(&Sandbox) -> bool) -> Removal {
        let idle: Vec<Idle> =
            self.state().idle.extract_if(.., |idle| is_meant(&idle.sandbox)).collect();
        let removed = idle.into_iter().map(|Idle { sandbox, permit, .. }| async move {
            let name = sandbox.id.chars().take(SHORT_ID).collect::<String>();
            let removed = self.try_remove(sandbox).await;
            drop(permit);
            removed.map_err(|error| format!("{name}: {error}"))
        });
        let mut removal = Removal::default();
        join_all(removed).await.into_iter().for_each(|removed| removal.count(removed));
        self.inner.returned.notify_waiters();
        removal
    }

    async fn remove(&self, sandbox: Sandbox) {
        let container = sandbox.id.clone();
        if let Err(error) = self.try_remove(sandbox).await {
            // It still goes away: its link closes here, the runner exits and the engine removes it.
            if self.inner.token.is_cancelled() {
                tracing::debug!(%error, %container, "left a sandbox to the engine");
            } else {
                tracing::warn!(%error, %container, "a sandbox was not removed at once");
            }
        }
    }

    async fn try_remove(&self, sandbox: Sandbox) -> Result<(), DockerError> {
        let removed = self.inner.docker.remove_container(&sandbox.id).await;
        self.inner.metrics.sandbox_destroyed();
        removed
    }

    fn lend(
        &self,
        mut sandbox: Sandbox,
        permit: OwnedSemaphorePermit,
        tenant: &TenantId,
        cold: bool,
    ) -> Lent {
        sandbox.tenant = Some(tenant.clone());
        self.inner.metrics.sandbox_lent(cold);
        let pool = self.clone();
        Lent { sandbox: Some(sandbox), permit: Some(permit), cold, is_healthy: false, pool }
    }

    /// Refills and prunes until the token is cancelled.
    async fn keep(self) {
        loop {
            while let Some((profile, place)) = self.next_missing() {
                self.refill(profile, place).await;
                if self.inner.token.is_cancelled() {
                    return;
                }
            }
            self.prune();
            tokio::select! {
                () = self.inner.token.cancelled() => return,
                () = self.inner.wanted.notified() => {}
                () = tokio::time::sleep(KEEPER_PERIOD) => {}
            }
        }
    }

    /// A profile with too few fresh sandboxes, and a place for one more container.
    fn next_missing(&self) -> Option<(Profile, Place)> {
        // Jobs that wait for a new one come first: this is only done while a turn is free.
        let creating = Arc::clone(&self.inner.creating).try_acquire_owned().ok()?;
        let container = Arc::clone(&self.inner.containers).try_acquire_owned().ok()?;
        let state = self.state();
        let now = Instant::now();
        let profile = state.demand.iter().find_map(|(profile, demand)| {
            let fresh = state
                .idle
                .iter()
                .filter(|idle| idle.sandbox.tenant.is_none() && idle.sandbox.profile == *profile)
                .count();
            (demand.is_due(now) && fresh < demand.wanted()).then(|| profile.clone())
        })?;
        Some((profile, Place { container, creating }))
    }

    async fn refill(&self, profile: Profile, place: Place) {
        let created = async {
            let (mut sandbox, permit) = self.create(profile.clone(), place).await?;
            match sandbox.prepare().await {
                Ok(()) => Ok((sandbox, permit)),
                Err(error) => {
                    self.remove(sandbox).await;
                    Err(error)
                }
            }
        };
        let created = created.await;
        self.note_outcome(&profile, created.as_ref().err());
        if let Ok((sandbox, permit)) = created {
            self.inner.metrics.sandbox_created("ahead");
            self.put(sandbox, permit, None);
        }
    }

    /// Notes whether a sandbox could be made, for when the next one is kept ready. The log hears of it when
    /// it is news, not each time.
    fn note_outcome(&self, profile: &Profile, error: Option<&EngineError>) {
        let mut state = self.state();
        let Some(demand) = state.demand.get_mut(profile) else { return };
        let image = &profile.image;
        match error {
            None if demand.note_success() => {
                tracing::info!(image, "sandboxes can be kept ready again");
            }
            None => {}
            Some(error) => {
                let (is_news, pause) = demand.note_failure(error.to_string(), Instant::now());
                if is_news {
                    let next_s = pause.as_secs();
                    tracing::warn!(
                        %error, image, next_s,
                        "no sandbox could be kept ready; it is tried again, less often each time"
                    );
                }
            }
        }
    }

    /// Destroys what waited too long and forgets demand that has passed.
    fn prune(&self) {
        let mut expired = Vec::new();
        {
            let mut state = self.state();
            let State { idle, demand, .. } = &mut *state;
            let now = Instant::now();
            demand.values_mut().for_each(|demand| demand.fade(now));
            demand.retain(|_, demand| demand.wanted() > 0);
            let mut at = 0;
            while at < idle.len() {
                let is_wanted = idle[at].sandbox.tenant.is_none()
                    && demand.contains_key(&idle[at].sandbox.profile);
                let is_old = now.duration_since(idle[at].since) > self.inner.settings.idle;
                if is_old && !is_wanted {
                    expired.push(idle.remove(at));
                } else {
                    at += 1;
                }
            }
        }
        for Idle { sandbox, permit, .. } in expired {
            self.destroy(sandbox, permit);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can leave the state half-changed: every change is a single push or removal.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note_miss(&mut self, profile: &Profile, max_fresh: usize) {
        let demand = self.demand.entry(profile.clone()).or_insert_with(|| Demand::new(0));
        demand.note_miss(max_fresh);
    }

    fn stop_recycling(&mut self, key: &(TenantId, Profile)) {
        if let Some(at) = self.recycling.iter().position(|item| item == key) {
            self.recycling.swap_remove(at);
        }
    }

    fn stop_waiting(&mut self, tenant: &TenantId, profile: &Profile) {
        if let Some(at) =
            self.waiting.iter().position(|(owner, kind)| owner == tenant && kind == profile)
        {
            self.waiting.swap_remove(at);
        }
    }
}

impl Lent {
    /// The sandbox.
    pub(super) fn sandbox(&mut self) -> &mut Sandbox {
        self.sandbox.as_mut().expect("only drop takes the sandbox out")
    }

    /// Destroys the sandbox; returns when it is gone. Dropped half-way, it goes all the same.
    pub(super) async fn destroy(mut self) {
        let pool = self.pool.clone();
        if let (Some(sandbox), Some(permit)) = (self.sandbox.take(), self.permit.take()) {
            pool.remove(sandbox).await;
            drop(permit);
            pool.inner.returned.notify_waiters();
        }
    }
}

/// A sandbox on its way to whoever wants it. Dropped before it is taken, it is destroyed.
struct Held {
    pool: Pool,
    held: Option<(Sandbox, OwnedSemaphorePermit)>,
}

impl Held {
    fn new(pool: &Pool, sandbox: Sandbox, permit: OwnedSemaphorePermit) -> Self {
        Self { pool: pool.clone(), held: Some((sandbox, permit)) }
    }

    fn sandbox(&mut self) -> &mut Sandbox {
        &mut self.held.as_mut().expect("only take and drop empty it").0
    }

    fn take(mut self) -> (Sandbox, OwnedSemaphorePermit) {
        self.held.take().expect("only take and drop empty it")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((sandbox, permit)) = self.held.take() {
            self.pool.destroy(sandbox, permit);
        }
    }
}

/// Counts as waiting until dropped, also when the job gives up.
struct Waiting<'a> {
    pool: &'a Pool,
    tenant: &'a TenantId,
    profile: &'a Profile,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.state().stop_waiting(self.tenant, self.profile);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(sandbox), Some(permit)) = (self.sandbox.take(), self.permit.take()) {
            self.pool.release(sandbox, permit, self.is_healthy);
        }
    }
}
