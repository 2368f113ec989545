//! Whether a Redis server is fit to hold a queue, by what it says about itself: asked by every role
//! when it starts, and by `isol8 doctor`.

use std::collections::HashMap;

use redis::{RedisResult, pipe};

use super::client::{Client, failure, has_code};
use super::cluster::Answer;
use crate::config;
use crate::error::Error;

/// The oldest version whose scripts and streams do all that the queue needs. Valkey began after it.
const OLDEST: (u32, u32) = (7, 0);

/// One thing looked at, and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: `redis`, `redis cluster`, `redis memory`, `redis persistence`, `redis rights`.
    pub topic: &'static str,
    /// What was found.
    pub found: String,
    /// What is wrong with it.
    pub verdict: Verdict,
}

/// How bad a finding is; with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// Jobs may be lost; the operator decides whether they may.
    Warning(&'static str),
    /// Jobs are refused or lost right now, which may pass.
    Ailing(&'static str),
    /// No queue can be kept here.
    Unfit(&'static str),
}

/// Looks at the configured Redis.
///
/// # Errors
/// [`ErrorCode::QueueUnavailable`](crate::ErrorCode::QueueUnavailable) if it does not answer, and an
/// invalid-request error for an address that is none.
pub async fn examine(config: &config::Redis) -> Result<Vec<Finding>, Error> {
    examine_over(&Client::open(config)?).await
}

/// The same over connections that are there. Of a cluster, what is true of some nodes alone names them.
pub(super) async fn examine_over(client: &Client) -> Result<Vec<Finding>, Error> {
    let mut ask = pipe();
    ask.cmd("INFO");
    let nodes: RedisResult<Vec<Answer<(String,)>>> = client.run_everywhere(&ask).await;
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) if has_code(&error, "NOPERM") => {
            return Ok(vec![Finding {
                topic: "redis rights",
                found: "its user may not run INFO: neither version, memory policy nor persistence \
                        could be checked"
                    .into(),
                verdict: Verdict::Warning("add +info to the user's rights (ACL SETUSER)"),
            }]);
        }
        Err(error) => return Err(failure(error)),
    };
    let Some(cluster) = client.cluster() else {
        return Ok(nodes.iter().flat_map(|it| judge(&it.answer.0, false)).collect());
    };
    let unserved = cluster.unserved_slots().await.map_err(failure)?;
    let count = nodes.len();
    let verdict = match unserved {
        0 => Verdict::Fine,
        _ => Verdict::Ailing("see `CLUSTER NODES`; jobs of the tenants there wait"),
    };
    let found = format!("{count} masters, {unserved} slots that none serves");
    let whole = Finding { topic: "redis cluster", found, verdict };
    let judged = nodes.into_iter().map(|it| (it.node, judge(&it.answer.0, true))).collect();
    Ok([vec![whole], join(judged)].concat())
}

/// What several nodes have in common is said once; what they have not, with their names.
fn join(nodes: Vec<(String, Vec<Finding>)>) -> Vec<Finding> {
    let count = nodes.len();
    let mut joined: Vec<(Finding, Vec<String>)> = Vec::new();
    for (node, findings) in nodes {
        for finding in findings {
            match joined.iter_mut().find(|(other, _)| *other == finding) {
                Some((_, names)) => names.push(node.clone()),
                None => joined.push((finding, vec![node.clone()])),
            }
        }
    }
    let name = |(finding, names): (Finding, Vec<String>)| match names.len() {
        all if all == count => finding,
        _ => Finding { found: format!("{} at {}", finding.found, names.join(", ")), ..finding },
    };
    joined.into_iter().map(name).collect()
}

/// What `INFO` amounts to. Fields that a hosted Redis hides are given the benefit of the doubt.
fn judge(description: &str, as_cluster: bool) -> Vec<Finding> {
    let fields: HashMap<&str, &str> =
        description.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    vec![version(&field, as_cluster), memory(&field), persistence(&field)]
}

fn version<'a>(field: &impl Fn(&str) -> &'a str, as_cluster: bool) -> Finding {
    let finding = |found, verdict| Finding { topic: "redis", found, verdict };
    // Valkey calls the same `server_mode`, but for those who knew it as Redis.
    if !as_cluster && [field("redis_mode"), field("server_mode")].contains(&"cluster") {
        return finding(
            "a node of a cluster".to_owned(),
            Verdict::Unfit("write redis+cluster:// instead of redis:// in redis.url"),
        );
    }
    // Valkey's own number; what it gives as Redis' is that of the Redis it began as.
    if field("server_name") == "valkey" || !field("valkey_version").is_empty() {
        return finding(format!("Valkey {}", field("valkey_version")), Verdict::Fine);
    }
    let mut numbers = field("redis_version").split('.').map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let verdict = if version < OLDEST {
        Verdict::Unfit("upgrade to Redis 7.0 or later, or Valkey")
    } else {
        Verdict::Fine
    };
    finding(format!("version {}", field("redis_version")), verdict)
}

