//! The way out of sandboxes that have no network: connections that a runner carries come here, the job's
//! rules are applied, and what they allow is dialled. No Redis and no Docker in here.

mod dial;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gate;
mod journal;
mod meter;
mod proxy;
mod refusal;
mod relay;
mod secrets;
mod target;
mod tls;
mod tunnel;
mod unread;

use std::collections::HashSet;

use shared::Error;
use shared::execution::Egress;
use shared::net::Resolver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use gate::Gate;
pub(crate) use journal::{MAX_PATH_CHARACTERS, Report};
pub(crate) use target::Target;
pub(crate) use tunnel::Tunnels;

/// Where programs find their proxy. A constant of isol8's: programs may have it written into them.
pub(crate) const PROXY_PORT: u16 = 8118;

/// The way out of all sandboxes of one engine; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Outside {
    resolver: Resolver,
    tls: tls::Tls,
    /// Every connection that is being served.
    tasks: TaskTracker,
    token: CancellationToken,
}

impl Outside {
    /// The way out where `resolver` knows the hosts.
    pub(crate) fn new(resolver: Resolver) -> Self {
        Self { resolver, ..Self::default() }
    }

    /// Opens a gate for one job.
    ///
    /// # Errors
    /// If its rules are not valid, which admission has seen to, or this machine does not tell its
    /// addresses.
    pub(crate) fn gate(&self, egress: &Egress) -> Result<Gate, Error> {
        Ok(Gate::new(gate::Access::new(egress, self)?))
    }

    /// The same for an installer: only to these places, whatever hosts the rules allow.
    ///
    /// # Errors
    /// As for [`Outside::gate`].
    pub(crate) fn gate_to(&self, places: HashSet<Target>, egress: &Egress) -> Result<Gate, Error> {
        Ok(Gate::new(gate::Access::new(egress, self)?.only_to(places)))
    }

    /// Breaks off every connection; returns when all are gone.
    pub(crate) async fn shutdown(&self) {
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
