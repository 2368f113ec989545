//! `isol8 config`: the merged configuration, where each value came from, and its schema.

use std::process::ExitCode;

use serde_json::{Map, Value, json};
use shared::config::{Loaded, json_schema};

use crate::args::ConfigArgs;
use crate::printer;
use crate::settings;

/// A section of the text form: its title, and the label and path of each line.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

/// The sections of the contract by its names, then ours.
const SECTIONS: [Section; 16] = [
    ("General", &[("Max concurrent", "maxConcurrent"), ("Debug", "debug")]),
    (
        "Defaults",
        &[
            ("Timeout", "defaults.timeoutMs"),
            ("Memory", "defaults.memoryLimit"),
            ("CPU", "defaults.cpuLimit"),
            ("Network", "defaults.network"),
            ("Sandbox size", "defaults.sandboxSize"),
            ("Tmp size", "defaults.tmpSize"),
            ("Read-only root", "defaults.readonlyRootFs"),
        ],
    ),
    ("Network Filter", &[("Whitelist", "network.whitelist"), ("Blacklist", "network.blacklist")]),
    (
        "Security",
        &[("Seccomp", "security.seccomp"), ("Custom profile", "security.customProfilePath")],
    ),
    (
        "Remote Code",
        &[
            ("Enabled", "remoteCode.enabled"),
            ("Schemes", "remoteCode.allowedSchemes"),
            ("Allowed hosts", "remoteCode.allowedHosts"),
            ("Blocked hosts", "remoteCode.blockedHosts"),
            ("Max code size", "remoteCode.maxCodeSize"),
            ("Fetch timeout", "remoteCode.fetchTimeoutMs"),
            ("Require hash", "remoteCode.requireHash"),
            ("Cache", "remoteCode.enableCache"),
            ("Cache TTL (s)", "remoteCode.cacheTtl"),
        ],
    ),
    (
        "Cleanup",
        &[("Auto-prune", "cleanup.autoPrune"), ("Max idle age", "cleanup.maxContainerAgeMs")],
    ),
    (
        "Pool Defaults (Serve)",
        &[("Strategy", "poolStrategy"), ("Clean", "poolSize.clean"), ("Dirty", "poolSize.dirty")],
    ),
    (
        "Audit",
        &[
            ("Enabled", "audit.enabled"),
            ("Destination", "audit.destination"),
            ("Directory", "audit.logDir"),
            ("Post-log script", "audit.postLogScript"),
            ("Resources", "audit.trackResources"),
            ("Retention (days)", "audit.retentionDays"),
            ("Code", "audit.includeCode"),
            ("Output", "audit.includeOutput"),
        ],
    ),
    (
        "Auth",
        &[
            ("Enabled", "auth.enabled"),
            ("Connection", "auth.connectionString"),
            ("Default TTL", "auth.defaultTtlMs"),
            ("Cleanup interval", "auth.cleanupIntervalMs"),
        ],
    ),
    ("Images", &[("Prebuilt", "prebuiltImages")]),
    (
        "Redis",
        &[
            ("URL", "redis.url"),
            ("Password file", "redis.passwordFile"),
            ("Sentinel password file", "redis.sentinelPasswordFile"),
            ("CA file", "redis.caFile"),
            ("Certificate file", "redis.certificateFile"),
            ("Key file", "redis.keyFile"),
            ("Secrets key file", "redis.secretsKeyFile"),
            ("Plain secrets", "redis.allowPlainSecrets"),
            ("Shards", "redis.shards"),
            ("Lease", "redis.leaseMs"),
            ("Renewal", "redis.renewMs"),
            ("Max deliveries", "redis.maxDeliveries"),
            ("Max queued", "redis.maxQueued"),
            ("Result TTL", "redis.resultTtlMs"),
            ("Job retention", "redis.jobRetentionMs"),
            ("Dead letters", "redis.deadLetterTtlMs"),
        ],
    ),
    (
        "Gateway",
        &[
            ("Host", "gateway.host"),
            ("Port", "gateway.port"),
            ("Max body bytes", "gateway.maxBodyBytes"),
            ("Shutdown grace", "gateway.shutdownGraceMs"),
            ("Cancel on leave", "gateway.cancelOnDisconnect"),
            ("Heartbeat", "gateway.heartbeatMs"),
            ("Max streams", "gateway.maxStreams"),
            ("Max transfers", "gateway.maxTransfers"),
            ("Max connections", "gateway.maxConnections"),
            ("Of one address", "gateway.maxConnectionsPerAddress"),
            ("Head timeout", "gateway.headTimeoutMs"),
            ("Idle timeout", "gateway.idleTimeoutMs"),
            ("Stall timeout", "gateway.stallTimeoutMs"),
            ("Min bytes/s", "gateway.minBytesPerSecond"),
            ("Trusted proxies", "gateway.trustedProxies"),
            ("Max auth failures", "gateway.maxAuthFailures"),
        ],
    ),
    (
        "Worker",
        &[
            ("Name", "worker.name"),
            ("Labels", "worker.labels"),
            ("Only labelled jobs", "worker.onlyLabelled"),
            ("Listen", "worker.listen"),
            ("Prewarm", "worker.prewarm"),
            ("Max containers", "worker.maxContainers"),
            ("Max sessions", "worker.maxSessions"),
            ("Idle", "worker.idleMs"),
            ("Shutdown grace", "worker.shutdownGraceMs"),
            ("No-op", "worker.noOp"),
            ("Package cache", "worker.packageCacheSize"),
            ("Package set", "worker.packageSetSize"),
            ("Install timeout", "worker.installTimeoutMs"),
            ("Registry hosts", "worker.registryHosts"),
            ("Name servers", "worker.resolvers"),
        ],
    ),
    (
        "Webhooks",
        &[
            ("Plain http", "webhooks.allowHttp"),
            ("Private addresses", "webhooks.allowPrivateAddresses"),
            ("Timeout", "webhooks.timeoutMs"),
            ("Max attempts", "webhooks.maxAttempts"),
            ("Backoff", "webhooks.backoffMs"),
            ("Max backoff", "webhooks.maxBackoffMs"),
            ("Max body bytes", "webhooks.maxBodyBytes"),
            ("Max concurrent", "webhooks.maxConcurrent"),
        ],
    ),
    (
        "Policy",
        &[
            ("Max memory", "policy.maxMemory"),
            ("Max CPU", "policy.maxCpu"),
            ("Max processes", "policy.maxPids"),
            ("Max timeout", "policy.maxTimeoutMs"),
            ("Max output bytes", "policy.maxOutputBytes"),
            ("Max disk", "policy.maxDisk"),
            ("Max file bytes", "policy.maxFileBytes"),
            ("Networks", "policy.networks"),
            ("Max connections", "policy.maxNetworkConnections"),
            ("Max network bytes", "policy.maxNetworkBytes"),
            ("Max network bytes/s", "policy.maxNetworkBytesPerSecond"),
            ("Private addresses", "policy.allowPrivateAddresses"),
            ("Images", "policy.images"),
            ("Labels", "policy.labels"),
            ("Seccomp", "policy.seccomp"),
            ("Writable root", "policy.allowWritableRoot"),
            ("Packages", "policy.allowPackages"),
        ],
    ),
    (
        "Tenants",
        &[
            ("Max sessions", "policy.maxSessions"),
            ("Max jobs", "policy.maxConcurrentJobs"),
            ("Max requests/s", "policy.maxRequestsPerSecond"),
            ("Max retention", "policy.maxRetentionMs"),
            ("Max queued jobs", "policy.maxQueuedJobs"),
            ("Max queued bytes", "policy.maxQueuedBytes"),
            ("Max kept jobs", "policy.maxKeptJobs"),
            ("Max kept bytes", "policy.maxKeptBytes"),
            ("Max schedules", "policy.maxSchedules"),
            ("Max batches", "policy.maxBatches"),
            ("Max batch items", "policy.maxBatchItems"),
            ("Max batch bytes", "policy.maxBatchBytes"),
            ("Max batch results", "policy.maxBatchResultBytes"),
            ("Weight", "policy.weight"),
            ("Webhook secret", "policy.webhookSecretFile"),
            ("With their own", "policy.tenants"),
        ],
    ),
];

