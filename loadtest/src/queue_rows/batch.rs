//! A large batch of jobs that are not run: how fast it goes up and through, and what gateway and Redis need
//! for it. Its results are read and acknowledged as they come, as whoever wants them would.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::fleet::{Fleet, KEY};
use super::submit::roomy;
use crate::process::resident_kib;

/// Jobs run at once.
const SLOTS: usize = 256;
/// Results that are acknowledged together.
const ACKNOWLEDGED: u64 = 10_000;
/// Items that are sent in one write.
const PORTION: usize = 1000;
/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How it was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Items of the batch.
    pub items: usize,
    /// Bytes that were uploaded.
    pub bytes: usize,
    /// Until the upload was answered, in seconds.
    pub upload_s: f64,
    /// From the answer until the last result was read, in seconds.
    pub run_s: f64,
    /// Resident memory of the gateway before, and at most meanwhile.
    pub gateway_kib: [u64; 2],
    /// Memory that Redis used before, and at most meanwhile.
    pub redis_bytes: [u64; 2],
}

pub(super) async fn measure(isol8: &Path, items: usize) -> Result<Batch> {
    let mut config = roomy();
    config["policy"]["maxBatchItems"] = json!(items);
    let mut fleet = Fleet::start(isol8, &config).await?;
    fleet.add_worker(SLOTS, true).await?;
    let mut connection = fleet.redis().await?;
    let gateway = fleet.gateway()?.to_string();
    let before = (resident_kib(&gateway)?, used_bytes(&mut connection).await?);
    let mut run = JoinSet::new();
    let url = fleet.url.clone();
    run.spawn(async move { upload_and_read(&url, items).await });
    let mut most = before;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (bytes, upload_s, run_s) = loop {
        tokio::select! {
            Some(ended) = run.join_next() => break ended.context("the batch panicked")??,
            _ = looks.tick() => {
                most.0 = most.0.max(resident_kib(&gateway)?);
                most.1 = most.1.max(used_bytes(&mut connection).await?);
            }
        }
    };
    fleet.stop().await?;
    let gateway_kib = [before.0, most.0];
    let redis_bytes = [before.1, most.1];
    Ok(Batch { items, bytes, upload_s, run_s, gateway_kib, redis_bytes })
}

async fn used_bytes(connection: &mut MultiplexedConnection) -> Result<u64> {
    let info: String = redis::cmd("INFO").arg("memory").query_async(connection).await?;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    Ok(line.context("Redis tells what it uses")?.trim().parse()?)
}

/// Bytes that went up, and the seconds that this and the rest took.
async fn upload_and_read(url: &str, items: usize) -> Result<(usize, f64, f64)> {
    let begun = Instant::now();
    let (id, bytes) = upload(url.trim_start_matches("http://"), items).await?;
    let uploaded = Instant::now();
    read(&format!("{url}/v1/batches/{id}"), items).await?;
    Ok((bytes, (uploaded - begun).as_secs_f64(), uploaded.elapsed().as_secs_f64()))
}

/// Uploads the batch; its id, and how large it was.
async fn upload(authority: &str, items: usize) -> Result<(String, usize)> {
    let template = json!({"request": {"runtime": "bash", "code": "echo hello"}}).to_string() + "\n";
    let line = |number: usize| format!("{{\"id\":\"{number:08}\"}}\n");
    let bytes = template.len() + items * line(0).len();
    let mut stream = TcpStream::connect(authority).await?;
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {bytes}\r\n\r\n{template}"
    );
    stream.write_all(head.as_bytes()).await?;
    for first in (0..items).step_by(PORTION) {
        let some: String = (first..items.min(first + PORTION)).map(line).collect();
        stream.write_all(some.as_bytes()).await.context("the gateway stops the upload")?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 202"), "the batch is refused: {answer}");
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer has a body")?;
    let body: Value = serde_json::from_str(body)?;
    Ok((body["id"].as_str().context("a batch has an id")?.to_owned(), bytes))
}

/// Reads all results as they come, and acknowledges them.
async fn read(batch: &str, items: usize) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let path = format!("{batch}/results?follow=true");
    let mut answer = http.get(path).bearer_auth(KEY).send().await?.error_for_status()?;
    let (mut unread, mut results) = (Vec::new(), 0_u64);
    while let Some(some) = answer.chunk().await? {
        unread.extend_from_slice(&some);
        let Some(end) = unread.iter().rposition(|byte| *byte == b'\n') else { continue };
        let lines: Vec<u8> = unread.drain(..=end).collect();
        let before = results;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line)?;
            if line["number"].as_u64() == Some(results) {
                ensure!(line["outcome"] == "exited", "an item ended otherwise: {line}");
                results += 1;
            } else if line["end"] == true {
                ensure!(results == items as u64, "{results} results of {items} items");
                return Ok(());
            } else {
                bail!("result {results} is missing: {line}");
            }
        }
        let whole = results - results % ACKNOWLEDGED;
        if whole > before {
            let path = format!("{batch}/results?before={whole}");
            http.delete(path).bearer_auth(KEY).send().await?.error_for_status()?;
        }
    }
    bail!("the results break off after {results}")
}
