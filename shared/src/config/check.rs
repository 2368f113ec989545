//! What the types cannot say: values out of range, and values that contradict each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::load::Source;
use super::{AuditDestination, Config, Defaults, Policy, Seccomp};
use crate::error::Error;
use crate::execution::{
    MIN_CORES, MIN_DISK_BYTES, MIN_MEMORY_BYTES, MIN_PIDS, Network, is_image_reference,
};
use crate::id::TenantId;
use crate::labels::OWN_PREFIX;
use crate::net::{Host, HostFilter};
use crate::remote_code::RemoteCodeRules;
use crate::runtime::Runtime;
use crate::size::parse_bytes;

/// Longest that the tries of a webhook may take together: a day less than its job is kept for it.
const MAX_DELIVERY_MS: u64 = 2 * 86_400_000;

/// Values that cannot hold, or not together.
#[derive(Debug)]
pub(super) struct Contradiction {
    /// Their paths.
    keys: Vec<String>,
    /// What is wrong, and what would be right.
    message: String,
}

impl Contradiction {
    /// As an error that says where the values came from.
    pub(super) fn refusal(self, sources: &BTreeMap<String, Source>) -> Error {
        let places: BTreeSet<String> = sources
            .iter()
            .filter(|(path, _)| self.keys.iter().any(|key| covers(key, path)))
            .map(|(_, source)| source.to_string())
            .collect();
        let places: Vec<String> = places.into_iter().collect();
        let place =
            if places.is_empty() { String::new() } else { format!("{}: ", places.join(", ")) };
        Error::invalid(format!("Configuration is not valid: {place}{}", self.message))
    }
}

