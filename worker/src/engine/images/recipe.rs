//! What one image is made of, as data: recipe text, arguments, labels, and the hash that says
//! whether an image built earlier is still the same.

use std::collections::HashMap;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use shared::execution::PackageSet;
use shared::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::build::{BUILD_LIMIT, CustomImage};
use super::preload::Preload;
use super::registry::{Authority, RegistrySettings};
use super::{
    INTERPRETERS_IMAGE, ImageError, LABEL_BUILD_HASH, LABEL_DEPENDENCIES, LABEL_DEPENDENCIES_HASH,
    LABEL_PRELOAD, LABEL_RUNTIME, LABEL_SETUP, LABEL_UNFINISHED, TOOLS_IMAGE, Versions, assets,
    is_fetched,
};
use crate::engine::docker::BuildSpec;

/// One image to build.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// Tag of the result.
    pub(super) tag: String,
    /// Hash of everything that decides what the result is.
    pub(super) hash: String,
    dockerfile: String,
    build_args: HashMap<String, String>,
    labels: HashMap<String, String>,
    packages: PackageSet,
}

impl Recipe {
    /// What all runtime images share. `os_reference` is the configured image, whichever way it is
    /// obtained; the host's own authorities are part of the result.
    pub(super) fn tools(os_reference: &str, authorities: &[Authority]) -> Self {
        let mut hash = Hash::new();
        hash.add(assets::TOOLS).add(os_reference);
        for authority in authorities {
            hash.add(&authority.name).add(&authority.certificate);
        }
        Self::plain(TOOLS_IMAGE, assets::TOOLS, HashMap::new(), hash.finish())
    }

    /// Where interpreters come from.
    pub(super) fn interpreters(versions: &Versions) -> Self {
        let integrity = versions.integrity_words();
        let versions = &versions.interpreters;
        let build_args = HashMap::from([
            ("INTEGRITY".to_owned(), integrity),
            ("NODE_VERSION".to_owned(), versions.node.clone()),
            ("NPM_VERSION".to_owned(), versions.npm.clone()),
            ("BUN_VERSION".to_owned(), versions.bun.clone()),
            ("DENO_VERSION".to_owned(), versions.deno.clone()),
        ]);
        Self::plain(INTERPRETERS_IMAGE, assets::INTERPRETERS, build_args, String::new())
    }

    /// A runtime's image on top of the tools image with hash `tools_hash`.
    pub(super) fn runtime(
        runtime: Runtime,
        packages: &PackageSet,
        versions: &Versions,
        tools_hash: &str,
    ) -> Self {
        let mut dockerfile = assets::runtime(runtime).to_owned();
        let mut build_args = HashMap::from([("BASE_IMAGE".to_owned(), TOOLS_IMAGE.to_owned())]);
        let mut labels = HashMap::new();
        let mut hash = Hash::new();
        hash.add(tools_hash);
        if is_fetched(runtime) {
            build_args.insert("INTERPRETERS_IMAGE".into(), INTERPRETERS_IMAGE.into());
            hash.add(assets::INTERPRETERS).add(&versions.integrity_words());
        }
        if runtime == Runtime::Agent {
            build_args.insert("PI_VERSION".into(), versions.agent.pi.clone());
        }
        for version in fetched_versions(runtime, versions) {
            hash.add(version);
        }
        if !packages.is_empty() {
            dockerfile.push_str(assets::packages(runtime));
            let hash = dependencies_hash(runtime, packages, None, &Preload::default());
            labels.insert(LABEL_DEPENDENCIES_HASH.into(), hash);
        }
        // Present even when empty: it takes the place of a value inherited from the image below.
        labels.insert(LABEL_DEPENDENCIES.into(), packages.to_string());
        labels.insert(LABEL_RUNTIME.into(), runtime.name().into());
        hash.add(&dockerfile).add(&packages.to_string());
        let hash = hash.finish();
        labels.insert(LABEL_BUILD_HASH.into(), hash.clone());
        let tag = runtime.image().into();
        Self { tag, hash, dockerfile, build_args, labels, packages: packages.clone() }
    }

    /// Somebody's own image on top of a runtime's image.
    pub(super) fn custom(wanted: &CustomImage) -> Self {
        let CustomImage { runtime, tag, packages, setup, preload, force: _ } = wanted;
        let (runtime, setup) = (*runtime, setup.as_deref());
        let mut dockerfile = format!("FROM {} AS runtime\n", runtime.image());
        if !packages.is_empty() {
            dockerfile.push_str(assets::packages(runtime));
        }
        let hash = dependencies_hash(runtime, packages, setup, preload);
        let labels = HashMap::from([
            (LABEL_RUNTIME.to_owned(), runtime.name().to_owned()),
            (LABEL_DEPENDENCIES.to_owned(), packages.to_string()),
            (LABEL_DEPENDENCIES_HASH.to_owned(), hash.clone()),
            (LABEL_SETUP.to_owned(), setup.unwrap_or_default().to_owned()),
            (LABEL_PRELOAD.to_owned(), preload.to_string()),
            // Not one of our own images, though it is built upon one.
            (LABEL_BUILD_HASH.to_owned(), String::new()),
            // Its last step: it is whole.
            (LABEL_UNFINISHED.to_owned(), String::new()),
        ]);
        let (build_args, packages) = (HashMap::new(), packages.clone());
        Self { tag: tag.clone(), hash, dockerfile, build_args, labels, packages }
    }

