//! The Docker floors: `docker exec` of a program in a plain running container, and `docker run` of
//! it, both through Docker's own command line, as a shell script would do it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::measurement::{Latencies, Percentiles};
use crate::scenario::Scenario;

/// A command that takes longer than this has hung.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Latency and throughput of a Docker command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DockerFloor {
    /// Commands at a time.
    pub concurrency: usize,
    /// Commands that ended with the right output; any other ends the measurement.
    pub completed: u64,
    /// The same per second.
    pub per_second: f64,
    /// From starting the command to its end.
    pub latency_ms: Percentiles,
}

/// A container that does nothing, for `docker exec`.
#[derive(Debug)]
pub struct IdleContainer {
    id: String,
}

impl IdleContainer {
    /// Starts one from `image`. It ends by itself after ten minutes if [`Self::remove`] is never
    /// reached.
    ///
    /// # Errors
    /// Docker refuses, for instance as it has no such image.
    pub async fn start(image: &str) -> Result<Self> {
        let id = docker(&["run", "-d", "--rm", "--network", "none", image, "sleep", "600"]).await?;
        Ok(Self { id: id.trim().to_owned() })
    }

    /// Runs `scenario` in it by `docker exec`, `concurrency` at a time, for `length`.
    ///
    /// # Errors
    /// A command fails, or writes something else than the scenario expects.
    pub async fn exec(
        &self,
        scenario: &'static Scenario,
        concurrency: usize,
        length: Duration,
    ) -> Result<DockerFloor> {
        repeat(&["exec", &self.id], scenario, concurrency, length).await
    }

    /// Removes it.
    ///
    /// # Errors
    /// Docker refuses.
    pub async fn remove(self) -> Result<()> {
        docker(&["rm", "-f", &self.id]).await.map(drop)
    }
}

/// Runs `scenario` by `docker run` of `image`, one at a time, for `length`.
///
/// # Errors
/// A command fails, or writes something else than the scenario expects.
pub async fn run(
    image: &str,
    scenario: &'static Scenario,
    length: Duration,
) -> Result<DockerFloor> {
    repeat(&["run", "--rm", "--network", "none", image], scenario, 1, length).await
}

async fn repeat(
    prefix: &[&str],
    scenario: &'static Scenario,
    concurrency: usize,
    length: Duration,
) -> Result<DockerFloor> {
    let command: Vec<String> = prefix
        .iter()
        .chain(scenario.plain_command)
        .chain([&scenario.code])
        .map(ToString::to_string)
        .collect();
    // The first one pays for caches; a warm server under test did not pay for them either.
    once(&command, scenario).await?;
    let started = Instant::now();
    let mut loops = JoinSet::new();
    for _ in 0..concurrency {
        let command = command.clone();
        loops.spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < length {
                let before = Instant::now();
                once(&command, scenario).await?;
                latencies.push(before.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut total = Latencies::default();
    while let Some(latencies) = loops.join_next().await {
        let latencies = latencies.context("a loop's task was lost")??;
        latencies.into_iter().for_each(|latency| total.record(latency));
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let per_second = total.count() as f64 / started.elapsed().as_secs_f64();
    Ok(DockerFloor {
        concurrency,
        completed: total.count(),
        per_second,
        latency_ms: total.percentiles(),
    })
}

async fn once(command: &[String], scenario: &Scenario) -> Result<()> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let stdout = docker(&words).await?;
    ensure!(
        scenario.stdout.is_none_or(|expected| stdout.trim_end() == expected),
        "docker {} wrote {stdout:?}",
        words.join(" ")
    );
    Ok(())
}

/// Standard output of a Docker command.
///
/// # Errors
/// It cannot be started, takes more than a minute, or ends with another code than 0.
pub async fn docker(arguments: &[&str]) -> Result<String> {
    let shown = || format!("docker {}", arguments.join(" "));
    let output =
        Command::new("docker").args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(COMMAND_LIMIT, output)
        .await
        .with_context(|| format!("{} took more than a minute", shown()))?
        .with_context(|| format!("cannot start {}", shown()))?;
    ensure!(
        output.status.success(),
        "{} ended with {}: {}",
        shown(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote no text", shown()))
}
