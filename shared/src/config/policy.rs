//! What the operator lets requests ask for, in general and tenant by tenant.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Seccomp;
use crate::execution::Network;
use crate::id::TenantId;
use crate::isolation::Isolation;
use crate::net::AddressRange;

/// Ceilings for what requests may ask. Above one is a 400 that names it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Policy {
    /// Memory, as a size string.
    pub max_memory: String,
    /// Cores.
    pub max_cpu: f64,
    /// Processes and threads.
    pub max_pids: u32,
    /// Wall-clock limit of a phase, in milliseconds.
    pub max_timeout_ms: u64,
    /// Output kept per stream, in bytes.
    pub max_output_bytes: u64,
    /// Size of `/sandbox` and of `/tmp`, as a size string.
    pub max_disk: String,
    /// Largest file moved into or out of a session, in bytes.
    pub max_file_bytes: u64,
    /// Network modes.
    pub networks: Vec<Network>,
    /// Ranges of addresses that may be reached although they are not public, like `10.1.0.0/16`.
    pub allow_private_addresses: Vec<AddressRange>,
    /// Connections over the filtered network that a job is served at once; further ones wait.
    pub max_network_connections: u32,
    /// Bytes that a job may move over the filtered network, both ways; 0 means any number.
    pub max_network_bytes: u64,
    /// Bytes per second that a job may move over the filtered network; 0 means any number.
    pub max_network_bytes_per_second: u64,
    /// Patterns of image names besides `isol8:*`; `*` stands for any text.
    pub images: Vec<String>,
    /// Patterns of labels, like `pool=gpu`, that a job may require of its worker; `*` stands for any text.
    pub labels: Vec<String>,
    /// System-call filters that may be asked for besides the server's own.
    pub seccomp: Vec<Seccomp>,
    /// Kinds of isolation that requests may have; one that asks for none gets the server's default, or the
    /// first of these if that is not among them. Empty: the server's default, and whatever is no weaker.
    pub isolation: Vec<Isolation>,
    /// Whether a request may ask for a writable root.
    pub allow_writable_root: bool,
    /// Whether a request may ask for packages.
    pub allow_packages: bool,
    /// Open sessions of a tenant.
    pub max_sessions: u32,
    /// Jobs of a tenant that are queued or running; 0 means any number.
    pub max_concurrent_jobs: u32,
    /// Requests of a tenant per second; 0 means any number.
    pub max_requests_per_second: u32,
    /// How long a tenant may have a job kept once it has ended, in milliseconds.
    pub max_retention_ms: u64,
    /// Jobs of `/v1/jobs` of a tenant that have not ended.
    pub max_queued_jobs: u64,
    /// What they may take in the queue, in bytes.
    pub max_queued_bytes: u64,
    /// Jobs of `/v1/jobs` of a tenant in all, those included that have ended and are still kept.
    pub max_kept_jobs: u64,
    /// What is kept of those that have ended, in bytes.
    pub max_kept_bytes: u64,
    /// Schedules of a tenant.
    pub max_schedules: u64,
    /// Batches of a tenant, those included that have ended and are still kept.
    pub max_batches: u64,
    /// Items of one batch.
    pub max_batch_items: u64,
    /// What the items of a tenant's batches that have not begun may take in the queue, compressed, in bytes.
    pub max_batch_bytes: u64,
    /// What is kept of the results of a tenant's batches, in bytes; beyond it they wait until some are
    /// acknowledged.
    pub max_batch_result_bytes: u64,
    /// A tenant's share of the fleet beside others', where its number of jobs is not set.
    pub weight: f64,
    /// File with the secret, `whsec_…`, that webhooks are signed with which bring none of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_secret_file: Option<PathBuf>,
    /// What holds for one tenant instead, by its name; tighter or looser.
    pub tenants: BTreeMap<String, TenantPolicy>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_memory: "4g".into(),
            max_cpu: 4.0,
            max_pids: 1024,
            max_timeout_ms: 900_000,
            max_output_bytes: 16 << 20,
            max_disk: "4g".into(),
            max_file_bytes: 100 << 20,
            networks: vec![Network::None, Network::Filtered],
            allow_private_addresses: Vec::new(),
            max_network_connections: 64,
            max_network_bytes: 10 << 30,
            max_network_bytes_per_second: 0,
            images: vec!["*".into()],
            labels: vec!["*".into()],
            seccomp: vec![Seccomp::Strict],
            isolation: Vec::new(),
            allow_writable_root: true,
            allow_packages: true,
            max_sessions: 100,
            max_concurrent_jobs: 0,
            max_requests_per_second: 0,
            max_retention_ms: 86_400_000,
            max_queued_jobs: 100_000,
            max_queued_bytes: 1 << 30,
            max_kept_jobs: 200_000,
            max_kept_bytes: 1 << 30,
            max_schedules: 100,
            max_batches: 100,
            max_batch_items: 1_000_000,
            max_batch_bytes: 1 << 30,
            max_batch_result_bytes: 1 << 30,
            weight: 1.0,
            webhook_secret_file: None,
            tenants: BTreeMap::new(),
        }
    }
}

