//! Submissions as fast as one gateway takes them: each connection has many under way, as HTTP/1.1 allows.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::fleet::{Fleet, KEY};

const CONNECTIONS: usize = 64;
/// Requests under way on each.
const DEPTH: usize = 16;
/// More than can be submitted in the time.
const ROOM: u64 = 10_000_000;

/// How fast it was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    /// Jobs accepted per second.
    pub per_second: f64,
    /// Connections used.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
}

pub(super) async fn measure(isol8: &Path, length: Duration) -> Result<Submitted> {
    let fleet = Fleet::start(isol8, &roomy()).await?;
    let authority = fleet.url.trim_start_matches("http://").to_owned();
    let batch = request(&authority, "default", &json!({}), "echo hello").repeat(DEPTH);
    let begun = Instant::now();
    let mut connections: JoinSet<Result<usize>> = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (authority, batch) = (authority.clone(), batch.clone());
        connections.spawn(async move {
            let mut connection = Pipeline::open(&authority).await?;
            let mut accepted = 0;
            while begun.elapsed() < length {
                connection.send(batch.as_bytes()).await?;
                for _ in 0..DEPTH {
                    connection.accepted().await?;
                }
                accepted += DEPTH;
            }
            Ok(accepted)
        });
    }
    let mut accepted = 0;
    while let Some(ended) = connections.join_next().await {
        accepted += ended.context("a connection panicked")??;
    }
    let took = begun.elapsed().as_secs_f64();
    fleet.stop().await?;
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
    let per_second = accepted as f64 / took;
    Ok(Submitted { per_second, connections: CONNECTIONS, depth: DEPTH })
}

/// A configuration under which no cap is met.
pub(super) fn roomy() -> serde_json::Value {
    json!({
        "redis": {"maxQueued": ROOM},
        "policy": {
            "maxQueuedJobs": ROOM, "maxKeptJobs": ROOM,
            "maxQueuedBytes": 1_u64 << 40, "maxKeptBytes": 1_u64 << 40,
        },
        "gateway": {"host": "127.0.0.1", "port": 0},
        "worker": {"prewarm": ["bash"], "name": "load-rows"},
    })
}

/// A submission as it goes over the wire.
pub(super) fn request(
    authority: &str,
    tenant: &str,
    queue: &serde_json::Value,
    code: &str,
) -> String {
    let body = json!({"request": {"runtime": "bash", "code": code}, "queue": queue}).to_string();
    format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {KEY}\r\n\
         X-Isol8-Tenant: {tenant}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A connection with several requests under way.
pub(super) struct Pipeline {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Pipeline {
    pub(super) async fn open(authority: &str) -> Result<Self> {
        let stream = TcpStream::connect(authority).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    pub(super) async fn send(&mut self, requests: &[u8]) -> Result<()> {
        self.stream.write_all(requests).await.context("cannot send")
    }

    /// Reads the next answer, which must be a 202.
    pub(super) async fn accepted(&mut self) -> Result<()> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|it| it == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.unread[..end]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.context("an answer has a length")?.trim().parse()?;
                let whole = end + 4 + length;
                if self.unread.len() >= whole {
                    let answer: Vec<u8> = self.unread.drain(..whole).collect();
                    let answer = String::from_utf8_lossy(&answer);
                    ensure!(head.starts_with("http/1.1 202"), "a submission is refused: {answer}");
                    return Ok(());
                }
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                bail!("the gateway closes the connection");
            }
        }
    }
}
