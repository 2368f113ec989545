//! Installed packages as volumes of the engine, found again by their labels. Several workers may share
//! an engine: a volume is filled under a name of its own, and cannot be relabelled or renamed, so a
//! second, empty one says that the first is whole, and how large. What has no such mark is nobody's.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::Stream;
use uuid::Uuid;

use super::key::Key;
use crate::engine::docker::{Docker, DockerError, VolumeInfo};
use crate::engine::sandbox::{LABEL_OWNER, LABEL_WORKER, Origin};

/// Key of the set in a volume.
const LABEL_KEY: &str = "isol8.packages";
/// On the mark of a volume: its name, and the bytes in it.
const LABEL_MARKS: &str = "isol8.packages.marks";
const LABEL_BYTES: &str = "isol8.packages.bytes";
/// When the filling of a volume began, in seconds since 1970.
const LABEL_BEGUN: &str = "isol8.packages.begun";
/// How the volumes are called.
const PREFIX: &str = "isol8-packages-";
/// By then a volume without a mark has been given up: longer than any installation may take.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3600);

/// Whether a volume holds packages, or marks one that does.
#[must_use]
pub fn is_package_volume(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether the volume exists and was made for packages.
pub(in crate::engine) async fn is_there(docker: &Docker, name: &str) -> Result<bool, DockerError> {
    let found = docker.volume_info(name).await?;
    Ok(found.is_some_and(|volume| volume.labels.contains_key(LABEL_KEY)))
}

/// A set of packages that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) key: Key,
    pub(super) volume: String,
    pub(super) bytes: u64,
}

/// The volumes of one engine.
#[derive(Clone)]
pub(super) struct Store {
    docker: Docker,
    owner: String,
    worker: String,
}

impl Store {
    pub(super) fn new(docker: Docker, origin: &Origin) -> Self {
        let (owner, worker) = (origin.owner.clone(), origin.worker.to_string());
        Self { docker, owner, worker }
    }

    /// Finds the sets that are whole, and removes what an earlier life of this worker, or anybody long
    /// ago, left unfinished.
    pub(super) async fn take_stock(&self) -> Result<Vec<Stored>, DockerError> {
        self.sort_out(Some(&self.worker)).await
    }

    /// Removes what this worker has begun and not finished. Call when it installs no more, and its
    /// containers are gone.
    pub(super) async fn clear(&self) -> Result<(), DockerError> {
        self.sort_out(None).await.map(drop)
    }

    async fn sort_out(&self, alive: Option<&str>) -> Result<Vec<Stored>, DockerError> {
        let (contents, marks) = tokio::try_join!(
            self.docker.list_volumes(LABEL_KEY),
            self.docker.list_volumes(LABEL_MARKS),
        )?;
        let Stock { whole, leftovers } = sort(contents, marks, &self.owner, alive, now());
        for name in leftovers {
            self.remove_one(&name).await;
        }
        Ok(whole)
    }

    /// A name for a volume that nobody else will use.
    pub(super) fn name(key: &Key) -> String {
        format!("{PREFIX}{}-{}", key.short(), Uuid::new_v4().simple())
    }

    /// Creates and fills a volume; it counts for nothing until it is marked.
    pub(super) async fn fill(
        &self,
        name: &str,
        key: &Key,
        image: &str,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), DockerError> {
        let labels = HashMap::from([
            (LABEL_KEY.to_owned(), key.as_str().to_owned()),
            (LABEL_OWNER.to_owned(), self.owner.clone()),
            (LABEL_WORKER.to_owned(), self.worker.clone()),
            (LABEL_BEGUN.to_owned(), now().as_secs().to_string()),
        ]);
        self.docker.create_volume_from_tar(name, labels, image, archive).await
    }

    /// Tells everybody that a volume is whole.
    pub(super) async fn mark(&self, name: &str, bytes: u64) -> Result<(), DockerError> {
        let labels = HashMap::from([
            (LABEL_MARKS.to_owned(), name.to_owned()),
            (LABEL_BYTES.to_owned(), bytes.to_string()),
        ]);
        self.docker.create_volume(&mark_of(name), labels).await
    }

