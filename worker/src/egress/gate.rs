//! The gate of one job: its rules, and every connection that went through.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use shared::Error;
use shared::config::NetworkFilter;
use shared::execution::{BoundSecret, Egress};
use shared::net::{AddressRules, Host, HostFilter, Resolver};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::journal::{Journal, Report};
use super::meter::Meter;
use super::secrets::Secrets;
use super::target::Target;
use super::tls::Tls;
use super::tunnel::TunnelStream;
use super::{Outside, proxy};

/// How long nothing may move on a connection: longer than a model thinks about an answer.
const IDLE_LIMIT: Duration = Duration::from_secs(900);

/// Look-ups of names under way at once. A name that nobody answers for holds its own for a while.
const MAX_LOOKUPS: usize = 8;

/// What the connections of one job share.
pub(super) struct Access {
    /// The server's, and the job's own; both must agree.
    filters: RwLock<[HostFilter; 2]>,
    /// Nowhere else, if given.
    places: Option<HashSet<Target>>,
    pub(super) addresses: AddressRules,
    pub(super) resolver: Resolver,
    pub(super) tls: Tls,
    secrets: RwLock<Secrets>,
    pub(super) meter: Arc<Meter>,
    pub(super) journal: Arc<Journal>,
    /// One for each connection that is served.
    turns: Arc<Semaphore>,
    /// All connections of the engine, and those of this gate.
    tasks: TaskTracker,
    own_tasks: TaskTracker,
    token: CancellationToken,
}

impl Access {
    pub(super) fn new(egress: &Egress, outside: &Outside) -> Result<Self, Error> {
        let limits = &egress.limits;
        Ok(Self {
            tasks: outside.tasks.clone(),
            own_tasks: TaskTracker::new(),
            token: outside.token.child_token(),
            filters: RwLock::new([
                HostFilter::compile("network", &egress.server)?,
                HostFilter::compile("networkFilter", &egress.filter)?,
            ]),
            places: None,
            addresses: AddressRules::of_this_machine(egress.private_addresses.clone())?,
            resolver: outside.resolver.share(MAX_LOOKUPS),
            tls: outside.tls.clone(),
            secrets: RwLock::default(),
            meter: Arc::new(Meter::new(limits.max_bytes, limits.max_bytes_per_second)),
            journal: Arc::new(Journal::new(egress.log)),
            turns: Arc::new(Semaphore::new(limits.max_connections.max(1) as usize)),
        })
    }

    pub(super) fn only_to(self, places: HashSet<Target>) -> Self {
        Self { places: Some(places), ..self }
    }

    /// Whether the job may name `host`.
    pub(super) fn allows(&self, host: &Host) -> bool {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.iter().all(|filter| filter.allows(host))
            && self.places.as_ref().is_none_or(|all| all.iter().any(|place| place.host == *host))
    }

    /// Whether it may go to this port, if it may name the host.
    pub(super) fn allows_port(&self, target: &Target) -> bool {
        self.places.as_ref().is_none_or(|places| places.contains(target))
    }

    /// The secrets that wait out here.
    pub(super) fn secrets(&self) -> RwLockReadGuard<'_, Secrets> {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs something until it ends or the gate closes.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let work = self.token.clone().run_until_cancelled_owned(work);
        let work = self.own_tasks.track_future(async move {
            // Cut off by the gate's end, which the tunnels tell the program.
            let _ = work.await;
        });
        self.tasks.spawn(work);
    }
}

/// The gate of one job. Dropped, it breaks off every connection.
pub(crate) struct Gate {
    access: Arc<Access>,
    _closing: DropGuard,
}

impl Gate {
    pub(super) fn new(access: Access) -> Self {
        let closing = access.token.clone().drop_guard();
        Self { access: Arc::new(access), _closing: closing }
    }

    /// Serves a connection, in a task, until it ends, nothing moves on it for too long, or the gate
    /// closes.
    pub(super) fn serve(&self, stream: TunnelStream) {
        let access = Arc::clone(&self.access);
        // Queued here and now: tasks begin in any order, and a program may count on the first of its
        // connections to be the first that is served.
        let mut turn = Box::pin(Arc::clone(&access.turns).acquire_owned());
        let at_once = turn.as_mut().now_or_never();
        self.access.spawn(async move {
            let turn = match at_once {
                Some(turn) => turn,
                None => turn.await,
            };
            // Fails only if somebody closed it, and nobody does.
            let Ok(_turn) = turn else { return };
            let idle = stream.idle(IDLE_LIMIT);
            tokio::select! {
                () = proxy::serve(stream, Arc::clone(&access)) => {}
                () = idle => tracing::debug!("a connection of a program was idle for too long"),
            }
        });
    }

    /// Puts other rules of the job's own in the place of those it has.
    ///
    /// # Errors
    /// If they are not valid, which admission has seen to.
    pub(crate) fn set_filter(&self, filter: &NetworkFilter) -> Result<(), Error> {
        let filter = HostFilter::compile("networkFilter", filter)?;
        let mut filters = self.access.filters.write().unwrap_or_else(PoisonError::into_inner);
        filters[1] = filter;
        Ok(())
    }

    /// Keeps the secrets of a job out here; those of the job before, if it was another call of the
    /// session, are forgotten.
    pub(crate) fn keep_secrets(&self, secrets: &BTreeMap<String, BoundSecret>) {
        let mut held = self.access.secrets.write().unwrap_or_else(PoisonError::into_inner);
        held.replace(secrets);
    }

    /// What the program has in their stead, by the names of its variables.
    pub(crate) fn placeholders(&self) -> BTreeMap<String, String> {
        self.access.secrets().placeholders()
    }

    /// Whether requests are to be told from now on.
    pub(crate) fn set_log(&self, is_wanted: bool) {
        self.access.journal.set_wanted(is_wanted);
    }

    /// What there was since the last report.
    pub(crate) fn report(&self) -> Report {
        let (bytes_in, bytes_out) = self.access.meter.take_since();
        self.access.journal.report(bytes_in, bytes_out)
    }

    /// Breaks off every connection and waits until all are gone; what there was since the last report.
    pub(crate) async fn close(self) -> Report {
        let access = &self.access;
        access.token.cancel();
        access.own_tasks.close();
        access.own_tasks.wait().await;
        self.report()
    }
}
