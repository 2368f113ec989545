//! Decides which images are out of date and builds those, two at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shared::execution::PackageSet;
use shared::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::preload::Preload;
use super::recipe::Recipe;
use super::registry::{Authority, RegistrySettings};
use super::{
    INTERPRETERS_IMAGE, ImageError, LABEL_BUILD_HASH, LABEL_DEPENDENCIES, LABEL_DEPENDENCIES_HASH,
    LABEL_INTERMEDIATE, LABEL_UNFINISHED, Versions, is_fetched,
};
use crate::engine::docker::{BuildSpec, Docker, DockerError, ImageInfo};

/// Builds under way at once: they are bound by network and disk, and share the machine with jobs.
const PARALLEL_BUILDS: usize = 2;

/// Longest build: one that somebody waits for may take its time, but none stands still for ever.
pub(super) const BUILD_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Arguments of the recipe for packages of the operating system.
const MAX_UNPACKED_BYTES: &str = "MAX_UNPACKED_BYTES";
const BUILDER: &str = "BUILDER";

/// What is happening, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A build began.
    Started {
        /// Tag of the image.
        image: &'a str,
    },
    /// A build wrote a line.
    Output {
        /// Tag of the image.
        image: &'a str,
        /// The line.
        line: &'a str,
    },
    /// A build ended well.
    Built {
        /// Tag of the image.
        image: &'a str,
    },
    /// The image a new one takes the place of stays, since a container still uses it.
    PredecessorInUse {
        /// Tag of the image.
        image: &'a str,
    },
}

