//! The server's own Redis: a child process on a private Unix socket, with an append-only file in
//! the data directory, so that `isol8 serve` needs nothing set up and loses nothing in a restart.

use std::convert::Infallible;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// Loading a large append-only file takes a while.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Redis syncs its append-only file before it exits.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// One that dies at once must not be started in a tight loop.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(10);

/// A running `redis-server`, ours alone.
pub(crate) struct RedisServer {
    child: Child,
    directory: PathBuf,
    socket: PathBuf,
    /// Held so that two servers never share a data directory.
    _lock: File,
}

impl RedisServer {
    /// Starts one on the data in `directory`.
    pub(crate) async fn start(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let directory = directory.canonicalize()?;
        let lock = lock(&directory)?;
        let socket = directory.join("redis.sock");
        // A server that was killed leaves its Redis running. The lock is ours, so it is an orphan.
        if is_answering(&socket).await {
            tracing::warn!("stopping a redis-server that an earlier life left behind");
            ask(&socket, "SHUTDOWN\r\n").await;
            wait_until_silent(&socket).await?;
        }
        let child = launch(&directory, &socket).await?;
        Ok(Self { child, directory, socket, _lock: lock })
    }

    /// Keeps it running: starts it again on its data when it dies.
    ///
    /// # Errors
    /// Returns only if it cannot be started again.
    pub(crate) async fn supervise(&mut self) -> anyhow::Result<Infallible> {
        loop {
            let status = self.child.wait().await.context("cannot wait for redis-server")?;
            tracing::error!(%status, "redis-server died; starting it again");
            sleep(RESTART_PAUSE).await;
            self.child = launch(&self.directory, &self.socket).await?;
        }
    }

    /// Where its data is, which is this process's alone.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// How to reach it.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    /// Stops it; its data stays.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        ask(&self.socket, "SHUTDOWN\r\n").await;
        match timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(status) => {
                status.context("cannot wait for redis-server")?;
            }
            Err(_) => {
                tracing::warn!("redis-server did not stop in time; killing it");
                self.child.kill().await.context("cannot kill redis-server")?;
            }
        }
        Ok(())
    }
}

/// Starts the process and waits until it answers.
async fn launch(directory: &Path, socket: &Path) -> anyhow::Result<Child> {
    let mut child = Command::new("redis-server")
        .args(["--port", "0", "--unixsocketperm", "700", "--daemonize", "no"])
        .args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""])
        // At its own 64 MiB Redis would rewrite the file every few seconds under load, for which it
        // takes a second core.
        .args(["--auto-aof-rewrite-min-size", "256mb"])
        .args(["--maxmemory-policy", "noeviction", "--loglevel", "warning"])
        .arg("--unixsocket")
        .arg(socket)
        .arg("--dir")
        .arg(directory)
        .arg("--logfile")
        .arg(directory.join("redis.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Our own shutdown stops it in order; a terminal's Ctrl-C must not do so first.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start redis-server; `isol8 setup` installs it, or give --redis URL")?;
    let deadline = Instant::now() + START_TIMEOUT;
    while !is_answering(socket).await {
        if let Some(status) = child.try_wait()? {
            bail!(
                "redis-server ended at once ({status}); see {}",
                directory.join("redis.log").display()
            );
        }
        if Instant::now() > deadline {
            bail!("redis-server did not answer within {} s", START_TIMEOUT.as_secs());
        }
        sleep(POLL).await;
    }
    Ok(child)
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("serve.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `isol8 serve` uses {}; give this one its own --data-dir, or share a queue \
             with --redis",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

async fn is_answering(socket: &Path) -> bool {
    ask(socket, "PING\r\n").await.is_some_and(|answer| answer.starts_with("+PONG"))
}

async fn wait_until_silent(socket: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + STOP_TIMEOUT;
    while is_answering(socket).await {
        if Instant::now() > deadline {
            bail!("an earlier redis-server on {} does not stop; end it first", socket.display());
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// One inline command and its answer; `None` if nobody answers.
async fn ask(socket: &Path, command: &str) -> Option<String> {
    let talk = async {
        let mut stream = UnixStream::connect(socket).await.ok()?;
        stream.write_all(command.as_bytes()).await.ok()?;
        let mut answer = [0; 128];
        let length = stream.read(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    timeout(Duration::from_secs(5), talk).await.ok().flatten()
}