/// Whether `path` is `key`, or inside it.
fn covers(key: &str, path: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

type Checked = Result<(), Contradiction>;

fn require(holds: bool, keys: &[&str], message: impl FnOnce() -> String) -> Checked {
    if holds {
        return Ok(());
    }
    Err(Contradiction { keys: keys.iter().map(ToString::to_string).collect(), message: message() })
}

fn at_least<T: PartialOrd + std::fmt::Display>(key: &str, value: T, least: T) -> Checked {
    require(value >= least, &[key], || format!("{key} is {value}; the least is {least}"))
}

fn size(key: &str, text: &str, least: u64) -> Result<u64, Contradiction> {
    let bytes = parse_bytes(key, text)
        .map_err(|error| Contradiction { keys: vec![key.into()], message: error.to_string() })?;
    require(bytes >= least, &[key], || format!("{key} is \"{text}\"; the least is {least} bytes"))?;
    Ok(bytes)
}

impl Config {
    /// Refuses values that contradict each other.
    ///
    /// # Errors
    /// An invalid-request error that names the keys and what would be right.
    pub fn validate(&self) -> Result<(), Error> {
        check(self).map_err(|contradiction| contradiction.refusal(&BTreeMap::new()))
    }
}

/// Refuses values that contradict each other.
pub(super) fn check(config: &Config) -> Checked {
    at_least("maxConcurrent", config.max_concurrent, 1)?;
    security(config)?;
    network(config)?;
    policy("policy", &config.policy, config)?;
    defaults(&config.defaults, &config.policy)?;
    for name in config.policy.tenants.keys() {
        let tenant: TenantId = name.parse().map_err(|_| Contradiction {
            keys: vec!["policy.tenants".into()],
            message: format!(
                "policy.tenants has {name:?}, which no key can belong to; a tenant's name is 1 to 64 \
                 letters, digits, dots, underscores or hyphens"
            ),
        })?;
        let own = config.policy.of(&tenant);
        policy(&format!("policy.tenants.{name}"), &own, config)?;
    }
    idle(config)?;
    remote_code(config)?;
    audit(config)?;
    images(config)?;
    queue(config)?;
    gateway(config)?;
    webhooks(config)?;
    worker(config)
}

/// A request that asks for nothing must pass.
fn defaults(defaults: &Defaults, policy: &Policy) -> Checked {
    at_least("defaults.timeoutMs", defaults.timeout_ms, 1)?;
    let within = |name: &str, default: String, fits: bool, ceiling: (&str, String)| {
        let (key, ceiling_key) = (format!("defaults.{name}"), format!("policy.{}", ceiling.0));
        require(fits, &[&key, &ceiling_key], || {
            format!("{key} ({default}) is over {ceiling_key} ({})", ceiling.1)
        })
    };
    within(
        "timeoutMs",
        defaults.timeout_ms.to_string(),
        defaults.timeout_ms <= policy.max_timeout_ms,
        ("maxTimeoutMs", policy.max_timeout_ms.to_string()),
    )?;
    let is_amount = defaults.cpu_limit.is_finite() && defaults.cpu_limit >= MIN_CORES;
    require(is_amount, &["defaults.cpuLimit"], || {
        format!("defaults.cpuLimit is {}; the least is {MIN_CORES} cores", defaults.cpu_limit)
    })?;
    within(
        "cpuLimit",
        defaults.cpu_limit.to_string(),
        defaults.cpu_limit <= policy.max_cpu,
        ("maxCpu", policy.max_cpu.to_string()),
    )?;
    for (name, value, least, ceiling, limit) in [
        ("memoryLimit", &defaults.memory_limit, MIN_MEMORY_BYTES, "maxMemory", &policy.max_memory),
        ("sandboxSize", &defaults.sandbox_size, MIN_DISK_BYTES, "maxDisk", &policy.max_disk),
        ("tmpSize", &defaults.tmp_size, MIN_DISK_BYTES, "maxDisk", &policy.max_disk),
    ] {
        let bytes = size(&format!("defaults.{name}"), value, least)?;
        let limit_bytes = size(&format!("policy.{ceiling}"), limit, least)?;
        within(name, value.clone(), bytes <= limit_bytes, (ceiling, limit.clone()))?;
    }
    let is_writable = defaults.readonly_root_fs || policy.allow_writable_root;
    require(is_writable, &["defaults.readonlyRootFs", "policy.allowWritableRoot"], || {
        "defaults.readonlyRootFs is false, which policy.allowWritableRoot does not allow".into()
    })
}

fn network(config: &Config) -> Checked {
    HostFilter::compile("network", &config.network).map(drop).map_err(|error| {
        let keys = vec!["network.whitelist".into(), "network.blacklist".into()];
        Contradiction { keys, message: error.to_string() }
    })
}

/// The ceilings in one section: enough to start a sandbox with.
fn policy(section: &str, policy: &Policy, config: &Config) -> Checked {
    let key = |name: &str| format!("{section}.{name}");
    size(&key("maxMemory"), &policy.max_memory, MIN_MEMORY_BYTES)?;
    size(&key("maxDisk"), &policy.max_disk, MIN_DISK_BYTES)?;
    let is_amount = policy.max_cpu.is_finite() && policy.max_cpu >= MIN_CORES;
    require(is_amount, &[&key("maxCpu")], || {
        format!("{} is {}; the least is {MIN_CORES} cores", key("maxCpu"), policy.max_cpu)
    })?;
    at_least(&key("maxPids"), policy.max_pids, MIN_PIDS)?;
    at_least(&key("maxTimeoutMs"), policy.max_timeout_ms, 1)?;
    at_least(&key("maxNetworkConnections"), policy.max_network_connections, 1)?;
    let network = config.defaults.network;
    require(policy.networks.contains(&network), &["defaults.network", &key("networks")], || {
        let allowed: Vec<_> = policy.networks.iter().copied().map(Network::name).collect();
        format!(
            "defaults.network is {}, which {} ({}) does not allow",
            network.name(),
            key("networks"),
            allowed.join(", ")
        )
    })?;
    let has_profile = config.security.custom_profile_path.is_some();
    let is_known = has_profile || !policy.seccomp.contains(&Seccomp::Custom);
    require(is_known, &[&key("seccomp"), "security.customProfilePath"], || {
        format!("{} allows custom, but security.customProfilePath is not set", key("seccomp"))
    })
}

fn security(config: &Config) -> Checked {
    let security = &config.security;
    let path = security.custom_profile_path.as_deref();
    let is_known = security.seccomp != Seccomp::Custom || path.is_some();
    require(is_known, &["security.seccomp"], || {
        "security.seccomp is custom, but security.customProfilePath is not set".into()
    })?;
    require(path != Some(""), &["security.customProfilePath"], || {
        "security.customProfilePath is empty; leave it out or name a file".into()
    })
}

fn idle(config: &Config) -> Checked {
    at_least("cleanup.maxContainerAgeMs", config.cleanup.max_container_age_ms, 1)?;
    at_least("auth.defaultTtlMs", config.auth.default_ttl_ms, 1)?;
    at_least("auth.cleanupIntervalMs", config.auth.cleanup_interval_ms, 1)
}

fn remote_code(config: &Config) -> Checked {
    let remote_code = &config.remote_code;
    for scheme in &remote_code.allowed_schemes {
        let is_known = matches!(scheme.as_str(), "http" | "https");
        require(is_known, &["remoteCode.allowedSchemes"], || {
            format!("remoteCode.allowedSchemes has \"{scheme}\"; allowed are https and http")
        })?;
    }
    RemoteCodeRules::new(remote_code).map_err(|error| Contradiction {
        keys: vec!["remoteCode.allowedHosts".into(), "remoteCode.blockedHosts".into()],
        message: error.message().to_owned(),
    })?;
    let is_open = !remote_code.enabled || !remote_code.allowed_schemes.is_empty();
    require(is_open, &["remoteCode.enabled", "remoteCode.allowedSchemes"], || {
        "remoteCode.enabled is true, but remoteCode.allowedSchemes is empty".into()
    })?;
    at_least("remoteCode.maxCodeSize", remote_code.max_code_size, 1)?;
    at_least("remoteCode.fetchTimeoutMs", remote_code.fetch_timeout_ms, 1)
}

fn audit(config: &Config) -> Checked {
    let audit = &config.audit;
    require(audit.log_dir.as_deref() != Some(""), &["audit.logDir"], || {
        "audit.logDir is empty; leave it out or name a directory".into()
    })?;
    let Some(script) = audit.post_log_script.as_deref() else {
        return Ok(());
    };
    require(Path::new(script).is_absolute(), &["audit.postLogScript"], || {
        format!("audit.postLogScript is \"{script}\"; it must be an absolute path")
    })?;
    let has_file = audit.destination != AuditDestination::Stdout;
    require(has_file, &["audit.postLogScript", "audit.destination"], || {
        "audit.postLogScript is run with the path of the log, and audit.destination stdout has \
         none"
            .into()
    })
}

fn images(config: &Config) -> Checked {
    let mut tags = BTreeSet::new();
    for image in &config.prebuilt_images {
        let tag = image.tag.as_str();
        require(is_image_reference(tag), &["prebuiltImages"], || {
            format!("prebuiltImages has the tag \"{tag}\", which is not an image reference")
        })?;
        let is_base = Runtime::ALL.iter().any(|runtime| runtime.image() == tag);
        require(!is_base, &["prebuiltImages"], || {
            format!("prebuiltImages has the tag \"{tag}\", which is a base image's own")
        })?;
        require(tags.insert(tag), &["prebuiltImages"], || {
            format!("prebuiltImages has the tag \"{tag}\" twice")
        })?;
    }
    Ok(())
}

fn queue(config: &Config) -> Checked {
    let redis = &config.redis;
    at_least("redis.maxDeliveries", redis.max_deliveries, 1)?;
    at_least("redis.maxQueued", redis.max_queued, 1)?;
    at_least("redis.resultTtlMs", redis.result_ttl_ms, 1)?;
    at_least("redis.jobRetentionMs", redis.job_retention_ms, 1)?;
    at_least("redis.deadLetterTtlMs", redis.dead_letter_ttl_ms, 1)?;
    at_least("redis.renewMs", redis.renew_ms, 1)?;
    let keeps = redis.renew_ms.saturating_mul(3) <= redis.lease_ms;
    require(keeps, &["redis.renewMs", "redis.leaseMs"], || {
        format!(
            "redis.renewMs ({}) must be at most a third of redis.leaseMs ({}), or one missed \
             renewal loses the lease",
            redis.renew_ms, redis.lease_ms
        )
    })
}

fn gateway(config: &Config) -> Checked {
    let gateway = &config.gateway;
    require(!gateway.host.is_empty(), &["gateway.host"], || {
        "gateway.host is empty; 0.0.0.0 listens on every address".into()
    })?;
    at_least("gateway.maxBodyBytes", gateway.max_body_bytes, 1)?;
    at_least("gateway.heartbeatMs", gateway.heartbeat_ms, 1)?;
    at_least("gateway.maxStreams", gateway.max_streams, 1)?;
    at_least("gateway.maxTransfers", gateway.max_transfers, 1)?;
    at_least("gateway.maxConnections", gateway.max_connections, 1)?;
    at_least("gateway.headTimeoutMs", gateway.head_timeout_ms, 1)?;
    at_least("gateway.idleTimeoutMs", gateway.idle_timeout_ms, 1)?;
    at_least("gateway.stallTimeoutMs", gateway.stall_timeout_ms, 1)
}

fn webhooks(config: &Config) -> Checked {
    let webhooks = &config.webhooks;
    let within = |key: &str, value: u64, least: u64, most: u64| {
        require((least..=most).contains(&value), &[key], || {
            format!("{key} is {value}; it must be {least} to {most}")
        })
    };
    within("webhooks.timeoutMs", webhooks.timeout_ms, 1, 60_000)?;
    within("webhooks.maxAttempts", webhooks.max_attempts.into(), 1, 50)?;
    at_least("webhooks.maxBodyBytes", webhooks.max_body_bytes, 4096)?;
    at_least("webhooks.maxConcurrent", webhooks.max_concurrent, 1)?;
    let tries = u64::from(webhooks.max_attempts - 1);
    let pauses = webhooks.max_backoff_ms.max(webhooks.backoff_ms).saturating_mul(tries);
    let keys = ["webhooks.maxAttempts", "webhooks.backoffMs", "webhooks.maxBackoffMs"];
    require(pauses <= MAX_DELIVERY_MS, &keys, || {
        format!(
            "webhooks.maxAttempts with pauses of up to webhooks.maxBackoffMs ({} ms) may take {pauses} \
             ms; jobs are kept for a delivery that takes up to {MAX_DELIVERY_MS} ms",
            webhooks.max_backoff_ms
        )
    })
}

fn worker(config: &Config) -> Checked {
    let worker = &config.worker;
    require(!worker.name.is_empty(), &["worker.name"], || {
        "worker.name is empty; it labels the worker's containers".into()
    })?;
    let own = worker.labels.iter().find(|(name, _)| name.starts_with(OWN_PREFIX));
    require(own.is_none(), &["worker.labels"], || {
        let name = own.map(|(name, _)| name).unwrap_or_default();
        format!(
            "worker.labels has {name}; names that begin with {OWN_PREFIX} are kept for what a worker finds out about itself"
        )
    })?;
    let has_labels = !worker.only_labelled || !worker.labels.is_empty();
    require(has_labels, &["worker.onlyLabelled", "worker.labels"], || {
        "worker.onlyLabelled is true, but worker.labels has none that a job could require".into()
    })?;
    let has_agent = worker.prewarm.contains(&Runtime::Agent);
    require(!has_agent, &["worker.prewarm"], || {
        "worker.prewarm has agent, whose sandboxes depend on the network its caller asks for; leave \
         it out"
            .into()
    })?;
    let most = worker.max_containers;
    let enough = most == 0 || most >= config.max_concurrent;
    require(enough, &["worker.maxContainers", "maxConcurrent"], || {
        format!(
            "worker.maxContainers ({most}) is less than maxConcurrent ({}): each job needs one",
            config.max_concurrent
        )
    })?;
    let ahead = config.pool_size.clean.saturating_mul(worker.prewarm.len());
    require(
        most == 0 || most >= ahead,
        &["worker.maxContainers", "poolSize", "worker.prewarm"],
        || {
            format!(
                "worker.maxContainers ({most}) is less than poolSize.clean ({}) for each of the {} \
             runtimes in worker.prewarm",
                config.pool_size.clean,
                worker.prewarm.len()
            )
        },
    )?;
    let cache = size("worker.packageCacheSize", &worker.package_cache_size, MIN_DISK_BYTES)?;
    let set = size("worker.packageSetSize", &worker.package_set_size, MIN_DISK_BYTES)?;
    let keys = ["worker.packageSetSize", "worker.packageCacheSize"];
    require(set <= cache, &keys, || {
        format!(
            "worker.packageSetSize ({}) is over worker.packageCacheSize ({})",
            worker.package_set_size, worker.package_cache_size
        )
    })?;
    // What takes longer is taken for given up by other workers of the same engine.
    let is_time = (1..=3_000_000).contains(&worker.install_timeout_ms);
    require(is_time, &["worker.installTimeoutMs"], || {
        format!("worker.installTimeoutMs is {}; it must be 1 to 3000000", worker.install_timeout_ms)
    })?;
    for host in &worker.registry_hosts {
        require(Host::with_port(host).is_ok(), &["worker.registryHosts"], || {
            format!("worker.registryHosts has \"{host}\", which is neither HOST nor HOST:PORT")
        })?;
    }
    let address = worker.listen.as_deref();
    let is_address = address.is_none_or(|address| {
        address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    });
    require(is_address, &["worker.listen"], || {
        format!("worker.listen is \"{}\"; it must be ADDRESS:PORT", address.unwrap_or_default())
    })
}
