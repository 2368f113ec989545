//! Everything the table of goals and the plot need, measured in one go: references first, then the
//! goals, then the sweep.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{SecondsFormat, Utc};

use crate::connection::Target;
use crate::floors::docker::{self, DockerFloor, IdleContainer};
use crate::floors::http::StubServer;
use crate::floors::redis;
use crate::generate::{Load, run};
use crate::measurement::Summary;
use crate::report::{Document, Floors, Machine, Run, offered_as};
use crate::scenario::{GOALS, Offered, Reference, SCENARIOS, Scenario, by_name};

/// Between two runs: the server refills its pools without disturbing the next one.
const SETTLE: Duration = Duration::from_secs(1);

/// More `docker exec` at a time than this only wait for each other.
const MAX_EXEC_CONCURRENCY: usize = 16;

/// The program of the sweep and of its references.
const SWEPT: &str = "python-hello";

/// What to measure.
#[derive(Debug)]
pub struct Suite {
    /// The server under test.
    pub target: Option<Target>,
    /// The same with workers that run nothing, for rows 1 and 2.
    pub noop_target: Option<Target>,
    /// Image for the Docker references, instead of each runtime's own.
    pub image: Option<String>,
    /// A running Redis to measure, instead of one of our own.
    pub redis_url: Option<String>,
    /// Before each measured time.
    pub warm_up: Duration,
    /// Measured time of each run.
    pub length: Duration,
    /// Numbers of connections of the sweep; none for no sweep.
    pub sweep: Vec<usize>,
}

/// Where progress is told.
pub type Progress<'a> = &'a dyn Fn(&str);

impl Suite {
    /// Measures everything. Takes some ten minutes with ten seconds per run.
    ///
    /// # Errors
    /// The generator itself cannot work. What the server or a reference gets wrong is part of the
    /// result.
    pub async fn run(&self, tell: Progress<'_>) -> Result<Document> {
        let mut document = Document {
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            version: shared::VERSION.to_owned(),
            machine: machine().await?,
            left_out: Vec::new(),
            runs: Vec::new(),
            sweep: BTreeMap::new(),
            floors: Floors::default(),
        };
        self.floors(&mut document, tell).await?;
        self.goals(&mut document, tell).await?;
        if let Some(target) = &self.target {
            for connections in &self.sweep {
                let load = Load::closed(*connections, self.warm_up, self.length);
                let summary = settled_run(target, by_name(SWEPT)?, load).await?;
                tell(&format!("{SWEPT}, {connections} connections: {summary}"));
                document.sweep.insert(*connections, summary);
            }
        }
        Ok(document)
    }

    async fn goals(&self, document: &mut Document, tell: Progress<'_>) -> Result<()> {
        let mut done: Vec<(&str, Offered)> = Vec::new();
        for goal in GOALS {
            // Several goals may speak of one run.
            if done.contains(&(goal.scenario, goal.offered)) {
                continue;
            }
            done.push((goal.scenario, goal.offered));
            let scenario = by_name(goal.scenario)?;
            let runs_programs = scenario.stdout.is_some();
            let target = if runs_programs { &self.target } else { &self.noop_target };
            let Some(target) = target else {
                let option = if runs_programs { "--url" } else { "--noop-url" };
                document.left_out.push(format!(
                    "{} of row {}, as {option} named no server",
                    goal.scenario, goal.row
                ));
                continue;
            };
            let load = match goal.offered {
                Offered::AtRate => Load::open(scenario.rate, self.warm_up, self.length),
                Offered::Connections(count) => Load::closed(count, self.warm_up, self.length),
            };
            let summary = settled_run(target, scenario, load).await?;
            let offered = offered_as(goal.offered, scenario.rate);
            tell(&format!("{}, {offered}: {summary}", scenario.name));
            document.runs.push(Run { scenario: scenario.name.to_owned(), offered, summary });
        }
        Ok(())
    }

    async fn floors(&self, document: &mut Document, tell: Progress<'_>) -> Result<()> {
        let Document { floors, left_out, .. } = document;
        floors.http = http_floor(&self.http_connections(), self.length / 3, tell).await?;
        match redis::measure(self.redis_url.as_deref(), self.length).await {
            Ok(floor) => {
                tell(&format!("Redis PING: {}", floor.ping_ms));
                tell(&format!("Redis SET: {}", floor.set_ms));
                tell(&format!("Redis pipelined: {:.0} SET/s", floor.pipelined_sets_per_second));
                floors.redis = Some(floor);
            }
            Err(error) => left_out.push(format!("raw Redis ({error:#})")),
        }
        for scenario in SCENARIOS {
            for reference in [Reference::DockerExec, Reference::DockerRun] {
                let is_needed = GOALS
                    .iter()
                    .any(|goal| goal.scenario == scenario.name && goal.reference == reference);
                if !is_needed {
                    continue;
                }
                if let Err(error) = self.docker_floor(scenario, reference, floors, tell).await {
                    left_out.push(format!("{reference:?} of {} ({error:#})", scenario.name));
                }
            }
        }
        Ok(())
    }

