//! Packages that jobs ask for: installed once for each set, in a sandbox of their own, kept as a
//! read-only volume, and mounted into the sandboxes of all jobs that ask for the same set. Sets are
//! shared between tenants: a request cannot say where its packages come from, only the operator can.

mod archive;
mod cause;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod install;
mod key;
mod layout;
mod registries;
mod shelf;
mod store;
mod system;
mod way_out;

use std::sync::Arc;
use std::time::Duration;

use shared::audit::SecurityEvent;
use shared::execution::Job;
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::EngineError;
use super::docker::{Docker, DockerError};
use super::fault::JobError;
use super::images::{Catalog, Choice, RegistrySettings, RegistrySource, remove_unfinished};
use super::pool::Pool;
use super::sandbox::Origin;
use crate::egress::Outside;
use install::{Failure, Installer, Wanted};
use key::Key;
pub(super) use layout::{Starts, lead_to, mount};
use registries::Registries;
use shelf::{Found, Kept, Shelf};
use store::Store;
pub use store::is_package_volume;
pub(super) use store::is_there;
pub use system::is_package_image;

/// Installations under way at once: they are bound by network and disk, and share the machine with jobs.
const INSTALLED_AT_ONCE: usize = 2;
/// When what a job still uses is looked at again.
const EVICTION_PERIOD: Duration = Duration::from_secs(5);
/// How often, and how far apart, what a broken off build leaves late is looked for.
const LATE_LOOKS: usize = 5;
const LATE_PAUSE: Duration = Duration::from_millis(200);

/// How packages are installed and kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the machine's registries are read.
    pub registries: RegistrySource,
    /// Hosts of registries that no package manager's settings name.
    pub more_hosts: Vec<String>,
    /// Bytes that all sets may have together. One in use is kept even so.
    pub max_bytes: u64,
    /// Bytes that one set may have.
    pub max_set_bytes: u64,
    /// Longest time of one installation.
    pub limit: Duration,
}

impl Default for Settings {
    /// Nothing can be installed: no registry is known.
    fn default() -> Self {
        Self {
            registries: RegistrySource::new(|_| async { RegistrySettings::default() }),
            more_hosts: Vec::new(),
            max_bytes: 8 << 30,
            max_set_bytes: 1 << 30,
            limit: Duration::from_secs(300),
        }
    }
}

/// Where a job finds its packages.
pub(super) struct Provided {
    /// The image to run in.
    pub(super) image: String,
    /// The volume to mount.
    pub(super) volume: Option<String>,
    /// Keeps it from being evicted.
    kept: Option<Arc<Kept>>,
}

/// The packages of one engine; cheap to clone.
#[derive(Clone)]
pub(super) struct Packages {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Catalog,
    installer: Installer,
    shelf: Shelf,
    pool: Pool,
    max_bytes: u64,
    /// Whether what earlier lives and other workers have installed is on the shelf.
    stock: OnceCell<()>,
    /// There may be more than there is room for.
    crowded: Notify,
    turns: Semaphore,
    tasks: TaskTracker,
    token: CancellationToken,
}

impl Packages {
    pub(super) fn new(
        docker: Docker,
        origin: Origin,
        outside: Outside,
        pool: Pool,
        settings: Settings,
        token: CancellationToken,
    ) -> Self {
        let Settings { registries, more_hosts, max_bytes, max_set_bytes, limit } = settings;
        let installer = Installer {
            store: Store::new(docker.clone(), &origin),
            docker: docker.clone(),
            origin,
            outside,
            registries: Registries::new(registries, more_hosts),
            limit,
            max_bytes: max_set_bytes,
        };
        Self {
            inner: Arc::new(Inner {
                catalog: Catalog::new(docker),
                installer,
                shelf: Shelf::default(),
                pool,
                max_bytes,
                stock: OnceCell::new(),
                crowded: Notify::new(),
                turns: Semaphore::new(INSTALLED_AT_ONCE),
                tasks: TaskTracker::new(),
                token,
            }),
        }
    }

