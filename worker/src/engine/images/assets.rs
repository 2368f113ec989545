//! Recipes and pinned versions, embedded so that one binary is all a machine needs.

use std::collections::BTreeMap;

use serde::Deserialize;
use shared::runtime::Runtime;

/// Recipe of what all runtime images share.
pub(super) const TOOLS: &str = include_str!("../../../../images/base/Dockerfile");
/// Recipe of the image that fetches interpreters.
pub(super) const INTERPRETERS: &str = include_str!("../../../../images/interpreters/Dockerfile");

const VERSIONS: &str = include_str!("../../../../images/versions.toml");

/// Recipe of a runtime's image.
pub(super) const fn runtime(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => include_str!("../../../../images/python/Dockerfile"),
        Runtime::Node => include_str!("../../../../images/node/Dockerfile"),
        Runtime::Bun => include_str!("../../../../images/bun/Dockerfile"),
        Runtime::Deno => include_str!("../../../../images/deno/Dockerfile"),
        Runtime::Bash => include_str!("../../../../images/bash/Dockerfile"),
        Runtime::Agent => include_str!("../../../../images/agent/Dockerfile"),
    }
}

/// Recipe that adds packages to a runtime's image; continues a recipe whose stage is `runtime`.
pub(super) const fn packages(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => include_str!("../../../../images/python/packages.Dockerfile"),
        Runtime::Node | Runtime::Agent => {
            include_str!("../../../../images/node/packages.Dockerfile")
        }
        Runtime::Bun => include_str!("../../../../images/bun/packages.Dockerfile"),
        Runtime::Deno => include_str!("../../../../images/deno/packages.Dockerfile"),
        Runtime::Bash => include_str!("../../../../images/bash/packages.Dockerfile"),
    }
}

/// Every version that goes into the images (`images/versions.toml`).
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// The operating system.
    pub debian: Debian,
    /// The interpreters it does not carry.
    pub interpreters: Interpreters,
    /// SHA-512 of the packages that carry the interpreters, as npm writes it, by their names.
    pub integrity: BTreeMap<String, String>,
    /// The agent.
    pub agent: Agent,
}

/// The operating system of the images.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    /// Name of the release.
    pub suite: String,
    /// Reference of the published image of it.
    pub image: String,
}

/// Exact versions of the interpreters.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Interpreters {
    /// Node.js.
    pub node: String,
    /// npm, in the Node image.
    pub npm: String,
    /// Bun.
    pub bun: String,
    /// Deno.
    pub deno: String,
}

/// Exact version of the agent.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// The pi coding agent.
    pub pi: String,
}

impl Versions {
    /// The hashes as words, `NAME=SHA512`.
    pub(super) fn integrity_words(&self) -> String {
        let words = self.integrity.iter().map(|(name, hash)| format!("{name}={hash}"));
        words.collect::<Vec<_>>().join(" ")
    }

    /// The versions this binary was made with.
    ///
    /// # Panics
    /// Never: the embedded manifest is parsed by a test.
    #[must_use]
    pub fn embedded() -> Self {
        toml::from_str(VERSIONS).expect("the embedded manifest is parsed by a test")
    }
}