/// Values that may hold a password.
const ADDRESSES: [&str; 2] = ["redis.url", "auth.connectionString"];

pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    if args.schema {
        printer::line(serde_json::to_string_pretty(&json_schema())?);
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = settings::load()?;
    let mut config = serde_json::to_value(&loaded.config)?;
    for path in ADDRESSES {
        if let Some(Value::String(address)) = config.pointer_mut(&pointer(path)) {
            *address = without_password(address);
        }
    }
    match (args.json, args.sources) {
        // In the order of the types; a `Value` would sort the keys.
        (true, false) => printer::line(ordered(&loaded, &config)?),
        (_, true) => printer::line(serde_json::to_string_pretty(&sources(&loaded, &config))?),
        (false, false) => text(&loaded, &config).into_iter().for_each(printer::line),
    }
    Ok(ExitCode::SUCCESS)
}

/// The JSON form, in the contract's order of keys.
fn ordered(loaded: &Loaded, config: &Value) -> anyhow::Result<String> {
    let string =
        |path: &str| config.pointer(&pointer(path)).and_then(Value::as_str).map(String::from);
    let mut shown = loaded.config.clone();
    shown.redis.url = string("redis.url");
    shown.auth.connection_string = string("auth.connectionString");
    Ok(serde_json::to_string_pretty(&shown)?)
}

