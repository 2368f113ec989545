//! The stateless HTTP front of the fleet: authenticates, admits, enqueues, waits, answers. Any
//! number of gateways share one queue; this crate knows workers only through it.

mod auth;
mod body;
mod connection;
mod error;
mod extract;
mod metrics;
mod observe;
mod request_id;
mod router;
mod routes;
mod server;
mod service;
mod state;

pub use server::run;
pub use shared::Error;

use shared::audit::Audit;
use shared::config::Config;
use shared::redis::Queue;
use tokio::net::TcpListener;

/// What a gateway is made of. Nothing is taken from the environment, so that many can run in one
/// process.
pub struct Options {
    /// Limits, policy, body size and grace period.
    pub config: Config,
    /// Where to accept connections; already bound, so the caller knows the port.
    pub listener: TcpListener,
    /// The queue to put jobs into.
    pub queue: Queue,
    /// The static key; its holder is the master of this server.
    pub master_key: String,
    /// Where executions that are refused here are recorded.
    pub audit: Audit,
    /// Prometheus text of whatever else runs in this process, for `/metrics`.
    pub more_metrics: Option<MoreMetrics>,
}

/// Renders more metrics at each scrape.
pub type MoreMetrics = Box<dyn Fn() -> String + Send + Sync>;
