//! Images: look up, list, build, import, pull, remove. Only what set-up and sandbox creation use.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bollard::errors::Error as ClientError;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateImageOptionsBuilder, ListImagesOptionsBuilder,
    PruneImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::{Docker, DockerError, call, is_not_found};

/// How many of a build's last lines are kept to explain its failure.
const KEPT_LINES: usize = 30;

/// Bytes of a line; a longer one counts as several.
const MAX_LINE_BYTES: usize = 64 << 10;

/// How often it is tried to remove what a build has left, and how long is waited in between.
const UNFINISHED_TRIES: usize = 10;
const UNFINISHED_PAUSE: Duration = Duration::from_millis(300);

/// How often a build is begun at most, and what an engine says when a step that this build shares with
/// another was removed, as the other one failed or has ended.
const BUILD_TRIES: usize = 4;
const SHARED_STEP_GONE: &str = "unknown parent image ID";

/// How long a registry may stay silent before it counts as absent.
const FIRST_ANSWER: Duration = Duration::from_secs(12);

/// How long a pull that has begun may stand still.
const PULL_STALL: Duration = Duration::from_secs(60);

/// An image on this engine.
#[derive(Clone, Debug)]
pub struct ImageInfo {
    /// Content id, `sha256:…`.
    pub id: String,
    /// Labels.
    pub labels: HashMap<String, String>,
    /// Tags that name it.
    pub tags: Vec<String>,
    /// Environment it brings, as `NAME=value`; empty in listings.
    pub environment: Vec<String>,
    /// Places it declares as volumes; empty in listings.
    pub volumes: Vec<String>,
    /// Bytes on disk, shared layers included.
    pub size_bytes: u64,
}

/// One image build. The network is always the host's, so that the host's way to its package
/// registries (local proxies, name resolution) is the build's too.
#[derive(Clone, Debug)]
pub struct BuildSpec {
    /// Tag of the result.
    pub tag: String,
    /// The build context as a tar archive; its `Dockerfile` is the recipe.
    pub context_tar: Bytes,
    /// Build arguments.
    pub build_args: HashMap<String, String>,
    /// Labels of the result.
    pub labels: HashMap<String, String>,
    /// Whether layers of earlier builds may be used.
    pub use_cache: bool,
    /// Longest time it may take.
    pub limit: Duration,
    /// Breaks it off. Dropped instead, a build would leave the images of its steps behind.
    pub stop: CancellationToken,
}

impl Docker {
    /// Looks an image up; `None` if this engine does not have it.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine does not answer the question.
    pub async fn image_info(&self, reference: &str) -> Result<Option<ImageInfo>, DockerError> {
        match self.client.inspect_image(reference).await {
            Ok(image) => Ok(Some(from_inspect(image))),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(call(format!("inspect image {reference}"), error)),
        }
    }

