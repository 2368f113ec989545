//! What a worker counts. Each worker has a recorder of its own, so two in one process do not count
//! into each other. Names and label values are here and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    with_local_recorder,
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
/// Counter, label `ending`: `result`, `error`, `given_back`, `unread`, `fenced` or `uncommitted`.
const JOBS_ENDED: &str = "isol8_worker_jobs_ended_total";
const JOBS_RECLAIMED: &str = "isol8_worker_jobs_reclaimed_total";
const JOB_DURATION: &str = "isol8_worker_job_duration_seconds";

const SESSIONS_OPEN: &str = "isol8_sessions_open";
/// Counter, label `end`: `closed` (or expired), `lost` or `gone`.
const SESSIONS_ENDED: &str = "isol8_sessions_ended_total";
/// Counter, label `ending` as for jobs.
const CALLS_ENDED: &str = "isol8_session_calls_ended_total";
const CALL_DURATION: &str = "isol8_session_call_duration_seconds";
const STREAMS: &str = "isol8_streams_total";
const EVENTS_PUBLISHED: &str = "isol8_stream_events_total";

/// Counter, label `outcome`: `delivered`, `retried`, `failed`, `skipped` or `fenced`.
const WEBHOOKS: &str = "isol8_webhook_deliveries_total";

/// Upper bounds of the duration histogram, in seconds.
const BUCKETS_S: [f64; 14] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// The numbers of one worker.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    ended: AtomicU64,
    failed: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(JOB_DURATION.into()), &BUCKETS_S)
            .and_then(|it| {
                it.set_buckets_for_metric(Matcher::Full(CALL_DURATION.into()), &BUCKETS_S)
            })
            .expect("there is at least one bucket")
            .build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, describe);
        Self { recorder, handle, ended: AtomicU64::new(0), failed: AtomicU64::new(0) }
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

    /// Programs, calls of sessions included, that this worker ended, and how many of them could not be run.
    pub(crate) fn programs(&self) -> (u64, u64) {
        (self.ended.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    fn count_program(&self, ending: &str) {
        if matches!(ending, "result" | "error") {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        if ending == "error" {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn job_ended(&self, ending: &'static str, took: Duration) {
        self.count_program(ending);
        self.record(|| {
            counter!(JOBS_ENDED, "ending" => ending).increment(1);
            histogram!(JOB_DURATION).record(took);
        });
    }

    pub(crate) fn session_opened(&self) {
        self.record(|| gauge!(SESSIONS_OPEN).increment(1));
    }

    pub(crate) fn session_ended(&self, end: &'static str) {
        self.record(|| {
            gauge!(SESSIONS_OPEN).decrement(1);
            counter!(SESSIONS_ENDED, "end" => end).increment(1);
        });
    }

    pub(crate) fn call_ended(&self, ending: &'static str, took: Duration) {
        self.count_program(ending);
        self.record(|| {
            counter!(CALLS_ENDED, "ending" => ending).increment(1);
            histogram!(CALL_DURATION).record(took);
        });
    }

    pub(crate) fn streamed(&self, events: u64) {
        self.record(|| {
            counter!(STREAMS).increment(1);
            counter!(EVENTS_PUBLISHED).increment(events);
        });
    }

    pub(crate) fn jobs_reclaimed(&self, count: usize) {
        self.record(|| counter!(JOBS_RECLAIMED).increment(count as u64));
    }

    pub(crate) fn webhook_tried(&self, outcome: &'static str) {
        self.record(|| counter!(WEBHOOKS, "outcome" => outcome).increment(1));
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
    describe_gauge!(SESSIONS_OPEN, "Sessions this worker owns");
    describe_counter!(SESSIONS_ENDED, "Sessions that ended");
    describe_counter!(CALLS_ENDED, "Calls of sessions this worker was done with");
    describe_histogram!(CALL_DURATION, Unit::Seconds, "From a call's start to its commit");
    describe_counter!(STREAMS, "Programs whose output was published as it came");
    describe_counter!(EVENTS_PUBLISHED, "Pieces of output published");
    describe_counter!(WEBHOOKS, "Attempts to tell a webhook how a job ended");
    describe_histogram!(JOB_DURATION, Unit::Seconds, "From claim to commit");
}
