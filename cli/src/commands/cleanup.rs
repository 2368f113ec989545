//! `isol8 cleanup`: removes what isol8 made on this machine's Docker engine.

use std::process::ExitCode;

use worker::engine::docker::Docker;

use crate::args::CleanupArgs;
use crate::printer;

/// Carried by every container of ours.
const MANAGED: &str = "isol8.managed=true";

pub(crate) async fn run(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let docker = Docker::connect().await?;
    let containers = docker.list_containers(&[MANAGED.to_owned()]).await?;
    let images = if args.images {
        let tags = docker.list_images(&[]).await?.into_iter().flat_map(|image| image.tags);
        tags.filter(|tag| tag.starts_with("isol8:")).collect()
    } else {
        Vec::new()
    };
    if containers.is_empty() && images.is_empty() {
        printer::line("[INFO] Nothing to clean up.");
        return Ok(ExitCode::SUCCESS);
    }
    for (id, _) in &containers {
        printer::line(format!("container {}", &id[..id.len().min(12)]));
    }
    for tag in &images {
        printer::line(format!("image {tag}"));
    }
    if !args.force && !printer::confirm("Remove all of these?")? {
        printer::line("[INFO] Nothing removed.");
        return Ok(ExitCode::SUCCESS);
    }
    for (id, _) in &containers {
        docker.remove_container(id).await?;
    }
    for tag in &images {
        docker.remove_image(tag).await?;
    }
    printer::line(format!(
        "[OK] Removed {} container(s) and {} image(s)",
        containers.len(),
        images.len()
    ));
    Ok(ExitCode::SUCCESS)
}
