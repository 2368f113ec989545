//! The Redis that holds the queue: the fleet's, or the one that `isol8 serve` starts.

use std::path::PathBuf;

use shared::redis::{ServerFacts, server_facts};

use super::Check;
use crate::host::find_program;
use crate::roles;

/// The oldest version whose streams do all that the queue needs.
const OLDEST: (u32, u32) = (6, 2);

pub(super) async fn checks(url: Option<&str>, data_directory: Option<PathBuf>) -> Vec<Check> {
    if let Some(url) = url {
        return ask(url).await;
    }
    let directory = data_directory.or_else(|| roles::default_data_directory().ok());
    let socket = directory.and_then(|directory| directory.join("redis.sock").canonicalize().ok());
    if let Some(socket) = socket
        && let Ok(facts) = server_facts(&format!("redis+unix://{}", socket.display())).await
    {
        return judge(&facts);
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

async fn ask(url: &str) -> Vec<Check> {
    match server_facts(url).await {
        Ok(facts) => judge(&facts),
        // The address is not shown: it may hold a password.
        Err(error) => vec![Check::fail(
            "redis",
            error.to_string(),
            "start it, or correct --redis, ISOL8_REDIS_URL or redis.url",
        )],
    }
}

fn judge(facts: &ServerFacts) -> Vec<Check> {
    let mut numbers = facts.version.split('.').map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("version {}", facts.version);
    let server = if version < OLDEST {
        Check::fail("redis", found, "upgrade to Redis 6.2 or later")
    } else {
        Check::ok("redis", found)
    };
    let policy = facts.memory_policy.as_str();
    let memory = match (policy, facts.memory_limit_bytes) {
        ("noeviction", 0) => Check::ok("redis memory", "noeviction, no limit"),
        ("noeviction", limit) => {
            Check::ok("redis memory", format!("noeviction, limit {} MiB", limit >> 20))
        }
        (policy, 0) => Check::warn(
            "redis memory",
            format!("{policy}, no limit"),
            "once a limit is set, jobs would be thrown away: set maxmemory-policy noeviction",
        ),
        (policy, _) => Check::fail(
            "redis memory",
            format!("{policy}: jobs are thrown away when memory is full"),
            "set maxmemory-policy noeviction",
        ),
    };
    let persistence = match (facts.has_append_only_file, facts.is_persistence_healthy) {
        (true, true) => Check::ok("redis persistence", "append-only file"),
        (false, true) => Check::warn(
            "redis persistence",
            "no append-only file: queued jobs are lost when Redis dies",
            "set appendonly yes",
        ),
        (_, false) => Check::fail(
            "redis persistence",
            "its last write to disk failed",
            "look into the log of Redis; most often the disk is full",
        ),
    };
    vec![server, memory, persistence]
}