    fn plain(
        tag: &str,
        dockerfile: &str,
        build_args: HashMap<String, String>,
        hash: String,
    ) -> Self {
        Self {
            tag: tag.to_owned(),
            dockerfile: dockerfile.to_owned(),
            build_args,
            labels: HashMap::from([(LABEL_BUILD_HASH.to_owned(), hash.clone())]),
            hash,
            packages: PackageSet::default(),
        }
    }

    /// What the engine needs to build it. `os_image` is what tools and interpreters start from.
    ///
    /// # Errors
    /// [`ImageError::Context`] if packing fails.
    pub(super) fn spec(
        &self,
        os_image: &str,
        authorities: &[Authority],
        settings: &RegistrySettings,
        use_cache: bool,
    ) -> Result<BuildSpec, ImageError> {
        let mut build_args = self.build_args.clone();
        build_args.extend(settings.proxies.iter().cloned());
        // An argument the recipe does not declare is an error to some engines.
        if self.dockerfile.contains("ARG OS_IMAGE") {
            build_args.insert("OS_IMAGE".into(), os_image.into());
        }
        Ok(BuildSpec {
            tag: self.tag.clone(),
            context_tar: self.context(authorities, settings)?,
            build_args,
            labels: self.labels.clone(),
            use_cache,
            limit: BUILD_LIMIT,
            stop: CancellationToken::new(),
        })
    }

    fn context(
        &self,
        authorities: &[Authority],
        settings: &RegistrySettings,
    ) -> Result<Bytes, std::io::Error> {
        let mut tar = tar::Builder::new(Vec::new());
        for folder in ["registry/ca", "registry/apt", "registry/npm", "registry/pip"] {
            add_folder(&mut tar, folder)?;
        }
        add_file(&mut tar, "Dockerfile", &self.dockerfile)?;
        let list: String = self.packages.iter().map(|name| format!("{name}\n")).collect();
        add_file(&mut tar, "packages.txt", &list)?;
        for Authority { name, certificate } in authorities {
            add_file(&mut tar, &format!("registry/ca/{name}"), certificate)?;
        }
        let texts = [
            ("registry/apt/sources.list", &settings.apt_sources),
            ("registry/npm/.npmrc", &settings.npm_config),
            ("registry/pip/pip.conf", &settings.pip_config),
        ];
        for (path, text) in texts {
            if !text.is_empty() {
                add_file(&mut tar, path, text)?;
            }
        }
        Ok(tar.into_inner()?.into())
    }
}

/// The versions that decide what a runtime's image holds.
fn fetched_versions(runtime: Runtime, versions: &Versions) -> Vec<&str> {
    let (agent, versions) = (&versions.agent, &versions.interpreters);
    match runtime {
        Runtime::Agent => vec![&versions.node, &versions.npm, &agent.pi],
        Runtime::Node => vec![&versions.node, &versions.npm],
        Runtime::Bun => vec![&versions.bun],
        Runtime::Deno => vec![&versions.deno],
        Runtime::Python | Runtime::Bash => Vec::new(),
    }
}

/// Hash of a runtime with packages, a set-up script and modules to preload, as images are labelled
/// with: the parts follow each other without separators.
pub(super) fn dependencies_hash(
    runtime: Runtime,
    packages: &PackageSet,
    setup: Option<&str>,
    preload: &Preload,
) -> String {
    let mut hash = Sha256::new();
    hash.update(runtime.name());
    for name in packages.iter() {
        hash.update(name);
    }
    if let Some(script) = setup {
        hash.update("setup:");
        hash.update(script);
    }
    if !preload.is_empty() {
        hash.update("preload:");
        hash.update(preload.to_string());
    }
    hex(&hash.finalize())
}

/// A hash of several texts in which no text can pass for part of its neighbour.
struct Hash(Sha256);

impl Hash {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn add(&mut self, text: &str) -> &mut Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn add_file(tar: &mut tar::Builder<Vec<u8>>, path: &str, text: &str) -> std::io::Result<()> {
    let mut header = header(tar::EntryType::Regular, 0o644);
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, path, text.as_bytes())
}

fn add_folder(tar: &mut tar::Builder<Vec<u8>>, path: &str) -> std::io::Result<()> {
    let mut header = header(tar::EntryType::Directory, 0o755);
    header.set_size(0);
    tar.append_data(&mut header, format!("{path}/"), std::io::empty())
}

/// Times are zero, so that the same content makes the same archive and build caches hold.
fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}
