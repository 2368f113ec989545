//! Configuration: isol8's own file format plus the sections a fleet needs.
//! Each key, and what reads it: `docs/configuration.md`.

mod check;
mod contract;
mod environment;
mod fleet;
mod load;
mod policy;
mod pool_size;
mod schema;
mod seccomp;
mod webhooks;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use contract::{
    Audit, AuditDestination, Auth, Cleanup, Defaults, NetworkFilter, PrebuiltImage, RemoteCode,
    Security,
};
pub use fleet::{Gateway, Redis, Runtimes, Worker};
pub use load::{Loaded, Source, Surroundings};
pub use policy::{Policy, TenantPolicy};
pub use pool_size::PoolSize;
pub use schema::json_schema;
pub use seccomp::{ProfileName, Seccomp};
pub use webhooks::Webhooks;

use crate::execution::PoolStrategy;

/// The whole configuration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Where editors find the schema of this file.
    #[serde(rename = "$schema", skip_serializing)]
    pub schema: Option<String>,
    /// Jobs a worker runs at once.
    pub max_concurrent: usize,
    /// What a request gets when it does not say.
    pub defaults: Defaults,
    /// Host rules of the `filtered` network.
    pub network: NetworkFilter,
    /// Idle sandboxes and sessions.
    pub cleanup: Cleanup,
    /// What happens to a sandbox after a job.
    pub pool_strategy: PoolStrategy,
    /// Warm sandboxes.
    pub pool_size: PoolSize,
    /// System-call filter.
    pub security: Security,
    /// Code by URL.
    pub remote_code: RemoteCode,
    /// Audit log.
    pub audit: Audit,
    /// API keys.
    pub auth: Auth,
    /// Images that `setup` builds besides the base ones.
    pub prebuilt_images: Vec<PrebuiltImage>,
    /// Verbose logs.
    pub debug: bool,
    /// The queue.
    pub redis: Redis,
    /// The HTTP front.
    pub gateway: Gateway,
    /// The worker.
    pub worker: Worker,
    /// Webhooks.
    pub webhooks: Webhooks,
    /// Ceilings for what requests may ask.
    pub policy: Policy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schema: None,
            max_concurrent: 10,
            defaults: Defaults::default(),
            network: NetworkFilter::default(),
            cleanup: Cleanup::default(),
            pool_strategy: PoolStrategy::default(),
            pool_size: PoolSize::default(),
            security: Security::default(),
            remote_code: RemoteCode::default(),
            audit: Audit::default(),
            auth: Auth::default(),
            prebuilt_images: Vec::new(),
            debug: false,
            redis: Redis::default(),
            gateway: Gateway::default(),
            worker: Worker::default(),
            webhooks: Webhooks::default(),
            policy: Policy::default(),
        }
    }
}

#[cfg(test)]
mod tests;
