//! What a stronger isolation costs: the same jobs on two servers of one machine, one whose sandboxes are
//! containers and one whose are gVisor's.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::connection::Target;
use crate::generate::{Load, run};
use crate::measurement::Summary;
use crate::scenario::by_name;

/// Between two runs: whatever the last one left is reset or removed.
const SETTLE: Duration = Duration::from_secs(3);

/// What is asked of both: in words, the scenario, and over how many connections.
#[rustfmt::skip]
const ROWS: &[(&str, &str, usize)] = &[
    ("bash, warm, one at a time",    "bash-hello",   1),
    ("python, warm, one at a time",  "python-hello", 1),
    ("node, warm, one at a time",    "node-hello",   1),
    ("bash, 4 connections",          "bash-hello",   4),
    ("python, 4 connections",        "python-hello", 4),
    ("python, a new sandbox for each job", "cold-python", 1),
    ("node, a new sandbox for each job",   "cold-node",   1),
];

/// The two servers.
#[derive(Debug)]
pub struct Isolation {
    /// Its sandboxes are containers.
    pub container: Target,
    /// Its sandboxes are gVisor's.
    pub gvisor: Target,
    /// Before each measured time.
    pub warm_up: Duration,
    /// Measured time of each run.
    pub length: Duration,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Compared {
    rows: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    what: String,
    container: Summary,
    gvisor: Summary,
}

impl Isolation {
    /// Measures both, row by row.
    ///
    /// # Errors
    /// A server gives a wrong answer, or none.
    pub async fn run(&self, tell: &dyn Fn(&str)) -> Result<Compared> {
        let mut rows = Vec::new();
        for (what, scenario, connections) in ROWS {
            let mut found = Vec::new();
            for (kind, target) in [("container", &self.container), ("gvisor", &self.gvisor)] {
                tokio::time::sleep(SETTLE).await;
                let load = Load::closed(*connections, self.warm_up, self.length);
                let summary = run(target, by_name(scenario)?, load).await?;
                tell(&format!("{what}, {kind}: {summary}"));
                summary.require_clean(what)?;
                found.push(summary);
            }
            if let Ok([container, gvisor]) = <[Summary; 2]>::try_from(found) {
                rows.push(Row { what: (*what).to_owned(), container, gvisor });
            }
        }
        Ok(Compared { rows })
    }
}

impl Compared {
    /// A table of it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| what | container: p50 | p99 | jobs/s | gVisor: p50 | p99 | jobs/s | p50 against container |\n\
             | --- | --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for Row { what, container, gvisor } in &self.rows {
            let cells = |it: &Summary| {
                let (p50, p99) = (it.latency_ms.p50, it.latency_ms.p99);
                format!("{p50:.1} ms | {p99:.1} ms | {:.1}", it.per_second)
            };
            let times = gvisor.latency_ms.p50 / container.latency_ms.p50;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {what} | {} | {} | {times:.1}× |",
                cells(container),
                cells(gvisor)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::Percentiles;

    fn summary(p50: f64) -> Summary {
        Summary {
            completed: 1,
            failed: 0,
            failures: Default::default(),
            shed: 0,
            failed_in_warm_up: 0,
            cold: 0,
            seconds: 1.0,
            per_second: 3.0,
            latency_ms: Percentiles { p50, p99: 2.0 * p50, ..Percentiles::default() },
            start_lag_ms: None,
            generator_cpu_percent: 0.0,
            watched: Vec::new(),
        }
    }

    #[test]
    fn rows_name_scenarios_that_there_are() {
        for (_, scenario, _) in ROWS {
            by_name(scenario).unwrap();
        }
    }

    #[test]
    fn a_row_shows_both_and_how_many_times_one_is_the_other() {
        let row = Row { what: "a job".to_owned(), container: summary(4.0), gvisor: summary(10.0) };
        let table = Compared { rows: vec![row] }.markdown();
        let line = "| a job | 4.0 ms | 8.0 ms | 3.0 | 10.0 ms | 20.0 ms | 3.0 | 2.5× |";
        assert_eq!(table.lines().last(), Some(line));
    }
}
