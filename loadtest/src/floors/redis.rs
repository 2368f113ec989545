//! The Redis floor: raw round trips, one at a time and pipelined, against a Redis given by URL or
//! one started for the purpose.

use std::process::Stdio;
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::measurement::{Latencies, Percentiles};

/// Commands per batch of the pipelined measurement.
const BATCH: u32 = 100;

/// Redis alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RedisFloor {
    /// `PING`, one at a time.
    pub ping_ms: Percentiles,
    /// `SET` of a short value, one at a time.
    pub set_ms: Percentiles,
    /// `SET` in batches of a hundred, per second.
    pub pipelined_sets_per_second: f64,
}

/// Measures for about `length` altogether, against `url` or, without one, a server of its own.
///
/// # Errors
/// Redis cannot be started or reached, or refuses a command.
pub async fn measure(url: Option<&str>, length: Duration) -> Result<RedisFloor> {
    let own = match url {
        Some(_) => None,
        None => Some(PrivateRedis::start().await?),
    };
    let url = match (&own, url) {
        (Some(own), _) => own.url(),
        (None, url) => url.context("either a URL or a server of our own")?,
    };
    let mut connection = connect(url).await?;
    let part = length / 3;
    let ping_ms = one_at_a_time(&mut connection, &::redis::cmd("PING"), part).await?;
    let mut set = ::redis::cmd("SET");
    set.arg("loadtest:floor").arg("0123456789abcdef").arg("EX").arg(60);
    let set_ms = one_at_a_time(&mut connection, &set, part).await?;
    let pipelined_sets_per_second = pipelined(&mut connection, &set, part).await?;
    Ok(RedisFloor { ping_ms, set_ms, pipelined_sets_per_second })
}

async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let client = ::redis::Client::open(url).context("the Redis URL cannot be read")?;
    client.get_multiplexed_async_connection().await.context("cannot connect to Redis")
}

async fn one_at_a_time(
    connection: &mut MultiplexedConnection,
    command: &::redis::Cmd,
    length: Duration,
) -> Result<Percentiles> {
    let mut latencies = Latencies::default();
    let end = Instant::now() + length;
    loop {
        let sent = Instant::now();
        let () = command.query_async(connection).await.context("Redis refused a command")?;
        let answered = Instant::now();
        latencies.record(answered - sent);
        if answered >= end {
            return Ok(latencies.percentiles());
        }
    }
}

async fn pipelined(
    connection: &mut MultiplexedConnection,
    command: &::redis::Cmd,
    length: Duration,
) -> Result<f64> {
    let mut pipeline = ::redis::pipe();
    for _ in 0..BATCH {
        pipeline.add_command(command.clone()).ignore();
    }
    let started = Instant::now();
    let mut batches = 0_u32;
    while started.elapsed() < length {
        let () = pipeline.query_async(connection).await.context("Redis refused a batch")?;
        batches += 1;
    }
    Ok(f64::from(batches) * f64::from(BATCH) / started.elapsed().as_secs_f64())
}

/// A Redis on a Unix socket in a folder of its own; it ends when dropped.
#[derive(Debug)]
pub struct PrivateRedis {
    url: String,
    // Before the folder: fields are dropped in order, and the server uses the folder.
    _process: Child,
    _folder: TempDir,
}

impl PrivateRedis {
    /// Starts one without persistence.
    ///
    /// # Errors
    /// It cannot be started, or accepts no connection.
    pub async fn start() -> Result<Self> {
        Self::start_with(&["--appendonly", "no"]).await
    }

    /// Starts one that keeps what it is told as a fleet's does (`deploy/redis/queue.conf`).
    ///
    /// # Errors
    /// It cannot be started, or accepts no connection.
    pub async fn start_durable() -> Result<Self> {
        let rewrites = ["--auto-aof-rewrite-min-size", "256mb"];
        let settings = ["--appendonly", "yes", "--appendfsync", "everysec"];
        Self::start_with(&[settings.as_slice(), &rewrites].concat()).await
    }

    /// Starts one with these settings besides.
    async fn start_with(settings: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let socket = folder.path().join("redis.sock");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .args(settings)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start redis-server; install it, or name a running one")?;
        let url = format!("redis+unix://{}", socket.display());
        let redis = Self { url, _process: process, _folder: folder };
        for _ in 0..100 {
            if redis.connect().await.is_ok() {
                return Ok(redis);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("redis-server was started, but accepts no connection after two seconds")
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A connection to it.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn connect(&self) -> Result<MultiplexedConnection> {
        connect(&self.url).await
    }
}
