//! The stored document of a suite, and what is rendered from it: the Markdown table of goals and
//! the plot. Ratios come first, as they hold on any machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::floors::docker::DockerFloor;
use crate::floors::redis::RedisFloor;
use crate::measurement::Summary;
use crate::plot::{Panel, Series, svg};
use crate::scenario::{GOALS, Goal, Metric, Offered, Reference, by_name};

/// Where a suite ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say what they are")]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub docker: String,
    pub redis: String,
}

/// One run of a scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Name of the scenario.
    pub scenario: String,
    /// How it was offered, as [`offered_as`] words it.
    pub offered: String,
    /// What came of it.
    pub summary: Summary,
}

/// What the machine does without isol8.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Floors {
    /// A server that answers at once, by connections.
    pub http: BTreeMap<usize, Summary>,
    /// Raw Redis.
    pub redis: Option<RedisFloor>,
    /// `docker exec`, one at a time, by scenario.
    pub docker_exec: BTreeMap<String, DockerFloor>,
    /// `docker run`, one at a time, by scenario.
    pub docker_run: BTreeMap<String, DockerFloor>,
    /// `docker exec` of python hello, several at a time.
    pub docker_exec_sweep: Vec<DockerFloor>,
}

/// Everything a suite found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// When it began, in UTC.
    pub date: String,
    /// Version of the load test.
    pub version: String,
    /// Where.
    pub machine: Machine,
    /// What was left out, and why.
    pub left_out: Vec<String>,
    /// Runs for the goals.
    pub runs: Vec<Run>,
    /// Python hello over more and more connections.
    pub sweep: BTreeMap<usize, Summary>,
    /// References.
    pub floors: Floors,
}

/// Words for how a run is offered; also the key that finds it again.
#[must_use]
pub fn offered_as(offered: Offered, rate: f64) -> String {
    match offered {
        Offered::AtRate => format!("{rate}/s, open loop"),
        Offered::Connections(1) => "one at a time".to_owned(),
        Offered::Connections(count) => format!("{count} connections"),
    }
}

/// A goal beside what was measured.
struct Row {
    goal: &'static Goal,
    offered: String,
    /// Milliseconds or jobs per second, as is the value of the reference.
    ours: f64,
    reference: Option<(&'static str, f64)>,
    failed: u64,
    /// Answers of a cold scenario for which the server did not say that it made a sandbox: what
    /// they measure is not a cold start.
    not_cold: u64,
}

impl Row {
    fn is_met(&self) -> bool {
        let reached = match self.goal.metric {
            Metric::P50 | Metric::P99 => self.ours <= self.goal.limit,
            Metric::Throughput => self.ours >= self.goal.limit,
            Metric::TimesFaster => {
                self.reference.is_some_and(|(_, value)| value / self.ours >= self.goal.limit)
            }
            Metric::TimesSlower => {
                self.reference.is_some_and(|(_, value)| self.ours / value <= self.goal.limit)
            }
        };
        reached && self.failed == 0 && self.not_cold == 0
    }

    fn markdown(&self) -> String {
        let metric = self.goal.metric;
        let (sign, name) = match metric {
            Metric::P50 => ("≤", "p50"),
            Metric::P99 => ("≤", "p99"),
            Metric::Throughput => ("≥", "throughput"),
            Metric::TimesFaster => ("≥", "p50 against reference"),
            Metric::TimesSlower => ("≤", "p50 against reference"),
        };
        let verdict = match (self.is_met(), self.failed, self.not_cold) {
            (true, ..) => "met".to_owned(),
            (_, 0, 0) => "**missed**".to_owned(),
            (_, 0, warm) => format!("**void**, {warm} answers not known to be cold"),
            (_, failed, _) => format!("**missed**, {failed} failed or shed"),
        };
        let (reference, ratio) = match self.reference {
            Some((label, value)) => {
                (format!("{} ({label})", with_unit(metric, value)), ratio(metric, self.ours, value))
            }
            None => ("–".to_owned(), "–".to_owned()),
        };
        format!(
            "| {} | {}, {}, {name} | {ratio} | {} | {reference} | {sign} {} | {verdict} |",
            self.goal.row,
            self.goal.scenario,
            self.offered,
            with_unit(metric, self.ours),
            match metric {
                Metric::TimesFaster => format!("{:.0}× faster", self.goal.limit),
                Metric::TimesSlower => format!("{:.1}× slower", self.goal.limit),
                _ => with_unit(metric, self.goal.limit),
            },
        )
    }
}

/// How much better than the reference we are, or how close to it.
fn ratio(metric: Metric, ours: f64, reference: f64) -> String {
    let better = match metric {
        Metric::Throughput => ours / reference,
        _ => reference / ours,
    };
    match metric {
        Metric::Throughput if better < 10.0 => format!("{better:.2}×"),
        Metric::Throughput => format!("{better:.0}×"),
        _ if better >= 1.0 => format!("{better:.1}× faster"),
        _ => format!("{:.1}× slower", 1.0 / better),
    }
}

fn with_unit(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Throughput => format!("{value:.0}/s"),
        _ if value < 10.0 => format!("{value:.2} ms"),
        _ => format!("{value:.0} ms"),
    }
}

