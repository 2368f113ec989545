//! The story of one job on a worker: hold the lease, run, commit. An infrastructure failure gives
//! the job back; everything else is an ending, and exactly one is committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::redis::{Claimed, GiveBack};
use tokio::sync::OwnedSemaphorePermit;

use crate::attend::attend;
use crate::commit::{Told, Verdict, commit, judge, was_cut_short};
use crate::engine::{EngineError, JobError, milliseconds};
use crate::{Attempt, Context, session};

/// Pause before a job that failed for want of a sandbox is given back, times its deliveries: an
/// engine that restarts must not use up all of them in a moment.
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(300);

/// Runs a claimed job to its commit, in a slot.
pub(crate) async fn run(
    context: Arc<Context>,
    mut claimed: Claimed,
    slot: Option<OwnedSemaphorePermit>,
) {
    if let Some(owned) = claimed.opens.clone() {
        // Boxed, so that the task of a plain job is no larger than it needs to be.
        return Box::pin(session::run(context, claimed, owned, slot)).await;
    }
    let (started, mut attempt) = (Instant::now(), Attempt::now());
    let held = context.leases.hold(&claimed.lease, &context.abort);
    let slot = held.cancel().run_until_cancelled(context.slot(slot)).await;
    let fetched = match slot {
        Some(_) => {
            let (tenant, job) = (&claimed.tenant, &mut claimed.job);
            context.fetcher.fetch(tenant, job, held.cancel()).await
        }
        None => Err(JobError::Cancelled),
    };
    let (id, tenant, job) = (claimed.lease.job, &claimed.tenant, &claimed.job);
    let (mut wires, attendants) = attend(&context, id, job, |timeout_ms| {
        context.queue.publication_from(context.worker, &claimed, timeout_ms)
    });
    let running = async {
        let console = &mut wires.console();
        let outcome = match fetched {
            Ok(took) => {
                let running = context.executor.execute(id, tenant, job, console, held.cancel());
                running.await.map(|(mut result, spent)| {
                    result.timings.fetch_ms = milliseconds(took);
                    (result, spent)
                })
            }
            Err(error) => Err(EngineError::Job(error)),
        };
        attempt.security_events = std::mem::take(&mut console.security_events);
        drop(wires);
        outcome
    };
    let serving = attendants.serve(&context, tenant, held.cancel());
    let (outcome, events) = tokio::join!(running, serving);
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
        judge(outcome, claimed.queued_ms, events).by_terms(&claimed)
    };
    // Output of a listed job may be followed by that of another attempt.
    let shown = if claimed.terms.is_some() { 0 } else { events };
    pause_before(&context, &verdict, claimed.attempt).await;
    let told = commit(&context, &claimed.lease, &verdict).await;
    if told == Told::Done {
        let given_up = verdict.end_by_giving_back(context.is_last(claimed.attempt), shown);
        if let Some(ending) = verdict.ending().or(given_up.as_ref()) {
            context.record(id, job, tenant, None, attempt, ending);
        }
    }
    context.metrics.job_ended(verdict.label(told), started.elapsed());
    drop((spent, held, slot));
}

/// Waits before a job is given back on account of a failure.
pub(crate) async fn pause_before(context: &Context, verdict: &Verdict, attempt: u32) {
    if matches!(verdict, Verdict::GiveBack(GiveBack::Failed(_))) {
        let pause = tokio::time::sleep(GIVE_BACK_PAUSE * attempt);
        // A shutdown ends the pause early.
        let _ = context.abort.run_until_cancelled(pause).await;
    }
}
