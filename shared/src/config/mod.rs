//! Configuration: isol8's own file format (contract section 3.5) plus the sections a fleet needs.
//! Found in the working directory, then in the home directory; built-in defaults below both.

mod contract;
mod fleet;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format as _, Json, Serialized};
use serde::{Deserialize, Serialize};

pub use contract::{
    Audit, Auth, Cleanup, Defaults, NetworkFilter, PoolSize, PrebuiltImage, RemoteCode, Security,
};
pub use fleet::{Gateway, Policy, Redis, Worker};

use crate::error::Error;
use crate::execution::PoolStrategy;

/// File looked for in the working directory.
pub const PROJECT_FILE: &str = "isol8.config.json";
/// File looked for below the home directory.
pub const HOME_FILE: &str = ".isol8/config.json";

/// The whole configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
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
    /// Ceilings for what requests may ask.
    pub policy: Policy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
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
            policy: Policy::default(),
        }
    }
}

/// A configuration and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The merged values.
    pub config: Config,
    /// The file read, if one was found.
    pub source: Option<PathBuf>,
}

impl Config {
    /// Loads the first of `<directory>/isol8.config.json` and `<home>/.isol8/config.json` over the
    /// defaults.
    ///
    /// # Errors
    /// An invalid-request error that names the file and the field, if it is not valid.
    pub fn load(directory: &Path, home: Option<&Path>) -> Result<Loaded, Error> {
        let candidates =
            [Some(directory.join(PROJECT_FILE)), home.map(|home| home.join(HOME_FILE))];
        let source = candidates.into_iter().flatten().find(|path| path.is_file());
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = &source {
            figment = figment.merge(Json::file_exact(path));
        }
        let config: Self = figment.extract().map_err(|error| {
            Error::invalid(format!("Configuration is not valid: {error}. Mend it and try again."))
        })?;
        config.validate()?;
        Ok(Loaded { config, source })
    }

    /// Refuses values that contradict each other.
    ///
    /// # Errors
    /// An invalid-request error that names the contradiction.
    pub fn validate(&self) -> Result<(), Error> {
        if self.max_concurrent < 1 {
            return Err(Error::invalid("maxConcurrent must be at least 1"));
        }
        if self.redis.renew_ms * 3 > self.redis.lease_ms {
            return Err(Error::invalid(format!(
                "redis.renewMs ({}) must be at most a third of redis.leaseMs ({}), or one missed \
                 renewal loses the lease",
                self.redis.renew_ms, self.redis.lease_ms
            )));
        }
        if self.redis.shards < 1 {
            return Err(Error::invalid("redis.shards must be at least 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &str) -> Result<Loaded, Error> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(PROJECT_FILE), json).unwrap();
        Config::load(directory.path(), None)
    }

    #[test]
    fn a_partial_file_keeps_the_neighbours() {
        let loaded =
            load(r#"{"maxConcurrent":3,"poolSize":5,"defaults":{"memoryLimit":"64m"}}"#).unwrap();
        let config = loaded.config;
        assert_eq!(config.max_concurrent, 3);
        assert_eq!(config.defaults.memory_limit, "64m");
        assert_eq!(config.defaults.timeout_ms, 30_000);
        assert_eq!((config.pool_size.clean, config.pool_size.dirty), (5, 5));
        assert!(loaded.source.is_some());
    }

    #[test]
    fn no_file_means_the_contracts_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let loaded = Config::load(directory.path(), None).unwrap();
        assert!(loaded.source.is_none());
        assert_eq!(loaded.config.max_concurrent, 10);
        assert_eq!(loaded.config.remote_code.blocked_hosts.len(), 10);
    }

    #[test]
    fn contradictions_and_broken_files_are_refused() {
        let contradiction = load(r#"{"redis":{"leaseMs":1000,"renewMs":900}}"#).unwrap_err();
        assert!(contradiction.message().contains("renewMs"));
        assert!(load("{").unwrap_err().message().contains("Configuration is not valid"));
        assert!(load(r#"{"maxConcurrent":0}"#).is_err());
    }
}
