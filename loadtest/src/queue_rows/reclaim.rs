//! How soon the jobs of a worker that was killed begin anew on another.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::fleet::{Fleet, KEY};
use super::submit::roomy;

/// Jobs that a worker runs when it is killed.
const JOBS: usize = 4;
/// Jobs that it could run: of one tenant it leaves a place to others.
const SLOTS: usize = JOBS + 1;
/// `redis.leaseMs`, as it is unless somebody sets it.
const LEASE_MS: f64 = 15_000.0;
const POLL: Duration = Duration::from_millis(100);
/// Polls until something must have come about.
const PATIENCE: usize = 1200;

/// How it was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reclaim {
    /// Workers killed.
    pub kills: usize,
    /// Jobs that they ran.
    pub jobs: usize,
    /// From the kill to the beginning of the last of them, at the longest.
    pub longest_ms: f64,
    /// The lease.
    pub lease_ms: f64,
}

pub(super) async fn measure(isol8: &Path, kills: usize) -> Result<Reclaim> {
    let mut fleet = Fleet::start(isol8, &roomy()).await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut victim = fleet.add_worker(SLOTS, false).await?;
    let mut longest_ms: f64 = 0.0;
    for _ in 0..kills {
        let jobs = submit(&http, &fleet.url).await?;
        await_all(&http, &fleet.url, &jobs, |job| job["state"] == "running").await?;
        let heir = fleet.add_worker(SLOTS, false).await?;
        let killed_ms = now_ms()?;
        fleet.kill(victim).await?;
        let is_anew = |job: &Value| job["attempts"].as_u64() >= Some(2);
        for job in await_all(&http, &fleet.url, &jobs, is_anew).await? {
            let began = job["startedAt"].as_str().context("it has begun")?;
            let began = chrono::DateTime::parse_from_rfc3339(began)?.timestamp_millis();
            #[expect(clippy::cast_precision_loss, reason = "some seconds")]
            let took_ms = (began - killed_ms) as f64;
            longest_ms = longest_ms.max(took_ms);
        }
        for job in &jobs {
            let path = format!("{}/v1/jobs/{job}", fleet.url);
            let answer = http.delete(path).bearer_auth(KEY).send().await?;
            ensure!(answer.status() == 200, "a job cannot be cancelled: {}", answer.text().await?);
        }
        victim = heir;
    }
    fleet.stop().await?;
    Ok(Reclaim { kills, jobs: kills * JOBS, longest_ms, lease_ms: LEASE_MS })
}

async fn submit(http: &reqwest::Client, url: &str) -> Result<Vec<String>> {
    let body = json!({
        "request": {"runtime": "bash", "code": "sleep 300"},
        "options": {"timeoutMs": 600_000},
    });
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        let sent = http.post(format!("{url}/v1/jobs")).bearer_auth(KEY).body(body.to_string());
        let answer = sent.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status == 202, "a job is refused with {status}: {text}");
        let job: Value = serde_json::from_str(&text)?;
        jobs.push(job["id"].as_str().context("it has an id")?.to_owned());
    }
    Ok(jobs)
}

/// Waits until it is so of all jobs, and returns them.
async fn await_all(
    http: &reqwest::Client,
    url: &str,
    jobs: &[String],
    is_so: impl Fn(&Value) -> bool,
) -> Result<Vec<Value>> {
    for _ in 0..PATIENCE {
        let mut found = Vec::new();
        for job in jobs {
            let answer = http.get(format!("{url}/v1/jobs/{job}")).bearer_auth(KEY).send().await?;
            found.push(serde_json::from_str(&answer.text().await?)?);
        }
        if found.iter().all(&is_so) {
            return Ok(found);
        }
        sleep(POLL).await;
    }
    anyhow::bail!("jobs do not come to what is waited for")
}

fn now_ms() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}
