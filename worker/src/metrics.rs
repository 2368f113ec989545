//! What a worker counts. Each worker has a recorder of its own, so two in one process do not count
//! into each other. Names and label values are here and nowhere else.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_histogram, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// Counter, label `reason`: `job` (cold) or `ahead`.
const SANDBOXES_CREATED: &str = "isol8_sandboxes_created_total";
const SANDBOXES_DESTROYED: &str = "isol8_sandboxes_destroyed_total";
/// Counter, label `warm`.
const SANDBOXES_LENT: &str = "isol8_sandboxes_lent_total";
/// Counter, label `outcome`: `verified` or `failed`.
const SANDBOXES_RESET: &str = "isol8_sandboxes_reset_total";
const SANDBOXES_DIED_IDLE: &str = "isol8_sandboxes_died_idle_total";
/// Counter, label `ending`: `result`, `error`, `given_back`, `fenced` or `uncommitted`.
const JOBS_ENDED: &str = "isol8_worker_jobs_ended_total";
const JOBS_RECLAIMED: &str = "isol8_worker_jobs_reclaimed_total";
const JOB_DURATION: &str = "isol8_worker_job_duration_seconds";

/// Upper bounds of the duration histogram, in seconds.
const BUCKETS_S: [f64; 14] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// The numbers of one worker.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(JOB_DURATION.into()), &BUCKETS_S)
            .expect("there is at least one bucket")
            .build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, describe);
        Self { recorder, handle }
    }
}

impl Metrics {
    /// All numbers in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds recorded samples away; without it they pile up until the next scrape.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    pub(crate) fn sandbox_created(&self, reason: &'static str) {
        self.record(|| counter!(SANDBOXES_CREATED, "reason" => reason).increment(1));
    }

    pub(crate) fn sandbox_destroyed(&self) {
        self.record(|| counter!(SANDBOXES_DESTROYED).increment(1));
    }

    pub(crate) fn sandbox_lent(&self, cold: bool) {
        let warm = if cold { "false" } else { "true" };
        self.record(|| counter!(SANDBOXES_LENT, "warm" => warm).increment(1));
    }

    pub(crate) fn sandbox_reset(&self, outcome: &'static str) {
        self.record(|| counter!(SANDBOXES_RESET, "outcome" => outcome).increment(1));
    }

    pub(crate) fn sandbox_died_idle(&self) {
        self.record(|| counter!(SANDBOXES_DIED_IDLE).increment(1));
    }

    pub(crate) fn job_ended(&self, ending: &'static str, took: Duration) {
        self.record(|| {
            counter!(JOBS_ENDED, "ending" => ending).increment(1);
            histogram!(JOB_DURATION).record(took);
        });
    }

    pub(crate) fn jobs_reclaimed(&self, count: usize) {
        self.record(|| counter!(JOBS_RECLAIMED).increment(count as u64));
    }

    fn record(&self, count: impl FnOnce()) {
        with_local_recorder(&self.recorder, count);
    }
}

fn describe() {
    describe_counter!(SANDBOXES_CREATED, "Sandboxes created, for a job (cold) or ahead of any");
    describe_counter!(SANDBOXES_DESTROYED, "Sandboxes destroyed");
    describe_counter!(SANDBOXES_LENT, "Sandboxes given to jobs");
    describe_counter!(SANDBOXES_RESET, "Resets after a job");
    describe_counter!(SANDBOXES_DIED_IDLE, "Sandboxes found dead while they waited");
    describe_counter!(JOBS_ENDED, "Jobs this worker was done with");
    describe_counter!(JOBS_RECLAIMED, "Jobs taken over from workers that went silent");
    describe_histogram!(JOB_DURATION, Unit::Seconds, "From claim to commit");
}
