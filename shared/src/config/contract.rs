//! The sections isol8's configuration file has had all along.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Seccomp;
use crate::execution::Network;
use crate::isolation::Isolation;
use crate::runtime::Runtime;

/// What a request gets when it does not say.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Defaults {
    /// Wall-clock limit of each phase, in milliseconds.
    pub timeout_ms: u64,
    /// Memory, as a size string.
    pub memory_limit: String,
    /// Cores.
    pub cpu_limit: f64,
    /// Network mode.
    pub network: Network,
    /// What keeps a sandbox apart from its machine.
    pub isolation: Isolation,
    /// Size of `/sandbox`.
    pub sandbox_size: String,
    /// Size of `/tmp`.
    pub tmp_size: String,
    /// Whether the image's own files are read-only.
    pub readonly_root_fs: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timeout_ms: 30_000,
            memory_limit: "512m".into(),
            cpu_limit: 1.0,
            network: Network::None,
            isolation: Isolation::Container,
            sandbox_size: "512m".into(),
            tmp_size: "256m".into(),
            readonly_root_fs: true,
        }
    }
}

/// Host rules of the `filtered` network, as patterns in the dialect of Rust's `regex` crate. They hold
/// for every request, whatever its own rules are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkFilter {
    /// Hosts that may be reached; empty means all.
    pub whitelist: Vec<String>,
    /// Hosts that may not; wins over the whitelist.
    pub blacklist: Vec<String>,
}

/// Idle sandboxes and sessions.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Cleanup {
    /// Whether idle ones are removed.
    pub auto_prune: bool,
    /// How long they may be idle, in milliseconds.
    pub max_container_age_ms: u64,
}

impl Default for Cleanup {
    fn default() -> Self {
        Self { auto_prune: true, max_container_age_ms: 3_600_000 }
    }
}

/// System-call filter.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Security {
    /// The filter of every sandbox whose request does not ask for another one.
    pub seccomp: Seccomp,
    /// Profile for `custom`, on the worker's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_profile_path: Option<String>,
    /// Where the worker's machine keeps more of them: `NAME.json` is what requests may name, if the policy lets them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_directory: Option<String>,
}

/// Code by URL.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RemoteCode {
    /// Whether it is allowed at all.
    pub enabled: bool,
    /// URL schemes.
    pub allowed_schemes: Vec<String>,
    /// Host patterns; empty means all.
    pub allowed_hosts: Vec<String>,
    /// Host patterns that are refused.
    pub blocked_hosts: Vec<String>,
    /// Largest text, in bytes.
    pub max_code_size: u64,
    /// Time for the whole fetch, in milliseconds.
    pub fetch_timeout_ms: u64,
    /// Whether a hash must be given.
    pub require_hash: bool,
    /// Whether fetched texts are kept.
    pub enable_cache: bool,
    /// For how long, in seconds.
    pub cache_ttl: u64,
}

impl Default for RemoteCode {
    fn default() -> Self {
        let blocked = [
            r"^localhost$",
            r"^127(?:\.\d{1,3}){3}$",
            r"^\[::1\]$",
            r"^::1$",
            r"^10(?:\.\d{1,3}){3}$",
            r"^172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2}$",
            r"^192\.168(?:\.\d{1,3}){2}$",
            r"^169\.254(?:\.\d{1,3}){2}$",
            r"^metadata\.google\.internal$",
            r"^169\.254\.169\.254$",
        ];
        Self {
            enabled: false,
            allowed_schemes: vec!["https".into()],
            allowed_hosts: Vec::new(),
            blocked_hosts: blocked.map(String::from).to_vec(),
            max_code_size: 10 << 20,
            fetch_timeout_ms: 30_000,
            require_hash: false,
            enable_cache: true,
            cache_ttl: 3600,
        }
    }
}

/// Where audit records go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditDestination {
    /// `executions.log` in the log directory.
    #[default]
    Filesystem,
    /// The same, by its other name.
    File,
    /// Standard output, each line after `AUDIT_LOG: `.
    Stdout,
}

/// Audit log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Audit {
    /// Whether it is written.
    pub enabled: bool,
    /// Where the records go.
    pub destination: AuditDestination,
    /// Directory of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_dir: Option<String>,
    /// Program run after each record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_log_script: Option<String>,
    /// Whether resource usage is part of the record.
    pub track_resources: bool,
    /// Days a log file is kept.
    pub retention_days: u32,
    /// Whether the program text is part of the record.
    pub include_code: bool,
    /// Whether the output is part of the record.
    pub include_output: bool,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            enabled: false,
            destination: AuditDestination::default(),
            log_dir: None,
            post_log_script: None,
            track_resources: true,
            retention_days: 90,
            include_code: false,
            include_output: false,
        }
    }
}

/// API keys.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Auth {
    /// Whether keys other than the master key exist.
    pub enabled: bool,
    /// isol8's database; ours keeps keys in Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_string: Option<String>,
    /// Life of a key, in milliseconds.
    pub default_ttl_ms: u64,
    /// How often dead keys are removed, in milliseconds.
    pub cleanup_interval_ms: u64,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: false,
            connection_string: None,
            default_ttl_ms: 86_400_000,
            cleanup_interval_ms: 3_600_000,
        }
    }
}

/// An image that `setup` builds besides the base ones.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrebuiltImage {
    /// Its tag.
    pub tag: String,
    /// The base image.
    pub runtime: Runtime,
    /// Packages baked in.
    pub install_packages: Vec<String>,
    /// Script kept in a label of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_script: Option<String>,
    /// Modules that Python imports once, ahead of the jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preload: Vec<String>,
}
