//! What a job costs Redis in fleets larger than a machine: simulated workers and tenants use the real
//! queue on a real Redis, and nothing else of the fleet is there. Measured is what Redis itself has spent.

mod meter;
mod submitter;
mod worker;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use shared::config;
use shared::redis::Queue;
use tokio::time::sleep;

use crate::floors::redis::PrivateRedis;
use meter::Meter;
use submitter::Submitter;
use worker::Workers;

/// Workers where their number does not vary.
const SOME_WORKERS: usize = 10;
/// Tenants where their number does not vary.
const SOME_TENANTS: usize = 100;
/// How long new workers, or the last ones' end, may still be felt.
const SETTLE: Duration = Duration::from_secs(2);

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// Numbers of workers, ascending.
    pub workers: Vec<usize>,
    /// Numbers of tenants.
    pub tenants: Vec<usize>,
    /// Numbers of jobs that wait, ascending.
    pub depths: Vec<usize>,
    /// Jobs per second, where workers and tenants vary.
    pub rate: f64,
    /// Measured time of each point.
    pub length: Duration,
    /// Jobs that are submitted, and run, at each depth of the queue.
    pub sample: usize,
    /// Bytes of a program's text.
    pub code_bytes: usize,
}

/// What Redis has spent on something, for each of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Time of its main thread, in microseconds.
    pub cpu_us: f64,
    /// Commands, those inside scripts included.
    pub commands: f64,
    /// Bytes in and out.
    pub bytes: f64,
}

/// Cost at a number of workers or tenants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// That number.
    pub count: usize,
    /// Of a job, from its submission to its end, without what the fleet costs when it is idle.
    pub job: Cost,
    /// Of a second of the idle fleet.
    pub idle_second: Cost,
}

/// Cost at a number of jobs that wait.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Depth {
    /// That number.
    pub queued: usize,
    /// Of a submission.
    pub submit: Cost,
    /// Of taking and ending a job.
    pub run: Cost,
    /// Memory of Redis for each job that waits, in bytes; none where none do.
    pub bytes_per_job: Option<f64>,
    /// Of these, the job itself.
    pub payload_bytes: usize,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// By workers.
    pub workers: Vec<Point>,
    /// By tenants.
    pub tenants: Vec<Point>,
    /// By jobs that wait.
    pub depths: Vec<Depth>,
    /// Jobs that were submitted, and run, at each depth.
    pub sample: usize,
    /// Jobs per second, where workers and tenants vary.
    pub rate: f64,
    /// Version of Redis.
    pub redis: String,
}

/// A Redis as `isol8 serve` starts it, and its queue.
struct Stage {
    redis: PrivateRedis,
    config: config::Redis,
    queue: Queue,
}

impl Stage {
    async fn set() -> Result<Self> {
        let redis = PrivateRedis::start_durable().await?;
        let url = Some(redis.url().to_owned());
        let config = config::Redis { url, max_queued: 10_000_000, ..config::Redis::default() };
        let queue = Queue::connect(&config).await?;
        Ok(Self { redis, config, queue })
    }

    async fn meter(&self) -> Result<Meter> {
        Meter::new(&self.redis).await
    }
}

impl Simulation {
    /// Measures everything; some minutes.
    ///
    /// # Errors
    /// Redis cannot be started, or the queue refuses something.
    pub async fn run(&self, tell: &impl Fn(&str)) -> Result<Found> {
        ensure!(self.workers.is_sorted() && self.depths.is_sorted(), "give numbers in their order");
        let stage = Stage::set().await?;
        let mut by_workers = Vec::new();
        let mut workers = Workers::new(&stage.config);
        for count in &self.workers {
            workers.grow(*count).await?;
            by_workers.push(self.point(&stage, *count, SOME_TENANTS, tell, "workers").await?);
        }
        workers.stop().await?;

        let mut by_tenants = Vec::new();
        for count in &self.tenants {
            let stage = Stage::set().await?;
            let mut workers = Workers::new(&stage.config);
            workers.grow(SOME_WORKERS).await?;
            by_tenants.push(self.point(&stage, *count, *count, tell, "tenants").await?);
            workers.stop().await?;
        }
        let redis = stage.meter().await?.version().await?;
        let depths = self.by_depth(tell).await?;
        Ok(Found {
            workers: by_workers,
            tenants: by_tenants,
            depths,
            sample: self.sample,
            rate: self.rate,
            redis,
        })
    }