    /// Every number of connections at which HTTP alone is a reference.
    fn http_connections(&self) -> Vec<usize> {
        let of_goals = GOALS.iter().filter_map(|goal| match (goal.reference, goal.offered) {
            (Reference::Http, Offered::Connections(count)) => Some(count),
            _ => None,
        });
        let mut all: Vec<usize> = of_goals.chain(self.sweep.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    async fn docker_floor(
        &self,
        scenario: &'static Scenario,
        reference: Reference,
        floors: &mut Floors,
        tell: Progress<'_>,
    ) -> Result<()> {
        let image = self.image.as_deref().or(scenario.image);
        let image = image.unwrap_or_else(|| scenario.runtime.image());
        let name = scenario.name.to_owned();
        if reference == Reference::DockerRun {
            let floor = docker::run(image, scenario, self.length).await?;
            tell(&format!("docker run, {name}: {}", floor.latency_ms));
            floors.docker_run.insert(name, floor);
            return Ok(());
        }
        let concurrencies = if scenario.name == SWEPT { self.sweep.as_slice() } else { &[] };
        let measured = docker_exec(image, scenario, concurrencies, self.length / 3).await?;
        for floor in measured.iter() {
            let at_a_time = floor.concurrency;
            tell(&format!("docker exec, {name}, {at_a_time} at a time: {}", floor.latency_ms));
        }
        let mut measured = measured.into_iter();
        floors.docker_exec.extend(measured.next().map(|floor| (name, floor)));
        floors.docker_exec_sweep.extend(measured);
        Ok(())
    }
}

/// `docker exec` in a container of its own: one at a time first, then at each of `concurrencies`
/// that is sensible.
///
/// # Errors
/// Docker refuses a command.
pub async fn docker_exec(
    image: &str,
    scenario: &'static Scenario,
    concurrencies: &[usize],
    length: Duration,
) -> Result<Vec<DockerFloor>> {
    let container = IdleContainer::start(image).await?;
    let sensible = concurrencies.iter().copied().filter(|count| *count <= MAX_EXEC_CONCURRENCY);
    let mut measured = Ok(Vec::new());
    for concurrency in [1].into_iter().chain(sensible) {
        measured = match (measured, container.exec(scenario, concurrency, length).await) {
            (Ok(mut all), Ok(floor)) => {
                all.push(floor);
                Ok(all)
            }
            (Err(error), _) | (_, Err(error)) => {
                measured = Err(error);
                break;
            }
        };
    }
    // Also after a failure, which then is what is told.
    container.remove().await?;
    measured
}

/// HTTP alone: the generator against a server that answers at once.
///
/// # Errors
/// The server cannot be started, or answers wrongly, which would be a bug here.
pub async fn http_floor(
    connections: &[usize],
    length: Duration,
    tell: Progress<'_>,
) -> Result<BTreeMap<usize, Summary>> {
    let server = StubServer::start()?;
    let target = Target::new(&server.url(), "none")?;
    let mut floor = BTreeMap::new();
    for count in connections {
        let load = Load::closed(*count, length / 5, length);
        let summary = run(&target, by_name("noop")?, load).await?;
        summary.require_clean("the HTTP floor")?;
        tell(&format!("HTTP alone, {count} connections: {summary}"));
        floor.insert(*count, summary);
    }
    Ok(floor)
}

async fn settled_run(target: &Target, scenario: &'static Scenario, load: Load) -> Result<Summary> {
    tokio::time::sleep(SETTLE).await;
    run(target, scenario, load).await.with_context(|| format!("cannot run {}", scenario.name))
}

async fn machine() -> Result<Machine> {
    let read =
        |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let field = |text: &str, name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo")?, "MemTotal").context("no MemTotal in meminfo")?;
    let memory_kib: u64 = memory.trim_end_matches(" kB").parse().context("MemTotal in kB")?;
    let docker = docker::docker(&["version", "--format", "{{.Server.Version}}"]).await;
    let redis = tokio::process::Command::new("redis-server").arg("--version").output().await;
    let redis = redis.ok().and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        text.split(' ').find_map(|word| word.strip_prefix("v=").map(ToOwned::to_owned))
    });
    let absent = || "not found".to_owned();
    Ok(Machine {
        cpu: field(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(absent),
        cores: std::thread::available_parallelism().context("number of cores")?.get(),
        memory_mib: memory_kib / 1024,
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        docker: docker.map_or_else(|_| absent(), |version| version.trim().to_owned()),
        redis: redis.unwrap_or_else(absent),
    })
}
