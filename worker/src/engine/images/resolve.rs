//! Which image a job gets: the one it names, else one that already has its packages, else the
//! runtime's own. Any local image that carries the labels is trusted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::execution::{Job, PackageSet, matches_pattern};
use shared::runtime::Runtime;
use tokio::sync::Mutex;

use super::{LABEL_DEPENDENCIES, LABEL_RUNTIME};
use crate::engine::docker::{Docker, DockerError, ImageInfo};
use crate::engine::packages::is_package_image;

/// How long an answer of the engine is believed, so that a job with packages costs no round trip. An
/// image that is built takes this long to be found.
const FRESH: Duration = Duration::from_secs(3);
/// Images by name that are remembered.
const MAX_REMEMBERED: usize = 256;

/// The image for a job, and whether its packages are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Choice {
    /// They are: nothing is to be installed.
    Complete {
        /// Reference of the image.
        image: String,
    },
    /// They are not.
    Lacking {
        /// Identifier of the image the job named.
        image_id: String,
    },
}

/// What an engine's images say about themselves, remembered for moments.
pub(in crate::engine) struct Catalog {
    docker: Docker,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    labelled: Option<(Instant, Arc<[ImageInfo]>)>,
    named: HashMap<String, (Instant, Arc<ImageInfo>)>,
}

impl Catalog {
    pub(in crate::engine) fn new(docker: Docker) -> Self {
        Self { docker, known: Mutex::default() }
    }

    /// Chooses the image for a job with packages.
    ///
    /// # Errors
    /// [`DockerError::NoSuchImage`] if the one it names is not there, or a failed call.
    pub(in crate::engine) async fn choose(&self, job: &Job) -> Result<Choice, DockerError> {
        if !job.substitutes.is_empty() {
            let images = self.labelled().await?;
            let found = substitute(&images, job.runtime, &job.packages, &job.substitutes);
            if let Some(image) = found {
                return Ok(Choice::Complete { image });
            }
        }
        let named = self.named(&job.image).await?;
        Ok(match baked(&named, job.runtime) {
            Some(baked) if baked.covers(&job.packages) => {
                Choice::Complete { image: job.image.clone() }
            }
            _ => Choice::Lacking { image_id: named.id.clone() },
        })
    }

    // The lock is held over the call, so that many jobs at once ask once.
    async fn labelled(&self) -> Result<Arc<[ImageInfo]>, DockerError> {
        let mut known = self.known.lock().await;
        if let Some((since, images)) = &known.labelled
            && since.elapsed() < FRESH
        {
            return Ok(Arc::clone(images));
        }
        let images = self.docker.list_images(&[LABEL_RUNTIME, LABEL_DEPENDENCIES]).await?;
        let images: Arc<[ImageInfo]> = images.into();
        known.labelled = Some((Instant::now(), Arc::clone(&images)));
        Ok(images)
    }

    async fn named(&self, reference: &str) -> Result<Arc<ImageInfo>, DockerError> {
        let mut known = self.known.lock().await;
        if let Some((since, image)) = known.named.get(reference)
            && since.elapsed() < FRESH
        {
            return Ok(Arc::clone(image));
        }
        let image = self.docker.image_info(reference).await?;
        let image = Arc::new(
            image.ok_or_else(|| DockerError::NoSuchImage { image: reference.to_owned() })?,
        );
        if known.named.len() >= MAX_REMEMBERED {
            known.named.clear();
        }
        known.named.insert(reference.to_owned(), (Instant::now(), Arc::clone(&image)));
        Ok(image)
    }
}

/// Of the images that may be used and have all the packages, the one with the fewest others. Names are
/// compared literally: `numpy` is not `numpy==2.0.0`.
pub(super) fn substitute(
    images: &[ImageInfo],
    runtime: Runtime,
    packages: &PackageSet,
    allowed: &[String],
) -> Option<String> {
    // Images that were made for one set are found by their key; they may be removed at any time.
    let is_allowed = |tag: &&String| {
        !is_package_image(tag) && allowed.iter().any(|pattern| matches_pattern(pattern, tag))
    };
    images
        .iter()
        .filter_map(|image| {
            let tag = image.tags.iter().filter(is_allowed).min()?;
            let baked = baked(image, runtime)?;
            baked.covers(packages).then_some((baked.len(), tag))
        })
        .min()
        .map(|(_, tag)| tag.clone())
}

/// The packages an image says it has for a runtime.
fn baked(image: &ImageInfo, runtime: Runtime) -> Option<PackageSet> {
    if image.labels.get(LABEL_RUNTIME)? != runtime.name() {
        return None;
    }
    PackageSet::from_list(runtime, image.labels.get(LABEL_DEPENDENCIES)?).ok()
}