fn memory<'a>(field: &impl Fn(&str) -> &'a str) -> Finding {
    let limit_bytes: u64 = field("maxmemory").parse().unwrap_or(0);
    let limit = match limit_bytes {
        0 => "no limit".to_owned(),
        bytes => format!("limit {} MiB", bytes >> 20),
    };
    let (found, verdict) = match (field("maxmemory_policy"), limit_bytes) {
        ("", _) => (format!("policy hidden, {limit}"), Verdict::Fine),
        ("noeviction", _) => (format!("noeviction, {limit}"), Verdict::Fine),
        (policy, 0) => (
            format!("{policy}, {limit}"),
            Verdict::Warning(
                "once a limit is set, jobs would be thrown away: set maxmemory-policy noeviction",
            ),
        ),
        (policy, _) => (
            format!("{policy}: jobs are thrown away when memory is full"),
            Verdict::Unfit("set maxmemory-policy noeviction"),
        ),
    };
    Finding { topic: "redis memory", found, verdict }
}

fn persistence<'a>(field: &impl Fn(&str) -> &'a str) -> Finding {
    let is_well = |name| matches!(field(name), "" | "ok");
    let (found, verdict) =
        if !is_well("rdb_last_bgsave_status") || !is_well("aof_last_write_status") {
            (
                "its last write to disk failed",
                Verdict::Ailing("look into the log of Redis; most often the disk is full"),
            )
        } else if field("aof_enabled") == "0" {
            (
                "no append-only file: queued jobs are lost when Redis dies",
                Verdict::Warning("set appendonly yes"),
            )
        } else {
            ("append-only file", Verdict::Fine)
        };
    Finding { topic: "redis persistence", found: found.into(), verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(description: &str) -> Vec<Verdict> {
        judge(description, false).into_iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn a_server_is_judged_by_its_description() {
        let good = "# Server\r\nredis_version:7.0.15\r\n# Memory\r\nmaxmemory:1024\r\n\
                    maxmemory_policy:noeviction\r\naof_enabled:1\r\naof_last_write_status:ok\r\n";
        assert_eq!(verdicts(good), [Verdict::Fine, Verdict::Fine, Verdict::Fine]);

        let old = verdicts(&good.replace("7.0.15", "6.2.14"));
        assert!(matches!(old[..], [Verdict::Unfit(_), Verdict::Fine, Verdict::Fine]), "{old:?}");
        let description = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\n";
        let valkey = judge(description, false);
        assert_eq!(
            (valkey[0].found.as_str(), &valkey[0].verdict),
            ("Valkey 8.1.0", &Verdict::Fine)
        );

        let node = good.replace("redis_version", "redis_mode:cluster\r\nredis_version");
        assert!(matches!(verdicts(&node)[0], Verdict::Unfit(_)));
        assert_eq!(judge(&node, true)[0].verdict, Verdict::Fine);

        let lru = good.replace("noeviction", "volatile-lru");
        assert!(matches!(verdicts(&lru)[1], Verdict::Unfit(_)));
        let unlimited = lru.replace("maxmemory:1024", "maxmemory:0");
        assert!(matches!(verdicts(&unlimited)[1], Verdict::Warning(_)));

        let forgetful = good.replace("aof_enabled:1", "aof_enabled:0");
        assert!(matches!(verdicts(&forgetful)[2], Verdict::Warning(_)));
        let broken = good.replace("aof_last_write_status:ok", "aof_last_write_status:err");
        assert!(matches!(verdicts(&broken)[2], Verdict::Ailing(_)));

        let [one, other] = [good, forgetful.as_str()].map(|it| judge(it, true));
        let joined = join(vec![("a:1".into(), one.clone()), ("b:2".into(), other)]);
        let found: Vec<&str> = joined.iter().map(|it| it.found.as_str()).collect();
        assert_eq!(joined[..2], one[..2]);
        assert_eq!(found[2], "append-only file at a:1");
        assert!(found[3].ends_with("at b:2"), "{found:?}");
    }
}
