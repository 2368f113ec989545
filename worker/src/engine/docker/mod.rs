//! The Docker engine, reduced to what sandboxes need. `bollard` is named in this folder only, so
//! an upgrade of it, or another container engine, is a change to this folder only.

mod containers;
mod exports;
mod images;
mod volumes;

use std::time::Duration;

pub use containers::{Attached, ContainerSpec, Tmpfs};
pub use images::{BuildSpec, ImageInfo};
pub use volumes::VolumeInfo;

/// How long a single call to the engine may take before it counts as unreachable.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A failed call to the Docker engine.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// No engine answered.
    #[error(
        "cannot reach the Docker engine at {address}: is it running, and may this user use it? \
         (`isol8 setup` installs and starts it)"
    )]
    Unreachable {
        /// Where it was expected.
        address: String,
        /// What the client saw.
        #[source]
        source: bollard::errors::Error,
    },
    /// An engine accepts connections but does not answer.
    #[error("the Docker engine did not answer within {} s", waited.as_secs())]
    Silent {
        /// How long it was given.
        waited: Duration,
    },
    /// The image named is not on this engine.
    #[error("image {image} is not present on this Docker engine; run `isol8 setup` or pull it")]
    NoSuchImage {
        /// Its reference.
        image: String,
    },
    /// The engine refused or broke a call.
    #[error("Docker could not {action}: {reason}")]
    Call {
        /// What was attempted.
        action: String,
        /// What the engine said. Told above, so it is not the error's source: that would be told once more.
        reason: bollard::errors::Error,
    },
    /// A registry did not answer.
    #[error("the registry of image {image} did not answer within {} s", waited.as_secs())]
    Pull {
        /// Its reference.
        image: String,
        /// How long it was given.
        waited: Duration,
    },
    /// An image build stopped.
    #[error("building image {image} failed: {detail}")]
    Build {
        /// Its tag.
        image: String,
        /// The last output of the build.
        detail: String,
    },
    /// An image build took too long.
    #[error("building image {image} took longer than {} s", limit.as_secs())]
    BuildTimedOut {
        /// Its tag.
        image: String,
        /// How long it was given.
        limit: Duration,
    },
    /// An image build was broken off.
    #[error("building image {image} was broken off")]
    BuildStopped {
        /// Its tag.
        image: String,
    },
}

/// What the engine offers, read once at start.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// Server version, for the log and `doctor`.
    pub version: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// Whether the kernel and engine can apply seccomp profiles.
    pub has_seccomp: bool,
    /// Whether memory and processes can be limited: a rootless engine may not be able to.
    pub has_limits: bool,
    /// Names of the OCI runtimes that can be asked for.
    pub runtimes: Vec<String>,
    /// Which of them is used unless one is asked for.
    pub default_runtime: String,
    /// Version of the API that is spoken with it.
    pub api_version: String,
    /// How it stores images, such as `overlay2`.
    pub storage_driver: String,
    /// Where it stores them, on its own machine.
    pub root_directory: String,
}

/// A handle on one engine; cheap to clone.
#[derive(Clone, Debug)]
pub struct Docker {
    client: bollard::Docker,
    address: String,
}

impl Docker {
    /// Connects to the engine named by `DOCKER_HOST`, else to the local socket, and agrees on an
    /// API version with it.
    ///
    /// # Errors
    /// [`DockerError::Unreachable`] if nothing answers.
    pub async fn connect() -> Result<Self, DockerError> {
        let address =
            std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
        let unreachable = |source| DockerError::Unreachable { address: address.clone(), source };
        let client = bollard::Docker::connect_with_defaults().map_err(unreachable)?;
        // The engine may be older than the client library; an unversioned or too new path is
        // refused by some of them.
        let client =
            client.with_timeout(CALL_TIMEOUT).negotiate_version().await.map_err(unreachable)?;
        Ok(Self { client, address })
    }

    /// Asks the engine whether it is alive.
    ///
    /// # Errors
    /// [`DockerError::Unreachable`] if it does not answer.
    pub async fn ping(&self) -> Result<(), DockerError> {
        self.client
            .ping()
            .await
            .map_err(|source| DockerError::Unreachable { address: self.address.clone(), source })?;
        Ok(())
    }

    /// Reads what the engine offers.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine does not say.
    pub async fn info(&self) -> Result<EngineInfo, DockerError> {
        let info = self.client.info().await.map_err(|source| call("describe itself", source))?;
        let security = info.security_options.unwrap_or_default();
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            cgroup_version: info
                .cgroup_version
                .map(|version| version.to_string())
                .unwrap_or_default(),
            has_seccomp: security.iter().any(|option| option.contains("seccomp")),
            has_limits: info.memory_limit.unwrap_or(false) && info.pids_limit.unwrap_or(false),
            runtimes: info.runtimes.unwrap_or_default().into_keys().collect(),
            default_runtime: info.default_runtime.unwrap_or_default(),
            api_version: self.client.client_version().to_string(),
            storage_driver: info.driver.unwrap_or_default(),
            root_directory: info.docker_root_dir.unwrap_or_default(),
        })
    }
}

/// Wraps a library error with what was being attempted.
fn call(action: impl Into<String>, source: bollard::errors::Error) -> DockerError {
    DockerError::Call { action: action.into(), reason: source }
}

/// Whether the engine answered that the thing is not there.
fn is_not_found(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })
}
