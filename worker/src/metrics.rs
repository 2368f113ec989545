//! What a worker counts. Names and label values are here and nowhere else.

use metrics::{counter, describe_counter, describe_histogram, histogram};

const SANDBOXES_CREATED: &str = "isol8_sandboxes_created_total";
const SANDBOXES_DESTROYED: &str = "isol8_sandboxes_destroyed_total";
const SANDBOXES_LENT: &str = "isol8_sandboxes_lent_total";
const SANDBOXES_RESET: &str = "isol8_sandboxes_reset_total";
const SANDBOXES_DIED_IDLE: &str = "isol8_sandboxes_died_idle_total";
const JOBS_FINISHED: &str = "isol8_worker_jobs_finished_total";
const JOBS_FENCED: &str = "isol8_worker_jobs_fenced_total";
const JOBS_RECLAIMED: &str = "isol8_worker_jobs_reclaimed_total";
const RUN_SECONDS: &str = "isol8_worker_run_seconds";

/// Registers help texts with the current recorder.
pub fn describe() {
    describe_counter!(SANDBOXES_CREATED, "Sandboxes created, by reason: job (cold) or ahead");
    describe_counter!(SANDBOXES_DESTROYED, "Sandboxes destroyed");
    describe_counter!(SANDBOXES_LENT, "Sandboxes given to jobs, by whether they were warm");
    describe_counter!(SANDBOXES_RESET, "Resets after a job, by outcome");
    describe_counter!(SANDBOXES_DIED_IDLE, "Sandboxes found dead or noisy while they waited");
    describe_counter!(JOBS_FINISHED, "Jobs finished, by ending");
    describe_counter!(JOBS_FENCED, "Results dropped because the lease was lost");
    describe_counter!(JOBS_RECLAIMED, "Jobs taken over from dead workers");
    describe_histogram!(RUN_SECONDS, "Time from claim to committed result");
}

pub(crate) fn sandbox_created(reason: &'static str) {
    counter!(SANDBOXES_CREATED, "reason" => reason).increment(1);
}

pub(crate) fn sandbox_destroyed() {
    counter!(SANDBOXES_DESTROYED).increment(1);
}

pub(crate) fn sandbox_lent(cold: bool) {
    counter!(SANDBOXES_LENT, "warm" => if cold { "false" } else { "true" }).increment(1);
}

pub(crate) fn sandbox_reset(outcome: &'static str) {
    counter!(SANDBOXES_RESET, "outcome" => outcome).increment(1);
}

pub(crate) fn sandbox_died_idle() {
    counter!(SANDBOXES_DIED_IDLE).increment(1);
}

pub(crate) fn job_finished(ending: &'static str, seconds: f64) {
    counter!(JOBS_FINISHED, "ending" => ending).increment(1);
    histogram!(RUN_SECONDS).record(seconds);
}

pub(crate) fn job_fenced() {
    counter!(JOBS_FENCED).increment(1);
}

pub(crate) fn jobs_reclaimed(count: usize) {
    counter!(JOBS_RECLAIMED).increment(count as u64);
}