/// Receives events, from several builds at once.
pub type Progress<'a> = &'a (dyn Fn(Event<'_>) + Send + Sync);

/// What the images should be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Packages to bake in. A runtime that is not named keeps what its image has.
    pub packages: BTreeMap<Runtime, PackageSet>,
    /// Reference of the operating system image; `None` takes the pinned one.
    pub base_image: Option<String>,
    /// Build everything, whatever is there.
    pub force: bool,
    /// What the host trusts beyond the usual authorities.
    pub authorities: Vec<Authority>,
}

/// What is there, compared with what should be.
#[derive(Debug)]
pub struct Plan {
    /// Runtimes whose image is as it should be.
    pub up_to_date: Vec<Runtime>,
    /// Runtimes whose image is missing or made of something else.
    pub stale: Vec<Runtime>,
    recipes: Vec<(Recipe, Option<ImageInfo>)>,
    tools: Option<Recipe>,
    interpreters: Option<Recipe>,
    authorities: Vec<Authority>,
    use_cache: bool,
}

impl Plan {
    /// Compares the images on this engine with what is wanted.
    ///
    /// # Errors
    /// [`ImageError::Docker`] if the engine does not answer.
    pub async fn make(docker: &Docker, wanted: Wanted) -> Result<Self, ImageError> {
        let versions = Versions::embedded();
        let os_reference = wanted.base_image.as_deref().unwrap_or(&versions.debian.image);
        let tools = Recipe::tools(os_reference, &wanted.authorities);
        let (mut up_to_date, mut stale, mut recipes) = (Vec::new(), Vec::new(), Vec::new());
        for runtime in Runtime::ALL {
            let present = docker.image_info(runtime.image()).await?;
            let packages = match wanted.packages.get(&runtime) {
                Some(packages) => packages.clone(),
                None => baked_packages(runtime, present.as_ref())?,
            };
            let recipe = Recipe::runtime(runtime, &packages, &versions, &tools.hash);
            if !wanted.force && has_label(present.as_ref(), LABEL_BUILD_HASH, &recipe.hash) {
                up_to_date.push(runtime);
            } else {
                stale.push(runtime);
                recipes.push((recipe, present));
            }
        }
        let has_tools = !wanted.force
            && has_label(
                docker.image_info(&tools.tag).await?.as_ref(),
                LABEL_BUILD_HASH,
                &tools.hash,
            );
        let needs_interpreters = stale.iter().any(|runtime| is_fetched(*runtime));
        Ok(Self {
            tools: (!stale.is_empty() && !has_tools).then_some(tools),
            interpreters: needs_interpreters.then(|| Recipe::interpreters(&versions)),
            up_to_date,
            stale,
            recipes,
            authorities: wanted.authorities,
            use_cache: !wanted.force,
        })
    }

    /// Whether building needs the operating system image.
    #[must_use]
    pub fn needs_os_image(&self) -> bool {
        self.tools.is_some() || self.interpreters.is_some()
    }

    /// Builds what is stale, starting from the operating system image `os_image`, which is not
    /// looked at unless [`Plan::needs_os_image`].
    ///
    /// # Errors
    /// The first [`ImageError`]; builds under way are abandoned.
    pub async fn build(
        &self,
        docker: &Docker,
        os_image: &str,
        settings: &RegistrySettings,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        let result = self.build_all(docker, os_image, settings, progress).await;
        // Inner stages may hold registry settings: they go whether or not the build worked.
        docker.remove_image(INTERPRETERS_IMAGE).await?;
        docker.remove_untagged_images(LABEL_INTERMEDIATE).await?;
        result
    }

    async fn build_all(
        &self,
        docker: &Docker,
        os_image: &str,
        settings: &RegistrySettings,
        progress: Progress<'_>,
    ) -> Result<(), ImageError> {
        let step = |recipe: &Recipe| {
            let spec = recipe.spec(os_image, &self.authorities, settings, self.use_cache);
            async move { build_one(docker, spec?, progress).await }
        };
        // What needs no fetched interpreter is built while the interpreters are being fetched.
        let (fetched, own): (Vec<_>, Vec<_>) =
            self.recipes.iter().zip(&self.stale).partition(|(_, runtime)| is_fetched(**runtime));
        let base_line = async {
            if let Some(tools) = &self.tools {
                step(tools).await?;
            }
            for ((recipe, predecessor), _) in own {
                step(recipe).await?;
                retire(docker, recipe, predecessor.as_ref(), progress).await?;
            }
            Ok::<(), ImageError>(())
        };
        let fetch_line = async {
            match &self.interpreters {
                Some(interpreters) => step(interpreters).await,
                None => Ok(()),
            }
        };
        futures_util::future::try_join(base_line, fetch_line).await?;
        stream::iter(fetched)
            .map(|((recipe, predecessor), _)| async move {
                step(recipe).await?;
                retire(docker, recipe, predecessor.as_ref(), progress).await
            })
            .buffer_unordered(PARALLEL_BUILDS)
            .try_collect()
            .await
    }
}

/// An image somebody wants on top of a runtime's image.
#[derive(Clone, Debug)]
pub struct CustomImage {
    /// Runtime whose image it is built upon.
    pub runtime: Runtime,
    /// Tag of the result.
    pub tag: String,
    /// Packages to bake in.
    pub packages: PackageSet,
    /// Script to run in each sandbox before the job.
    pub setup: Option<String>,
    /// Modules to import once, ahead of the jobs.
    pub preload: Preload,
    /// Build even if the tag is already that.
    pub force: bool,
}

/// What a build may take.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Longest time.
    pub limit: Duration,
    /// Of packages of the operating system for a job.
    pub packages: Option<PackageBounds>,
    /// Breaks it off.
    pub stop: CancellationToken,
}

/// What packages of the operating system for a job may take.
#[derive(Clone, Debug)]
pub struct PackageBounds {
    /// Bytes unpacked, as far as that is known before they are fetched.
    pub max_unpacked_bytes: u64,
    /// Name of the worker whose next life removes what is left if this one is killed.
    pub builder: String,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { limit: BUILD_LIMIT, packages: None, stop: CancellationToken::new() }
    }
}

impl Bounds {
    fn of(self, mut spec: BuildSpec) -> BuildSpec {
        let Self { limit, packages, stop } = self;
        if let Some(PackageBounds { max_unpacked_bytes, builder }) = packages {
            let arguments =
                [(MAX_UNPACKED_BYTES, max_unpacked_bytes.to_string()), (BUILDER, builder)];
            spec.build_args.extend(arguments.map(|(name, value)| (name.to_owned(), value)));
        }
        BuildSpec { limit, stop, ..spec }
    }
}

