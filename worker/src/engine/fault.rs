//! What can be wrong with a job itself, in words for its caller.

use runner::protocol::{Failed, FileError, Stage};

use crate::fetch::FetchError;

/// What went wrong with the job itself; the sandbox is fine.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The setup script ended with another code than 0.
    #[error("Setup script failed (exit code {exit_code}): {output}")]
    SetupFailed {
        /// Its exit code.
        exit_code: i32,
        /// The end of what it wrote to standard error, and of its standard output.
        output: String,
    },
    /// The setup script took too long.
    #[error(
        "Setup script failed (exit code 137): SETUP SCRIPT TIMED OUT after {timeout_ms} ms{}{output}",
        if output.is_empty() { "" } else { "\n" }
    )]
    SetupTimedOut {
        /// The limit.
        timeout_ms: u64,
        /// As above.
        output: String,
    },
    /// The package manager did not like what it was asked for.
    #[error("Package install failed (exit code {exit_code}): {stderr}")]
    InstallFailed {
        /// Its exit code.
        exit_code: i32,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// The packages were not there in time.
    #[error(
        "Package install failed (exit code 137): PACKAGE INSTALL TIMED OUT after {timeout_ms} ms, the \
         job's timeoutMs. It goes on for the next job that asks for the same packages."
    )]
    InstallTimedOut {
        /// The job's limit.
        timeout_ms: u64,
    },
    /// A later call of a session wants packages that its sandbox does not have.
    #[error(
        "This session was opened without {packages}. Ask for all packages in the call that opens it, \
         or install into /sandbox."
    )]
    SessionPackages {
        /// What is missing.
        packages: String,
    },
    /// A later call of a session wants another isolation than its sandbox has.
    #[error(
        "This session was opened with isolation \"{own}\", and this call asks for \"{asked}\". Ask for it in the call \
         that opens the session, or leave it out."
    )]
    SessionIsolation {
        /// Of the session.
        own: &'static str,
        /// Of the call.
        asked: &'static str,
    },
    /// A file could not be written.
    #[error("Failed to write file {path} in container (exit code 1): {reason}")]
    FileWrite {
        /// Its path.
        path: String,
        /// The operating system's words.
        reason: String,
    },
    /// The working directory cannot be entered.
    #[error(
        "Working directory {path} cannot be entered: {reason}. Create it with `files` or a setup script."
    )]
    Workdir {
        /// Its path.
        path: String,
        /// The operating system's words.
        reason: String,
    },
    /// The program cannot be executed.
    #[error("{program} cannot be started in this image: {reason}")]
    Exec {
        /// What was to be started.
        program: String,
        /// The operating system's words.
        reason: String,
    },
    /// The limits leave no room to start anything.
    #[error(
        "The program cannot be started within its limits: {reason}. Raise pidsLimit or memoryLimit."
    )]
    Limits {
        /// The operating system's words.
        reason: String,
    },
    /// The order to start the program is too long.
    #[error(
        "The program's environment, and in a session its code, take {size_bytes} bytes; {max_bytes} \
         are possible. Send what is large as a file."
    )]
    TooLong {
        /// As it would travel.
        size_bytes: usize,
        /// What fits.
        max_bytes: usize,
    },
    /// Its rules for the network are none.
    #[error("{0}")]
    Network(String),
    /// The session's sandbox has no way out.
    #[error(
        "The session was opened without the filtered network and cannot get it now; open another one \
         with network \"filtered\", sealed at first if need be"
    )]
    NoWayOut,
    /// A session's file cannot be read, written, listed or removed.
    #[error("{path}: {reason}")]
    File {
        /// Its path.
        path: String,
        /// The operating system's words.
        reason: String,
        /// The operating system's error number.
        errno: i32,
    },
    /// Its program is still at its address.
    #[error("The program has not been fetched: use worker::fetch::Fetcher first")]
    NotFetched,
    /// Its program could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Cancelled before the program ran.
    #[error("The job was cancelled")]
    Cancelled,
}

impl From<Failed> for JobError {
    fn from(failed: Failed) -> Self {
        let Failed { stage, path, message: reason, .. } = failed;
        match stage {
            Stage::File => Self::FileWrite { path, reason },
            Stage::Cwd => Self::Workdir { path, reason },
            Stage::Exec => Self::Exec { program: path, reason },
            Stage::Fork => Self::Limits { reason },
        }
    }
}

impl From<FileError> for JobError {
    fn from(FileError { path, message: reason, errno }: FileError) -> Self {
        Self::File { path, reason, errno }
    }
}