impl Document {
    /// Reads a stored one.
    ///
    /// # Errors
    /// The file cannot be read, or is not one.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a stored suite", path.display()))
    }

    /// Writes `results.json`, `table.md` and, when there was a sweep, `plot.svg` into `folder`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("results.json", serde_json::to_string_pretty(self)? + "\n")?;
        write("table.md", self.markdown())?;
        if !self.sweep.is_empty() {
            write("plot.svg", self.plot())?;
        }
        Ok(())
    }

    fn row(&self, goal: &'static Goal) -> Option<Row> {
        let scenario = by_name(goal.scenario).ok()?;
        let offered = offered_as(goal.offered, scenario.rate);
        let run =
            self.runs.iter().find(|run| run.scenario == goal.scenario && run.offered == offered)?;
        let summary = &run.summary;
        let ours = match goal.metric {
            Metric::P50 | Metric::TimesFaster | Metric::TimesSlower => summary.latency_ms.p50,
            Metric::P99 => summary.latency_ms.p99,
            Metric::Throughput => summary.per_second,
        };
        Some(Row {
            goal,
            offered,
            ours,
            reference: self.reference(goal),
            failed: summary.failed + summary.shed,
            not_cold: if scenario.cold {
                summary.completed.saturating_sub(summary.cold)
            } else {
                0
            },
        })
    }

    fn reference(&self, goal: &Goal) -> Option<(&'static str, f64)> {
        let of_docker = |floor: &DockerFloor| match goal.metric {
            Metric::P50 | Metric::TimesFaster | Metric::TimesSlower => floor.latency_ms.p50,
            Metric::P99 => floor.latency_ms.p99,
            Metric::Throughput => floor.per_second,
        };
        Some(match goal.reference {
            Reference::Http => {
                let Offered::Connections(connections) = goal.offered else {
                    return None;
                };
                let floor = self.floors.http.get(&connections)?;
                let value = match goal.metric {
                    Metric::Throughput => floor.per_second,
                    _ => floor.latency_ms.p50,
                };
                ("HTTP alone", value)
            }
            // Against many connections, the best that docker exec reaches at any concurrency.
            Reference::DockerExec if goal.metric == Metric::Throughput => {
                let all = &self.floors.docker_exec_sweep;
                let best = all.iter().map(of_docker).reduce(f64::max)?;
                ("docker exec, best", best)
            }
            Reference::DockerExec => {
                ("docker exec", of_docker(self.floors.docker_exec.get(goal.scenario)?))
            }
            Reference::DockerRun => {
                ("docker run", of_docker(self.floors.docker_run.get(goal.scenario)?))
            }
            Reference::Scenario(name) => {
                let offered = offered_as(Offered::AtRate, by_name(name).ok()?.rate);
                let is_it = |run: &&Run| run.scenario == name && run.offered == offered;
                (name, self.runs.iter().find(is_it)?.summary.latency_ms.p50)
            }
        })
    }

    /// The table of goals, with the machine below it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = "| row | what | ratio | isol8 | reference, same run | goal | |\n\
                       | --: | --- | --: | --: | --: | --: | --- |\n"
            .to_owned();
        for goal in GOALS {
            match self.row(goal) {
                Some(row) => out.push_str(&row.markdown()),
                None => {
                    let _ = write!(out, "| {} | {} | | not run | | | |", goal.row, goal.scenario);
                }
            }
            out.push('\n');
        }
        let machine = &self.machine;
        let _ = writeln!(
            out,
            "\nThe generator, the server and everything else on {} cores ({}), {} MiB, Linux {}, \
             Docker {}, Redis {}; isol8 {}, {}.",
            machine.cores,
            machine.cpu,
            machine.memory_mib,
            machine.kernel,
            machine.docker,
            machine.redis,
            self.version,
            self.date
        );
        if let Some(redis) = &self.floors.redis {
            let _ = writeln!(
                out,
                "Raw Redis: PING {:.3} ms, SET {:.3} ms at p50; {:.0} pipelined SETs per second.",
                redis.ping_ms.p50, redis.set_ms.p50, redis.pipelined_sets_per_second
            );
        }
        for reason in &self.left_out {
            let _ = writeln!(out, "\nLeft out: {reason}.");
        }
        out
    }

    /// The plot of the sweep beside the references.
    #[must_use]
    pub fn plot(&self) -> String {
        let line = |name: &str, colour, points: Vec<(f64, f64)>| {
            let points = points.into_iter().filter(|point| point.1 > 0.0).collect();
            Series { name: name.to_owned(), colour, points }
        };
        let ours = |value: fn(&Summary) -> f64| points(&self.sweep, value);
        let http = |value: fn(&Summary) -> f64| points(&self.floors.http, value);
        let exec = |value: fn(&DockerFloor) -> f64| {
            let floors = self.floors.docker_exec_sweep.iter();
            floors.map(|floor| (as_float(floor.concurrency), value(floor))).collect()
        };
        let latency = Panel {
            title: "Python hello: latency, ms".to_owned(),
            series: vec![
                line("isol8 p50", 0, ours(|run| run.latency_ms.p50)),
                line("isol8 p90", 1, ours(|run| run.latency_ms.p90)),
                line("isol8 p99", 2, ours(|run| run.latency_ms.p99)),
                line("docker exec p50", 3, exec(|floor| floor.latency_ms.p50)),
                line("HTTP alone p50", 4, http(|run| run.latency_ms.p50)),
            ],
        };
        let throughput = Panel {
            title: "Python hello: jobs per second".to_owned(),
            series: vec![
                line("isol8", 0, ours(|run| run.per_second)),
                line("docker exec", 3, exec(|floor| floor.per_second)),
                line("HTTP alone", 4, http(|run| run.per_second)),
            ],
        };
        svg("Latency and throughput of isol8 against concurrency", &[latency, throughput])
    }
}

fn points(runs: &BTreeMap<usize, Summary>, value: fn(&Summary) -> f64) -> Vec<(f64, f64)> {
    runs.iter().map(|(connections, run)| (as_float(*connections), value(run))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "numbers of connections are small")]
const fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
