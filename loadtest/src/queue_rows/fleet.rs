//! Processes of `isol8` under load, and their Redis; they end with the value.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::floors::redis::PrivateRedis;

/// The master key of the fleet, which nobody else can reach.
pub(super) const KEY: &str = "load-rows";
/// Starting includes warming sandboxes.
const START: Duration = Duration::from_secs(120);

pub(super) struct Fleet {
    isol8: PathBuf,
    members: Vec<Member>,
    redis: PrivateRedis,
    folder: TempDir,
    /// `http://host:port` of the gateway.
    pub(super) url: String,
}

struct Member {
    process: Child,
    /// Read no further, but open: a closed pipe would be an error to the process.
    _said: BufReader<ChildStdout>,
}

impl Fleet {
    /// A gateway with this configuration; no worker yet.
    pub(super) async fn start(isol8: &Path, config: &Value) -> Result<Self> {
        let redis = PrivateRedis::start_durable().await?;
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        std::fs::write(folder.path().join("isol8.config.json"), config.to_string())?;
        let isol8 = isol8.canonicalize().with_context(|| format!("no {}", isol8.display()))?;
        let mut fleet = Self { isol8, members: Vec::new(), redis, folder, url: String::new() };
        let arguments = ["gateway", "--key", KEY];
        let line = fleet.launch(&arguments, "listening on ").await?;
        let (_, port) = line.rsplit_once(':').context("a gateway says where it listens")?;
        fleet.url = format!("http://127.0.0.1:{}", port.trim());
        Ok(fleet)
    }

    /// Adds a worker and waits until it is ready; its number.
    pub(super) async fn add_worker(&mut self, slots: usize, is_no_op: bool) -> Result<usize> {
        let slots = slots.to_string();
        let mut arguments = vec!["worker", "--max-concurrent", &slots];
        if is_no_op {
            arguments.push("--no-op");
        }
        self.launch(&arguments, "worker ready").await?;
        Ok(self.members.len() - 1)
    }

    /// Starts a process and waits for a line that contains `words`.
    async fn launch(&mut self, arguments: &[&str], words: &str) -> Result<String> {
        let mut process = Command::new(&self.isol8)
            .args(arguments)
            .args(["--redis", self.redis.url()])
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.isol8.display()))?;
        let mut said = BufReader::new(process.stdout.take().context("it is piped")?);
        let found = timeout(START, async {
            loop {
                let mut line = String::new();
                if said.read_line(&mut line).await? == 0 {
                    bail!("isol8 {arguments:?} ended without \"{words}\"");
                }
                if line.contains(words) {
                    return Ok(line);
                }
            }
        });
        let line = found.await.with_context(|| format!("isol8 {arguments:?} does not start"))??;
        self.members.push(Member { process, _said: said });
        Ok(line)
    }

    /// The process of the gateway.
    pub(super) fn gateway(&self) -> Result<u32> {
        let gateway = self.members.first().and_then(|it| it.process.id());
        gateway.context("the gateway has ended")
    }

    /// A connection to its Redis.
    pub(super) async fn redis(&self) -> Result<MultiplexedConnection> {
        self.redis.connect().await
    }

    /// Kills a member the hard way.
    pub(super) async fn kill(&mut self, number: usize) -> Result<()> {
        self.members[number].process.kill().await.context("a member has ended by itself")
    }

    /// Has all members end in good order, so that no sandbox stays.
    pub(super) async fn stop(mut self) -> Result<()> {
        for member in &mut self.members {
            if let Some(pid) = member.process.id() {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
                timeout(START, member.process.wait()).await.context("a member does not stop")??;
            }
        }
        Ok(())
    }
}
