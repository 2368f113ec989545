//! `isol8 cleanup`: removes what isol8 made on this machine's Docker engine. Asks first; where nobody
//! can be asked, nothing is removed without --force.

use std::process::ExitCode;

use serde::Serialize;
use worker::engine::docker::Docker;
use worker::engine::images::{is_package_image, is_unfinished};
use worker::engine::{is_package_volume, is_runner_volume, runner_volume};

use crate::args::CleanupArgs;
use crate::host::dockerd;
use crate::printer;

/// Carried by every container of ours.
const MANAGED: &str = "isol8.managed=true";

#[derive(Serialize)]
struct Found {
    containers: Vec<String>,
    images: Vec<String>,
    volumes: Vec<String>,
    removed: bool,
}

pub(crate) async fn run(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let docker = dockerd::connect().await.map_err(dockerd::not_running)?;
    let mut found = find(&docker, args.images).await?;
    let total = found.containers.len() + found.images.len() + found.volumes.len();
    if !args.json {
        if total == 0 {
            printer::line("[INFO] Nothing to clean up.");
            return Ok(ExitCode::SUCCESS);
        }
        let short = |id: &String| id.chars().take(12).collect::<String>();
        let containers = found.containers.iter().map(|id| ("container", short(id)));
        let images = found.images.iter().map(|tag| ("image", tag.clone()));
        let volumes = found.volumes.iter().map(|name| ("volume", name.clone()));
        for (kind, name) in containers.chain(images).chain(volumes) {
            printer::line(format!("{kind} {name}"));
        }
    }
    if total > 0 && (args.force || (!args.json && printer::confirm("Remove all of these?")?)) {
        remove(&docker, &found).await?;
        found.removed = true;
    }
    if args.json {
        printer::line(serde_json::to_string_pretty(&found)?);
    } else if found.removed {
        printer::line(format!(
            "[OK] Removed {} container(s), {} image(s) and {} volume(s)",
            found.containers.len(),
            found.images.len(),
            found.volumes.len()
        ));
    } else {
        printer::line("[INFO] Nothing removed. Give --force to remove without being asked.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn find(docker: &Docker, images: bool) -> anyhow::Result<Found> {
    let containers = docker.list_containers(&[MANAGED.to_owned()]).await?;
    let all = docker.list_images(&[]).await?;
    // Those made for packages are a cache, as the volumes are. What a build has left has no tag.
    let is_meant = |tag: &String| is_package_image(tag) || images && tag.starts_with("isol8:");
    let (unfinished, whole): (Vec<_>, Vec<_>) = all.into_iter().partition(is_unfinished);
    let tags = whole.into_iter().flat_map(|image| image.tags).filter(is_meant);
    let images = tags.chain(unfinished.into_iter().map(|image| image.id)).collect();
    // Runners of other versions, and packages. A worker that still uses one keeps it.
    let current = runner_volume();
    let is_ours =
        |name: &String| is_package_volume(name) || is_runner_volume(name) && *name != current;
    let volumes = docker.unused_volumes().await?;
    let volumes = volumes.into_iter().map(|volume| volume.name).filter(is_ours).collect();
    let containers = containers.into_iter().map(|(id, _)| id).collect();
    Ok(Found { containers, images, volumes, removed: false })
}

async fn remove(docker: &Docker, found: &Found) -> anyhow::Result<()> {
    for id in &found.containers {
        docker.remove_container(id).await?;
    }
    for tag in &found.images {
        if !docker.remove_image(tag).await? {
            printer::warning(format!("Image {tag} is used by a container and stays"));
        }
    }
    for name in &found.volumes {
        docker.remove_volume(name).await?;
    }
    Ok(())
}