/// Whether an image is but a step of one for packages of a job, of a build that goes on or was killed.
#[must_use]
pub fn is_unfinished(image: &ImageInfo) -> bool {
    let builder = image.labels.get(LABEL_UNFINISHED);
    image.tags.is_empty() && builder.is_some_and(|builder| !builder.is_empty())
}

/// Removes what the steps of builds have left that a worker of this name had begun when it was killed. Call
/// when it builds nothing.
pub(in crate::engine) async fn remove_unfinished(
    docker: &Docker,
    builder: &str,
) -> Result<(), DockerError> {
    let left = docker.list_images(&[&format!("{LABEL_UNFINISHED}={builder}")]).await?;
    for image in left.iter().filter(|image| is_unfinished(image)) {
        docker.remove_unfinished(&image.id).await?;
    }
    Ok(())
}

/// Builds a custom image within `bounds`; `false` if the tag was already what is wanted.
///
/// # Errors
/// [`ImageError::NothingToAdd`] for neither packages nor script; [`ImageError::BaseMissing`] without
/// the runtime's image; else what the build says.
pub async fn build_custom(
    docker: &Docker,
    wanted: &CustomImage,
    settings: &RegistrySettings,
    bounds: Bounds,
    progress: Progress<'_>,
) -> Result<bool, ImageError> {
    if wanted.packages.is_empty() && wanted.setup.is_none() && wanted.preload.is_empty() {
        return Err(ImageError::NothingToAdd);
    }
    let base = wanted.runtime.image();
    if docker.image_info(base).await?.is_none() {
        return Err(ImageError::BaseMissing { image: base });
    }
    let recipe = Recipe::custom(wanted);
    let present = docker.image_info(&wanted.tag).await?;
    if !wanted.force && has_label(present.as_ref(), LABEL_DEPENDENCIES_HASH, &recipe.hash) {
        return Ok(false);
    }
    let spec = recipe.spec(base, &[], settings, !wanted.force)?;
    let result = build_one(docker, bounds.of(spec), progress).await;
    docker.remove_untagged_images(LABEL_INTERMEDIATE).await?;
    result?;
    retire(docker, &recipe, present.as_ref(), progress).await?;
    Ok(true)
}

async fn build_one(
    docker: &Docker,
    spec: BuildSpec,
    progress: Progress<'_>,
) -> Result<(), ImageError> {
    let image = spec.tag.clone();
    progress(Event::Started { image: &image });
    docker.build_image(spec, |line| progress(Event::Output { image: &image, line })).await?;
    progress(Event::Built { image: &image });
    Ok(())
}

/// Removes the image whose tag has just moved on, unless the build made the very same one again or
/// it still has another name.
async fn retire(
    docker: &Docker,
    recipe: &Recipe,
    predecessor: Option<&ImageInfo>,
    progress: Progress<'_>,
) -> Result<(), ImageError> {
    let Some(predecessor) = predecessor else {
        return Ok(());
    };
    let is_same =
        docker.image_info(&recipe.tag).await?.is_some_and(|current| current.id == predecessor.id);
    let has_other_name = predecessor.tags.iter().any(|tag| *tag != recipe.tag);
    if !is_same && !has_other_name && !docker.remove_image(&predecessor.id).await? {
        progress(Event::PredecessorInUse { image: &recipe.tag });
    }
    Ok(())
}

fn has_label(image: Option<&ImageInfo>, label: &str, value: &str) -> bool {
    image.and_then(|image| image.labels.get(label)).is_some_and(|present| present == value)
}

/// The packages an image says it has.
fn baked_packages(runtime: Runtime, image: Option<&ImageInfo>) -> Result<PackageSet, ImageError> {
    image
        .and_then(|image| image.labels.get(LABEL_DEPENDENCIES))
        .map_or_else(|| Ok(PackageSet::default()), |list| Ok(PackageSet::from_list(runtime, list)?))
}
