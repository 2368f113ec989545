//! Whether a fleet's queue has come to rest: no job waits or runs, and every counter, lease, backlog and
//! pending entry is back to nothing.

use std::time::{Duration, Instant};

use redis::{Connection, RedisResult};

use crate::queue::Queue;

/// How long that may take after the storm: retries, delays, leases and expiries come to their ends.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(250);

/// What stays while a fleet lives, one of each in a shard: what it keeps, by when to look at it, and its
/// members. What is due (`webhooks`, `scheduled`), what waits (`delayed`, `backlogs`) and lines of their own
/// (`placements`) go when they are empty.
const STAYS: [&str; 4] = ["retained", "tenants", "tending", "slots"];
/// The same of a tenant, a batch or a schedule.
const STAYS_OF: [&str; 9] = [
    "listed",
    "dead",
    "kept",
    "batches",
    "batched",
    "batch-results",
    "schedules",
    "schedule",
    "runs",
];
/// What is judged with the jobs.
const OF_JOBS: [&str; 2] = ["job:", "once:"];

/// Waits for the queue of a fleet of `workers` workers; what has not come to rest.
#[must_use]
pub(super) fn await_rest(queue: &Queue, workers: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look(queue, workers).unwrap_or_else(|error| vec![format!("redis: {error}")]);
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(POLL);
    }
}

fn look(queue: &Queue, workers: usize) -> RedisResult<Vec<String>> {
    let mut connection = queue.connection()?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("v1:{s*").query(&mut connection)?;
    let mut found = Vec::new();
    for key in keys {
        let Some((_, name)) = key.split_once("}:") else { continue };
        if !OF_JOBS.iter().any(|start| name.starts_with(start)) {
            found.extend(look_at(&mut connection, &key, name, workers)?);
        }
    }
    Ok(found)
}

/// What is wrong with a key; some are gone by the time they are looked at.
fn look_at(
    connection: &mut Connection,
    key: &str,
    name: &str,
    workers: usize,
) -> RedisResult<Option<String>> {
    if matches!(name, "jobs" | "jobs-high" | "jobs-low") {
        let length: u64 = redis::cmd("XLEN").arg(key).query(connection)?;
        let (pending, ..): (u64, redis::Value, redis::Value, redis::Value) =
            redis::cmd("XPENDING").arg(key).arg("workers").query(connection)?;
        let consumers: Vec<redis::Value> =
            redis::cmd("XINFO").arg("CONSUMERS").arg(key).arg("workers").query(connection)?;
        let is_at_rest = length == 0 && pending == 0 && consumers.len() <= workers;
        let consumers = consumers.len();
        return Ok((!is_at_rest).then(|| {
            format!(
                "{key}: {length} entries, {pending} pending, {consumers} consumers of {workers}"
            )
        }));
    }
    if name == "usage" {
        let (jobs, bytes): (Option<i64>, Option<i64>) =
            redis::cmd("HMGET").arg(key).arg("jobs").arg("bytes").query(connection)?;
        let (jobs, bytes) = (jobs.unwrap_or(0), bytes.unwrap_or(0));
        return Ok((jobs != 0 || bytes != 0)
            .then(|| format!("{key}: {jobs} open jobs of {bytes} bytes are counted")));
    }
    if name == "workers" {
        let living: usize = redis::cmd("ZCARD").arg(key).query(connection)?;
        return Ok((living != workers).then(|| format!("{key}: {living} workers of {workers}")));
    }
    let (kind, whose) = name.split_once(':').unwrap_or((name, ""));
    if kind == "batch" {
        let state: Option<String> = redis::cmd("HGET").arg(key).arg("state").query(connection)?;
        let is_at_rest = state.as_deref().is_none_or(|state| state == "finished");
        return Ok((!is_at_rest).then(|| format!("{key} is {}", state.unwrap_or_default())));
    }
    let stays = if whose.is_empty() { STAYS.contains(&kind) } else { STAYS_OF.contains(&kind) };
    if stays {
        return Ok(None);
    }
    let lives_ms: i64 = redis::cmd("PTTL").arg(key).query(connection)?;
    Ok((lives_ms == -1).then(|| format!("{key} is still there, and never goes")))
}
