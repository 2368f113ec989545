//! Packages of the operating system: installing them takes root, which no sandbox has. They are a layer
//! on the runtime's own image, built from names alone out of the release's own archive.

use shared::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::cause::{self, Room};
use super::install::{Failure, Installer, Wanted};
use super::key::Key;
use super::shelf::Kept;
use crate::egress::Report;
use crate::engine::docker::{Docker, DockerError};
use crate::engine::images::{
    Bounds, CustomImage, ImageError, LABEL_RUNTIME, PackageBounds, Preload, build_custom,
};

/// How the images are called; the key is the tag.
const REPOSITORY: &str = "isol8-packages:";

/// Whether an image was made for packages that a job asked for.
#[must_use]
pub fn is_package_image(tag: &str) -> bool {
    tag.starts_with(REPOSITORY)
}

/// The images that are there.
pub(super) async fn take_stock(docker: &Docker) -> Result<Vec<Kept>, DockerError> {
    let images = docker.list_images(&[LABEL_RUNTIME]).await?;
    let tags = images.into_iter().flat_map(|image| {
        let bytes = image.size_bytes;
        image.tags.into_iter().map(move |tag| (tag, bytes))
    });
    let mut found = Vec::new();
    let base = base_bytes(docker).await?;
    for (tag, bytes) in tags {
        if let Some(key) = tag.strip_prefix(REPOSITORY).map(Key::labelled) {
            found.push(Kept::Image { key, tag, bytes: bytes.saturating_sub(base) });
        }
    }
    Ok(found)
}

async fn base_bytes(docker: &Docker) -> Result<u64, DockerError> {
    let base = docker.image_info(Runtime::Bash.image()).await?;
    Ok(base.map_or(0, |image| image.size_bytes))
}

/// Builds the image for a set, unless it is broken off by `stop`, which leaves nothing.
pub(super) async fn install(
    installer: &Installer,
    wanted: &Wanted,
    stop: &CancellationToken,
) -> Result<Kept, Failure> {
    if wanted.image != wanted.runtime.image() {
        let stderr = format!(
            "system packages are added to {} alone; build an image of your own with `isol8 build`",
            wanted.runtime.image()
        );
        return Err(Failure::Packages { exit_code: 1, stderr });
    }
    let engine = |error: DockerError| Failure::Engine(error.to_string());
    let tag = format!("{REPOSITORY}{}", wanted.key.as_str());
    let image = CustomImage {
        runtime: wanted.runtime,
        tag: tag.clone(),
        packages: wanted.packages.clone(),
        setup: None,
        preload: Preload::default(),
        force: false,
    };
    let settings = installer.registries.settings(wanted.runtime).await;
    let (limit, max_bytes) = (installer.limit, installer.max_bytes);
    let packages = Some(PackageBounds {
        max_unpacked_bytes: max_bytes,
        builder: installer.origin.owner.clone(),
    });
    let bounds = Bounds { limit, packages, stop: stop.clone() };
    let building = build_custom(&installer.docker, &image, &settings.registries, bounds, &|_| {});
    match building.await {
        Ok(_) => {}
        Err(ImageError::Docker(DockerError::Build { detail, .. })) => {
            if let Some(bytes) = unpacked_bytes(&detail) {
                return Err(no_room(bytes, max_bytes));
            }
            // The engine reached the sources, not the tunnel, and it has the room of its disk.
            let stderr = cause::explain(&detail, &Report::default(), Room::OfMachine);
            return Err(Failure::Packages { exit_code: exit_code(&detail), stderr });
        }
        Err(ImageError::Docker(DockerError::BuildTimedOut { .. })) => {
            return Err(Failure::timed_out(limit, &Report::default()));
        }
        Err(error) => return Err(Failure::Engine(error.to_string())),
    }
    let built = installer.docker.image_info(&tag).await.map_err(engine)?;
    let base = base_bytes(&installer.docker).await.map_err(engine)?;
    let bytes = built.map_or(0, |image| image.size_bytes).saturating_sub(base);
    if bytes > max_bytes {
        remove(&installer.docker, &tag).await;
        return Err(no_room(bytes, max_bytes));
    }
    Ok(Kept::Image { key: wanted.key.clone(), tag, bytes })
}

fn no_room(bytes: u64, max_bytes: u64) -> Failure {
    let stderr = format!(
        "no room: unpacked they take {bytes} bytes, and a set may have {max_bytes} \
         (worker.packageSetSize)"
    );
    Failure::Packages { exit_code: 1, stderr }
}

/// What the recipe says of packages that are too large, before it has fetched any.
fn unpacked_bytes(detail: &str) -> Option<u64> {
    // The recipe's own lines are in there too.
    let said = detail.split("isol8: unpacked they take ").skip(1);
    said.filter_map(|after| after.split_once(" bytes")?.0.parse().ok()).next()
}

/// Removes an image; `false` if a sandbox still uses it.
pub(super) async fn remove(docker: &Docker, tag: &str) -> bool {
    match docker.remove_image(tag).await {
        Ok(is_removed) => is_removed,
        Err(error) => {
            tracing::warn!(%error, image = tag, "an image with packages could not be removed");
            false
        }
    }
}

/// What the engine says about a step of a build that failed.
fn exit_code(detail: &str) -> i32 {
    let after = detail.rsplit("non-zero code: ").next().unwrap_or_default();
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_of_a_failed_step_is_found() {
        assert_eq!(exit_code("E: no such\nThe command 'apt' returned a non-zero code: 123"), 123);
        assert_eq!(exit_code("broken"), 1);
    }

    #[test]
    fn packages_without_room_are_told_by_the_recipe() {
        let detail = "Step 5/6 : RUN x\nisol8: unpacked they take 5000000 bytes\nThe command";
        assert_eq!(unpacked_bytes(detail), Some(5_000_000));
        assert_eq!(
            unpacked_bytes("RUN echo \"isol8: unpacked they take ${unpacked} bytes\""),
            None
        );
    }
}
