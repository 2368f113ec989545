//! The sections a fleet needs and a single isol8 server did not have.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::labels::Labels;
use crate::net::{AddressRange, NameServer};
use crate::runtime::Runtime;
use crate::sealing::SecretsKeys;

/// Hash tags on a Redis Cluster: of three to six masters, each gets some.
const CLUSTER_SHARDS: u16 = 16;

/// The queue.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Redis {
    /// Where it is; absent means that `serve` starts one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// File that holds the password of the user in `url`: there, it is in nobody's process list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// File that holds the password that the sentinels in `url` ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_password_file: Option<PathBuf>,
    /// Certificates, as PEM, that the server's must be signed by; absent: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, as PEM, for servers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its key, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// File with the keys that secrets of requests are encrypted with, one a line, 32 bytes in base64: the first
    /// encrypts, all decrypt. The same for the whole fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets_key_file: Option<PathBuf>,
    /// The same keys as text, from the environment; in no file and in nothing that is shown.
    #[serde(skip)]
    pub secrets_keys: Option<SecretsKeys>,
    /// Whether, without a key, secrets are kept in Redis as they are. Else requests that have some are refused.
    pub allow_plain_secrets: bool,
    /// Number of hash tags the tenants are spread over. The same for the whole fleet, for good. 0 means
    /// 1, or 16 on a Redis Cluster, whose nodes share them.
    pub shards: u16,
    /// How long a silent worker keeps its jobs, in milliseconds.
    pub lease_ms: u64,
    /// How often a worker renews them, in milliseconds.
    pub renew_ms: u64,
    /// Workers that may die under a job before it is given up.
    pub max_deliveries: u32,
    /// Jobs that may wait, per shard.
    pub max_queued: u64,
    /// How long a result is kept for its caller, in milliseconds.
    pub result_ttl_ms: u64,
    /// How long a job of `/v1/jobs` is kept once it has ended, unless it asks otherwise, in
    /// milliseconds.
    pub job_retention_ms: u64,
    /// How long a job is kept that was given up because workers or sandboxes failed under it, at least,
    /// in milliseconds.
    pub dead_letter_ttl_ms: u64,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            sentinel_password_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            secrets_key_file: None,
            secrets_keys: None,
            allow_plain_secrets: false,
            shards: 0,
            lease_ms: 15_000,
            renew_ms: 4_000,
            max_deliveries: 3,
            max_queued: 100_000,
            result_ttl_ms: 60_000,
            job_retention_ms: 3_600_000,
            dead_letter_ttl_ms: 604_800_000,
        }
    }
}

impl Redis {
    /// The number of hash tags that is used.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        let is_cluster = self.url.as_deref().is_some_and(|url| url.contains("+cluster://"));
        match self.shards {
            0 if is_cluster => CLUSTER_SHARDS,
            0 => 1,
            shards => shards,
        }
    }
}

/// The HTTP front.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Gateway {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// How long open requests may take to end at shutdown, in milliseconds.
    pub shutdown_grace_ms: u64,
    /// Whether a job is cancelled when the client that streams its output goes away.
    pub cancel_on_disconnect: bool,
    /// How often a silent stream says that it is alive, in milliseconds.
    pub heartbeat_ms: u64,
    /// Open streams (SSE and WebSocket) at once.
    pub max_streams: usize,
    /// File transfers at once.
    pub max_transfers: usize,
    /// Connections at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Those of one address (of IPv6: of one network of 64 bits); 0 means half of all. Trusted proxies are not
    /// counted.
    pub max_connections_per_address: usize,
    /// How long the head of a request may take from its first byte, in milliseconds.
    pub head_timeout_ms: u64,
    /// How long a connection may be open without a request, in milliseconds. Longer than the 90 s after which
    /// common clients give up idle ones, so that it is they who close.
    pub idle_timeout_ms: u64,
    /// How long a client may keep the gateway waiting, for a body or with an answer that it does not take, beyond
    /// what its bytes may take, in milliseconds.
    pub stall_timeout_ms: u64,
    /// Least rate of bodies and answers while the gateway has to wait for the client; 0: any.
    pub min_bytes_per_second: u32,
    /// Proxies that are believed for whom they ask: ranges of their addresses. The `X-Forwarded-For` of anybody else
    /// counts for nothing.
    pub trusted_proxies: Vec<AddressRange>,
    /// Wrong keys of one address within a minute, beyond which further ones are answered 429; 0: any number.
    pub max_auth_failures: u32,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            host: "0.0.0.0".into(),
            port: 3000,
            max_body_bytes: 32 << 20,
            shutdown_grace_ms: 30_000,
            cancel_on_disconnect: true,
            heartbeat_ms: 5000,
            max_streams: 4096,
            max_transfers: 16,
            max_connections: 16_384,
            max_connections_per_address: 0,
            head_timeout_ms: 15_000,
            idle_timeout_ms: 120_000,
            stall_timeout_ms: 60_000,
            min_bytes_per_second: 64,
            trusted_proxies: Vec::new(),
            max_auth_failures: 20,
        }
    }
}

