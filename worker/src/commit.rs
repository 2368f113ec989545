//! Telling the queue how a job ended, exactly once and however long it takes.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use shared::execution::{Ending, ExecutionResult, Failure, Outcome};
use shared::id::JobId;
use shared::redis::{Claimed, Commit, GiveBack, Lease};
use shared::{Error, ErrorCode};

use crate::Context;
use crate::engine::{EngineError, JobError};

/// How long a finished job's ending is offered to a queue that cannot be reached.
const COMMIT_PATIENCE: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is to be told to the queue.
pub(crate) enum Verdict {
    Finish(Ending),
    GiveBack(GiveBack),
    /// It ended so, and is to begin anew after a pause, by its own terms.
    Retry(Ending, Duration),
    /// The lease was lost: another worker has the job, and this result counts for nothing.
    Drop,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Done,
    /// Nothing was changed: the job is not ours any more.
    Fenced,
    /// The queue could not be reached for far too long.
    Never,
}

/// Whether a program, or the attempt to run it, was stopped from outside.
pub(crate) fn was_cut_short(outcome: &Result<ExecutionResult, EngineError>) -> bool {
    match outcome {
        Ok(result) => result.outcome == Outcome::Cancelled,
        Err(error) => matches!(error, EngineError::Job(JobError::Cancelled)),
    }
}

/// An ending, or, if the same job may succeed elsewhere, the failure to give it back with.
pub(crate) fn judge(
    outcome: Result<ExecutionResult, EngineError>,
    queued_ms: f64,
    events: u64,
) -> Verdict {
    match outcome {
        Ok(mut result) => {
            result.timings.queue_ms = queued_ms;
            result.events = events;
            Verdict::Finish(Ending::Result(result))
        }
        Err(error) => {
            let setup_exit_code = error.setup_exit_code();
            let error = Error::from(error);
            let failure = Failure { setup_exit_code, events, ..Failure::from(&error) };
            if error.code().is_retryable() {
                tracing::warn!(%error, "a job could not be run here; giving it back");
                Verdict::GiveBack(GiveBack::Failed(failure))
            } else {
                Verdict::Finish(Ending::Error(failure))
            }
        }
    }
}

/// Tells the queue about a job held by lease. Safe to repeat: the queue takes an ending once, and
/// only from the holder of the lease.
pub(crate) async fn commit(context: &Context, lease: &Lease, verdict: &Verdict) -> Told {
    insist(context, lease.job, || async {
        match verdict {
            Verdict::Finish(ending) => {
                let done = context.queue.finish(context.worker, lease, ending).await;
                if let (Ok(Commit::DoneLow), Some(batch)) = (&done, lease.batch) {
                    context.batches.poke(batch);
                }
                done
            }
            Verdict::GiveBack(why) => {
                context.queue.give_back(context.worker, lease, why.clone()).await
            }
            Verdict::Retry(ending, pause) => {
                context.queue.retry(context.worker, lease, *pause, ending).await
            }
            Verdict::Drop => Ok(Commit::Fenced),
        }
    })
    .await
}

/// Tells the queue, again and again while it cannot be reached; only once if the worker has to go.
pub(crate) async fn insist<F>(context: &Context, job: JobId, tell: impl Fn() -> F) -> Told
where
    F: Future<Output = Result<Commit, Error>>,
{
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match tell().await {
            Ok(Commit::Done | Commit::DoneLow) => return Told::Done,
            Ok(Commit::Fenced) => {
                tracing::warn!(%job, "lost the lease; result dropped");
                return Told::Fenced;
            }
            Err(error) if context.hush.is_cancelled() || begun.elapsed() > COMMIT_PATIENCE => {
                tracing::error!(%error, %job, "giving up on a commit; its lease will run out");
                return Told::Never;
            }
            Err(error) => {
                tracing::warn!(%error, %job, "cannot commit; trying again");
                // The worker may have to go meanwhile: then this was the last pause.
                let _ = context.hush.run_until_cancelled(tokio::time::sleep(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

impl Verdict {
    /// Has a program that did not end well begin anew, if that is what its terms say.
    pub(crate) fn by_terms(self, claimed: &Claimed) -> Self {
        let retry = claimed.terms.as_ref().and_then(|terms| terms.retry.as_ref());
        match (self, retry) {
            (Self::Finish(ending), Some(retry)) => {
                let chance = RandomState::new().hash_one(claimed.lease.job);
                match retry.pause_after(&ending, claimed.tries, chance) {
                    Some(pause) => Self::Retry(ending, pause),
                    None => Self::Finish(ending),
                }
            }
            (verdict, _) => verdict,
        }
    }

    /// The ending to be committed.
    pub(crate) fn ending(&self) -> Option<&Ending> {
        match self {
            Self::Finish(ending) => Some(ending),
            _ => None,
        }
    }

    /// The ending that giving back brought about, if it did: the job was delivered for the last time,
    /// or its caller has seen output of it.
    pub(crate) fn end_by_giving_back(&self, is_last: bool, events: u64) -> Option<Ending> {
        match self {
            Self::GiveBack(GiveBack::Failed(failure)) if is_last || events > 0 => {
                Some(Ending::Error(failure.clone()))
            }
            Self::GiveBack(GiveBack::Shutdown) if events > 0 => {
                let words = "The worker stopped before the job had ended.";
                Some(Ending::Error(Failure::new(ErrorCode::WorkerLost, words)))
            }
            _ => None,
        }
    }

    /// For the metrics.
    pub(crate) fn label(&self, told: Told) -> &'static str {
        match (told, self) {
            (Told::Fenced, _) | (_, Self::Drop) => "fenced",
            (Told::Never, _) => "uncommitted",
            (Told::Done, Self::GiveBack(_)) => "given_back",
            (Told::Done, Self::Retry(..)) => "retried",
            (Told::Done, Self::Finish(Ending::Error(_))) => "error",
            (Told::Done, Self::Finish(Ending::Result(_) | Ending::File(_))) => "result",
        }
    }
}