    /// Lists the images that carry all of these labels (`name` or `name=value`).
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine refuses.
    pub async fn list_images(&self, labels: &[&str]) -> Result<Vec<ImageInfo>, DockerError> {
        let filters = HashMap::from([("label", labels.to_vec())]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        let images = self
            .client
            .list_images(Some(options))
            .await
            .map_err(|error| call("list images", error))?;
        Ok(images
            .into_iter()
            .map(|image| ImageInfo {
                id: image.id,
                labels: image.labels,
                // Engines before 24 name an image that lost its tag like this.
                tags: image.repo_tags.into_iter().filter(|tag| tag != "<none>:<none>").collect(),
                environment: Vec::new(),
                volumes: Vec::new(),
                size_bytes: u64::try_from(image.size).unwrap_or(0),
            })
            .collect())
    }

    /// Builds an image and returns when it is tagged. `on_line` sees each line of the build's output. What
    /// steps before one that fails have made is removed, unless another image is made of it.
    ///
    /// # Errors
    /// [`DockerError::Build`] with the last lines of output if a step fails;
    /// [`DockerError::BuildTimedOut`]; [`DockerError::BuildStopped`]; [`DockerError::Call`] if the engine
    /// can't be talked to.
    pub async fn build_image(
        &self,
        spec: BuildSpec,
        on_line: impl Fn(&str) + Send + Sync,
    ) -> Result<(), DockerError> {
        let mut made = None;
        let building = async {
            for _ in 1..BUILD_TRIES {
                match self.build_steps(&spec, &on_line, &mut made).await {
                    Err(DockerError::Build { detail, .. }) if detail.contains(SHARED_STEP_GONE) => {
                        tracing::debug!(
                            image = spec.tag,
                            "a step went as it was built upon; again"
                        );
                    }
                    outcome => return outcome,
                }
            }
            self.build_steps(&spec, &on_line, &mut made).await
        };
        let image = || spec.tag.clone();
        let built = tokio::select! {
            built = tokio::time::timeout(spec.limit, building) => built.unwrap_or_else(|_elapsed| {
                Err(DockerError::BuildTimedOut { image: image(), limit: spec.limit })
            }),
            () = spec.stop.cancelled() => Err(DockerError::BuildStopped { image: image() }),
        };
        if let (Err(_), Some(made)) = (&built, made)
            && let Err(error) = self.remove_unfinished(&made).await
        {
            tracing::warn!(%error, image = made, "what a failed build has made was not removed");
        }
        built
    }

    /// `made` is the image of the last step that went well.
    async fn build_steps(
        &self,
        spec: &BuildSpec,
        on_line: impl Fn(&str) + Send + Sync,
        made: &mut Option<String>,
    ) -> Result<(), DockerError> {
        let options = BuildImageOptionsBuilder::new()
            .dockerfile("Dockerfile")
            .t(&spec.tag)
            .networkmode("host")
            .buildargs(&spec.build_args)
            .labels(&spec.labels)
            .nocache(!spec.use_cache)
            .rm(true)
            .forcerm(true)
            .build();
        let mut kept = VecDeque::with_capacity(KEPT_LINES);
        let mut lines = Lines::default();
        let mut progress = self.client.build_image(
            options,
            None,
            Some(bollard::body_full(spec.context_tar.clone())),
        );
        while let Some(event) = progress.next().await {
            let problem = match event {
                Ok(info) => {
                    for line in lines.add(info.stream.as_deref().unwrap_or_default()) {
                        if let Some(id) = made_by_step(&line) {
                            *made = Some(id.to_owned());
                        }
                        on_line(&line);
                        keep(&mut kept, &line);
                    }
                    info.error_detail.and_then(|detail| detail.message)
                }
                Err(ClientError::DockerStreamError { error }) => Some(error),
                Err(error) => return Err(call(format!("build image {}", spec.tag), error)),
            };
            if let Some(problem) = problem {
                lines.add("\n").iter().chain([&problem]).for_each(|line| keep(&mut kept, line));
                let detail = Vec::from(kept).join("\n");
                return Err(DockerError::Build { image: spec.tag.clone(), detail });
            }
        }
        Ok(())
    }

    /// Removes an image without a name, and those that it alone is made of. One that a container still uses
    /// is tried again: the engine takes a moment to end a build that was broken off.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine refuses.
    pub async fn remove_unfinished(&self, id: &str) -> Result<(), DockerError> {
        for _ in 0..UNFINISHED_TRIES {
            let found = self.image_info(id).await?;
            if found.is_none_or(|image| !image.tags.is_empty()) || self.remove_image(id).await? {
                return Ok(());
            }
            tokio::time::sleep(UNFINISHED_PAUSE).await;
        }
        Ok(())
    }

    /// Makes an image of one layer from a tar stream of a root file system.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine refuses the stream or it breaks.
    pub async fn import_image(
        &self,
        root_tar: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        repository: &str,
        tag: &str,
    ) -> Result<(), DockerError> {
        let options =
            CreateImageOptionsBuilder::new().from_src("-").repo(repository).tag(tag).build();
        let mut progress =
            self.client.create_image(Some(options), Some(bollard::body_try_stream(root_tar)), None);
        while let Some(event) = progress.next().await {
            event.map_err(|error| call(format!("import image {repository}:{tag}"), error))?;
        }
        Ok(())
    }

    /// Pulls an image from its registry. A registry that can't be reached is given up on within
    /// seconds: set-up has another way to get what it needs.
    ///
    /// # Errors
    /// [`DockerError::Pull`] if the registry is silent; [`DockerError::Call`] if it or the engine
    /// refuses.
    pub async fn pull_image(
        &self,
        reference: &str,
        on_line: impl Fn(&str) + Send + Sync,
    ) -> Result<(), DockerError> {
        let options = CreateImageOptionsBuilder::new().from_image(reference).build();
        let mut progress = self.client.create_image(Some(options), None, None);
        let mut patience = FIRST_ANSWER;
        loop {
            let event = match tokio::time::timeout(patience, progress.next()).await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(_elapsed) => {
                    return Err(DockerError::Pull { image: reference.into(), waited: patience });
                }
            };
            let info = event.map_err(|error| call(format!("pull image {reference}"), error))?;
            if let Some(problem) = info.error_detail.and_then(|detail| detail.message) {
                let error = ClientError::DockerStreamError { error: problem };
                return Err(call(format!("pull image {reference}"), error));
            }
            on_line(info.status.as_deref().unwrap_or_default());
            patience = PULL_STALL;
        }
    }

