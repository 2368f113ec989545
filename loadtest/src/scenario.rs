//! Every program the load test knows, and every row of the table of goals: the two data tables of
//! this crate. Adding a scenario or a goal is one entry here.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bytes::Bytes;
use shared::execution::{ExecuteEnvelope, ExecutionOptions, ExecutionRequest};
use shared::runtime::Runtime;

/// A program to send, and how to tell that its answer is right.
#[derive(Debug)]
pub struct Scenario {
    /// Name on the command line.
    pub name: &'static str,
    /// Language.
    pub runtime: Runtime,
    /// Program text.
    pub code: &'static str,
    /// Standard output of a right answer; `None` where the server under test runs no programs.
    pub stdout: Option<&'static str>,
    /// Whether every request asks for limits no earlier one had, so that no warm container fits.
    pub cold: bool,
    /// Jobs per second of an open-loop run when nothing else is said: about a third of what two
    /// cores carry, since a node job costs some 70 ms of CPU and a python job 2 ms.
    pub rate: f64,
    /// Command line that runs `code`, appended to it, without isol8.
    pub plain_command: &'static [&'static str],
    /// Packages it asks for.
    pub packages: &'static [&'static str],
    /// Image it names, instead of its runtime's own.
    pub image: Option<&'static str>,
}

const PYTHON: &[&str] = &["python3", "-c"];
/// Made by `suite.sh`: Python with numpy, which is imported ahead of the jobs.
const NUMPY_IMAGE: &str = "isol8-loadtest:numpy";
/// Plain Debian: nothing of isol8 is in it.
const STOCK_IMAGE: &str = "isol8-base:bookworm";

/// The programs.
#[rustfmt::skip]
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "python-hello", runtime: Runtime::Python, code: "print(\"hello\")",       stdout: Some("hello"), cold: false, rate: 50.0,  plain_command: PYTHON, packages: &[], image: None },
    Scenario { name: "node-hello",   runtime: Runtime::Node,   code: "console.log(\"hello\")", stdout: Some("hello"), cold: false, rate: 5.0,   plain_command: &["node", "-e"], packages: &[], image: None },
    Scenario { name: "bun-hello",    runtime: Runtime::Bun,    code: "console.log(\"hello\")", stdout: Some("hello"), cold: false, rate: 40.0,  plain_command: &["bun", "-e"], packages: &[], image: None },
    Scenario { name: "deno-hello",   runtime: Runtime::Deno,   code: "console.log(\"hello\")", stdout: Some("hello"), cold: false, rate: 10.0,  plain_command: &["deno", "eval"], packages: &[], image: None },
    Scenario { name: "bash-hello",   runtime: Runtime::Bash,   code: "echo hello",             stdout: Some("hello"), cold: false, rate: 50.0,  plain_command: &["bash", "-c"], packages: &[], image: None },
    Scenario { name: "noop",         runtime: Runtime::Python, code: "print(\"hello\")",       stdout: None,          cold: false, rate: 500.0, plain_command: PYTHON, packages: &[], image: None },
    Scenario { name: "cold-python",  runtime: Runtime::Python, code: "print(\"hello\")",       stdout: Some("hello"), cold: true,  rate: 1.0,   plain_command: PYTHON, packages: &[], image: None },
    Scenario { name: "cold-node",    runtime: Runtime::Node,   code: "console.log(\"hello\")", stdout: Some("hello"), cold: true,  rate: 1.0,   plain_command: &["node", "-e"], packages: &[], image: None },
    Scenario { name: "installed-hello", runtime: Runtime::Python, code: "print(\"hello\")", stdout: Some("hello"), cold: false, rate: 50.0, plain_command: PYTHON, packages: &["numpy"], image: None },
    Scenario { name: "numpy-preloaded", runtime: Runtime::Python, code: "import numpy; print(numpy.arange(4).sum())", stdout: Some("6"), cold: false, rate: 20.0, plain_command: PYTHON, packages: &[], image: Some(NUMPY_IMAGE) },
    Scenario { name: "stock-hello", runtime: Runtime::Bash, code: "echo hello", stdout: Some("hello"), cold: false, rate: 50.0, plain_command: &["bash", "-c"], packages: &[], image: Some(STOCK_IMAGE) },
];