/// What holds for one tenant; whatever is absent is as for everybody.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TenantPolicy {
    /// Memory, as a size string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<String>,
    /// Cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpu: Option<f64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pids: Option<u32>,
    /// Wall-clock limit of a phase, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_timeout_ms: Option<u64>,
    /// Output kept per stream, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u64>,
    /// Size of `/sandbox` and of `/tmp`, as a size string.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_disk: Option<String>,
    /// Largest file moved into or out of a session, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_file_bytes: Option<u64>,
    /// Network modes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<Network>>,
    /// Ranges of addresses that may be reached although they are not public, like `10.1.0.0/16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_private_addresses: Option<Vec<AddressRange>>,
    /// Connections over the filtered network that a job is served at once; further ones wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_network_connections: Option<u32>,
    /// Bytes that a job may move over the filtered network, both ways; 0 means any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_network_bytes: Option<u64>,
    /// Bytes per second that a job may move over the filtered network; 0 means any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_network_bytes_per_second: Option<u64>,
    /// Patterns of image names besides `isol8:*`; `*` stands for any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<String>>,
    /// Patterns of labels, like `pool=gpu`, that a job may require of its worker; `*` stands for any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// System-call filters that may be asked for besides the server's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Vec<Seccomp>>,
    /// Kinds of isolation that requests may have; one that asks for none gets the server's default, or the
    /// first of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Vec<Isolation>>,
    /// Whether a request may ask for a writable root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_writable_root: Option<bool>,
    /// Whether a request may ask for packages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_packages: Option<bool>,
    /// Open sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// Jobs that are queued or running; 0 means any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_jobs: Option<u32>,
    /// Requests per second; 0 means any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_second: Option<u32>,
    /// How long a job may be kept once it has ended, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retention_ms: Option<u64>,
    /// Jobs of `/v1/jobs` that have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queued_jobs: Option<u64>,
    /// What they may take in the queue, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_queued_bytes: Option<u64>,
    /// Jobs of `/v1/jobs` in all, those included that have ended and are still kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kept_jobs: Option<u64>,
    /// What is kept of those that have ended, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_kept_bytes: Option<u64>,
    /// Schedules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_schedules: Option<u64>,
    /// Batches, those included that have ended and are still kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batches: Option<u64>,
    /// Items of one batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_items: Option<u64>,
    /// What the items of its batches that have not begun may take in the queue, compressed, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_bytes: Option<u64>,
    /// What is kept of the results of its batches, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_result_bytes: Option<u64>,
    /// Its share of the fleet beside others'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// File with the secret, `whsec_…`, that its webhooks are signed with which bring none of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_secret_file: Option<PathBuf>,
}

