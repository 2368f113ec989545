//! `isol8 sbom`: what isol8 itself, or an image, is made of, as a CycloneDX document; and the hash of an image's files.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::VERSION;
use shared::runtime::Runtime;
use worker::engine::docker::Docker;
use worker::engine::images::{Contents, Ecosystem, Package, Plan, Versions, Wanted};
use worker::engine::{runner_hash, runner_volume};

use crate::args::SbomArgs;
use crate::host::{dockerd, registries};
use crate::printer;

/// The dependencies that this binary was built from.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// A file in which cargo keeps the versions it has chosen.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    /// SHA-256 of what was fetched; none for what is ours.
    checksum: Option<String>,
}

pub(crate) async fn run(args: &SbomArgs) -> anyhow::Result<ExitCode> {
    if args.images.is_empty() {
        anyhow::ensure!(!args.hash, "--hash is of images: name some, like python or isol8:python");
        printer::line(serde_json::to_string_pretty(&of_isol8()?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let docker = dockerd::connect().await.map_err(dockerd::not_running)?;
    for name in &args.images {
        let runtime = Runtime::from_name(name).ok();
        let image = runtime.map_or(name.as_str(), |runtime| runtime.image());
        let contents = Contents::of_image(&docker, image).await?;
        if args.hash {
            // As sha256sum writes it.
            printer::line(format!("{}  {image}", contents.hash));
        } else {
            let document = of_image(image, &contents, &versions(&docker, image).await?);
            printer::line(serde_json::to_string_pretty(&document)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn of_isol8() -> anyhow::Result<Value> {
    let lock: Lock = toml::from_str(LOCK).context("reading the embedded Cargo.lock")?;
    let packages = lock.package.into_iter().filter_map(|Locked { name, version, checksum }| {
        let hashes = json!([{"alg": "SHA-256", "content": checksum?}]);
        let purl = format!("pkg:cargo/{name}@{version}");
        Some(json!({"type": "library", "name": name, "version": version, "purl": purl, "hashes": hashes}))
    });
    let runner = json!({
        "type": "application",
        "name": "isol8-runner",
        "version": VERSION,
        "description": format!("Process 1 of every sandbox, and what is beside it in the volume {}", runner_volume()),
        "hashes": [{"alg": "SHA-256", "content": runner_hash()}],
    });
    let itself = json!({"type": "application", "name": "isol8", "version": VERSION});
    Ok(document(&itself, packages.chain([runner]).collect()))
}

fn of_image(image: &str, contents: &Contents, versions: &[(&str, String)]) -> Value {
    let mut components: Vec<Value> = contents.packages.iter().map(component).collect();
    components.extend(contents.interpreters.iter().map(|(name, hash)| {
        let version = versions.iter().find(|(known, _)| known == name);
        let mut component = json!({
            "type": "application", "name": name, "hashes": [{"alg": "SHA-256", "content": hash}],
        });
        if let Some((_, version)) = version {
            component["version"] = json!(version);
            component["purl"] = json!(format!("pkg:npm/{name}@{version}"));
        }
        component
    }));
    let itself = json!({
        "type": "container",
        "name": image,
        "properties": [
            {"name": "isol8:content-sha256", "value": contents.hash},
            {"name": "isol8:files", "value": contents.files.to_string()},
        ],
    });
    document(&itself, components)
}

fn component(package: &Package) -> Value {
    let Package { ecosystem, name, version, architecture } = package;
    let (kind, name_in_purl) = match ecosystem {
        Ecosystem::Debian => ("deb/debian", name.clone()),
        Ecosystem::Npm => ("npm", name.replace('@', "%40")),
        // As the specification of purl has it.
        Ecosystem::Python => ("pypi", name.to_lowercase().replace('_', "-")),
    };
    let escaped = version.replace('+', "%2B").replace(':', "%3A");
    let architecture = architecture.as_ref().map(|it| format!("?arch={it}")).unwrap_or_default();
    let purl = format!("pkg:{kind}/{name_in_purl}@{escaped}{architecture}");
    json!({"type": "library", "name": name, "version": version, "purl": purl})
}

/// No time and no number of its own: the same parts make the same document.
fn document(itself: &Value, components: Vec<Value>) -> Value {
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": itself,
            "tools": {"components": [{"type": "application", "name": "isol8", "version": VERSION}]},
        },
        "components": components,
    })
}

/// The versions of the interpreters in one of our own images, if this isol8 built it.
async fn versions(docker: &Docker, image: &str) -> anyhow::Result<Vec<(&'static str, String)>> {
    let wanted = Wanted { authorities: registries::authorities(), ..Wanted::default() };
    let plan = Plan::make(docker, wanted).await?;
    if !plan.up_to_date.iter().any(|runtime| runtime.image() == image) {
        return Ok(Vec::new());
    }
    let interpreters = Versions::embedded().interpreters;
    Ok(vec![("node", interpreters.node), ("bun", interpreters.bun), ("deno", interpreters.deno)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn isol8s_own_parts_are_those_of_its_lock_file() {
        let document = of_isol8().unwrap();
        let components = document["components"].as_array().unwrap();
        let find = |name: &str| components.iter().find(|it| it["name"] == name);
        assert!(find("tokio").unwrap()["purl"].as_str().unwrap().starts_with("pkg:cargo/tokio@1."));
        assert_eq!(find("tokio").unwrap()["hashes"][0]["content"].as_str().unwrap().len(), 64);
        assert_eq!(find("isol8-runner").unwrap()["version"], VERSION);
        assert!(find("shared").is_none(), "what is ours is no dependency");
    }

    #[test]
    fn packages_have_the_addresses_that_scanners_know() {
        let package = |ecosystem, name: &str, version: &str, architecture: Option<&str>| {
            let (name, version) = (name.to_owned(), version.to_owned());
            let architecture = architecture.map(str::to_owned);
            component(&Package { ecosystem, name, version, architecture })["purl"].clone()
        };
        assert_eq!(
            package(Ecosystem::Debian, "git", "1:2.39.5-0+deb12u3", Some("amd64")),
            "pkg:deb/debian/git@1%3A2.39.5-0%2Bdeb12u3?arch=amd64"
        );
        assert_eq!(package(Ecosystem::Npm, "@a/b", "1.0.0", None), "pkg:npm/%40a/b@1.0.0");
        assert_eq!(package(Ecosystem::Python, "Foo_Bar", "1", None), "pkg:pypi/foo-bar@1");
    }
}
