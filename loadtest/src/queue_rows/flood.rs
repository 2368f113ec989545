//! What one tenant's waiting jobs do to the interactive jobs of another.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::fleet::{Fleet, KEY};
use super::submit::{Pipeline, request, roomy};
use crate::measurement::{Latencies, Percentiles};

/// Jobs run at once.
const SLOTS: usize = 8;
/// Interactive jobs are sent one after the other, so far apart at least.
const EVERY: Duration = Duration::from_millis(20);
/// Submissions under way at once.
const DEPTH: usize = 64;

/// What workers there are, and what the flood is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    name: &'static str,
    is_no_op: bool,
    /// What a job of the flood does.
    code: &'static str,
    /// `policy.tenants.flood.maxConcurrentJobs`; 0: no cap.
    cap: usize,
}

pub(super) const KINDS: [Kind; 3] = [
    Kind { name: "jobs that are not run", is_no_op: true, code: "echo", cap: 0 },
    Kind { name: "sandboxes, 0.1 s a job", is_no_op: false, code: "sleep 0.1", cap: 0 },
    Kind {
        name: "sandboxes, 0.1 s a job, the flood capped at six of eight slots",
        is_no_op: false,
        code: "sleep 0.1",
        cap: 6,
    },
];

/// How it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flood {
    /// Workers and flood, in words.
    pub kind: String,
    /// Jobs that waited.
    pub jobs: usize,
    /// The other tenant's jobs without them.
    pub alone_ms: Percentiles,
    /// And with them.
    pub flooded_ms: Percentiles,
    /// How many still waited in the end: else the flood was over before.
    pub left: u64,
}

pub(super) async fn measure(
    isol8: &Path,
    kind: Kind,
    jobs: usize,
    length: Duration,
) -> Result<Flood> {
    let mut config = roomy();
    if kind.cap > 0 {
        config["policy"]["tenants"] = json!({"flood": {"maxConcurrentJobs": kind.cap}});
    }
    let mut fleet = Fleet::start(isol8, &config).await?;
    fleet.add_worker(SLOTS, kind.is_no_op).await?;
    let http = reqwest_client()?;
    let alone_ms = interact(&http, &fleet.url, length).await?;
    let filling = fill(&fleet.url, kind.code, jobs);
    // Workers that run nothing are about as fast as submissions: the flood goes on meanwhile.
    let flooded_ms = if kind.is_no_op {
        let (filled, measured) = tokio::join!(filling, interact(&http, &fleet.url, length));
        filled?;
        measured?
    } else {
        filling.await?;
        interact(&http, &fleet.url, length).await?
    };
    let left = waiting(&http, &fleet.url).await?;
    ensure!(kind.is_no_op || left > 0, "the flood was over before the measurement");
    fleet.stop().await?;
    Ok(Flood { kind: kind.name.to_owned(), jobs, alone_ms, flooded_ms, left })
}

fn reqwest_client() -> Result<reqwest::Client> {
    // Only plain HTTP is spoken; the client insists on a provider when built with TLS. One that is
    // set already serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().context("an HTTP client can be built")
}

/// Sends short jobs one after the other; how long each took.
async fn interact(http: &reqwest::Client, url: &str, length: Duration) -> Result<Percentiles> {
    let mut latencies = Latencies::default();
    let body = json!({"request": {"runtime": "bash", "code": "echo hello"}}).to_string();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first ones find nothing warm.
    let (begun, warm_up) = (Instant::now(), Duration::from_secs(2));
    while begun.elapsed() < length + warm_up {
        ticks.tick().await;
        let sent = Instant::now();
        let answer = http
            .post(format!("{url}/execute"))
            .bearer_auth(KEY)
            .header("X-Isol8-Tenant", "interactive")
            .body(body.clone())
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status == 200, "an interactive job is answered {status}: {text}");
        if begun.elapsed() > warm_up {
            latencies.record(sent.elapsed());
        }
    }
    Ok(latencies.percentiles())
}

/// Submits the flood.
async fn fill(url: &str, code: &str, jobs: usize) -> Result<()> {
    let authority = url.trim_start_matches("http://");
    let mut connection = Pipeline::open(authority).await?;
    let one = request(authority, "flood", &json!({"retentionMs": 1000}), code);
    let mut left = jobs;
    while left > 0 {
        let some = left.min(DEPTH);
        connection.send(one.repeat(some).as_bytes()).await?;
        for _ in 0..some {
            connection.accepted().await?;
        }
        left -= some;
    }
    Ok(())
}

/// Jobs of the flood that have not begun, at least: a page of them.
async fn waiting(http: &reqwest::Client, url: &str) -> Result<u64> {
    let path = format!("{url}/v1/jobs?state=queued&limit=500");
    let answer = http.get(path).bearer_auth(KEY).header("X-Isol8-Tenant", "flood").send().await?;
    let page: Value = serde_json::from_str(&answer.text().await?)?;
    Ok(page["jobs"].as_array().map_or(0, |jobs| jobs.len() as u64))
}
