//! Why a job could not be run here, and what its caller is told.

use shared::{Error, ErrorCode};

use super::docker::DockerError;
use super::fault::JobError;
use super::link::LinkError;

/// Exit code of whatever ran out of time.
const TIMED_OUT_EXIT_CODE: i32 = 137;

/// Why a job could not be run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Docker failed.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The link to a sandbox failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The runner in a container speaks another protocol.
    #[error("the runner speaks protocol {protocol}, this worker another; run `isol8 setup` again")]
    Incompatible {
        /// What it speaks.
        protocol: u32,
    },
    /// A reset left something behind.
    #[error("the sandbox could not be cleaned: {detail}")]
    Unclean {
        /// What is left.
        detail: String,
    },
    /// Programs in a sandbox could not connect to their way out.
    #[error("the sandbox's way out could not be opened: {detail}")]
    NoWayOut {
        /// The runner's words.
        detail: String,
    },
    /// A job wants a filter of the operator's, and there is none here.
    #[error(
        "this worker has no system-call filter called {name}; set {setting} where it runs, or start it anew if the \
         filter came later"
    )]
    NoProfile {
        /// What it is called.
        name: String,
        /// Where filters of this kind are configured.
        setting: &'static str,
    },
    /// A job wants a kind of isolation that this engine does not have.
    #[error(
        "isolation \"{isolation}\" is not to be had here: this Docker engine has no such runtime, or \
         worker.runtimes.{isolation} is none (`isol8 setup --gvisor` installs gVisor). It is never run with less"
    )]
    NoIsolation {
        /// The kind.
        isolation: &'static str,
    },
    /// The configuration names a runtime that the engine does not have.
    #[error(
        "worker.runtimes.{isolation} is \"{name}\", which this Docker engine does not have; it has: {known}"
    )]
    NoSuchRuntime {
        /// The kind.
        isolation: &'static str,
        /// The runtime's name.
        name: String,
        /// Those there are.
        known: String,
    },
    /// The volume with a job's packages was removed while its sandbox was being made.
    #[error("the packages of the job were removed from the engine's cache in the same moment")]
    PackagesGone,
    /// Packages could not be installed, and not for the job's fault.
    #[error("the packages of the job could not be installed: {reason}")]
    Installer {
        /// What happened.
        reason: String,
    },
    /// The job itself is at fault.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl EngineError {
    /// Exit code of the setup script, if that is what failed.
    #[must_use]
    pub fn setup_exit_code(&self) -> Option<i32> {
        match self {
            Self::Job(JobError::SetupFailed { exit_code, .. }) => Some(*exit_code),
            Self::Job(JobError::SetupTimedOut { .. }) => Some(TIMED_OUT_EXIT_CODE),
            _ => None,
        }
    }
}

/// What Linux says to a path that leads nowhere, and to a file beyond a limit.
const NO_SUCH_FILE: i32 = 2;
const FILE_TOO_LARGE: i32 = 27;

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::Docker(DockerError::NoSuchImage { .. }) => ErrorCode::ImageNotFound,
            EngineError::NoProfile { .. } => ErrorCode::StartFailed,
            EngineError::NoIsolation { .. } => ErrorCode::NoWorker,
            EngineError::Job(job) => match job {
                JobError::SetupFailed { .. } | JobError::SetupTimedOut { .. } => {
                    ErrorCode::SetupFailed
                }
                JobError::InstallFailed { .. } | JobError::InstallTimedOut { .. } => {
                    ErrorCode::InstallFailed
                }
                JobError::SessionPackages { .. } | JobError::SessionIsolation { .. } => {
                    ErrorCode::InvalidRequest
                }
                JobError::FileWrite { .. } => ErrorCode::FileWriteFailed,
                JobError::Workdir { .. }
                | JobError::Exec { .. }
                | JobError::Limits { .. }
                | JobError::NotFetched => ErrorCode::StartFailed,
                JobError::Network(_) | JobError::NoWayOut => ErrorCode::InvalidRequest,
                JobError::TooLong { .. } => ErrorCode::PayloadTooLarge,
                JobError::File { errno: NO_SUCH_FILE, .. } => ErrorCode::NotFound,
                JobError::File { errno: FILE_TOO_LARGE, .. } => ErrorCode::PayloadTooLarge,
                JobError::File { .. } => ErrorCode::FileFailed,
                JobError::Fetch(error) => error.code(),
                JobError::Cancelled => ErrorCode::Cancelled,
            },
            _ => ErrorCode::SandboxFailed,
        };
        Self::new(code, error.to_string()).with_source(error)
    }
}
