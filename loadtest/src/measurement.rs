//! What a run saw: a latency histogram of the right answers, everything else counted by kind, and
//! the summary of both that is printed and stored.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::connection::{Failure, Rejection};
use crate::process::Change;

/// Longer latencies count as this; no run is longer.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Latencies in microseconds, exact to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits are within what a histogram offers"))
    }
}

impl Latencies {
    /// Records one latency.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros().min(LONGEST.as_micros()));
        self.0
            .record(micros.expect("a day of microseconds fits"))
            .expect("a histogram that grows has room for a day");
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("a histogram that grows has room for any other");
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        #[expect(clippy::cast_precision_loss, reason = "2^53 microseconds are 285 years")]
        let at = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        Percentiles {
            min: at(0.0),
            mean: self.0.mean() / 1000.0,
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}

/// A distribution of latencies, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names of percentiles say what they are")]
pub struct Percentiles {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p75: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3} ms",
            self.p50, self.p90, self.p99, self.p999, self.max
        )
    }
}

/// What a run, or one connection of it, saw.
#[derive(Debug, Default)]
pub struct Measurement {
    /// Latencies of right answers, from the moment each request was meant to start.
    pub latencies: Latencies,
    /// How much later than meant requests were sent; open loop only.
    pub start_lag: Latencies,
    /// Everything but right answers, by kind.
    failures: BTreeMap<Failure, Kind>,
    /// Requests never sent, as every connection was busy for too long past their time.
    pub shed: u64,
    /// Requests of the warm-up that failed; not part of the result, but told.
    pub failed_in_warm_up: u64,
    /// Right answers for which the server had to create a sandbox.
    pub cold: u64,
}

#[derive(Debug)]
struct Kind {
    count: u64,
    example: String,
}

impl Measurement {
    /// Counts a request that was not answered rightly.
    pub fn reject(&mut self, rejection: Rejection) {
        self.failures
            .entry(rejection.failure)
            .or_insert_with(|| Kind { count: 0, example: rejection.detail })
            .count += 1;
    }

    /// Adds what another connection saw.
    pub fn add(&mut self, other: Self) {
        self.latencies.add(&other.latencies);
        self.start_lag.add(&other.start_lag);
        for (failure, kind) in other.failures {
            self.failures
                .entry(failure)
                .and_modify(|mine| mine.count += kind.count)
                .or_insert(kind);
        }
        self.shed += other.shed;
        self.failed_in_warm_up += other.failed_in_warm_up;
        self.cold += other.cold;
    }

    /// What there is to say about it. `length` is the measured time, `cpu_percent` the
    /// generator's own share of one core.
    #[must_use]
    pub fn summary(&self, length: Duration, cpu_percent: f64, watched: Vec<Change>) -> Summary {
        let completed = self.latencies.count();
        let seconds = length.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts of one run are small")]
        let per_second = completed as f64 / seconds.max(1e-9);
        let failures = self.failures.iter().map(|(failure, kind)| {
            (failure.to_string(), FailureKind { count: kind.count, example: kind.example.clone() })
        });
        Summary {
            completed,
            failed: self.failures.values().map(|kind| kind.count).sum(),
            failures: failures.collect(),
            shed: self.shed,
            failed_in_warm_up: self.failed_in_warm_up,
            cold: self.cold,
            seconds,
            per_second,
            latency_ms: self.latencies.percentiles(),
            start_lag_ms: (self.start_lag.count() > 0).then(|| self.start_lag.percentiles()),
            generator_cpu_percent: cpu_percent,
            watched,
        }
    }
}

/// How often one kind of failure was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureKind {
    /// How often.
    pub count: u64,
    /// What came with the first one.
    pub example: String,
}