    /// Removes an image by id or tag. Absent is fine; in use by a container is `false`.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine refuses for another reason.
    pub async fn remove_image(&self, reference: &str) -> Result<bool, DockerError> {
        let options = RemoveImageOptionsBuilder::new().build();
        match self.client.remove_image(reference, Some(options), None).await {
            Ok(_) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(true),
            Err(ClientError::DockerResponseServerError { status_code: 409, .. }) => Ok(false),
            Err(error) => Err(call(format!("remove image {reference}"), error)),
        }
    }

    /// Removes untagged images that carry this label, such as the inner stages of a build.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine refuses.
    pub async fn remove_untagged_images(&self, label: &str) -> Result<(), DockerError> {
        let filters = HashMap::from([("dangling", vec!["true"]), ("label", vec![label])]);
        let options = PruneImagesOptionsBuilder::new().filters(&filters).build();
        self.client
            .prune_images(Some(options))
            .await
            .map_err(|error| call("remove inner build stages", error))?;
        Ok(())
    }
}

fn from_inspect(image: ImageInspect) -> ImageInfo {
    let config = image.config.unwrap_or_default();
    ImageInfo {
        id: image.id.unwrap_or_default(),
        labels: config.labels.unwrap_or_default(),
        tags: image.repo_tags.unwrap_or_default(),
        environment: config.env.unwrap_or_default(),
        volumes: config.volumes.unwrap_or_default(),
        size_bytes: image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
    }
}

/// Lines of a build's output. It comes in pieces as programs write it, half a line at a time.
#[derive(Default)]
struct Lines(String);

impl Lines {
    /// The lines that a piece completes, without those that are blank.
    fn add(&mut self, piece: &str) -> Vec<String> {
        self.0.push_str(piece);
        let end = match self.0.rfind('\n') {
            Some(end) => end + 1,
            None if self.0.len() > MAX_LINE_BYTES => self.0.len(),
            None => return Vec::new(),
        };
        let rest = self.0.split_off(end);
        let whole = std::mem::replace(&mut self.0, rest);
        whole.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

/// The image that the engine says a step has made: ` ---> 0123456789ab`.
fn made_by_step(line: &str) -> Option<&str> {
    let id = line.strip_prefix("---> ")?;
    (id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

fn keep(kept: &mut VecDeque<String>, line: &str) {
    if kept.len() == KEPT_LINES {
        kept.pop_front();
    }
    kept.push_back(line.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut lines = Lines::default();
        assert!(lines.add("E").is_empty());
        assert_eq!(lines.add(": no\n\n  such\r\npack"), ["E: no", "such"]);
        assert_eq!(lines.add("age\n"), ["package"]);
        assert!(lines.add("\n").is_empty());
        assert_eq!(lines.add(&"a".repeat(MAX_LINE_BYTES + 1)).len(), 1);
        assert_eq!(made_by_step("---> 0123456789ab"), Some("0123456789ab"));
        assert_eq!(made_by_step("---> Running in 0123456789ab"), None);
    }
}
