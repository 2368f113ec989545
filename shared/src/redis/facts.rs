//! What a Redis server says about itself, for whoever checks whether it is fit to hold a queue.

use std::collections::HashMap;

use redis::cmd;

use super::client::{Client, failure};
use crate::error::Error;

/// A Redis server's own description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its version.
    pub version: String,
    /// What it does when its memory is full.
    pub memory_policy: String,
    /// Its memory limit in bytes; 0 is none.
    pub memory_limit_bytes: u64,
    /// Whether it writes every change to a file.
    pub has_append_only_file: bool,
    /// Whether what it last wrote to disk arrived there.
    pub is_persistence_healthy: bool,
}

/// Asks the Redis at `url`.
///
/// # Errors
/// [`ErrorCode::QueueUnavailable`](crate::ErrorCode::QueueUnavailable) if it does not answer, and an
/// invalid-request error for an address that is none.
pub async fn server_facts(url: &str) -> Result<ServerFacts, Error> {
    let client = Client::open(url)?;
    let text: String = client.run(&cmd("INFO")).await.map_err(failure)?;
    Ok(parse(&text))
}

fn parse(text: &str) -> ServerFacts {
    let fields: HashMap<&str, &str> =
        text.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let is_well = |name: &str| matches!(field(name), "" | "ok");
    ServerFacts {
        version: field("redis_version").to_owned(),
        memory_policy: field("maxmemory_policy").to_owned(),
        memory_limit_bytes: field("maxmemory").parse().unwrap_or(0),
        has_append_only_file: field("aof_enabled") == "1",
        is_persistence_healthy: is_well("rdb_last_bgsave_status")
            && is_well("aof_last_write_status"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_read() {
        let facts = parse(
            "# Server\r\nredis_version:7.0.15\r\n# Memory\r\nmaxmemory:1024\r\n\
             maxmemory_policy:noeviction\r\naof_enabled:1\r\naof_last_write_status:err\r\n",
        );
        let wanted = ServerFacts {
            version: "7.0.15".into(),
            memory_policy: "noeviction".into(),
            memory_limit_bytes: 1024,
            has_append_only_file: true,
            is_persistence_healthy: false,
        };
        assert_eq!(facts, wanted);
    }
}