/// The outcome of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Right answers within the measured time.
    pub completed: u64,
    /// All other requests that were sent.
    pub failed: u64,
    /// The same by kind.
    pub failures: BTreeMap<String, FailureKind>,
    /// Requests never sent, as every connection was busy.
    pub shed: u64,
    /// Failures before the measured time began.
    pub failed_in_warm_up: u64,
    /// Right answers that needed a new sandbox, where the server tells.
    pub cold: u64,
    /// Measured time.
    pub seconds: f64,
    /// Right answers per second.
    pub per_second: f64,
    /// Latency of right answers.
    pub latency_ms: Percentiles,
    /// How late requests were sent; open loop only.
    pub start_lag_ms: Option<Percentiles>,
    /// Share of one core the generator took.
    pub generator_cpu_percent: f64,
    /// Processes under watch.
    pub watched: Vec<Change>,
}

impl Summary {
    /// Whether every request was sent and answered rightly, and there was at least one.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.completed > 0 && self.failed == 0 && self.shed == 0
    }

    /// Fails unless [`Self::is_clean`].
    ///
    /// # Errors
    /// The kinds of failure, each with an example.
    pub fn require_clean(&self, what: &str) -> Result<()> {
        self.is_clean().then_some(()).with_context(|| format!("{what} did not go well:\n{self}"))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} right in {:.1} s = {:.1}/s; {} failed, {} shed",
            self.completed, self.seconds, self.per_second, self.failed, self.shed
        )?;
        writeln!(f, "  latency    {}", self.latency_ms)?;
        if let Some(lag) = &self.start_lag_ms {
            writeln!(f, "  sent late  {lag} (part of the latency)")?;
        }
        if self.cold > 0 {
            writeln!(f, "  cold       {} answers needed a new sandbox", self.cold)?;
        }
        writeln!(f, "  generator  {:.0} % of one core", self.generator_cpu_percent)?;
        for change in &self.watched {
            writeln!(
                f,
                "  {} ({})  {:.0} % of one core, resident {} -> {} KiB",
                change.name,
                change.pid,
                change.cpu_percent,
                change.resident_before_kib,
                change.resident_after_kib
            )?;
        }
        if self.failed_in_warm_up > 0 {
            writeln!(f, "  ! {} more failed in the warm-up", self.failed_in_warm_up)?;
        }
        for (failure, kind) in &self.failures {
            writeln!(f, "  ! {} x {failure}: {}", kind.count, kind.example)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(failure: Failure) -> Rejection {
        Rejection { failure, detail: "why".into() }
    }

    #[test]
    fn percentiles_of_a_known_distribution_are_right_to_three_digits() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|millis| latencies.record(Duration::from_millis(millis)));
        let percentiles = latencies.percentiles();
        for (seen, right) in [
            (percentiles.min, 1.0),
            (percentiles.p50, 500.0),
            (percentiles.p90, 900.0),
            (percentiles.p99, 990.0),
            (percentiles.p999, 999.0),
            (percentiles.max, 1000.0),
            (percentiles.mean, 500.5),
        ] {
            assert!((seen - right).abs() <= right / 1000.0, "{seen} is not {right}");
        }
    }

    #[test]
    fn failures_never_count_as_completed_and_are_added_by_kind() {
        let mut total = Measurement::default();
        for _ in 0..2 {
            let mut part = Measurement::default();
            part.latencies.record(Duration::from_millis(1));
            part.reject(rejection(Failure::ExitCode(1)));
            part.reject(rejection(Failure::TimedOut));
            part.reject(rejection(Failure::TimedOut));
            total.add(part);
        }
        let summary = total.summary(Duration::from_secs(2), 0.0, Vec::new());
        assert_eq!((summary.completed, summary.failed), (2, 6));
        assert_eq!(summary.failures["timed out"].count, 4);
        assert_eq!(summary.failures["exit code 1"].count, 2);
        assert!((summary.per_second - 1.0).abs() < 1e-9);
        assert!(!summary.is_clean());
        assert!(summary.to_string().contains("4 x timed out: why"));
    }

    #[test]
    fn a_run_without_answers_is_not_clean() {
        let nothing = Measurement::default().summary(Duration::from_secs(1), 0.0, Vec::new());
        assert!(!nothing.is_clean());
    }
}
