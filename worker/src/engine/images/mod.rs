//! The images sandboxes are made from: what they are called, how they are labelled, how they are
//! built from recipes that travel inside the binary, and which one a request gets.

mod assets;
mod build;
mod preload;
mod recipe;
mod registry;
mod resolve;
#[cfg(test)]
mod tests;

use shared::runtime::Runtime;

use super::docker::DockerError;

pub use super::packages::is_package_image;
pub use assets::{SECCOMP_STRICT, Versions};
pub use build::{BUILD_LIMIT, CustomImage, Event, Plan, Progress, Wanted, build_custom};
pub use preload::Preload;
pub use registry::{Authority, Registry, RegistrySettings, RegistrySource};
pub(super) use resolve::{Catalog, Choice};

/// Hash of everything that went into one of our own images.
pub const LABEL_BUILD_HASH: &str = "org.isol8.build.hash";
/// Runtime an image is for.
pub const LABEL_RUNTIME: &str = "org.isol8.runtime";
/// Packages baked into an image: sorted, comma-joined.
pub const LABEL_DEPENDENCIES: &str = "org.isol8.dependencies";
/// Hash of runtime, packages and set-up script of an image with packages.
pub const LABEL_DEPENDENCIES_HASH: &str = "org.isol8.deps.hash";
/// Script to run in a sandbox of this image before the job.
pub const LABEL_SETUP: &str = "org.isol8.setup";
/// Modules that the interpreter of an image imports once, ahead of its jobs: comma-joined.
pub const LABEL_PRELOAD: &str = "org.isol8.preload";

/// Marks the inner stages of a build. They may have seen registry settings, so they go when it ends.
const LABEL_INTERMEDIATE: &str = "org.isol8.intermediate=true";
/// What all runtime images are made on.
const TOOLS_IMAGE: &str = "isol8-base:tools";
/// Where the interpreters are copied from; exists only while images are built.
const INTERPRETERS_IMAGE: &str = "isol8-base:interpreters";

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The engine failed.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// A package name that is none.
    #[error(transparent)]
    Package(#[from] shared::Error),
    /// A module name that is none, or a runtime that imports nothing ahead.
    #[error(
        "cannot preload {name:?} for {runtime}: only modules of Python, such as numpy or os.path"
    )]
    Preload {
        /// What was given.
        name: String,
        /// For which runtime.
        runtime: Runtime,
    },
    /// The image to build upon is missing.
    #[error("image {image} is missing; run `isol8 setup` first")]
    BaseMissing {
        /// Its tag.
        image: &'static str,
    },
    /// Nothing was asked for.
    #[error("No packages or setup script specified; modules to preload count too")]
    NothingToAdd,
    /// The build context could not be packed.
    #[error("packing the build context failed: {0}")]
    Context(#[from] std::io::Error),
}

/// Repository and tag of the operating system image that set-up bootstraps itself.
#[must_use]
pub fn bootstrapped_image(suite: &str) -> (&'static str, String) {
    ("isol8-base", suite.to_owned())
}

/// Runtimes whose interpreter is copied from the interpreters image.
const fn is_fetched(runtime: Runtime) -> bool {
    matches!(runtime, Runtime::Node | Runtime::Bun | Runtime::Deno | Runtime::Agent)
}