/// How the requests of a goal are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Open loop, at the scenario's rate.
    AtRate,
    /// Closed loop over this many connections.
    Connections(usize),
}

/// What a goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Median latency in milliseconds, at most the limit.
    P50,
    /// 99th percentile of latency in milliseconds, at most the limit.
    P99,
    /// Right answers per second, at least the limit.
    Throughput,
    /// How many times the median of the reference exceeds ours, at least the limit.
    TimesFaster,
    /// How many times our median exceeds that of the reference, at most the limit.
    TimesSlower,
}

/// What the same machine does without isol8, measured in the same run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A server that answers at once, asked the same way: HTTP alone.
    Http,
    /// `docker exec` of the same program in a running container, one at a time.
    DockerExec,
    /// `docker run` of the same program, one at a time.
    DockerRun,
    /// Another scenario, at its own rate.
    Scenario(&'static str),
}

/// A row of the table of goals.
#[derive(Debug)]
pub struct Goal {
    /// Number of the row in the design's table.
    pub row: u8,
    /// Name in [`SCENARIOS`].
    pub scenario: &'static str,
    /// How requests are offered.
    pub offered: Offered,
    /// What is compared with the limit.
    pub metric: Metric,
    /// The limit, in the metric's unit.
    pub limit: f64,
    /// What it is compared with.
    pub reference: Reference,
}

/// The rows of the design's table of numbers that a load generator can measure.
#[rustfmt::skip]
pub const GOALS: &[Goal] = &[
    Goal { row: 1, scenario: "noop",         offered: Offered::Connections(1),  metric: Metric::P50,         limit: 0.5,      reference: Reference::Http },
    Goal { row: 2, scenario: "noop",         offered: Offered::Connections(64), metric: Metric::Throughput,  limit: 10_000.0, reference: Reference::Http },
    Goal { row: 3, scenario: "python-hello", offered: Offered::AtRate,          metric: Metric::P50,         limit: 3.0,      reference: Reference::DockerExec },
    Goal { row: 3, scenario: "python-hello", offered: Offered::AtRate,          metric: Metric::P99,         limit: 12.0,     reference: Reference::DockerExec },
    Goal { row: 4, scenario: "python-hello", offered: Offered::Connections(16), metric: Metric::Throughput,  limit: 500.0,    reference: Reference::DockerExec },
    Goal { row: 5, scenario: "node-hello",   offered: Offered::AtRate,          metric: Metric::P50,         limit: 8.0,      reference: Reference::DockerExec },
    Goal { row: 5, scenario: "bun-hello",    offered: Offered::AtRate,          metric: Metric::P50,         limit: 8.0,      reference: Reference::DockerExec },
    Goal { row: 5, scenario: "deno-hello",   offered: Offered::AtRate,          metric: Metric::P50,         limit: 8.0,      reference: Reference::DockerExec },
    Goal { row: 5, scenario: "bash-hello",   offered: Offered::AtRate,          metric: Metric::P50,         limit: 5.0,      reference: Reference::DockerExec },
    Goal { row: 7, scenario: "cold-python",  offered: Offered::Connections(1),  metric: Metric::P50,         limit: 250.0,    reference: Reference::DockerRun },
    Goal { row: 9, scenario: "python-hello", offered: Offered::AtRate,          metric: Metric::TimesFaster, limit: 20.0,     reference: Reference::DockerExec },
    Goal { row: 10, scenario: "installed-hello", offered: Offered::AtRate, metric: Metric::TimesSlower, limit: 2.0,  reference: Reference::Scenario("python-hello") },
    Goal { row: 11, scenario: "numpy-preloaded", offered: Offered::AtRate, metric: Metric::P50,         limit: 10.0, reference: Reference::DockerExec },
    Goal { row: 12, scenario: "stock-hello",     offered: Offered::AtRate, metric: Metric::TimesSlower, limit: 1.2,  reference: Reference::Scenario("bash-hello") },
];