    /// Cost of a job at a steady rate, and of the fleet without any.
    async fn point(
        &self,
        stage: &Stage,
        count: usize,
        tenants: usize,
        tell: &impl Fn(&str),
        what: &str,
    ) -> Result<Point> {
        sleep(SETTLE).await;
        let mut meter = stage.meter().await?;
        let before = meter.read().await?;
        sleep(self.length).await;
        let idle_second = (meter.read().await? - before).each(self.length.as_secs_f64());

        let mut submitter = Submitter::new(stage.queue.clone(), tenants, self.code_bytes);
        let before = meter.read().await?;
        let begun = std::time::Instant::now();
        let jobs = submitter.at_rate(self.rate, self.length).await?;
        submitter.await_all_ended().await?;
        let took = begun.elapsed().as_secs_f64();
        let spent = meter.read().await? - before - idle_second.times(took);
        let point = Point { count, job: spent.each(as_float(jobs)), idle_second };
        tell(&format!(
            "{count} {what}: {:.0} us and {:.1} commands a job, {:.0} us and {:.0} commands an idle second",
            point.job.cpu_us, point.job.commands, idle_second.cpu_us, idle_second.commands
        ));
        Ok(point)
    }

    /// Cost of submitting, and of running, at each depth of the queue.
    async fn by_depth(&self, tell: &impl Fn(&str)) -> Result<Vec<Depth>> {
        let stage = Stage::set().await?;
        let mut meter = stage.meter().await?;
        let mut submitter = Submitter::new(stage.queue.clone(), SOME_TENANTS, self.code_bytes);
        let empty_bytes = meter.memory_bytes().await?;
        let mut depths = Vec::new();
        let mut queued = 0;
        for depth in &self.depths {
            // What has ended is not kept any more.
            sleep(SETTLE).await;
            stage.queue.housekeep(None).await?;
            submitter.at_once(depth.saturating_sub(queued)).await?;
            let held_bytes = meter.memory_bytes().await? - empty_bytes;
            let before = meter.read().await?;
            submitter.at_once(self.sample).await?;
            let submit = (meter.read().await? - before).each(as_float(self.sample));
            let before = meter.read().await?;
            worker::drain(&stage.config, SOME_WORKERS, self.sample).await?;
            let run = (meter.read().await? - before).each(as_float(self.sample));
            queued = *depth;
            let bytes_per_job = (*depth > 0).then(|| held_bytes / as_float(*depth));
            let payload_bytes = submitter.payload_bytes();
            depths.push(Depth { queued, submit, run, bytes_per_job, payload_bytes });
            tell(&format!(
                "{depth} queued: {:.0} us to submit, {:.0} us to run, {:.0} bytes each, payload {payload_bytes}",
                submit.cpu_us,
                run.cpu_us,
                bytes_per_job.unwrap_or_default()
            ));
        }
        Ok(depths)
    }
}

impl Found {
    /// As a page.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = format!(
            "# Simulation\n\nWritten by `loadtest simulate`: what a job costs Redis ({}, append-only, \
             synced every second) by the number of workers, of tenants, and of jobs that wait. Workers and \
             tenants are simulated, the queue is the real one, over connections of each worker's own. \
             CPU is that of Redis' main thread; commands include those inside scripts.\n",
            self.redis
        );
        for (what, points) in [("workers", &self.workers), ("tenants", &self.tenants)] {
            let _ = write!(
                out,
                "\n## By {what}\n\nListed jobs at {}/s, each submitted, taken and ended; what the idle fleet \
                 costs is taken off and shown apart.\n\n| {what} | CPU a job | commands | bytes | idle \
                 fleet: CPU a second | commands a second |\n| --: | --: | --: | --: | --: | --: |\n",
                self.rate
            );
            for Point { count, job, idle_second } in points {
                let _ = writeln!(
                    out,
                    "| {count} | {:.0} µs | {:.1} | {:.0} | {:.1} ms | {:.0} |",
                    job.cpu_us,
                    job.commands,
                    job.bytes,
                    idle_second.cpu_us / 1000.0,
                    idle_second.commands
                );
            }
        }
        let _ = write!(
            out,
            "\n## By jobs that wait\n\n{} more are submitted, and as many run by {SOME_WORKERS} workers, \
             while so many wait.\n\n| waiting | submitting | running | memory a job | beyond its payload |\n\
             | --: | --: | --: | --: | --: |\n",
            self.sample
        );
        for depth in &self.depths {
            let (each, beyond) = match depth.bytes_per_job {
                Some(bytes) => {
                    let beyond = bytes - as_float(depth.payload_bytes);
                    (format!("{bytes:.0} B"), format!("{beyond:.0} B"))
                }
                None => ("–".to_owned(), "–".to_owned()),
            };
            let _ = writeln!(
                out,
                "| {} | {:.0} µs | {:.0} µs | {each} | {beyond} |",
                depth.queued, depth.submit.cpu_us, depth.run.cpu_us
            );
        }
        out
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of jobs are small beside 2^52")]
const fn as_float(count: usize) -> f64 {
    count as f64
}

/// A number out of `INFO`.
fn field(info: &str, name: &str) -> Result<f64> {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let text = line.with_context(|| format!("INFO has no {name}"))?;
    text.trim().parse().with_context(|| format!("{name} is no number"))
}
