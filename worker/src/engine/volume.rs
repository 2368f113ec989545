//! The read-only volume that brings the runner into any image, so that a stock image starts as
//! fast as ours. Its name is the hash of its content: an upgrade is a new volume.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::stream;
use sha2::{Digest as _, Sha256};

use super::docker::{Docker, DockerError};

/// Where the volume appears inside a sandbox.
pub(super) const MOUNT: &str = "/isol8";
/// Process 1 of every sandbox.
pub(super) const RUNNER: &str = "/isol8/isol8-runner";

/// Runner and interpreter start-up files, packed at build time.
static ARCHIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runner.tar"));

/// How the volumes of all versions are called.
const PREFIX: &str = "isol8-runner-";

/// SHA-256 of what the volume of this version is filled with, in hex.
#[must_use]
pub fn runner_hash() -> String {
    Sha256::digest(ARCHIVE).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The volume of this version.
#[must_use]
pub fn runner_volume() -> String {
    format!("{PREFIX}{}", &runner_hash()[..16])
}

/// Whether a volume is that of any version.
#[must_use]
pub fn is_runner_volume(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Makes sure the volume exists on this engine and returns its name.
///
/// `image` is any image present on the engine; it is needed to fill the volume, but never run.
///
/// # Errors
/// [`DockerError::NoSuchImage`] if `image` is absent, or a failed call.
pub(super) async fn ensure(docker: &Docker, image: &str) -> Result<String, DockerError> {
    let name = runner_volume();
    if docker.volume_info(&name).await?.is_none() {
        let archive = stream::iter([Ok(Bytes::from_static(ARCHIVE))]);
        docker.create_volume_from_tar(&name, HashMap::new(), image, archive).await?;
    }
    Ok(name)
}