    /// Finds a job's packages: in an image, in a volume, or by having them installed. Waits no longer
    /// than a phase of the job may take. `heard` gets what the installer was refused.
    ///
    /// # Errors
    /// [`JobError::InstallFailed`], [`JobError::InstallTimedOut`], or what this machine lacks.
    pub(super) async fn provide(
        &self,
        job: &Job,
        heard: &mut Vec<SecurityEvent>,
    ) -> Result<Provided, EngineError> {
        let image_id = match self.inner.catalog.choose(job).await? {
            Choice::Complete { image } => return Ok(Provided { image, volume: None, kept: None }),
            Choice::Lacking { image_id } => image_id,
        };
        let limit = Duration::from_millis(job.timeout_ms);
        let kept = match tokio::time::timeout(limit, self.kept(job, &image_id, heard)).await {
            Ok(kept) => kept?,
            Err(_elapsed) => {
                return Err(JobError::InstallTimedOut { timeout_ms: job.timeout_ms }.into());
            }
        };
        Ok(match &*kept {
            Kept::Volume(stored) => Provided {
                image: job.image.clone(),
                volume: Some(stored.volume.clone()),
                kept: Some(kept),
            },
            Kept::Image { tag, .. } => {
                Provided { image: tag.clone(), volume: None, kept: Some(kept) }
            }
        })
    }

    /// Learns which sets there are, and removes what an earlier life of this worker has left unfinished.
    /// Done once; jobs with packages wait for it.
    pub(super) async fn take_stock(&self) -> Result<(), EngineError> {
        let inner = &self.inner;
        let take_stock = || async {
            let Installer { docker, store, origin, .. } = &inner.installer;
            let (volumes, images, ()) = tokio::try_join!(
                store.take_stock(),
                system::take_stock(docker),
                remove_unfinished(docker, &origin.owner),
            )?;
            inner.shelf.add(volumes.into_iter().map(Kept::Volume));
            inner.shelf.add(images);
            inner.tasks.spawn(self.clone().keep());
            inner.crowded.notify_one();
            Ok::<_, EngineError>(())
        };
        inner.stock.get_or_try_init(take_stock).await.copied()
    }

    async fn kept(
        &self,
        job: &Job,
        image_id: &str,
        heard: &mut Vec<SecurityEvent>,
    ) -> Result<Arc<Kept>, EngineError> {
        let inner = &self.inner;
        let (stock, settings) =
            tokio::join!(self.take_stock(), inner.installer.registries.settings(job.runtime),);
        stock?;
        let key = Key::new(job.runtime, image_id, &job.packages, &settings.fingerprint);
        let mut waiting = match inner.shelf.find(&key) {
            Found::Kept(kept) => {
                heard.extend(inner.shelf.hear(&key));
                return Ok(kept);
            }
            Found::Underway(waiting) => waiting,
            Found::Nothing(promise) => {
                let waiting = promise.subscribe();
                let (packages, image) = (job.packages.clone(), job.image.clone());
                let (key, runtime) = (key.clone(), job.runtime);
                let wanted = Wanted { key, runtime, isolation: job.isolation, image, packages };
                let this = self.clone();
                // On its own, as others may wait for it when this job has given up.
                inner.tasks.spawn(async move {
                    promise.keep(Box::pin(this.make(&wanted)).await);
                    this.inner.crowded.notify_one();
                });
                waiting
            }
        };
        let outcome = waiting.wait_for(Option::is_some).await;
        heard.extend(inner.shelf.hear(&key));
        let outcome = outcome.map(|outcome| outcome.clone()).unwrap_or_default();
        match outcome {
            Some(Ok(kept)) => Ok(kept),
            Some(Err(Failure::Packages { exit_code, stderr })) => {
                Err(JobError::InstallFailed { exit_code, stderr }.into())
            }
            Some(Err(Failure::Engine(reason))) => Err(EngineError::Installer { reason }),
            None => Err(EngineError::Installer { reason: "the installer broke off".into() }),
        }
    }

