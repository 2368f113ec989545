//! The images sandboxes are made from: what they are called, how they are labelled, how they are
//! built from recipes that travel inside the binary, and which one a request gets.

mod assets;
mod build;
mod contents;
mod preload;
mod recipe;
mod registry;
mod resolve;
#[cfg(test)]
mod tests;

use shared::runtime::Runtime;

use super::docker::DockerError;

pub use super::packages::is_package_image;
pub use assets::Versions;
pub(super) use build::remove_unfinished;
pub use build::{
    Bounds, CustomImage, Event, PackageBounds, Plan, Progress, Wanted, build_custom, is_unfinished,
};
pub use contents::{Contents, Ecosystem, Package};
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
/// On the steps of an image that packages of jobs are built into: the name of the worker that builds it.
const LABEL_UNFINISHED: &str = "org.isol8.unfinished";
/// What all runtime images are made on.
const TOOLS_IMAGE: &str = "isol8-base:tools";
/// Where the interpreters are copied from; exists only while images are built.
const INTERPRETERS_IMAGE: &str = "isol8-base:interpreters";

/// Longest name and tag that Docker takes.
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

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
    /// The files of an image could not be read.
    #[error("the files of {image} cannot be read: {reason}")]
    Unreadable {
        /// Its reference.
        image: String,
        /// What happened.
        reason: String,
    },
    /// The build context could not be packed.
    #[error("packing the build context failed: {0}")]
    Context(#[from] std::io::Error),
}

/// Repository and tag of the operating system image that set-up bootstraps itself.
#[must_use]
pub fn bootstrapped_image(suite: &str) -> (&'static str, String) {
    ("isol8-base", suite.to_owned())
}

/// Whether an image can be called so: `name`, `name:tag`, `registry.example:5000/folder/name:tag`.
#[must_use]
pub fn is_image_name(text: &str) -> bool {
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (text, None),
    };
    let is_tag = |tag: &str| {
        tag.len() <= MAX_TAG_BYTES
            && tag.starts_with(|it: char| it.is_ascii_alphanumeric() || it == '_')
            && tag.bytes().all(|it| it.is_ascii_alphanumeric() || b"_.-".contains(&it))
    };
    let is_folder = |folder: &str| {
        let is_plain = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit();
        folder.starts_with(is_plain)
            && folder.ends_with(is_plain)
            && folder.chars().all(|it| is_plain(it) || "._-".contains(it))
            && !["..", "___", "._", "_.", ".-", "-.", "-_", "_-"]
                .iter()
                .any(|it| folder.contains(it))
    };
    // As Docker tells them apart: the first part is a registry if it could not be a folder of the hub's.
    let (registry, path) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("", path),
    };
    let is_registry = registry.bytes().all(|it| it.is_ascii_alphanumeric() || b".-:".contains(&it));
    is_registry
        && path.len() <= MAX_NAME_BYTES
        && path.split('/').all(is_folder)
        && tag.is_none_or(is_tag)
}

/// Runtimes whose interpreter is copied from the interpreters image.
const fn is_fetched(runtime: Runtime) -> bool {
    matches!(runtime, Runtime::Node | Runtime::Bun | Runtime::Deno | Runtime::Agent)
}