/// The scenario called `name`.
///
/// # Errors
/// There is none; the message lists those there are.
pub fn by_name(name: &str) -> Result<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name).with_context(|| {
        let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        format!("no scenario is called {name:?}; there are {}", known.join(", "))
    })
}

/// Makes the bodies of one run of a scenario.
#[derive(Debug)]
pub struct Bodies {
    scenario: &'static Scenario,
    same_for_all: Bytes,
    first_profile: u64,
}

/// Cold requests step through this many sizes before one comes again.
const PROFILES: u64 = 60_000;

impl Bodies {
    /// Bodies for `scenario`. The clock decides where cold runs begin, so that a second run does
    /// not meet the containers of the first.
    #[must_use]
    pub fn new(scenario: &'static Scenario) -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let same_for_all = encode(scenario, ExecutionOptions::default());
        Self { scenario, same_for_all, first_profile: seconds.wrapping_mul(97) % PROFILES }
    }

    /// The body of request number `index`.
    #[must_use]
    pub fn get(&self, index: u64) -> Bytes {
        if !self.scenario.cold {
            return self.same_for_all.clone();
        }
        // Sizes go down from the contract's defaults, so that they stay below any ceiling. The size
        // of /sandbox differs too: unlike memory, a running container cannot be moved to another.
        let below = 4 * ((self.first_profile + index) % PROFILES + 1);
        let size = Some(format!("{}k", 512 * 1024 - below));
        let options = ExecutionOptions {
            memory_limit: size.clone(),
            sandbox_size: size,
            ..ExecutionOptions::default()
        };
        encode(self.scenario, options)
    }
}

fn encode(scenario: &Scenario, options: ExecutionOptions) -> Bytes {
    let request = ExecutionRequest {
        runtime: scenario.runtime.name().to_owned(),
        code: Some(scenario.code.to_owned()),
        install_packages: scenario.packages.iter().map(|&name| name.to_owned()).collect(),
        ..ExecutionRequest::default()
    };
    let options = ExecutionOptions { image: scenario.image.map(str::to_owned), ..options };
    let envelope = ExecuteEnvelope { request, options, ..ExecuteEnvelope::default() };
    serde_json::to_vec(&envelope).expect("strings and numbers always become JSON").into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_goals_name_existing_scenarios() {
        let names: HashSet<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        for goal in GOALS {
            by_name(goal.scenario).unwrap();
            if let Reference::Scenario(name) = goal.reference {
                let is_run =
                    |other: &Goal| other.scenario == name && other.offered == Offered::AtRate;
                assert!(GOALS.iter().any(is_run), "{name}");
            }
        }
        assert!(by_name("cobol").unwrap_err().to_string().contains("python-hello"));
    }

    #[test]
    fn warm_bodies_are_all_the_same_and_carry_the_program() {
        let bodies = Bodies::new(by_name("python-hello").unwrap());
        assert_eq!(bodies.get(0), bodies.get(99));
        let sent: ExecuteEnvelope = serde_json::from_slice(&bodies.get(0)).unwrap();
        assert_eq!(sent.request.code.as_deref(), Some("print(\"hello\")"));
        assert_eq!(sent.request.runtime, "python");
        assert!(sent.options.memory_limit.is_none());
    }

    #[test]
    fn cold_bodies_never_ask_for_the_same_profile_twice() {
        let bodies = Bodies::new(by_name("cold-python").unwrap());
        let mut seen = HashSet::new();
        for index in 0..2000 {
            let sent: ExecuteEnvelope = serde_json::from_slice(&bodies.get(index)).unwrap();
            let memory = sent.options.memory_limit.unwrap();
            let bytes = shared::size::parse_bytes("memory limit", &memory).unwrap();
            assert!((256 << 20..512 << 20).contains(&bytes), "{memory}");
            assert!(seen.insert(sent.options.sandbox_size.unwrap()));
        }
    }
}
