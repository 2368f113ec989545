//! `isol8 list-custom`: the images that `isol8 build` made.

use std::process::ExitCode;

use serde::Serialize;
use shared::execution::PackageSet;
use shared::runtime::Runtime;
use worker::engine::docker::ImageInfo;
use worker::engine::images::{
    LABEL_DEPENDENCIES, LABEL_PRELOAD, LABEL_RUNTIME, LABEL_SETUP, is_package_image,
};

use super::build::first_line;
use crate::args::JsonArgs;
use crate::host::dockerd;
use crate::printer;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    tag: String,
    runtime: String,
    dependencies: Vec<String>,
    setup: Option<String>,
    preload: Vec<String>,
    size_bytes: u64,
}

pub(crate) async fn run(args: &JsonArgs) -> anyhow::Result<ExitCode> {
    let docker = dockerd::connect().await.map_err(dockerd::not_running)?;
    let images = docker.list_images(&[LABEL_RUNTIME]).await?;
    let mut listed: Vec<_> = images.iter().flat_map(listed).collect();
    listed.sort_by(|left, right| left.tag.cmp(&right.tag));
    if args.json {
        printer::line(serde_json::to_string_pretty(&listed)?);
        return Ok(ExitCode::SUCCESS);
    }
    if listed.is_empty() {
        printer::line("[INFO] No custom images. Build one with `isol8 build`.");
    }
    for image in listed {
        printer::line(&image.tag);
        printer::line(format!("  Runtime: {}", image.runtime));
        if !image.dependencies.is_empty() {
            printer::line(format!("  Dependencies: {}", image.dependencies.join(", ")));
        }
        if let Some(setup) = &image.setup {
            printer::line(format!("  Setup: {}", first_line(setup)));
        }
        if !image.preload.is_empty() {
            printer::line(format!("  Preload: {}", image.preload.join(", ")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each name of an image that is not a runtime's own.
fn listed(image: &ImageInfo) -> Vec<Listed> {
    let label = |name: &str| image.labels.get(name).filter(|value| !value.is_empty()).cloned();
    let is_base = |tag: &String| Runtime::ALL.iter().any(|runtime| tag == runtime.image());
    if image.tags.iter().any(is_base) {
        return Vec::new();
    }
    let runtime = label(LABEL_RUNTIME).unwrap_or_default();
    let dependencies = label(LABEL_DEPENDENCIES).unwrap_or_default();
    let dependencies: Vec<_> = Runtime::from_name(&runtime)
        .and_then(|runtime| PackageSet::from_list(runtime, &dependencies))
        .map(|packages| packages.iter().map(String::from).collect())
        .unwrap_or_default();
    let preload = label(LABEL_PRELOAD).unwrap_or_default();
    let preload: Vec<_> = preload.split_terminator(',').map(String::from).collect();
    let listed = |tag: &String| Listed {
        tag: tag.clone(),
        runtime: runtime.clone(),
        dependencies: dependencies.clone(),
        setup: label(LABEL_SETUP),
        preload: preload.clone(),
        size_bytes: image.size_bytes,
    };
    image.tags.iter().filter(|tag| !is_package_image(tag)).map(listed).collect()
}
