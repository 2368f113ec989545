//! A large file into a session and out of it again, and how much of it Redis had to hold.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::stream;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Surface, body};

const CHUNK_BYTES: usize = 256 << 10;
/// How often Redis is asked for its memory.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
const SESSION: &str = "loadtest-files";

/// One file, up and down.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Its size.
    pub mib: usize,
    /// Into the sandbox, in 10^6 bytes per second.
    pub up_mb_per_second: f64,
    /// Out of it.
    pub down_mb_per_second: f64,
    /// Most memory that Redis took more than before, if it was looked at.
    pub redis_mib: Option<f64>,
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mib, up_mb_per_second, down_mb_per_second, redis_mib } = self;
        write!(f, "{mib} MiB, {up_mb_per_second:.0} MB/s up, {down_mb_per_second:.0} MB/s down, ")?;
        write!(f, "Redis grew by {redis_mib:?} MiB")
    }
}

pub(super) async fn measure(surface: &Surface) -> Result<Transfer> {
    let url = |path: &str| format!("{}{path}", surface.url);
    let auth = |request: reqwest::RequestBuilder| request.bearer_auth(&surface.key);
    let open = auth(surface.http.post(url("/execute")));
    let open = open.body(open_body()).send().await?;
    ensure!(open.status().is_success(), "no session: {}", open.text().await?);

    let chunks = surface.file_mib * (1 << 20) / CHUNK_BYTES;
    // Each chunk differs, so that a lost or doubled one shows.
    let chunk =
        |number: usize| Bytes::from(vec![u8::try_from(number % 251).unwrap_or(0); CHUNK_BYTES]);
    let mut expected = Sha256::new();
    (0..chunks).for_each(|number| expected.update(chunk(number)));

    let watch = CancellationToken::new();
    let mut watcher = JoinSet::new();
    if let Some(url) = &surface.redis_url {
        watcher.spawn(most_memory(connect(url).await?, watch.clone()));
    }
    let path = format!("/v1/sessions/{SESSION}/files?path=/sandbox/big.bin");
    let before = Instant::now();
    let data = stream::iter((0..chunks).map(move |number| Ok::<_, std::io::Error>(chunk(number))));
    let up =
        auth(surface.http.put(url(&path))).body(reqwest::Body::wrap_stream(data)).send().await?;
    ensure!(up.status().is_success(), "upload: {}", up.text().await?);
    let up_took = before.elapsed();

    let before = Instant::now();
    let mut down = auth(surface.http.get(url(&path))).send().await?.error_for_status()?;
    let mut seen = Sha256::new();
    let mut hashing = Duration::ZERO;
    while let Some(chunk) = down.chunk().await? {
        let begun = Instant::now();
        seen.update(&chunk);
        hashing += begun.elapsed();
    }
    // The digest is ours to pay for, not the server's.
    let down_took = before.elapsed().saturating_sub(hashing);
    ensure!(seen.finalize() == expected.finalize(), "the file came back changed");

    watch.cancel();
    let watched = watcher.join_next().await;
    let redis_mib = watched.transpose().context("the watcher was lost")?.transpose()?;
    let gone = auth(surface.http.delete(url(&format!("/session/{SESSION}")))).send().await?;
    gone.error_for_status()?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
    let megabytes = (surface.file_mib << 20) as f64 / 1e6;
    Ok(Transfer {
        mib: surface.file_mib,
        up_mb_per_second: megabytes / up_took.as_secs_f64(),
        down_mb_per_second: megabytes / down_took.as_secs_f64(),
        redis_mib,
    })
}

fn open_body() -> String {
    body("bash", ":", Some(SESSION)).to_string()
}

async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(url).context("the Redis address")?;
    client.get_multiplexed_async_connection().await.context("connecting to Redis")
}

/// Most memory in use, above what it is now, until told to stop; in MiB.
async fn most_memory(mut redis: MultiplexedConnection, stop: CancellationToken) -> Result<f64> {
    let before = memory(&mut redis).await?;
    let mut most = before;
    while !stop.is_cancelled() {
        most = most.max(memory(&mut redis).await?);
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
    Ok((most - before) / f64::from(1 << 20))
}

async fn memory(redis: &mut MultiplexedConnection) -> Result<f64> {
    let info: String = redis::cmd("INFO").arg("memory").query_async(redis).await?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    used.context("no used_memory")?.trim().parse().context("used_memory is a number")
}