impl Policy {
    /// No ceilings at all.
    #[must_use]
    pub fn unlimited() -> Self {
        Self {
            max_memory: "1024t".into(),
            max_cpu: 1e6,
            max_pids: u32::MAX,
            max_timeout_ms: u64::MAX / 2,
            max_output_bytes: u64::MAX / 2,
            max_disk: "1024t".into(),
            max_file_bytes: u64::MAX / 2,
            networks: vec![Network::None, Network::Host, Network::Filtered],
            // What is private stays so even on the user's own machine: the code is not the user's.
            allow_private_addresses: Vec::new(),
            max_network_connections: 256,
            max_network_bytes: 0,
            max_network_bytes_per_second: 0,
            images: vec!["*".into()],
            labels: vec!["*".into()],
            seccomp: vec![Seccomp::Strict, Seccomp::Unconfined],
            isolation: Isolation::ALL.to_vec(),
            allow_writable_root: true,
            allow_packages: true,
            max_sessions: u32::MAX,
            max_concurrent_jobs: 0,
            max_requests_per_second: 0,
            max_retention_ms: u64::MAX / 2,
            max_queued_jobs: u64::MAX / 2,
            max_queued_bytes: u64::MAX / 2,
            max_kept_jobs: u64::MAX / 2,
            max_kept_bytes: u64::MAX / 2,
            max_schedules: u64::MAX / 2,
            max_batches: u64::MAX / 2,
            max_batch_items: u64::MAX / 2,
            max_batch_bytes: u64::MAX / 2,
            max_batch_result_bytes: u64::MAX / 2,
            weight: 1.0,
            webhook_secret_file: None,
            tenants: BTreeMap::new(),
        }
    }

    /// What holds for `tenant`, resolved. Builds a new policy; where requests pass, use the one
    /// that [`Admission::policy`](crate::execution::Admission::policy) keeps.
    #[must_use]
    pub fn of(&self, tenant: &TenantId) -> Self {
        let Some(own) = self.tenants.get(tenant.as_str()).cloned() else {
            return Self { tenants: BTreeMap::new(), ..self.clone() };
        };
        let general = self.clone();
        Self {
            max_memory: own.max_memory.unwrap_or(general.max_memory),
            max_cpu: own.max_cpu.unwrap_or(general.max_cpu),
            max_pids: own.max_pids.unwrap_or(general.max_pids),
            max_timeout_ms: own.max_timeout_ms.unwrap_or(general.max_timeout_ms),
            max_output_bytes: own.max_output_bytes.unwrap_or(general.max_output_bytes),
            max_disk: own.max_disk.unwrap_or(general.max_disk),
            max_file_bytes: own.max_file_bytes.unwrap_or(general.max_file_bytes),
            networks: own.networks.unwrap_or(general.networks),
            allow_private_addresses: own
                .allow_private_addresses
                .unwrap_or(general.allow_private_addresses),
            max_network_connections: own
                .max_network_connections
                .unwrap_or(general.max_network_connections),
            max_network_bytes: own.max_network_bytes.unwrap_or(general.max_network_bytes),
            max_network_bytes_per_second: own
                .max_network_bytes_per_second
                .unwrap_or(general.max_network_bytes_per_second),
            images: own.images.unwrap_or(general.images),
            labels: own.labels.unwrap_or(general.labels),
            seccomp: own.seccomp.unwrap_or(general.seccomp),
            isolation: own.isolation.unwrap_or(general.isolation),
            allow_writable_root: own.allow_writable_root.unwrap_or(general.allow_writable_root),
            allow_packages: own.allow_packages.unwrap_or(general.allow_packages),
            max_sessions: own.max_sessions.unwrap_or(general.max_sessions),
            max_concurrent_jobs: own.max_concurrent_jobs.unwrap_or(general.max_concurrent_jobs),
            max_requests_per_second: own
                .max_requests_per_second
                .unwrap_or(general.max_requests_per_second),
            max_retention_ms: own.max_retention_ms.unwrap_or(general.max_retention_ms),
            max_queued_jobs: own.max_queued_jobs.unwrap_or(general.max_queued_jobs),
            max_queued_bytes: own.max_queued_bytes.unwrap_or(general.max_queued_bytes),
            max_kept_jobs: own.max_kept_jobs.unwrap_or(general.max_kept_jobs),
            max_kept_bytes: own.max_kept_bytes.unwrap_or(general.max_kept_bytes),
            max_schedules: own.max_schedules.unwrap_or(general.max_schedules),
            max_batches: own.max_batches.unwrap_or(general.max_batches),
            max_batch_items: own.max_batch_items.unwrap_or(general.max_batch_items),
            max_batch_bytes: own.max_batch_bytes.unwrap_or(general.max_batch_bytes),
            max_batch_result_bytes: own
                .max_batch_result_bytes
                .unwrap_or(general.max_batch_result_bytes),
            weight: own.weight.unwrap_or(general.weight),
            webhook_secret_file: own.webhook_secret_file.or(general.webhook_secret_file),
            tenants: BTreeMap::new(),
        }
    }
}
