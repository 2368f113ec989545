//! What Redis has spent, by its own account.

use std::ops::Sub;

use anyhow::{Context as _, Result};
use redis::aio::MultiplexedConnection;

use super::{Cost, field};
use crate::floors::redis::PrivateRedis;

/// Reads what a server has spent.
pub(super) struct Meter {
    connection: MultiplexedConnection,
}

/// What it had spent at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading(Cost);

impl Meter {
    pub(super) async fn new(server: &PrivateRedis) -> Result<Self> {
        Ok(Self { connection: server.connect().await? })
    }

    async fn info(&mut self, section: &str) -> Result<String> {
        let mut ask = redis::cmd("INFO");
        ask.arg(section).query_async(&mut self.connection).await.context("INFO is refused")
    }

    pub(super) async fn read(&mut self) -> Result<Reading> {
        let (cpu, stats) = (self.info("cpu").await?, self.info("stats").await?);
        let calls = self.info("commandstats").await?;
        let seconds =
            field(&cpu, "used_cpu_sys_main_thread")? + field(&cpu, "used_cpu_user_main_thread")?;
        let commands = calls
            .lines()
            .filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<f64>().ok());
        Ok(Reading(Cost {
            cpu_us: seconds * 1e6,
            commands: commands.sum(),
            bytes: field(&stats, "total_net_input_bytes")?
                + field(&stats, "total_net_output_bytes")?,
        }))
    }

    pub(super) async fn memory_bytes(&mut self) -> Result<f64> {
        field(&self.info("memory").await?, "used_memory")
    }

    pub(super) async fn version(&mut self) -> Result<String> {
        let info = self.info("server").await?;
        let line = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(format!("Redis {}", line.unwrap_or("?").trim()))
    }
}

impl Sub for Reading {
    type Output = Cost;

    fn sub(self, before: Self) -> Cost {
        self.0 - before.0
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            cpu_us: self.cpu_us - other.cpu_us,
            commands: self.commands - other.commands,
            bytes: self.bytes - other.bytes,
        }
    }
}

impl Cost {
    /// Its share of one in so many.
    pub(super) fn each(self, count: f64) -> Self {
        self.times(1.0 / count)
    }

    pub(super) fn times(self, factor: f64) -> Self {
        Self {
            cpu_us: self.cpu_us * factor,
            commands: self.commands * factor,
            bytes: self.bytes * factor,
        }
    }
}
