//! The call that opens a session. It comes through the stream like any job, and is given back like one
//! if there can be no sandbox for it here.

use std::time::Duration;

use shared::ErrorCode;
use shared::execution::{Ending, Failure};
use shared::redis::{Claimed, GiveBack, OwnedSession};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::actor::Actor;
use super::end::{is_closing, say_farewell, unheard};
use crate::commit::{Told, Verdict, commit, judge, was_cut_short};
use crate::engine::{EngineError, JobError, Session};
use crate::job::pause_before;
use crate::{Attempt, Context};

/// For how long a session goes from worker to worker in search of room.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// Pause before it is given back: there may be none but this worker.
const ROOM_PAUSE: Duration = Duration::from_millis(300);

/// Gives back a session that this worker has no room for, to be opened by another one; after a while
/// it is refused.
pub(super) async fn turn_away(context: &Context, claimed: &Claimed, owned: &OwnedSession) {
    let attempt = Attempt::now();
    let held = context.leases.hold(&claimed.lease, &context.abort);
    // One that has waited in a long queue has not searched at all yet.
    let is_new = claimed.age.as_secs_f64() * 1000.0 <= claimed.queued_ms;
    let verdict = if is_new || claimed.age < ROOM_PATIENCE {
        // A shutdown or its caller may end the pause early.
        let pause = tokio::time::sleep(ROOM_PAUSE);
        let _ = held.cancel().run_until_cancelled(pause).await;
        Verdict::GiveBack(GiveBack::NoRoom)
    } else {
        Verdict::Finish(Ending::Error(Failure::new(
            ErrorCode::SessionLimit,
            "No worker has room for another session (worker.maxSessions). Delete one, or wait until \
             an idle one expires.",
        )))
    };
    let told = commit(context, &claimed.lease, &verdict).await;
    let is_closing = told == Told::Fenced && is_closing(context, owned).await;
    let closed = is_closing.then(|| unheard(true));
    let ending = if told == Told::Done { verdict.ending() } else { closed.as_ref() };
    if let Some(ending) = ending {
        let (id, tenant, job) = (claimed.lease.job, &claimed.tenant, &claimed.job);
        context.record(id, job, tenant, Some(&owned.id), attempt, ending);
        say_farewell(context, owned, false).await;
    }
}

impl Actor<'_> {
    /// Runs the first call; the session, if there is one now.
    pub(super) async fn open(
        &self,
        mut claimed: Claimed,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Option<Session> {
        let (context, started, mut attempt) = (self.context, Instant::now(), Attempt::now());
        let held = context.leases.hold(&claimed.lease, &context.abort);
        let slot = held.cancel().run_until_cancelled(context.slot(slot)).await;
        let id = claimed.lease.job;
        let _running = self.handle().begin(id, held.cancel());
        let fetched = match slot {
            Some(_) => {
                let (tenant, job) = (&claimed.tenant, &mut claimed.job);
                context.fetcher.fetch(tenant, job, held.cancel()).await
            }
            None => Err(JobError::Cancelled),
        };
        let (tenant, job) = (&claimed.tenant, &claimed.job);
        let (opened, fetch_time) = match fetched {
            Ok(took) => {
                let name = &self.owned.id;
                let heard = &mut attempt.security_events;
                let opening =
                    context.executor.open_session(tenant, name, job, heard, held.cancel());
                (opening.await, took)
            }
            Err(error) => (Some(Err(EngineError::Job(error))), Duration::ZERO),
        };
        let (outcome, events, session) = match opened {
            None => {
                let words = "This worker runs with --no-op and has no sessions.";
                let failure = Failure::new(ErrorCode::NotSupported, words);
                (Err(failure), 0, None)
            }
            Some(Err(error)) => (Ok(Err(error)), 0, None),
            Some(Ok(mut session)) => {
                let publication = |timeout_ms| {
                    context.queue.publication(context.worker, &claimed.lease, timeout_ms)
                };
                let ran = self
                    .execute(&mut session, id, job, fetch_time, publication, held.cancel())
                    .await;
                attempt.security_events.extend(ran.security_events);
                (Ok(ran.outcome), ran.events, Some(session))
            }
        };
        let verdict = match outcome {
            _ if held.is_lost() => Verdict::Drop,
            Ok(outcome) if context.abort.is_cancelled() && was_cut_short(&outcome) => {
                Verdict::GiveBack(GiveBack::Shutdown)
            }
            Ok(outcome) => judge(outcome, claimed.queued_ms, events),
            Err(failure) => Verdict::Finish(Ending::Error(failure)),
        };
        let session = match &verdict {
            Verdict::Finish(Ending::Result(_)) => session,
            _ => None,
        };
        pause_before(context, &verdict, claimed.attempt).await;
        let told = commit(context, &claimed.lease, &verdict).await;
        self.note(&verdict, told, started);
        let given_up = verdict.end_by_giving_back(context.is_last(claimed.attempt), events);
        let is_closing = told != Told::Done && is_closing(context, &self.owned).await;
        let unheard = unheard(is_closing);
        let ending = match (told, &verdict) {
            (Told::Done, _) => verdict.ending().or(given_up.as_ref()),
            // Perhaps it was put back, and only the answer did not come.
            (_, Verdict::GiveBack(_)) if !is_closing => None,
            _ => Some(&unheard),
        };
        if let Some(ending) = ending {
            self.record(id, job, attempt, ending);
        }
        // A call that was put back is taken again with its session, perhaps by this very worker: that
        // session must not be ended.
        let is_over = is_closing || (told == Told::Done && ending.is_some());
        if session.is_none() && is_over {
            say_farewell(context, &self.owned, false).await;
        }
        drop(slot);
        // Whatever the queue said: it will say it again when asked for the next call.
        session
    }
}
