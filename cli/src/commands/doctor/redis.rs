//! The Redis that holds the queue: the fleet's, or the one that `isol8 serve` starts.

use std::path::PathBuf;

use shared::config;
use shared::redis::{Finding, Verdict, examine};
use shared::sealing::SecretsKeys;

use super::Check;
use crate::host::find_program;
use crate::roles;

pub(super) async fn checks(config: &config::Redis, data_directory: Option<PathBuf>) -> Vec<Check> {
    if config.url.is_some() {
        return ask(config).await;
    }
    let directory = data_directory.or_else(|| roles::default_data_directory().ok());
    let socket = directory.and_then(|directory| directory.join("redis.sock").canonicalize().ok());
    if let Some(socket) = socket {
        let url = Some(format!("redis+unix://{}", socket.display()));
        if let Ok(findings) = examine(&config::Redis { url, ..config.clone() }).await {
            return findings.into_iter().map(check).collect();
        }
    }
    vec![match find_program("redis-server") {
        Some(path) => {
            Check::ok("redis", format!("{} is there; `isol8 serve` starts it", path.display()))
        }
        None => Check::fail(
            "redis",
            "none is configured, and there is no redis-server to start",
            "run `isol8 setup`, or give a Redis with --redis or redis.url",
        ),
    }]
}

/// Whether secrets of requests can be kept, and how.
pub(super) fn secrets(config: &config::Redis) -> Check {
    const NAME: &str = "secrets";
    const MAKE: &str = "make a key with `head -c 32 /dev/urandom | base64`, put it into a file on every member, \
                        and name that in redis.secretsKeyFile";
    let given = match (&config.secrets_keys, &config.secrets_key_file) {
        (Some(keys), _) => Some(Ok(keys.clone())),
        (None, Some(path)) => Some(SecretsKeys::read("redis.secretsKeyFile", path)),
        (None, None) => None,
    };
    match given {
        Some(Ok(keys)) => {
            let names: Vec<_> = keys.names().collect();
            Check::ok(NAME, format!("encrypted in Redis with key {}", names.join(", also known: ")))
        }
        Some(Err(error)) => Check::fail(NAME, error.to_string(), MAKE),
        None if config.url.is_none() => {
            Check::ok(NAME, "`isol8 serve` encrypts them in Redis with a key of its own")
        }
        None if config.allow_plain_secrets => {
            Check::warn(NAME, "kept in Redis as they are (redis.allowPlainSecrets)", MAKE)
        }
        None => Check::warn(NAME, "requests with secrets are refused: there is no key", MAKE),
    }
}

async fn ask(config: &config::Redis) -> Vec<Check> {
    match examine(config).await {
        Ok(findings) => findings.into_iter().map(check).collect(),
        // The address is not shown: it may hold a password.
        Err(error) => vec![Check::fail(
            "redis",
            error.to_string(),
            "start it, or correct --redis, ISOL8_REDIS_URL or redis.url",
        )],
    }
}

fn check(finding: Finding) -> Check {
    let Finding { topic, found, verdict } = finding;
    match verdict {
        Verdict::Fine => Check::ok(topic, found),
        Verdict::Warning(remedy) => Check::warn(topic, found, remedy),
        Verdict::Ailing(remedy) | Verdict::Unfit(remedy) => Check::fail(topic, found, remedy),
    }
}
