//! The story of one job on a worker: hold the lease, run, commit. An infrastructure failure gives
//! the job back; everything else is an ending, and exactly one is committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::execution::{Ending, ExecutionResult, Failure, Outcome};
use shared::redis::{Claimed, Commit, GiveBack};
use shared::{Error, ErrorCode};
use tokio::sync::OwnedSemaphorePermit;

use crate::Context;

/// How long a finished job's ending is offered to a queue that cannot be reached.
const COMMIT_PATIENCE: Duration = Duration::from_secs(600);
/// Pause before a job that failed for want of a sandbox is given back, times its deliveries: an
/// engine that restarts must not use up all of them in a moment.
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(300);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is to be told to the queue.
#[expect(clippy::large_enum_variant, reason = "one per job, never stored in bulk")]
enum Verdict {
    Finish(Ending),
    GiveBack(GiveBack),
    /// The lease was lost: another worker has the job, and this result counts for nothing.
    Drop,
}

/// Runs a claimed job to its commit. `slot` is held until then.
pub(crate) async fn run(context: Arc<Context>, claimed: Claimed, slot: OwnedSemaphorePermit) {
    let started = Instant::now();
    let held = context.leases.hold(&claimed.lease, &context.abort);
    let outcome = context
        .executor
        .execute(claimed.lease.job, &claimed.tenant, &claimed.job, held.cancel())
        .await;
    // The sandbox is cleaned after the commit: the caller waits for one, nobody for the other.
    let (outcome, spent) = match outcome {
        Ok((result, spent)) => (Ok(result), spent),
        Err(error) => (Err(error), None),
    };
    let verdict = if held.is_lost() {
        Verdict::Drop
    } else if context.abort.is_cancelled() && was_cut_short(&outcome) {
        Verdict::GiveBack(GiveBack::Shutdown)
    } else {
        judge(outcome, claimed.queued_ms)
    };
    if matches!(verdict, Verdict::GiveBack(GiveBack::Failed(_))) {
        let pause = tokio::time::sleep(GIVE_BACK_PAUSE * claimed.attempt);
        // A shutdown ends the pause early.
        let _ = context.abort.run_until_cancelled(pause).await;
    }
    let label = commit(&context, &claimed, verdict).await;
    context.metrics.job_ended(label, started.elapsed());
    drop((spent, held, slot));
}

fn was_cut_short(outcome: &Result<ExecutionResult, Error>) -> bool {
    match outcome {
        Ok(result) => result.outcome == Outcome::Cancelled,
        Err(error) => error.code() == ErrorCode::Cancelled,
    }
}

fn judge(outcome: Result<ExecutionResult, Error>, queued_ms: f64) -> Verdict {
    match outcome {
        Ok(mut result) => {
            result.timings.queue_ms = queued_ms;
            Verdict::Finish(Ending::Result(result))
        }
        Err(error) => {
            let failure = Failure::from(&error);
            if error.code().is_retryable() {
                tracing::warn!(%error, "a job could not be run here; giving it back");
                Verdict::GiveBack(GiveBack::Failed(failure))
            } else {
                Verdict::Finish(Ending::Error(failure))
            }
        }
    }
}

/// Tells the queue, again and again while it cannot be reached. Safe to repeat: the queue takes an
/// ending once, and only from the holder of the lease.
async fn commit(context: &Context, claimed: &Claimed, verdict: Verdict) -> &'static str {
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let told = match &verdict {
            Verdict::Finish(ending) => {
                context.queue.finish(context.worker, &claimed.lease, ending).await
            }
            Verdict::GiveBack(why) => {
                context.queue.give_back(context.worker, &claimed.lease, why.clone()).await
            }
            Verdict::Drop => Ok(Commit::Fenced),
        };
        match told {
            Ok(Commit::Done) => return verdict.label(),
            Ok(Commit::Fenced) => {
                tracing::warn!(job = %claimed.lease.job, "lost the lease; result dropped");
                return "fenced";
            }
            Err(error) if begun.elapsed() > COMMIT_PATIENCE => {
                tracing::error!(%error, job = %claimed.lease.job, "giving up on a commit");
                return "uncommitted";
            }
            Err(error) => {
                tracing::warn!(%error, job = %claimed.lease.job, "cannot commit; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

impl Verdict {
    fn label(&self) -> &'static str {
        match self {
            Self::Finish(Ending::Result(_)) => "result",
            Self::Finish(Ending::Error(_)) => "error",
            Self::GiveBack(_) => "given_back",
            Self::Drop => "fenced",
        }
    }
}
