//! `isol8 build`: an image with packages or a setup script of one's own, on top of a runtime's image.
//! Also the images that the configuration wants built by `setup`.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use shared::config::{Config, PrebuiltImage};
use shared::execution::PackageSet;
use shared::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use worker::engine::docker::Docker;
use worker::engine::images::{Bounds, CustomImage, Preload, Versions, build_custom, is_image_name};

use super::setup::{self, SetupArgs};
use crate::args::BuildArgs;
use crate::host::{dockerd, registries};
use crate::screen::Screen;
use crate::{printer, request};

pub(crate) async fn run(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let runtime = Runtime::from_name(&args.base)
        .ok()
        .with_context(|| format!("Invalid runtime: {}. {}", args.base, choices()))?;
    check_tag(&args.tag)?;
    let packages = PackageSet::from_list(runtime, &args.install.join(","))?;
    let setup = request::setup_script(&args.setup)?;
    let preload = Preload::new(runtime, &args.preload)?;
    ensure!(
        !packages.is_empty() || setup.is_some() || !preload.is_empty(),
        "No packages or setup script specified. Give --install, --setup or --preload."
    );
    let docker = dockerd::connect().await.map_err(dockerd::not_running)?;
    if docker.image_info(runtime.image()).await?.is_none() {
        setup::run(SetupArgs { no_host: true, ..SetupArgs::default() }).await?;
    }
    let tag = args.tag.clone();
    let wanted = CustomImage { runtime, tag, packages, setup, preload, force: args.force };
    let screen = Screen::new();
    let built = build(&docker, &wanted, &screen).await;
    screen.close();
    let note = if built? { "" } else { " Up to date." };
    printer::line(format!("[DONE] Custom image build complete!{note}"));
    for line in description(&wanted) {
        printer::line(line);
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a tag before anything is done for it.
fn check_tag(tag: &str) -> anyhow::Result<()> {
    ensure!(
        is_image_name(tag),
        "\"{tag}\" cannot be an image's tag: write it like data:1 or registry.example/me/data:1, the name \
         in small letters and digits"
    );
    ensure!(
        !is_ours(tag),
        "{tag} would replace an image that isol8 itself makes, or makes others of; choose a tag with another \
         name"
    );
    Ok(())
}

/// Whether a tag is that of a runtime, of what those are made of, or of installed packages.
fn is_ours(tag: &str) -> bool {
    let name = tag.strip_prefix("docker.io/").unwrap_or(tag);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let repository = name.split([':', '@']).next().unwrap_or_default();
    ["isol8", "isol8-base", "isol8-packages"].contains(&repository)
        || name == Versions::embedded().debian.image
}

fn choices() -> String {
    format!("Available: {}", Runtime::ALL.map(Runtime::name).join(", "))
}

fn description(image: &CustomImage) -> Vec<String> {
    let mut lines = vec![format!("Runtime: {}", image.runtime)];
    if !image.packages.is_empty() {
        let names: Vec<_> = image.packages.iter().collect();
        lines.push(format!("Packages: {}", names.join(", ")));
    }
    if let Some(setup) = &image.setup {
        lines.push(format!("Setup: {}", first_line(setup)));
    }
    if !image.preload.is_empty() {
        lines.push(format!("Preload: {}", image.preload));
    }
    lines.push(format!("Image: {}", image.tag));
    lines
}

/// The beginning of a script, for people.
pub(super) fn first_line(script: &str) -> String {
    let mut lines = script.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first} ...") } else { first.to_owned() }
}

/// Builds the images of the configuration; tells of each whether it was not there yet. What one that
/// is there is made of is not compared unless `force` is given.
pub(crate) async fn prebuilt(
    docker: &Docker,
    images: &[PrebuiltImage],
    force: bool,
    screen: &Screen,
) -> anyhow::Result<Vec<bool>> {
    let mut built = Vec::with_capacity(images.len());
    for image in images {
        if !force && docker.image_info(&image.tag).await?.is_some() {
            built.push(false);
            continue;
        }
        let wanted = CustomImage {
            runtime: image.runtime,
            tag: image.tag.clone(),
            packages: PackageSet::new(image.runtime, &image.install_packages)?,
            setup: image.setup_script.clone(),
            preload: Preload::new(image.runtime, &image.preload)?,
            force,
        };
        let outcome = build(docker, &wanted, screen).await;
        let context = || format!("cannot build the prebuilt image {}", image.tag);
        built.push(outcome.with_context(context)?);
    }
    Ok(built)
}

/// Builds those that are missing before a worker starts; given up when
/// `stop` is cancelled.
pub(crate) async fn missing_prebuilt(
    config: &Config,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if config.prebuilt_images.is_empty() || config.worker.no_op {
        return Ok(());
    }
    let docker = dockerd::connect().await.map_err(dockerd::not_running)?;
    let screen = Screen::new();
    let building = Box::pin(prebuilt(&docker, &config.prebuilt_images, false, &screen));
    let built = stop.run_until_cancelled(building).await;
    screen.close();
    built.transpose().map(drop)
}

async fn build(docker: &Docker, wanted: &CustomImage, screen: &Screen) -> anyhow::Result<bool> {
    check_tag(&wanted.tag)?;
    let settings = registries::settings_for(wanted.runtime).await;
    Ok(build_custom(docker, wanted, &settings, Bounds::default(), &|event| screen.show(event))
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_isol8_itself_are_not_replaced() {
        for tag in [
            "isol8:python",
            "isol8",
            "isol8-base:tools",
            "docker.io/library/isol8:node",
            "library/debian:bookworm-slim",
        ] {
            assert!(is_ours(tag), "{tag}");
        }
        for tag in
            ["data:1", "debian:mine", "isol8-data:1", "registry.example:5000/isol8:1", "me/isol8:1"]
        {
            assert!(!is_ours(tag), "{tag}");
        }
    }
}