    /// Removes a volume and its mark; `false` if a sandbox still uses it.
    pub(super) async fn remove(&self, name: &str) -> bool {
        // The mark last: without it a volume in use would be a leftover to others.
        self.remove_one(name).await && self.remove_one(&mark_of(name)).await
    }

    async fn remove_one(&self, name: &str) -> bool {
        match self.docker.remove_volume(name).await {
            Ok(is_removed) => is_removed,
            Err(error) => {
                tracing::warn!(%error, volume = name, "a volume with packages could not be removed");
                false
            }
        }
    }
}

fn mark_of(name: &str) -> String {
    format!("{name}-ready")
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Stock {
    whole: Vec<Stored>,
    leftovers: Vec<String>,
}

/// `alive` is the one worker of `owner` that may still be filling volumes.
fn sort(
    contents: Vec<VolumeInfo>,
    marks: Vec<VolumeInfo>,
    owner: &str,
    alive: Option<&str>,
    now: Duration,
) -> Stock {
    let mut stock = Stock::default();
    let names: HashSet<&str> = contents.iter().map(|volume| volume.name.as_str()).collect();
    let mut marked = HashMap::new();
    for mark in marks {
        let bytes = mark.labels.get(LABEL_BYTES).and_then(|bytes| bytes.parse::<u64>().ok());
        match (mark.labels.get(LABEL_MARKS), bytes) {
            (Some(name), Some(bytes)) if names.contains(name.as_str()) => {
                marked.insert(name.clone(), bytes);
            }
            _ => stock.leftovers.push(mark.name),
        }
    }
    for VolumeInfo { name, labels } in contents {
        let label = |name: &str| labels.get(name).map_or("", String::as_str);
        if let Some(bytes) = marked.get(&name) {
            let key = Key::labelled(label(LABEL_KEY));
            stock.whole.push(Stored { key, volume: name, bytes: *bytes });
            continue;
        }
        let begun = label(LABEL_BEGUN).parse().map(Duration::from_secs).unwrap_or_default();
        let is_own = label(LABEL_OWNER) == owner && Some(label(LABEL_WORKER)) != alive;
        if is_own || now.saturating_sub(begun) > GIVEN_UP_AFTER {
            stock.leftovers.push(name);
        }
    }
    stock
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, labels: &[(&str, &str)]) -> VolumeInfo {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        VolumeInfo { name: name.to_owned(), labels: labels.collect() }
    }

    #[test]
    fn only_marked_volumes_count_and_nobody_elses_work_is_removed() {
        let content = |name: &str, owner: &str, worker: &str, begun: &str| {
            let labels = [
                (LABEL_KEY, "k"),
                (LABEL_OWNER, owner),
                (LABEL_WORKER, worker),
                (LABEL_BEGUN, begun),
            ];
            volume(name, &labels)
        };
        let mark = |name: &str, of: &str| volume(name, &[(LABEL_MARKS, of), (LABEL_BYTES, "5")]);
        let contents = vec![
            content("whole", "other", "2", "9000"),
            content("own, now", "me", "1", "9000"),
            content("own, of an earlier life", "me", "0", "9000"),
            content("another's, now", "other", "2", "9000"),
            content("another's, long ago", "other", "2", "1"),
        ];
        let marks = vec![mark("whole-ready", "whole"), mark("lonely-ready", "gone")];
        let stock = sort(contents, marks, "me", Some("1"), Duration::from_secs(10_000));
        let whole = Stored { key: Key::labelled("k"), volume: "whole".to_owned(), bytes: 5 };
        assert_eq!(stock.whole, [whole]);
        assert_eq!(
            stock.leftovers,
            ["lonely-ready", "own, of an earlier life", "another's, long ago"]
        );
    }
}
