//! Which image a request gets: the one it names, else one that already has its packages, else the
//! runtime's own.

use shared::runtime::Runtime;

use super::packages::PackageSet;
use super::{ImageError, LABEL_DEPENDENCIES, LABEL_RUNTIME, LABEL_SETUP};
use crate::engine::docker::{Docker, ImageInfo};

/// The image a request runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its reference.
    pub image: String,
    /// Script to run before the job.
    pub setup: Option<String>,
    /// Whether the packages asked for are in the image; otherwise they are installed at run time.
    pub has_packages: bool,
}

/// Chooses the image for a runtime and the packages asked for. Any local image that carries the
/// labels is trusted.
///
/// # Errors
/// [`ImageError::Docker`] if the engine does not answer.
pub async fn resolve(
    docker: &Docker,
    runtime: Runtime,
    packages: &PackageSet,
    named: Option<&str>,
) -> Result<Resolved, ImageError> {
    if let Some(image) = named {
        let info = docker.image_info(image).await?;
        let setup = info.as_ref().and_then(setup_of);
        return Ok(Resolved { image: image.to_owned(), setup, has_packages: packages.is_empty() });
    }
    if !packages.is_empty() {
        let label = format!("{LABEL_RUNTIME}={}", runtime.name());
        let images = docker.list_images(&[&label, LABEL_DEPENDENCIES]).await?;
        if let Some(resolved) = best_match(&images, packages) {
            return Ok(resolved);
        }
    }
    Ok(Resolved {
        image: runtime.image().to_owned(),
        setup: None,
        has_packages: packages.is_empty(),
    })
}

/// The image with exactly these packages, else the one with the fewest others. Names are compared
/// literally: `numpy` is not `numpy==2.0.0`.
pub(super) fn best_match(images: &[ImageInfo], packages: &PackageSet) -> Option<Resolved> {
    images
        .iter()
        .filter_map(|image| {
            let tag = image.tags.iter().min()?;
            let baked = PackageSet::from_list(image.labels.get(LABEL_DEPENDENCIES)?).ok()?;
            baked.covers(packages).then_some((baked.len(), tag, image))
        })
        .min_by_key(|(count, tag, _)| (*count, *tag))
        .map(|(_, tag, image)| Resolved {
            image: tag.clone(),
            setup: setup_of(image),
            has_packages: true,
        })
}

fn setup_of(image: &ImageInfo) -> Option<String> {
    image.labels.get(LABEL_SETUP).filter(|script| !script.is_empty()).cloned()
}
