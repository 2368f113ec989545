//! What clients send. Unknown fields are ignored, as isol8's own
//! client sends many that mean nothing to a server; `null` means absent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::content::FileContent;
use super::egress::BoundSecret;
use super::queue::Wish;
use crate::config::Seccomp;
use crate::isolation::Isolation;

/// Body of the execute routes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecuteEnvelope {
    /// What to run.
    pub request: ExecutionRequest,
    /// How to run it.
    #[serde(default, deserialize_with = "default_if_null")]
    pub options: ExecutionOptions,
    /// Session to run it in; absent or empty for a sandbox of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// How to queue it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Wish>,
}

/// What to run. Exactly one of `code`, `code_url` and `cmd`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExecutionRequest {
    /// Runtime name; decides the image, also for `cmd`.
    pub runtime: String,
    /// Program text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Where to fetch the program text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_url: Option<String>,
    /// SHA-256 that the fetched text must have, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_hash: Option<String>,
    /// Whether `code_url` may be, or lead to, an `http://` address.
    #[serde(deserialize_with = "default_if_null", skip_serializing_if = "std::ops::Not::not")]
    pub allow_insecure_code_url: bool,
    /// Shell command, run by `bash -c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<String>,
    /// Wall-clock limit of each phase, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Environment of the program.
    #[serde(deserialize_with = "default_if_null", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Extension of the code file, with its dot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_extension: Option<String>,
    /// Standard input; empty means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Files to put into the sandbox first.
    #[serde(deserialize_with = "default_if_null", skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileContent>,
    /// Files to return afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_paths: Option<Vec<String>>,
    /// Packages to install first.
    #[serde(deserialize_with = "default_if_null", skip_serializing_if = "Vec::is_empty")]
    pub install_packages: Vec<String>,
    /// Shell script to run first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup_script: Option<String>,
    /// Working directory, inside `/sandbox`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Options for the agent, as one would write them in a shell; agent runtime only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_flags: Option<String>,
    /// For the audit log alone; `userId` is who ran it.
    #[serde(deserialize_with = "default_if_null", skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Which network a sandbox sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Loopback only.
    #[default]
    None,
    /// The host's own network.
    Host,
    /// Named hosts, through the worker.
    Filtered,
}

impl Network {
    /// Its word on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
            Self::Filtered => "filtered",
        }
    }
}

/// The network of a request: one mode, or one for each part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum NetworkChoice {
    /// For all of it.
    Always(Network),
    /// Installing what is needed first, with one, then running with another.
    Phases {
        /// For packages and the setup script.
        setup: Network,
        /// For the program.
        run: Network,
    },
}

impl From<Network> for NetworkChoice {
    fn from(network: Network) -> Self {
        Self::Always(network)
    }
}

/// Hosts that a request wants to be able to reach over the filtered network. A name that is not known
/// is refused: ignored, a misspelt list would open what it was to close.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilterOptions {
    /// Hosts that may be reached; empty means all.
    #[serde(deserialize_with = "default_if_null")]
    pub whitelist: Vec<String>,
    /// Hosts that may not; wins over the whitelist.
    #[serde(deserialize_with = "default_if_null")]
    pub blacklist: Vec<String>,
}

/// A secret: given to the program, or kept from it and put into what it sends to certain hosts.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum SecretOption {
    /// The program gets it.
    Plain(String),
    /// The program gets a placeholder.
    Bound(BoundSecret),
}

impl From<String> for SecretOption {
    fn from(value: String) -> Self {
        Self::Plain(value)
    }
}

impl std::fmt::Debug for SecretOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain(***)"),
            Self::Bound(bound) => bound.fmt(f),
        }
    }
}

/// What happens to a sandbox after a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolStrategy {
    /// Reset, verified, and used again for the same tenant.
    #[default]
    Fast,
    /// Destroyed: every container runs one job.
    Secure,
}

/// How to run it. Whatever is absent comes from the server's configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExecutionOptions {
    /// Network mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkChoice>,
    /// Hosts of the filtered network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_filter: Option<FilterOptions>,
    /// Whether requests over the filtered network are told in the result.
    #[serde(deserialize_with = "default_if_null", skip_serializing_if = "std::ops::Not::not")]
    pub log_network: bool,
    /// Memory, as a size string; no swap on top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    /// Cores, may be a fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<i64>,
    /// Whether the image's own files are read-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly_root_fs: Option<bool>,
    /// Bytes of each output stream that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_size: Option<u64>,
    /// Environment whose values are masked in outputs.
    #[serde(deserialize_with = "default_if_null", skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretOption>,
    /// Wall-clock limit of each phase, in milliseconds; the request's own wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Image, instead of the runtime's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Size of `/sandbox`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_size: Option<String>,
    /// Size of `/tmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp_size: Option<String>,
    /// What keeps the sandbox apart from its machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// System-call filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security: Option<SecurityOptions>,
}

/// The part of `options.security` that is read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecurityOptions {
    /// The filter wanted; a profile is never taken from a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
}

/// `null` where clients mean nothing.
fn default_if_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_means_absent() {
        let json = r#"{
            "request": {
                "runtime": "bash", "code": null, "codeUrl": null, "cmd": "true",
                "codeHash": null, "allowInsecureCodeUrl": null, "timeoutMs": null,
                "env": null, "fileExtension": null, "stdin": null, "files": null,
                "outputPaths": null, "installPackages": null, "setupScript": null, "workdir": null,
                "metadata": null, "agentFlags": null
            },
            "options": null,
            "sessionId": null
        }"#;
        let envelope: ExecuteEnvelope = serde_json::from_str(json).unwrap();
        let plain = r#"{"request":{"runtime":"bash","cmd":"true"},"options":{}}"#;
        assert_eq!(serde_json::to_string(&envelope).unwrap(), plain);
        let options: ExecutionOptions =
            serde_json::from_str(r#"{"network":null,"networkFilter":null,"logNetwork":null,"secrets":null,"security":null}"#).unwrap();
        assert_eq!(serde_json::to_string(&options).unwrap(), "{}");
    }

    #[test]
    fn a_misspelt_rule_of_the_network_is_refused_rather_than_ignored() {
        for (options, name) in [
            (r#"{"networkFilter":{"allow":["^a$"]}}"#, "allow"),
            (r#"{"networkFilter":{"Whitelist":["^a$"]}}"#, "Whitelist"),
            (r#"{"network":{"setup":"none","run":"none","install":"none"}}"#, "install"),
        ] {
            let error = serde_json::from_str::<ExecutionOptions>(options).unwrap_err().to_string();
            assert!(error.contains(&format!("unknown field `{name}`")), "{error}");
        }
    }
}