/// Each value that is not a default, and where it came from.
fn sources(loaded: &Loaded, config: &Value) -> Value {
    let values: Map<String, Value> = loaded
        .sources
        .iter()
        .map(|(path, source)| {
            let value = config.pointer(&pointer(path));
            (path.clone(), json!({"value": value, "source": source.to_string()}))
        })
        .collect();
    json!({"source": loaded.source, "values": values})
}

fn text(loaded: &Loaded, config: &Value) -> Vec<String> {
    let source = loaded.source.as_ref().map_or_else(
        || "defaults (no config file found)".into(),
        |path| path.display().to_string(),
    );
    let mut lines = vec!["Isol8 Configuration".into(), format!("Source: {source}")];
    for (title, rows) in SECTIONS {
        lines.extend([String::new(), title.into()]);
        lines.extend(rows.iter().map(|(label, path)| {
            let value = shown(path, config.pointer(&pointer(path)).unwrap_or(&Value::Null));
            let line = format!("  {:<18}{value}", format!("{label}:"));
            match source_of(loaded, path) {
                Some(source) => format!("{line:<48} # {source}"),
                None => line,
            }
        }));
    }
    lines
}

/// Where a value came from, or the first one inside it.
fn source_of(loaded: &Loaded, path: &str) -> Option<String> {
    let inside = |key: &str| {
        key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            // A pool size may be given as one number.
            || path.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
    };
    loaded.sources.iter().find(|(key, _)| inside(key)).map(|(_, source)| source.to_string())
}

fn shown(path: &str, value: &Value) -> String {
    match value {
        Value::Null => "(not set)".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "(none)".into(),
        Value::Array(items) => {
            let names: Vec<String> = items
                .iter()
                .map(|item| item.get("tag").unwrap_or(item))
                .map(|item| item.as_str().map_or_else(|| item.to_string(), String::from))
                .collect();
            names.join(", ")
        }
        Value::Object(entries) if entries.is_empty() => "(none)".into(),
        Value::Object(entries) => entries.keys().cloned().collect::<Vec<_>>().join(", "),
        Value::Number(number) if path.ends_with("Ms") => format!("{number} ms"),
        other => other.to_string(),
    }
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

/// An address without the password in it: what is shown gets pasted into bug reports.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let hidden = rest[..authority_end]
        .rsplit_once('@')
        .and_then(|(who, _)| who.split_once(':').map(|(user, _)| (user, who.len())));
    match hidden {
        Some((user, end)) => format!("{scheme}://{user}:***{}", &rest[end..]),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use shared::config::Config;

    use super::*;

    #[test]
    fn every_key_has_a_line() {
        fn leaves(prefix: &str, value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(entries) if !entries.is_empty() => {
                    for (key, value) in entries {
                        let dot = if prefix.is_empty() { "" } else { "." };
                        leaves(&format!("{prefix}{dot}{key}"), value, found);
                    }
                }
                _ => found.push(prefix.to_owned()),
            }
        }
        let mut keys = Vec::new();
        leaves("", &serde_json::to_value(Config::default()).unwrap(), &mut keys);
        let shown: Vec<&str> =
            SECTIONS.iter().flat_map(|(_, rows)| rows.iter().map(|(_, path)| *path)).collect();
        for key in keys {
            assert!(shown.contains(&key.as_str()), "{key} has no line");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for (address, expected) in [
            ("redis://user:pa@ss@host:6379/0", "redis://user:***@host:6379/0"),
            ("redis://:secret@host", "redis://:***@host"),
            ("redis://host:6379", "redis://host:6379"),
            ("rediss+sentinel://u:p@a:1,b:2/queue", "rediss+sentinel://u:***@a:1,b:2/queue"),
            ("redis+unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
            ("/home/me/auth.db", "/home/me/auth.db"),
        ] {
            assert_eq!(without_password(address), expected);
        }
    }
}