impl Gateway {
    /// The number of connections of one address that is used.
    #[must_use]
    pub const fn most_connections_of_address(&self) -> usize {
        match self.max_connections_per_address {
            0 => self.max_connections.div_ceil(2),
            most => most,
        }
    }
}

/// OCI runtimes of the worker's engine, by kind of isolation. One that is absent is looked for by the names that
/// it usually has; `none` is not used, even if it is there.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Runtimes {
    /// Of containers; absent: the engine's default.
    pub container: Option<String>,
    /// gVisor's, usually `runsc`.
    pub gvisor: Option<String>,
    /// That of Kata Containers, usually `kata`.
    pub kata: Option<String>,
}

impl Runtimes {
    /// In the place of a runtime that is not to be used.
    pub const OFF: &str = "none";
}

/// The worker.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Worker {
    /// Beginning of the name that labels this worker's containers; workers of one machine number
    /// themselves.
    pub name: String,
    /// What it says of itself: jobs may require labels of the worker that runs them.
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub labels: Labels,
    /// Whether it takes only jobs that require labels.
    pub only_labelled: bool,
    /// OCI runtimes of its engine, by kind of isolation.
    pub runtimes: Runtimes,
    /// Address of the worker's own `/healthz`, `/readyz` and `/metrics`; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Runtimes whose fresh sandboxes are kept ready from the start.
    pub prewarm: Vec<Runtime>,
    /// Most containers alive at once, busy or waiting; 0 means four for each concurrent job.
    pub max_containers: usize,
    /// Sessions alive at once.
    pub max_sessions: usize,
    /// How long a waiting sandbox is kept, in milliseconds.
    pub idle_ms: u64,
    /// How long running jobs may take to end at shutdown, in milliseconds.
    pub shutdown_grace_ms: u64,
    /// Answers every job at once without a sandbox: for measuring the queue.
    pub no_op: bool,
    /// Room for all packages that jobs asked for, as a size string.
    pub package_cache_size: String,
    /// Room for the packages of one job, as a size string.
    pub package_set_size: String,
    /// Longest installation, in milliseconds; a job waits no longer than its own time limit.
    pub install_timeout_ms: u64,
    /// Hosts of registries that no package manager's settings name, as `HOST` (ports 443 and 80) or
    /// `HOST:PORT`.
    pub registry_hosts: Vec<String>,
    /// Name servers that are asked for hosts of the filtered network and of code by URL, like `192.0.2.53` or
    /// `192.0.2.53:5353`; none: the machine's own resolver.
    pub resolvers: Vec<NameServer>,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            name: "worker".into(),
            labels: Labels::default(),
            only_labelled: false,
            runtimes: Runtimes::default(),
            listen: None,
            // An agent needs a network of its caller's own, so no sandbox can be made ahead for it.
            prewarm: Runtime::ALL.into_iter().filter(|it| *it != Runtime::Agent).collect(),
            max_containers: 0,
            max_sessions: 64,
            idle_ms: 300_000,
            shutdown_grace_ms: 30_000,
            no_op: false,
            package_cache_size: "8g".into(),
            package_set_size: "1g".into(),
            install_timeout_ms: 300_000,
            registry_hosts: Vec::new(),
            resolvers: Vec::new(),
        }
    }
}
