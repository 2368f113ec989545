//! What is left behind by a run and says how its jobs went: their records, Redis' own log, what each
//! worker put down as committed, and what the processes have said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use redis::RedisResult;
use serde_json::Value;

use super::append_only::{self, Ended};
use super::fleet::Fleet;
use crate::node::Node;
use crate::queue::Queue;

/// Records read in one go.
const PAGE: usize = 500;

/// The record of a job at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    /// `finished`, if all is well.
    pub(super) state: String,
    /// Whose it is.
    pub(super) tenant: String,
    /// Its ending: `{"result": …}` or `{"error": …}`.
    pub(super) ending: Value,
    /// The worker whose ending it is; empty: the queue's own.
    pub(super) ended_by: String,
    /// Deliveries of its last try.
    pub(super) attempt: u64,
    /// Tries of its program before the last one.
    pub(super) tries: u64,
    /// When its last attempt began, in ms since the epoch.
    pub(super) started_ms: u64,
    /// Before when it was to begin, likewise.
    pub(super) expires_ms: Option<u64>,
    /// What its tenant's `kept` counts of it; none if it is not listed.
    pub(super) kept_bytes: Option<i64>,
    /// Attempts that came to nothing, as far as they are noted.
    pub(super) failed_attempts: usize,
    /// How many of them because a worker was lost.
    pub(super) workers_lost: usize,
    /// Whether it goes by itself one day.
    pub(super) is_temporary: bool,
}

/// What a worker put into its audit log: an ending that it was told is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    /// Which worker.
    pub(super) worker: String,
    /// The sandbox it ran in.
    pub(super) container: String,
    /// What it wrote.
    pub(super) stdout: String,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// Every record in Redis.
    pub(super) records: BTreeMap<String, Record>,
    /// Every ending in Redis' own log; none if there was a failover, which replaces the log.
    pub(super) endings: Option<BTreeMap<String, Vec<Ended>>>,
    /// Jobs that were items of batches, by the same log: their records do not stay.
    pub(super) items: BTreeSet<String>,
    /// What workers committed.
    pub(super) committed: BTreeMap<String, Vec<Committed>>,
    /// Bytes that are kept of each tenant, as they are counted.
    pub(super) kept: BTreeMap<String, i64>,
    /// Jobs in the lists of tenants.
    pub(super) listed: BTreeSet<String>,
    /// Commits that were refused, as workers said.
    pub(super) fenced: u64,
    /// Jobs that were taken over from workers that went silent.
    pub(super) taken_over: u64,
    /// What was put right in the queue because it did not fit together, as members said.
    pub(super) put_right: Vec<String>,
    /// What was wrong besides: panics, processes that did not end well, leases and counters that
    /// stayed, containers.
    pub(super) wrong: Vec<String>,
}

impl Evidence {
    /// Reads what is in Redis.
    ///
    /// # Errors
    /// If that is not possible.
    pub(super) fn of_queue(queue: &Queue) -> RedisResult<Self> {
        let mut connection = queue.connection()?;
        let keys: Vec<String> = redis::cmd("KEYS").arg("v1:{s*}:*").query(&mut connection)?;
        let mut evidence = Self::default();
        let records: Vec<&String> = keys.iter().filter(|key| key.contains("}:job:")).collect();
        for page in records.chunks(PAGE) {
            let mut ask = redis::pipe();
            for key in page {
                ask.cmd("HMGET").arg(key).arg(&FIELDS[..]);
                ask.cmd("PTTL").arg(key);
                ask.cmd("LRANGE").arg(key.replace("}:job:", "}:attempts:")).arg(0).arg(-1);
            }
            let answers: Vec<redis::Value> = ask.query(&mut connection)?;
            for (key, answer) in page.iter().zip(answers.chunks_exact(3)) {
                let id = key.rsplit(':').next().unwrap_or_default().to_owned();
                evidence.records.insert(id, record(answer)?);
            }
        }
        for key in &keys {
            let Some((_, name)) = key.split_once("}:") else { continue };
            if let Some(tenant) = name.strip_prefix("kept:") {
                let bytes = redis::cmd("GET").arg(key).query(&mut connection)?;
                evidence.kept.insert(tenant.to_owned(), bytes);
            } else if name.starts_with("listed:") {
                let jobs: Vec<String> =
                    redis::cmd("ZRANGE").arg(key).arg(0).arg(-1).query(&mut connection)?;
                evidence.listed.extend(jobs);
            }
        }
        Ok(evidence)
    }

    /// Adds what the processes of a fleet that has stopped have written.
    pub(super) fn add_fleet(&mut self, fleet: &Fleet, has_log: bool) {
        if has_log {
            match append_only::read_log(&fleet.store().logs()[0]) {
                Ok(log) => (self.endings, self.items) = (Some(log.endings), log.items),
                Err(error) => self.wrong.push(format!("Redis' own log: {error}")),
            }
        }
        for node in fleet.nodes() {
            self.add_log(node);
            if let Some(worker) = node.worker_id() {
                let file = fleet.audits().join(node.name()).join("executions.log");
                self.add_audit(&worker, &file);
            }
        }
    }

    fn add_log(&mut self, node: &Node) {
        let log = node.log();
        self.fenced += log.find("lost the lease; result dropped").len() as u64;
        self.taken_over += log.find("took over jobs of a worker").len() as u64;
        let told = |line: &String| format!("{}: {line}", node.name());
        self.put_right.extend(log.find("put right").iter().map(told));
        self.wrong.extend(log.find("panicked at").iter().map(told));
    }

    /// A worker that was killed may not have written its last lines.
    fn add_audit(&mut self, worker: &str, file: &Path) {
        let Ok(text) = std::fs::read_to_string(file) else { return };
        for line in text.lines() {
            // Cut off: it was killed.
            let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
            let word = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            self.committed.entry(word("executionId")).or_default().push(Committed {
                worker: worker.to_owned(),
                container: word("containerId"),
                stdout: word("stdout"),
            });
        }
    }
}

/// Of a record, what is judged.
const FIELDS: [&str; 9] = [
    "state",
    "tenant",
    "result",
    "ended_by",
    "attempt",
    "tries",
    "started_us",
    "expires_ms",
    "kept_bytes",
];

fn record(answer: &[redis::Value]) -> RedisResult<Record> {
    let fields: Vec<Option<String>> = redis::from_redis_value_ref(&answer[0])?;
    let lives_ms: i64 = redis::from_redis_value_ref(&answer[1])?;
    let attempts: Vec<String> = redis::from_redis_value_ref(&answer[2])?;
    let text = |index: usize| fields[index].clone().unwrap_or_default();
    let number = |index: usize| fields[index].as_deref().and_then(|it| it.parse::<u64>().ok());
    Ok(Record {
        state: text(0),
        tenant: text(1),
        ending: serde_json::from_str(&text(2)).unwrap_or_default(),
        ended_by: text(3),
        attempt: number(4).unwrap_or_default(),
        tries: number(5).unwrap_or_default(),
        started_ms: number(6).unwrap_or_default() / 1000,
        expires_ms: number(7),
        kept_bytes: fields[8].as_deref().and_then(|it| it.parse().ok()),
        failed_attempts: attempts.len(),
        workers_lost: attempts.iter().filter(|it| it.contains("\"worker_lost\"")).count(),
        is_temporary: lives_ms != -1,
    })
}
