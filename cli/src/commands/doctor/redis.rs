//! The Redis that holds the queue: the fleet's, or the one that `isol8 serve` starts.

use std::path::PathBuf;

use shared::config;
use shared::redis::{Finding, Verdict, examine};

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