    async fn make(&self, wanted: &Wanted) -> Result<Kept, Failure> {
        let stop = &self.inner.token;
        let stopped = || Failure::Engine("this worker is shutting down".into());
        let Some(Ok(_turn)) = stop.run_until_cancelled(self.inner.turns.acquire()).await else {
            return Err(stopped());
        };
        let started = std::time::Instant::now();
        let installer = &self.inner.installer;
        let mut events = Vec::new();
        let made = match layout::script(wanted.runtime) {
            Some(script) => {
                let installing = Box::pin(installer.install(wanted, script, &mut events));
                let installed = stop.run_until_cancelled(installing).await;
                installed.unwrap_or_else(|| Err(stopped())).map(Kept::Volume)
            }
            // It has more to take away than could be found again.
            None => system::install(installer, wanted, stop).await,
        };
        let took_ms = started.elapsed().as_millis();
        let (runtime, packages) = (wanted.runtime, &wanted.packages);
        for event in &mut events {
            event.details.insert("installing".to_owned(), packages.to_string().into());
        }
        self.inner.shelf.tell(&wanted.key, events);
        match &made {
            Ok(kept) => tracing::info!(
                %runtime, %packages, took_ms, bytes = kept.bytes(), "packages installed"
            ),
            Err(failure) => {
                tracing::info!(%runtime, %packages, took_ms, ?failure, "packages not installed");
            }
        }
        made
    }

    /// Keeps the sets within their room until the token is cancelled.
    async fn keep(self) {
        let Inner { token, crowded, .. } = &*self.inner;
        while token.run_until_cancelled(crowded.notified()).await.is_some() {
            while !self.evict().await {
                if token.run_until_cancelled(tokio::time::sleep(EVICTION_PERIOD)).await.is_none() {
                    return;
                }
            }
        }
    }

    /// Removes what was not used for longest, until all that is left may stay. Sandboxes that only wait
    /// for jobs go with it; what a job uses stays for now, and this says `false`.
    async fn evict(&self) -> bool {
        let Inner { shelf, pool, installer, max_bytes, .. } = &*self.inner;
        let mut is_done = true;
        for kept in shelf.surplus(*max_bytes) {
            let waiting = pool.abandon(|profile| kept.is_in(profile)).await;
            let is_removed = match &*kept {
                Kept::Volume(stored) => installer.store.remove(&stored.volume).await,
                Kept::Image { tag, .. } => system::remove(&installer.docker, tag).await,
            };
            let (key, bytes, sandboxes) = (kept.key().short(), kept.bytes(), waiting.removed);
            if is_removed {
                tracing::info!(key, bytes, sandboxes, "packages removed to make room");
            } else {
                is_done = false;
                shelf.add_again(kept);
            }
        }
        is_done
    }

    /// Forgets a set that turned out to be gone, with the empty volume that the engine made of it.
    pub(super) async fn forget(&self, provided: &Provided) {
        let Some(kept) = &provided.kept else { return };
        self.inner.shelf.forget(kept.key());
        if let Kept::Volume(stored) = &**kept {
            self.inner.pool.abandon(|profile| kept.is_in(profile)).await;
            self.inner.installer.store.remove(&stored.volume).await;
        }
    }

    /// Whether packages are being installed.
    pub(super) fn is_installing(&self) -> bool {
        self.inner.shelf.is_installing()
    }

    /// Ends installations and waits until they are gone.
    pub(super) async fn shutdown(&self) {
        self.inner.token.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Removes what was not finished. Call after [`Packages::shutdown`], when no container is left.
    ///
    /// With `was_installing` it also looks for steps of builds that the engine ends a moment after it
    /// was told to break them off, when nobody hears of them any more.
    pub(super) async fn clear(&self, was_installing: bool) -> Result<(), DockerError> {
        if !self.inner.stock.initialized() {
            return Ok(());
        }
        let Installer { docker, store, origin, .. } = &self.inner.installer;
        store.clear().await?;
        let looks = if was_installing { LATE_LOOKS } else { 0 };
        for _ in 0..looks {
            remove_unfinished(docker, &origin.owner).await?;
            tokio::time::sleep(LATE_PAUSE).await;
        }
        Ok(())
    }
}
